"""One pool at work in a check: sequences come and go, and each answer must be the one its tokens have alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .....reference.judge.parity import logit_error
from ..buffers import as_float64, capability, memory, put

Tokens = tuple[int, ...]
FLOOD = 200  # sequences at most that write over the free blocks
TOLD = 16  # calls at most that a sentence lists, the last ones


class Departure(Exception):
    """A promise was broken: the message says after which calls, and what was seen."""


@dataclass(frozen=True)
class PoolTrial:
    """The tokens a pool is tried on, and how far equal answers may differ.

    make     gives a fresh pool
    page     tokens of a block, so that scenes stop at and beside the borders of blocks
    vocab    tokens are drawn below it
    bar      largest difference of logits, in units of max(1, max|logit|), that rounding explains; None: only equal bits
    dtype    what is computed in, as "float64"
    exact    True: an answer must have the bits of the lone run
    seed     of the tokens
    """

    make: Callable[[], Any]
    page: int
    vocab: int
    bar: float | None
    dtype: str
    exact: bool = False
    seed: int = 0
    answers: dict[Tokens, np.ndarray] = field(default_factory=dict)

    @cached_property
    def letters(self) -> np.ndarray:
        """(texts, tokens): rows that differ in every place."""
        rng = np.random.default_rng(self.seed)
        first = rng.integers(self.vocab, size=64 * self.page)
        return (first + rng.permutation(self.vocab)[:16, None]) % self.vocab

    def text(self, n: int, which: int = 0) -> Tokens:
        """The first n tokens of a text of that number. The first 16, or as many as there are ids, differ everywhere."""
        late, row = divmod(which, len(self.letters))
        return tuple(self.letters[row, late : late + n].tolist())

    def alone(self, ids: Tokens) -> np.ndarray:
        """Logits (V,) after the last of ids, of a fresh pool that has seen nothing else."""
        if ids not in self.answers:
            self.answers[ids] = logits_of(self.make().start(list(ids))[1])
        return self.answers[ids]


def logits_of(logits: Any) -> np.ndarray:
    """Logits (V,) or (1, V), NumPy or torch, as (V,) float64."""
    return as_float64(logits[None] if len(logits.shape) == 1 else logits, 1)[0]


@dataclass(eq=False)
class Owner:
    """A sequence in a scene: its handle in the pool and the tokens it holds."""

    handle: Any
    ids: Tokens


class Scene:
    """A fresh pool, the sequences in it, and the largest difference of an answer so far.

    judged  False: answers are not compared, where only the blocks are counted
    claims  True: what kept() says is held to what has been in the pool
    poison  what every place that holds no token is filled with before each call; None: left alone
    """

    def __init__(self, trial: PoolTrial, *, judged=True, claims=False, poison: float | None = None):
        self.trial, self.judged, self.claims, self.poison = trial, judged, claims, poison
        self.pool = trial.make()
        self.owners: list[Owner] = []
        self.seen: list[Tokens] = []  # what has been in this pool since its reset
        self.error, self.bits, self.open = 0.0, True, False
        self.kept: int | None = None  # tokens that start() took from the cache, as far as the pool says
        self.poisoned = 0
        self.story: list[str] = []
        self.cannot: set[str] = set()  # methods that are there and raised NotImplementedError

    def needs(self, *names: str) -> None:
        """NotChecked unless the pool has these methods."""
        for name in names:
            capability(self.pool, name)

    def has(self, *names: str) -> bool:
        return all(name not in self.cannot and callable(getattr(self.pool, name, None)) for name in names)

    def do(self, name: str, *arguments: Any, said: str = "") -> Any:
        """Call a method of the pool; its name goes into the story that a Departure tells."""
        if self.poison is not None:
            self.poisoned += fill(self.pool, self.poison)
        self.story.append(f"{name}({said})")
        try:
            return capability(self.pool, name)(*arguments)
        except NotImplementedError:
            self.cannot.add(name)
            raise

    def start(self, ids: Tokens) -> Owner:
        handle, logits = self.do("start", list(ids), said=f"{len(ids)} tokens")
        owner = Owner(handle, ids)
        self.owners.append(owner)
        self.count_kept(owner)
        self.judge(owner, logits)
        return owner

    def count_kept(self, owner: Owner):
        """Add what the pool says it took from its cache, no more than what was ever there."""
        if self.has("kept"):
            kept = int(self.pool.kept(owner.handle))
            alike = max((common(owner.ids, other) for other in self.seen), default=0)
            if kept > alike and self.claims:
                self.depart(f"kept() says that {kept} tokens came from the cache, which holds {alike} that begin alike")
            self.kept = (self.kept or 0) + kept
        self.seen.append(owner.ids)

    def extend(self, owner: Owner, ids: Tokens):
        logits = self.do("extend", owner.handle, list(ids), said=f"{len(ids)} tokens")
        self.grow(owner, ids)
        self.judge(owner, logits)

    def extend_all(self, owners: Sequence[Owner], pieces: Sequence[Tokens]):
        handles = [owner.handle for owner in owners]
        logits = self.do("extend_all", handles, [list(ids) for ids in pieces], said=f"{len(handles)} sequences")
        for owner, ids, row in zip(owners, pieces, as_float64(logits, len(owners)), strict=True):
            self.grow(owner, ids)
            self.judge(owner, row)

    def grow(self, owner: Owner, ids: Tokens):
        owner.ids += tuple(ids)
        self.seen.append(owner.ids)

    def crop(self, owner: Owner, n: int):
        self.do("crop", owner.handle, n, said=f"to {n} of {len(owner.ids)}")
        owner.ids = owner.ids[:n]

    def fork(self, owner: Owner) -> Owner:
        other = Owner(self.do("fork", owner.handle), owner.ids)
        self.owners.append(other)
        return other

    def free(self, owner: Owner):
        self.do("free", owner.handle)
        self.owners.remove(owner)

    def evict(self, owner: Owner):
        self.do("evict", owner.handle)

    def resume(self, owner: Owner):
        self.do("resume", owner.handle)

    def reset(self):
        self.do("reset")
        self.owners, self.seen = [], []

    def blocks(self) -> int | None:
        """How many blocks are to be had; None where the pool does not say."""
        return int(self.pool.free_blocks()) if self.has("free_blocks") else None

    def expect_blocks(self, before: int | None, when: str):
        """Departure unless as many blocks are to be had as before."""
        if self.judged and before is not None and (now := self.blocks()) != before:
            self.depart(f"{now} blocks are free where {before} were {when}")

    def flood(self):
        """Let others write over whatever is free, and go again; only a few, which stay, where there is no free()."""
        page, size, others = self.trial.page, 3 * self.trial.page, []
        for i in range(FLOOD if self.has("free") else 3):
            try:
                others.append(self.start(self.trial.text(size, 100 + i)))
            except MemoryError:
                self.story[-1] += " refused"
                if size == page:
                    break
                size = page
        for other in others if self.has("free") else []:
            self.free(other)

    def judge(self, owner: Owner, logits: Any):
        """Hold an answer to the one that these tokens have alone; Departure if it differs by more than rounding."""
        if not self.judged:
            return
        got, want = logits_of(logits), self.trial.alone(owner.ids)
        error = logit_error(got, want)
        self.error, same = max(self.error, error), got.tobytes() == want.tobytes()
        self.bits &= same
        if same:
            return
        bar = self.trial.bar
        if np.isnan(error) or (not self.trial.exact and bar is not None and error > bar):
            against = "logits are NaN" if np.isnan(error) else f"logits differ by {error:.1e}, bar {bar:.0e}"
            self.depart(f"{against} from those of the same {len(owner.ids)} tokens alone")
        if self.trial.exact:
            self.depart(
                f"logits differ by {error:.1e} from those of the same {len(owner.ids)} tokens alone, to the bit"
            )
        self.open |= bar is None

    def told(self) -> str:
        """The calls so far, the first of many left out."""
        left_out = len(self.story) - TOLD
        return " · ".join([f"{left_out} calls", *self.story[left_out:]] if left_out > 0 else self.story)

    def depart(self, words: str):
        raise Departure(f"{words}, after {self.told()}")


def common(a: Tokens, b: Tokens) -> int:
    """How many tokens begin both."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def fill(pool: Any, value: float) -> int:
    """Put value into every place that buffers() calls dead, and say how many there were."""
    count = 0
    for array, _, dead, _ in memory(pool):
        put(array, dead, value)
        count += int(dead.sum())
    return count
