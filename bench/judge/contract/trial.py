"""One cache under test: the tokens it is run on, and when two of its answers count as the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ....reference.judge.parity import logit_error
from .buffers import as_float64
from .quantisation import step_effect
from .report import BROKEN, HELD, NOT_CHECKED, Finding

# How far rounding may move logits where a cache stores steps, in the largest move that one step made. Of 300 draws of
# Int8NumpyGPT2 in float32 (5 head layouts, 1 to 4 layers) 37 had a number carried across one; the worst moved logits by
# 0.67. A newest row that is attended to unrounded moves all rows, by 1.1 or more in 24 draws. So more is allowed where
# most rows of the batch keep within the bar: rounding carries numbers across in few of them, a fault errs in all.
STEPS = 1.0
STEPS_IN_FEW_ROWS = 3.0


@dataclass(frozen=True)
class Trial:
    """The tokens a cache is tried on, and how far equal answers may differ.

    make    gives a fresh cache
    ids     (B, T) int64; the first `prompt` tokens are prefilled, the others are steps
    other   (B, T) int64, other tokens than ids in every place
    bar     largest difference of logits, in units of max(1, max|logit|), that rounding explains; None: not known for
            this dtype, so that only equal bits are accepted
    """

    make: Callable[[], Any]
    ids: np.ndarray
    other: np.ndarray
    prompt: int
    bar: float | None
    dtype: str

    def run(self, ids=None, cache=None, chunks: Sequence[int] = (), before=None) -> np.ndarray:
        """Logits (1 + steps, B, V) in float64, exact, of the prefill and of each step.

        ids     these tokens for `self.ids`
        cache   this cache for a fresh one
        chunks  lengths of the passes that the prompt is prefilled in; empty: one
        before  before(cache) is called before each call of the cache
        """
        ids, cache = self.ids if ids is None else ids, self.make() if cache is None else cache
        before = before or (lambda cache: None)
        low, logits = 0, None
        for size in chunks or (self.prompt,):
            before(cache)
            logits = cache.prefill(ids[:, low : low + size])
            low += size
        assert low == self.prompt
        rows = [as_float64(logits, len(ids))]
        for t in range(self.prompt, ids.shape[1]):
            before(cache)
            rows.append(as_float64(cache.step(ids[:, t]), len(ids)))
        return np.stack(rows)

    @cached_property
    def plain(self) -> np.ndarray:
        """The logits of an undisturbed run; its dead slots hold what they happen to hold."""
        return self.run()

    @cached_property
    def repeats(self) -> bool:
        return self.run().tobytes() == self.plain.tobytes()

    @cached_property
    def steps(self) -> float:
        """How far one step of a number that the cache stores moves logits, in the units of `bar`.

        0 in float64, whose rounding is so small that it carries no number across one.
        """
        return 0.0 if self.dtype == "float64" else step_effect(self.make, self.ids, self.prompt, self.dtype)

    def compare(self, got, want, held: str, broken: str, bits=False, step=0) -> Finding:
        """Hold logits got (n, B, V) to want: by bits where that is promised, else within the bar.

        held, broken  what is said then; to `broken` the first place and the error are added
        step          the step that got begins with; 0 is the prefill
        """
        masked = np.isinf(want) & (got == want)  # as a vocabulary is; inf - inf would be NaN
        got, want = np.where(masked, 0, got), np.where(masked, 0, want)
        error = logit_error(got, want)
        numbers = {"error": error} | ({} if self.bar is None else {"bar": self.bar})
        if np.isnan(error):
            return Finding(BROKEN, f"{broken}: {first(got, want, 0.0, step)}, logits are NaN", numbers)
        if got.tobytes() == want.tobytes():
            return Finding(HELD, f"{held}, bit for bit", numbers)
        if bits and self.repeats:
            return Finding(BROKEN, f"{broken}: {first(got, want, 0.0, step)}, logits differ by {error:.1e}", numbers)
        if self.bar is None:
            reason = f"differs by {error:.1e}, and {self.dtype} logits cannot tell rounding from a bug"
            return Finding(NOT_CHECKED, f"{reason}; run it in float32 or float64 as well", numbers)
        against = f"{error:.1e}, bar {self.bar:.0e}"
        if error <= self.bar:
            return Finding(HELD, f"{held}, within rounding ({against})", numbers)
        few = beyond(got, want, self.bar).any(0).mean() < 0.5
        allowed = self.steps * (STEPS_IN_FEW_ROWS if few else STEPS)
        if error <= allowed < np.inf:
            numbers["steps"] = allowed
            return Finding(HELD, f"{held}, within steps of its stored numbers ({error:.1e} of {allowed:.0e})", numbers)
        place = first(got, want, self.bar, step)
        return Finding(BROKEN, f"{broken}: {place}, logits differ by {against}", numbers)


def beyond(got, want, bar: float) -> np.ndarray:
    """Where two runs (n, B, V) differ by more than the bar, (n, B)."""
    return ~(np.abs(got - want).max(-1) <= bar * max(1.0, np.abs(want).max()))


def first(got, want, bar: float, step: int) -> str:
    """Where two runs (n, B, V), which begin with that step, first part by more than the bar, in words."""
    worst = np.abs(got - want).max(-1)  # (n, B)
    parted = beyond(got, want, bar)
    i, b = np.argwhere(parted)[0] if parted.any() else np.unravel_index(worst.argmax(), worst.shape)
    when = f"at step {i + step}" if i + step else "after the prefill"
    return f"first {when}, row {b} ({int(parted.any(0).sum())} of {parted.shape[1]} rows)"
