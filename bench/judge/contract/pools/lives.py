"""Random lives: sequences start, grow, fork, are taken back, evicted, resumed and freed in an order drawn by chance."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from .scene import Owner, Scene

LIVES, CALLS, MOST = 8, 100, 5  # pools that live, calls to each, sequences at once


def lives(page: int) -> Iterator:
    yield from (partial(live, seed) for seed in range(LIVES))


def live(seed: int, s: Scene):
    """CALLS calls, each answer held to the lone run; a refusal must change nothing and is followed by a free()."""
    rng = np.random.default_rng([seed, s.trial.seed])
    away: list[Owner] = []  # evicted
    for _ in range(CALLS):
        here = [owner for owner in s.owners if owner not in away]
        before = s.blocks()
        try:
            one_call(s, rng, here, away)
        except NotImplementedError:
            s.story.pop()
        except MemoryError:
            s.story[-1] += " refused"
            s.expect_blocks(before, "before the refusal")
            leaving = [owner for owner in s.owners if owner not in away] or away
            if not leaving or not s.has("free"):
                return
            s.free(leaving[0])
            away[:] = [owner for owner in away if owner is not leaving[0]]
    for owner in list(away):
        try:
            s.resume(owner)
            s.extend(owner, (0,))
        except MemoryError:
            return


def one_call(s: Scene, rng: np.random.Generator, here: list[Owner], away: list[Owner]):
    """One of the calls that can be made now."""
    page, can = s.trial.page, [name for name in ("crop", "fork", "evict", "free") if here and s.has(name)]
    room = [owner for owner in here if len(owner.ids) <= 4 * page]
    choices = [*can, *(["resume"] * 2 if away else []), *(["extend"] * 4 if room else [])]
    choices += ["start"] * 3 if len(s.owners) < MOST else []
    choices = [name for name in choices if name != "fork" or len(s.owners) < MOST]
    choices = [name for name in choices if name != "evict" or s.has("resume")]
    name = rng.choice(choices) if choices else ""
    owner = here[rng.integers(len(here))] if here else None
    if name == "start":
        s.start(a_text(s, rng))
    elif name == "extend":
        owner = room[rng.integers(len(room))]
        size = int(rng.choice([1, 1, 2, page, page + 1]))
        s.extend(owner, s.trial.text(len(owner.ids) + size, int(rng.integers(3)))[len(owner.ids) :])
    elif name == "resume":
        owner = away[rng.integers(len(away))]
        s.resume(owner)
        away.remove(owner)
    elif owner is not None and name == "crop":
        s.crop(owner, int(rng.integers(1, len(owner.ids) + 1)))
    elif owner is not None and name:
        getattr(s, name)(owner)
        away += [owner] if name == "evict" else []


def a_text(s: Scene, rng: np.random.Generator) -> tuple[int, ...]:
    """A prompt that begins, three times in four, as something did that has been in the pool."""
    page = s.trial.page
    head = s.seen[rng.integers(len(s.seen))] if s.seen and rng.random() < 0.75 else ()
    head = head[: int(rng.integers(len(head) + 1))][: 3 * page]
    return head + s.trial.text(len(head) + int(rng.integers(1, page + 2)), int(rng.integers(3)))[len(head) :]
