"""Scenes that count blocks: what is freed comes back, and a request that does not fit changes nothing."""

from collections.abc import Iterator
from functools import partial

from ..report import NotChecked
from .scene import Owner, PoolTrial, Scene
from .sharing import tail

MOST = 200  # sequences that are started to fill a pool


def comes_back(play, trial: PoolTrial) -> str:
    """What is missing after a scene once all its sequences are freed, in words; empty where nothing is.

    Answers are not compared, so that a scene which gives a wrong one is counted all the same.
    """
    s = Scene(trial, judged=False)
    before = s.blocks()
    try:
        play(s)
        for owner in list(s.owners):
            s.free(owner)
    except NotImplementedError:
        return ""
    if (now := s.blocks()) == before:
        return ""
    return f"{now} blocks are free where {before} were, once all is freed, after {s.told()}"


def early_ends(page: int) -> Iterator:
    """Sequences that end where few do: forked at once, evicted, taken back, refused, empty-handed."""

    def as_they_came(n: int, s: Scene):
        s.start(s.trial.text(n))

    def evicted(n: int, s: Scene):
        s.needs("evict")
        s.evict(s.start(s.trial.text(n)))

    def resumed(n: int, s: Scene):
        s.needs("evict", "resume")
        owner = s.start(s.trial.text(n))
        s.evict(owner)
        s.resume(owner)

    def forked(n: int, s: Scene):
        s.needs("fork")
        owner = s.start(s.trial.text(n))
        s.fork(s.fork(owner))

    def cropped(n: int, s: Scene):
        s.needs("crop")
        owner = s.start(s.trial.text(n))
        s.extend(owner, tail(s, owner.ids, page + 1))
        s.crop(owner, n)

    def the_same(n: int, s: Scene):
        for _ in range(3):
            s.start(s.trial.text(n))

    for n in (1, page, page + 1, 2 * page):
        for play in (as_they_came, evicted, resumed, forked, cropped, the_same):
            yield partial(play, n)


def exhaustion(page: int) -> Iterator:
    """start(), extend() and resume() raise MemoryError where blocks do not suffice, and all is as it was."""

    def start_refused(left: int, shared: bool, s: Scene):
        s.needs("free")
        empty, owners = s.blocks(), fill_up(s, left, page)
        before = s.blocks()
        head = owners[0].ids if shared else ()
        refused(s, before, lambda: s.start(head + s.trial.text(len(head) + 3 * page, 9)[len(head) :]))
        go_on(s, owners)
        for owner in owners:
            s.free(owner)
        s.expect_blocks(empty, "before anything came")
        s.start(s.trial.text(3 * page, 9))

    def extend_refused(left: int, s: Scene):
        s.needs("free")
        owners = fill_up(s, left, page)
        before = s.blocks()
        refused(s, before, lambda: s.extend(owners[1], tail(s, owners[1].ids, 2 * page + 1, 1)))
        s.free(owners.pop(0))
        s.free(owners.pop())
        s.free(owners.pop())
        s.extend(owners[0], tail(s, owners[0].ids, 2 * page + 1, 1))
        go_on(s, owners)

    def resume_refused(s: Scene):
        s.needs("free", "evict", "resume")
        owner = s.start(s.trial.text(2 * page + 1))
        s.evict(owner)
        owners = fill_up(s, 1, page)
        before = s.blocks()
        refused(s, before, lambda: s.resume(owner))
        for other in owners:
            s.free(other)
        s.resume(owner)
        s.extend(owner, tail(s, owner.ids, page))

    lefts = (0, 1)
    yield from (partial(start_refused, left, shared) for left in lefts for shared in (False, True))
    yield from (partial(extend_refused, left) for left in lefts)
    yield resume_refused


def fill_up(s: Scene, left: int, page: int) -> list[Owner]:
    """Sequences of one block each, until `left` blocks are free; where the pool does not say, until one is refused."""
    owners = []
    while len(owners) < MOST:
        free = s.blocks()
        if free is not None and free <= left and len(owners) > 3:
            return owners
        try:
            owners.append(s.start(s.trial.text(page, 20 + len(owners))))
        except MemoryError:
            if free is not None and free > 1:
                s.depart(f"a sequence of one full block is refused while free_blocks() is {free}")
            for owner in owners[:left]:
                s.free(owner)
            return owners[left:]
    raise NotChecked(f"{MOST} sequences of {page} tokens all fit; give a smaller pool")


def refused(s: Scene, before: int | None, call):
    """Departure unless the call raises MemoryError and leaves as many blocks free as before."""
    try:
        call()
    except MemoryError:
        s.story[-1] += " refused"
        s.expect_blocks(before, "before the refusal")
        return
    s.depart("it was not refused, though the free blocks do not suffice")


def go_on(s: Scene, owners: list[Owner]):
    """Half of them are freed, and each of the others goes on by a token."""
    for _ in range((len(owners) + 1) // 2):
        s.free(owners.pop())
    for i, owner in enumerate(owners):
        s.extend(owner, tail(s, owner.ids, 1, i))


def out_of_blocks(s: Scene) -> str:
    """What a scene held that did not fit."""
    held = sum(len(owner.ids) for owner in s.owners)
    said = "" if s.blocks() is None else f" while free_blocks() is {s.blocks()}"
    return f"MemoryError{said}, with {held} tokens in {len(s.owners)} sequences, after {s.told()}"
