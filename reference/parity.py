"""The judge: two paths compute the same logits, and they differ. Is that rounding, or a bug?

Rounding shrinks with precision, a bug does not. So both paths climb a ladder, float64, float32, then the dtype in
question, and on each rung their difference is held to what rounding does there to these very paths, which is measured:
by third differences where nothing wider exists, by the trusted path's distance from its wider self below. No tolerance
is chosen, and no path need be right: a fault that both share is not what this question asks about.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .difference import Difference, as_array, compare, noise, rms
from .honest import roundoff
from .verdict import BUG, CACHED, INCONCLUSIVE, ORACLE, ROUNDING, Rung, Verdict, asked, decide

__all__ = [
    "BUG", "CACHED", "INCONCLUSIVE", "ORACLE", "ROUNDING",
    "Difference", "Rung", "Verdict", "compare", "judge", "logit_error", "noise",
]  # fmt: skip

DTYPES = ("float64", "float32", "bfloat16", "float16")  # the first two are rungs of every ladder

# Largest difference of logits from the float64 oracle, in units of max(1, max|oracle|), that a correct path may show.
# Correct paths reach 4e-13 and 1.6e-5; a wrong GELU moves float32 logits by at least 1.6e-4.
LOGIT_BARS = {"float64": 1e-11, "float32": 5e-5}

# What is 2^-20 to float32, a handful of its roundings, and nothing to smooth functions: the third difference of a
# curved one is its third derivative times SHIFT^3 = 9e-19, below float64's own rounding. Wide enough, too, to stir a
# path that computes in float32 inside although it was asked for float64. Half precision is stirred by a wider one only.
SHIFT = 2.0**-20
HALF_SHIFT = 2.0**-6
ORDER = 3

# The gate: the largest difference that clean paths may show, in root mean squares of the measured rounding. In the 600
# clean draws of test_judge.py's exhaustive test (4 head layouts, 1 to 8 layers, 3 dtypes, eager and sdpa, ragged) the
# worst reached 10.9 in float64, 13.6 in float32, 7.2 in half precision; in 300 others 13.0, in tiny 10.4, less in
# random:distilgpt2 and a random Llama. The gate is twice the worst: fewer than 1 false alarm in 200, 95 % confidence.
GATE = 27.0

# How much noisier path A may be, asked for float64, than B's float32 errs, and be excused for computing in float32
# inside: twice the worst of 165 draws that do.
NARROW = 2.6

# Rounding where paths take no shift, in single roundings of the logits to their dtype, float32 at the least, since
# they may compute in it inside: twice the worst that was measured in the 600 draws.
UNSHIFTED = 53.0


def logit_error(logits, oracle) -> float:
    """max|logits - oracle| / max(1, max|oracle|); NaN anywhere gives NaN, which no bar admits."""
    logits, oracle = np.asarray(logits, np.float64), np.asarray(oracle, np.float64)
    if logits.shape != oracle.shape:
        raise ValueError(f"logits are {logits.shape}, the oracle's {oracle.shape}; compare the same positions")
    return float(np.max(np.abs(logits - oracle)) / max(1.0, np.max(np.abs(oracle))))


@dataclass
class Run:
    """Both paths' logits in one dtype, and the noise of each where it was measured."""

    dtype: str
    a: np.ndarray
    b: np.ndarray
    noise: tuple[float, float] | None = None

    @property
    def rounded(self) -> float:
        """What one rounding of the logits does."""
        return roundoff(self.dtype) * rms(self.b)


def run(paths, dtype, shifts: int) -> Run | None:
    """Both paths in dtype; None if they cannot. Their noise too, from as many shifts, if they take any."""
    step = HALF_SHIFT if roundoff(dtype) > roundoff("float32") else SHIFT
    try:
        pairs = [paths(dtype)]
    except NotImplementedError:
        return None
    with contextlib.suppress(NotImplementedError):
        pairs += [paths(dtype, i * step) for i in range(1, shifts + 1)]
    a, b = ([as_array(pair[side], "ab"[side]) for pair in pairs] for side in (0, 1))
    if a[0].shape != b[0].shape:
        raise ValueError(f"path A gives logits {a[0].shape}, path B {b[0].shape}; both must give the same positions")
    if len(pairs) <= ORDER:
        return Run(dtype, a[0], b[0])
    windows = range(len(pairs) - ORDER)
    of_a, of_b = (rms(np.array([noise(*f[i : i + ORDER + 1]) for i in windows])) for f in (a, b))
    return Run(dtype, a[0], b[0], (of_a, of_b))


def measure(top: Run, below: Run | None) -> tuple[float, str]:
    """(root mean square of the rounding, a note) of the widest rung; below is the one under it."""
    size = rms(top.b)
    if top.noise is None:
        narrow = max(roundoff(top.dtype), roundoff("float32"))
        return UNSHIFTED * narrow * size, "the paths take no shift, so their noise was not measured but assumed"
    of_a, of_b = top.noise
    least = max(of_b, top.rounded)
    if below is not None and of_a > (excused := NARROW * max(rms(below.b - top.b), least)):
        return excused, f"path A's own noise is {of_a:.1e}: it computes in less than {below.dtype} inside"
    measured, halfway = max(of_a, least), math.sqrt(roundoff("float64") * roundoff("float32")) * size
    note = ""
    if top.dtype == "float64" and measured > halfway:
        floor = GATE * measured
        note = f"this model computes in float32 inside: differences below {floor:.0e} cannot be told from rounding"
    return measured, note


def climb(runs) -> list[tuple[Rung, Difference]]:
    """Hold both paths, on every rung, to the gate of that rung."""
    climbed, floor = [], 0.0
    for now in runs:
        if now is runs[0]:
            measured, note = measure(now, runs[1] if runs[1:] else None)
            floor = measured
        else:
            measured, note = max(rms(now.b - runs[0].b), floor, now.rounded), ""
        gate = GATE * measured
        found = compare(now.a, now.b, now.dtype, measured)
        undefined = bool((np.isnan(now.b) | np.isposinf(now.b)).any())
        green, size = found.largest <= gate, rms(now.b)
        rung = Rung(now.dtype, found.largest, gate, measured, green, note, found.where, size, undefined)
        climbed.append((rung, found))
    return climbed


def judge(
    paths: Callable[..., tuple],
    dtype: str,
    *,
    question: str = CACHED,
    op: Callable[[str], float] | None = None,
    draws: int = 1,
) -> Verdict:
    """Say whether two paths to the same logits differ by rounding or by a bug.

    paths     paths(dtype, shift=0.0) -> (a, b), logits (B, n, V) of path A, under test, and of B, trusted, both run in
              dtype "float64", "float32", "bfloat16" or "float16"; shift multiplies both token embeddings by 1 + shift.
              NotImplementedError says that they do not run in that dtype, or with no shift
    dtype     the dtype in question
    question  what B is, for the reason: CACHED or ORACLE or words of your own
    op        op(dtype) -> the error of A's attention alone on given inputs, in multiples of its gate; see
              `attention_error`. Replayed in half precision, where final logits cannot tell; above 1 is a bug
    draws     noise measurements per path

    Raises ValueError for a dtype that is no float, and where the paths' shapes differ.
    """
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; the judge takes {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    runs = []
    for rung in dict.fromkeys((*DTYPES[:2], dtype)):
        runs += [found] if (found := run(paths, rung, 0 if runs else ORDER + draws - 1)) else []
    climbed = climb(runs)
    rungs = tuple(rung for rung, _ in climbed)
    difference = next((found for rung, found in climbed if rung.dtype == dtype), None)
    replayed = float(op(dtype)) if op is not None and roundoff(dtype) > roundoff("float32") else None
    verdict, why = decide(dtype, rungs, replayed)
    return Verdict(verdict, f"{why} {asked(question)}", question, rungs, difference, replayed)
