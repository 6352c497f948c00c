"""Scenes of one sequence's life: rollback, alone and in shared blocks, preemption, reset and new weights."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from ..buffers import memory, put
from ..report import NotChecked
from .scene import Scene
from .sharing import borders, tail


def rollback(page: int) -> Iterator:
    """Drafted tokens are written and taken back, as if they had never been there."""

    def drafts(n: int, wrong: int, right: int, s: Scene):
        s.needs("crop")
        text = s.trial.text(3 * page + 4)
        owner = s.start(text[:n])
        s.extend(owner, text[n : n + right] + s.trial.text(n + right + wrong, 1)[n + right :])
        s.crop(owner, n + right)
        s.extend(owner, tail(s, owner.ids, 1))
        s.extend(owner, s.trial.text(len(owner.ids) + wrong, 2)[-wrong:])
        s.crop(owner, n + right + 1)
        s.extend(owner, tail(s, owner.ids, page))

    def gives_back(n: int, wrong: int, s: Scene):
        s.needs("crop", "free_blocks")
        owner = s.start(s.trial.text(n))
        before = s.blocks()
        for _ in range(3):
            s.extend(owner, s.trial.text(n + wrong, 1)[n:])
            s.crop(owner, n)
            s.expect_blocks(before, "before the tokens that were taken back")
        s.extend(owner, tail(s, owner.ids, 1))

    def far_back(to: int, s: Scene):
        s.needs("crop")
        owner = s.start(s.trial.text(2 * page + 2))
        s.crop(owner, len(owner.ids))
        s.crop(owner, to)
        s.extend(owner, tail(s, owner.ids, 2, 1))
        s.extend(owner, tail(s, owner.ids, 2 * page, 2))

    for n in borders(page):
        yield from (partial(drafts, n, wrong, right) for wrong, right in ((1, 1), (page, 0), (page + 2, 2)))
        yield partial(gives_back, n, page + 2)
    yield from (partial(far_back, to) for to in sorted({1, page, page + 1}))


def rollback_shared(page: int) -> Iterator:
    """What is taken back by one owner stays with the other, and with whoever comes for it later."""

    def of_a_fork(to: int, which: int, s: Scene):
        s.needs("crop", "fork")
        pair = [s.start(s.trial.text(2 * page + 1))]
        pair.append(s.fork(pair[0]))
        s.crop(pair[which], to)
        s.extend(pair[which], tail(s, pair[which].ids, page + 1, 1))
        s.extend(pair[1 - which], tail(s, pair[1 - which].ids, 1))
        s.extend(pair[which], tail(s, pair[which].ids, 1, 1))

    def of_a_prefix(to: int, s: Scene):
        s.needs("crop")
        first = s.start(s.trial.text(2 * page + 2))
        second = s.start(first.ids[: 2 * page + 1] + s.trial.text(1, 1))
        s.crop(second, to)
        s.extend(second, tail(s, second.ids, page + 1, 1))
        s.extend(first, tail(s, first.ids, 1))
        s.crop(first, to)
        s.extend(first, tail(s, first.ids, 2, 2))
        s.extend(second, tail(s, second.ids, 1, 2))

    for to in borders(page)[:-1]:
        yield from (partial(of_a_fork, to, which) for which in (0, 1))
        yield partial(of_a_prefix, to)
    yield from rollback_of_known_blocks(page)


def rollback_of_known_blocks(page: int) -> Iterator:
    """Somebody comes with the tokens that were taken back, or that are there instead."""

    def of_what_others_come_for(to: int, s: Scene):
        s.needs("crop")
        owner = s.start(s.trial.text(2 * page + 1))
        s.crop(owner, to)
        s.extend(owner, tail(s, owner.ids, 2 * page + 2 - to, 1))
        again = s.start(s.trial.text(2 * page + 2))
        new = s.start(owner.ids + s.trial.text(1, 3))
        for each in (again, new, owner):
            s.extend(each, tail(s, each.ids, 2, 4))

    def of_drafts(n: int, s: Scene):
        s.needs("crop")
        owner = s.start(s.trial.text(n))
        draft = s.trial.text(n + 2 * page, 1)[n:]
        s.extend(owner, draft)
        s.crop(owner, n)
        s.extend(owner, tail(s, owner.ids, 2 * page))
        drafted = s.start(owner.ids[:n] + draft + s.trial.text(1, 2))
        again = s.start(s.trial.text(n + 2 * page + 1))
        for each in (drafted, again, owner):
            s.extend(each, tail(s, each.ids, 1, 3))

    for to in borders(page)[:-1]:
        yield partial(of_what_others_come_for, to)
        yield partial(of_drafts, to)


def preemption(page: int) -> Iterator:
    """A sequence that made room for others goes on where it was."""

    def alone(n: int, s: Scene):
        s.needs("evict", "resume")
        before = s.blocks()
        owner = s.start(s.trial.text(n))
        s.extend(owner, tail(s, owner.ids, 2))
        s.evict(owner)
        s.expect_blocks(before, "before the sequence that was evicted came")
        s.flood()
        s.resume(owner)
        s.extend(owner, tail(s, owner.ids, 1))
        s.extend(owner, tail(s, owner.ids, page))

    def beside_others(n: int, s: Scene):
        s.needs("evict", "resume")
        owner = s.start(s.trial.text(n))
        s.evict(owner)
        others = [s.start(s.trial.text(page + 1, 1)), s.start(s.trial.text(2 * page, 2))]
        s.resume(owner)
        for i, each in enumerate((owner, *others, owner)):
            s.extend(each, tail(s, each.ids, 2, i % 3))
        s.evict(owner)
        s.extend(others[0], tail(s, others[0].ids, page, 1))
        s.resume(owner)
        s.extend(owner, tail(s, owner.ids, 1, 3))

    for n in borders(page):
        yield partial(alone, n)
        yield partial(beside_others, n)
    yield from preemption_of_owners(page)


def preemption_of_owners(page: int) -> Iterator:
    """One of two owners makes room, or a sequence of which tokens were taken back."""

    def of_a_sharer(n: int, s: Scene):
        s.needs("evict", "resume")
        first = s.start(s.trial.text(2 * page + 2))
        second = s.start(first.ids[:n] + s.trial.text(n + 2, 1)[n:])
        s.evict(first)
        s.flood()
        s.extend(second, tail(s, second.ids, 1, 2))
        s.resume(first)
        s.extend(first, tail(s, first.ids, 1))
        s.extend(second, tail(s, second.ids, page, 2))

    def of_a_fork(n: int, which: int, s: Scene):
        s.needs("evict", "resume", "fork")
        pair = [s.start(s.trial.text(n))]
        pair.append(s.fork(pair[0]))
        s.evict(pair[which])
        s.extend(pair[1 - which], tail(s, pair[1 - which].ids, page, 1))
        s.flood()
        s.resume(pair[which])
        for i in (which, 1 - which, which):
            s.extend(pair[i], tail(s, pair[i].ids, 1, i))

    def of_the_rolled_back(n: int, s: Scene):
        s.needs("evict", "resume", "crop")
        owner = s.start(s.trial.text(n))
        s.extend(owner, s.trial.text(n + page + 1, 1)[n:])
        s.crop(owner, n)
        s.evict(owner)
        s.flood()
        s.resume(owner)
        s.extend(owner, tail(s, owner.ids, page))

    for n in borders(page):
        yield partial(of_a_sharer, n)
        yield from (partial(of_a_fork, n, which) for which in (0, 1))
        yield partial(of_the_rolled_back, n)


def reset(page: int) -> Iterator:
    """After reset() all blocks are free and nothing is remembered."""

    def forgets(busy: str, old_first: bool, s: Scene):
        s.needs("reset")
        before = s.blocks()
        first = s.start(s.trial.text(2 * page + 2))
        if busy == "two owners":
            s.start(first.ids[: page + 1] + s.trial.text(1, 1))
            s.fork(first) if s.has("fork") else None
        elif busy == "an evicted one":
            s.needs("evict")
            s.evict(first)
        elif busy == "a freed one":
            s.needs("free")
            s.free(first)
        s.reset()
        s.expect_blocks(before, "before anything came")
        wipe(s)
        owners = [s.start(s.trial.text(2 * page + 2, which)) for which in ((0, 1) if old_first else (1, 0))]
        for owner in owners[::-1]:
            s.extend(owner, tail(s, owner.ids, page, 2))

    for busy in ("one owner", "two owners", "an evicted one", "a freed one"):
        yield from (partial(forgets, busy, old_first) for old_first in (True, False))


def wipe(s: Scene):
    """Large numbers in all memory after a reset, where buffers() shows it; Departure if a token is said to be there."""
    if not s.has("buffers"):
        return
    for array, live, _, _ in memory(s.pool):
        if live.any() and s.judged:
            s.depart(f"buffers() shows {int(live.sum())} numbers of tokens after reset()")
        put(array, np.ones_like(live), 1e4)


def weights(page: int) -> Iterator:
    """With new weights nothing is taken from what the old ones have computed."""

    def changed(n: int, s: Scene):
        s.needs("change_weights", "free")
        old, make = s.trial, s.trial.make
        first = s.start(old.text(2 * page + 2))
        s.free(first)

        def changed_pool():
            pool = make()
            pool.change_weights()
            return pool

        s.do("change_weights")
        s.trial = replace(old, make=changed_pool, answers={})
        if np.array_equal(s.trial.alone(first.ids), old.alone(first.ids)):
            raise NotChecked("change_weights() changes no logits")
        second = s.start(old.text(n))
        s.extend(second, tail(s, second.ids, page))

    yield from (partial(changed, n) for n in (page + 1, 2 * page + 1))
