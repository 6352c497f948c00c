"""What any KV cache must keep, ours or yours: the promises that bugs break, each checked by itself.

Every check compares a cache with itself on tokens that must give the same answer, so it needs no oracle and no model
of ours. Write an adapter, ten lines, and call `check_cache`:

    class Mine:
        def __init__(self):
            self.cache = None
        def prefill(self, ids):  # (B, M) int64 NumPy -> logits after each row's last token, (B, V)
            self.cache = self.cache or my_model.new_cache(len(ids), capacity=64)
            return my_model(torch.from_numpy(ids), self.cache)[:, -1]
        def step(self, ids):  # (B,) -> logits (B, V)
            return self.prefill(ids[:, None])

    print(check_cache(Mine))

What else the adapter can do, it says by having the method; what it has not is reported as not checked.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from ....reference.judge.parity import LOGIT_BARS
from . import call_checks, memory_checks
from .buffers import as_float64
from .report import ContractReport, Finding, run_checks
from .trial import Trial


class CacheUnderTest(Protocol):
    """A model with its KV cache, empty when made. Arrays go in as NumPy; logits come out as NumPy or torch.

    Two methods are needed:
        prefill(ids)          (B, M) int64, appended to what is cached -> logits (B, V) after each row's last token
        step(ids)             (B,) int64, one new token per row -> logits (B, V)
    Any of these lets more be checked (each may raise NotImplementedError to say that it cannot):
        buffers()             [(array, live)]: the cache's own memory, NumPy or torch, writable; live broadcasts against
                              array. bool: True where a token of the cache lies. Or int, which a window needs, whose
                              slots are used again or move: the place of the token there, counted from 0; -1 where
                              none lies; -2 where one lies that no step may read any more. Numbers stored more
                              coarsely than computed, as in 8 bits, are known by their dtype, and that rounding may
                              carry one across a step is allowed for
        reset()               forget everything, for a new run in the same memory
        crop(n)               keep the first n tokens of every row
        keep_past()           called on an empty cache of which crop(n) will be asked: keep what that takes
        recompute(ids)        (B, T) -> logits (B, V) after the last token, without any cache
        prefill_ragged(p)     p a list of B lists of ids, of any lengths, into an empty cache -> logits (B, V)
        reorder_rows(order)   row i becomes what row order[i] was; order (B,) is a permutation
        permute_pages(rng)    move the pages elsewhere in memory and mend the page table; rng a numpy Generator
    and these attributes promise more, or less, than is assumed:
        dtype                 the coarsest dtype computed in, as "float32"; by default that of the logits
        batch_invariant       True: a row's bits do not depend on its place in the batch; by default rounding may
        experts               True: a row's rounding may depend on the other rows' tokens, with which it shares experts
        lossy                 True: what is kept is rounded, and a prefill reads its own tokens before that
    """

    def prefill(self, ids: np.ndarray) -> Any: ...

    def step(self, ids: np.ndarray) -> Any: ...


CHECKS: dict[str, Callable[[Trial], Finding]] = {
    "dead slots": memory_checks.dead_slots,
    "last slot": memory_checks.last_slot,
    "one past": memory_checks.one_past,
    "rows apart": call_checks.rows_apart,
    "rows permuted": call_checks.rows_permuted,
    "rows reordered": call_checks.rows_reordered,
    "pages permuted": call_checks.pages_permuted,
    "reset": call_checks.reset,
    "chunks": call_checks.chunks,
    "growing": call_checks.growing,
    "crop": call_checks.crop,
    "ragged": call_checks.ragged,
}


def check_cache(
    make_cache: Callable[[], Any],
    *,
    vocab: int | None = None,
    batch: int = 3,
    prompt: int = 19,
    steps: int = 6,
    bar: float | None = None,
    only: Sequence[str] = (),
    require: Sequence[str] = (),
    seed: int = 0,
) -> ContractReport:
    """Hold a cache to the contract; see CacheUnderTest for what make_cache() must give.

    vocab          ids are drawn below it; by default the width of the logits
    batch          rows, 2 or more
    prompt, steps  tokens prefilled (4 or more) and stepped (3 or more); the cache needs room for prompt + steps
    bar            how far equal answers may differ, in units of max(1, max|logit|); by default what rounding explains
                   in float64 or float32 (parity.LOGIT_BARS), and equal bits in other dtypes
    only           names of CHECKS to make; empty: all of them
    require        names of CHECKS that must be held, where otherwise a missing capability is only reported

    Raises ValueError for sizes too small for a check and for unknown names. What the cache raises is reported.
    """
    if batch < 2 or prompt < 4 or steps < 3:
        raise ValueError(f"batch {batch}, prompt {prompt}, steps {steps}; give at least 2, 4 and 3")
    rng = np.random.default_rng(seed)
    probe = make_cache()
    logits = probe.prefill(np.zeros((batch, 1), np.int64))
    below = vocab or as_float64(logits, batch).shape[1]
    dtype = str(getattr(probe, "dtype", None) or logits.dtype).removeprefix("torch.")
    ids = rng.integers(below, size=(batch, prompt + steps))
    other = (ids + rng.integers(1, below, size=ids.shape)) % below
    trial = Trial(make_cache, ids, other, prompt, LOGIT_BARS.get(dtype) if bar is None else bar, dtype)
    subject = f"{type(probe).__name__} ({dtype})"
    return run_checks(subject, {name: partial(check, trial) for name, check in CHECKS.items()}, only, require)
