"""What any pool of KV blocks must keep, where sequences come and go and share them: anybody's paged cache manager.

Every check compares a pool with itself: the logits of a sequence must be those that its tokens have alone, in a fresh
pool, whatever was started, forked, taken back, evicted or freed beside it. Write an adapter, ten lines, and call
`check_pool`:

    class Mine:
        def __init__(self):
            self.manager = MyBlockManager(blocks=24, page=4)
        def start(self, ids):  # list of ids -> handle, logits (V,) after the last of them
            table = self.manager.new(ids)
            return table, my_model(ids[table.kept :], table)[-1]
        def extend(self, handle, ids):  # -> logits (V,)
            return my_model(ids, handle)[-1]

    print(check_pool(Mine, page=4))

What else the pool can do, the adapter says by having the method; what it has not is reported as not checked.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

import numpy as np

from ....reference.judge.parity import LOGIT_BARS
from .buffers import capability
from .pools import counting, life, lives, sharing
from .pools.played import counted, played
from .pools.scene import PoolTrial, logits_of
from .report import ContractReport, Finding, run_checks


class PoolUnderTest(Protocol):
    """A model with a pool of KV blocks, empty when made, with room for 24 blocks or more (and fewer than 200).

    Two methods are needed:
        start(ids)            a list of ids, one or more -> (handle, logits (V,) after the last of them)
        extend(handle, ids)   one id or more -> logits (V,) after the last of them
    start, extend and resume raise MemoryError where the free blocks do not suffice. Any of these lets more be checked
    (each may raise NotImplementedError to say that it cannot):
        free(handle)          the sequence is over, also while it is evicted
        crop(handle, n)       rollback: keep the first n tokens of the sequence, n >= 1
        fork(handle)          -> another handle of the same past
        evict(handle)         preemption: its blocks are for others now
        resume(handle)        an evicted sequence may be extended again; its handle stays the same
        reset()               forget everything; all handles are void
        free_blocks()         -> how many blocks are to be had, those counted that only a later prefix would want
        kept(handle)          -> how many tokens start() took from the cache for it
        extend_all(handles, pieces)  one pass for many: a list of ids each -> logits (len(handles), V)
        change_weights()      give this pool's model other weights, always the same ones, and tell the pool what it
                              must be told; called when no sequence is left
        buffers()             [(array, live)]: the pool's own memory, NumPy or torch, writable; live (bool) broadcasts
                              against array, True where a token lies that a sequence or a later prefix may read
    and these attributes promise more, or less, than is assumed:
        dtype                 the coarsest dtype computed in, as "float32"; by default that of the logits
        batch_invariant       True: a sequence has the bits of its lone run in any company; by default rounding may
                              differ
    """

    def start(self, ids: list[int]) -> tuple[Any, Any]: ...

    def extend(self, handle: Any, ids: list[int]) -> Any: ...


# What is promised: its scenes, what is said if it is kept, and what if it is not.
PROMISES: dict[str, tuple[Callable[[int], Any], str, str]] = {
    "growing": (
        sharing.growing,
        "a sequence in pieces is what it is whole",
        "a sequence that grows over blocks is not what it is whole: look at positions and the block table's end",
    ),
    "together": (
        sharing.together,
        "sequences side by side are what each is alone",
        "sequences in one pool see each other: look at the block tables and, in one pass, the mask",
    ),
    "prefix": (
        sharing.prefix,
        "sequences that begin alike are what each is alone",
        "a sequence that begins as another is not what it is alone: look at what is shared and who writes there",
    ),
    "prefix of the gone": (
        sharing.gone,
        "a prefix outlives its first owner and is not taken from blocks used since",
        "a sequence that begins as one that is gone is not what it is alone: a block was given away too early or found "
        "too late",
    ),
    "another past": (
        sharing.past,
        "the same tokens behind others are other blocks",
        "blocks of the same tokens behind other tokens are taken for each other: the key must hold the whole past",
    ),
    "two owners": (
        sharing.owners,
        "a fork and its origin go their own ways",
        "a fork and its origin write into each other's past: look at copy on write and who frees",
    ),
    "rollback": (
        life.rollback,
        "tokens that were taken back have never been there",
        "after crop() a sequence is not what its tokens are: it keeps too much, too little, or its blocks",
    ),
    "rollback in shared blocks": (
        life.rollback_shared,
        "tokens that one owner takes back stay with the others",
        "after a crop() in blocks that others have, or come for, somebody's past is wrong",
    ),
    "preemption": (
        life.preemption,
        "a sequence that was evicted goes on where it was",
        "a sequence that was evicted and resumed, or one beside it, is not what its tokens are",
    ),
    "reset": (life.reset, "reset() leaves an empty pool", "after reset() something of before is left"),
    "new weights": (
        life.weights,
        "with new weights nothing of the old is used",
        "with new weights blocks are used that the old ones have computed",
    ),
    "exhaustion": (
        counting.exhaustion,
        "a request that does not fit changes nothing",
        "a request for more blocks than are free is not refused, or leaves a trace",
    ),
    "lives": (
        lives.lives,
        "in any order of calls",
        "in a random order of calls a sequence is not what its tokens are",
    ),
}
SHARE = ("prefix", "prefix of the gone")
# Played again with NaN wherever no token lies: a block that was used before is never read beyond what was written anew.
IN_USED_BLOCKS = (sharing.growing, sharing.gone, life.rollback, life.rollback_shared)


def promise(name: str, trial: PoolTrial) -> Finding:
    scenes, held, broken = PROMISES[name]
    claims, shares = name in (*SHARE, "reset"), name in SHARE
    return played(trial, scenes(trial.page), held, broken, claims=claims, shares=shares)


def dead_places(trial: PoolTrial) -> Finding:
    """NaN in all free blocks, and behind the last token of each sequence, before every call."""
    held, broken = "what no token lies in is never read", "NaN in free blocks or behind the last token is read"
    capability(trial.make(), "buffers")
    return played(trial, chain(*(scenes(trial.page) for scenes in IN_USED_BLOCKS)), held, broken, poison=np.nan)


def blocks_back(trial: PoolTrial) -> Finding:
    page = trial.page
    others = {name: scenes(page) for name, (scenes, *_) in PROMISES.items() if name not in ("exhaustion", "lives")}
    return counted(trial, {"early ends": counting.early_ends(page), **others})


CHECKS: dict[str, Callable[[PoolTrial], Finding]] = {
    **{name: partial(promise, name) for name in PROMISES},
    "dead places": dead_places,
    "blocks back": blocks_back,
}


def check_pool(
    make_pool: Callable[[], Any],
    *,
    page: int = 16,
    vocab: int | None = None,
    bar: float | None = None,
    only: Sequence[str] = (),
    require: Sequence[str] = (),
    seed: int = 0,
) -> ContractReport:
    """Hold a pool to the contract; see PoolUnderTest for what make_pool() must give.

    page     tokens of a block: sequences reach up to 5 * page + 2 of them
    vocab    ids are drawn below it, 4 or more; by default the width of the logits
    bar      how far equal answers may differ, in units of max(1, max|logit|); by default what rounding explains
             in float64 or float32 (parity.LOGIT_BARS), and equal bits in other dtypes
    only     names of CHECKS to make; empty: all of them
    require  names of CHECKS that must be held, where otherwise a missing capability is only reported

    Raises ValueError for a page or vocabulary too small and for unknown names. What the pool raises is reported.
    """
    probe = make_pool()
    _, logits = probe.start([0])
    below = vocab or len(logits_of(logits))
    if page < 2 or below < 4:
        raise ValueError(f"page {page}, vocabulary {below}; give at least 2 and 4")
    dtype = str(getattr(probe, "dtype", None) or logits.dtype).removeprefix("torch.")
    exact = bool(getattr(probe, "batch_invariant", False))
    trial = PoolTrial(make_pool, page, below, LOGIT_BARS.get(dtype) if bar is None else bar, dtype, exact, seed)
    subject = f"{type(probe).__name__} ({dtype})"
    return run_checks(subject, {name: partial(check, trial) for name, check in CHECKS.items()}, only, require)
