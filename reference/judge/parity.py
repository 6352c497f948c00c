"""The judge: two paths compute the same logits, and they differ. Is that rounding, or a bug?

Rounding shrinks with precision, a bug does not. So both paths climb a ladder, float64, float32, then the dtype in
question, and on each rung their difference is held to what rounding does there to these very paths, which is measured:
by third differences on the widest rung, by the trusted path's distance from its wider self below. No tolerance is
chosen, and no path need be right: a fault that both share is outside the question. The other rungs serve the dtype in
question: a fault on one of them alone is reported and does not decide.
"""

from collections.abc import Callable

import numpy as np

from .ladder import ORDER, climb, exclude_nonfinite, run, step_jump
from .rounding import roundoff
from .verdict import CACHED, Verdict, decide, exclude_contradicted, scope

DTYPES = ("float64", "float32", "bfloat16", "float16")  # the first two are rungs of every ladder

# Largest difference of logits from the float64 oracle, in units of max(1, max|oracle|), that a correct path may show.
# Correct paths reach 4e-13 and 1.6e-5; a wrong GELU moves float32 logits by at least 1.6e-4.
LOGIT_BARS = {"float64": 1e-11, "float32": 5e-5}


def logit_error(logits, oracle) -> float:
    """max|logits - oracle| / max(1, max|oracle|); NaN anywhere gives NaN, which no bar admits."""
    logits, oracle = np.asarray(logits, np.float64), np.asarray(oracle, np.float64)
    if logits.shape != oracle.shape:
        raise ValueError(f"logits are {logits.shape}, the oracle's {oracle.shape}; compare the same positions")
    return float(np.max(np.abs(logits - oracle)) / max(1.0, np.max(np.abs(oracle))))


def judge(
    paths: Callable[..., tuple],
    dtype: str,
    *,
    question: str = CACHED,
    op: Callable[[str], float] | None = None,
    draws: int = 1,
    throughout: Callable[[], bool] = lambda: False,
    float64_gate: float | None = None,
) -> Verdict:
    """Whether two paths to the same logits differ by rounding or by a bug.

    paths     paths(dtype, shift=0.0) -> (a, b), logits (B, n, V) of path A, under test, and of B, trusted, both run in
              dtype "float64", "float32", "bfloat16" or "float16"; shift multiplies both token embeddings by 1 + shift.
              NotImplementedError says that they do not run in that dtype, or with no shift
    dtype     the dtype in question
    question  what B is, for the reason: CACHED or ORACLE or words of your own
    op        op(dtype) -> the error of A's attention alone on given inputs, in multiples of its gate; see
              `attention_error`. Replayed in half precision, where final logits do not decide; above 1 is a bug
    draws     noise measurements per path
    throughout  asked after the runs: whether the paths, asked for float64, computed all but tables in it; then no more
              than one rounding to float32 is excused
    float64_gate  the float64 rung's gate where it is known, in units of path B's largest number

    Raises ValueError for a dtype that is no float, and where the paths' shapes differ.
    """
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; the judge takes {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    runs = []
    for rung in dict.fromkeys((*DTYPES[:2], dtype)):
        measured = any(now.trusted for now in runs)
        runs += [found] if (found := run(paths, rung, 0 if measured else ORDER + draws - 1)) else []
    climbed = climb(exclude_nonfinite(runs, dtype), lambda base: step_jump(paths, base), throughout(), float64_gate)
    rungs = tuple(exclude_contradicted([rung for rung, _ in climbed], dtype))
    difference = next((found for rung, found in climbed if rung.dtype == dtype), None)
    replayed = float(op(dtype)) if op is not None and roundoff(dtype) > roundoff("float32") else None
    word, reason = decide(dtype, rungs, replayed)
    return Verdict(word, f"{reason} {scope(question)}", question, rungs, difference, replayed)
