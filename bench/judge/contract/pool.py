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
from typing import Any, Protocol

from ....reference.judge.parity import LOGIT_BARS
from .pools.promises import CHECKS
from .pools.scene import PoolTrial, logits_of
from .report import ContractReport, run_checks


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
