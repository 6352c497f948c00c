"""The rungs of the judge's ladder: both paths in one dtype, how much each rounds there, and the gate that follows.

A gate is a multiple of rounding that was measured on these very paths. Two kinds of error are kept apart from smooth
rounding: parts that stay in float32 whatever dtype is asked for, and steps, to which an 8-bit cache rounds and across
which logits jump.

A rung that is no number where the dtype in question has numbers does not decide. An example: a softmax in float32 turns
float64's most negative number into -inf, and a padded row into NaN (transformers#17437), which says nothing of float32.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .difference import Difference, as_array, compare, gaps, noise, rms
from .rounding import roundoff
from .verdict import Rung

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

# A path that rounds to steps, as an 8-bit cache does, agrees with another to the last bits until rounding carries one
# number across a step; then logits jump. A shift of STIR carries 3 % of 8-bit numbers across one; a smooth function
# leaves 2e-11 of itself in a third difference of it. In 300 draws of Int8Cache in float32 (5 head layouts, 1 to 8
# layers) rounding moved logits by up to 0.074 of the largest third difference over STIRRED shifts; the gate is twice
# the worst.
STIR = 2.0**-12
STIRRED = 7
JUMP = 0.15


@dataclass
class Run:
    """Both paths' logits in one dtype, and the noise of each where it was measured.

    excluded  why some logits are not compared, or ""; path A's are path B's there
    """

    dtype: str
    a: np.ndarray
    b: np.ndarray
    noise: tuple[float, float] | None = None
    excluded: str = ""

    @property
    def one_rounding(self) -> float:
        """What one rounding of the logits does."""
        return roundoff(self.dtype) * rms(self.b)

    @cached_property
    def comparable(self) -> np.ndarray:
        """Where both paths are finite, or both -inf, with which a vocabulary is masked."""
        return (np.isfinite(self.a) & np.isfinite(self.b)) | (np.isneginf(self.a) & np.isneginf(self.b))

    @property
    def trusted(self) -> bool:
        """Whether rounding can be measured on path B: it has no NaN or infinity of its own."""
        return not (~self.comparable & ~np.isfinite(self.b)).any()

    def nonfinite(self) -> str:
        """Which path has NaN or infinity, and in how many logits."""
        words = []
        for name, x in (("path A", self.a), ("path B", self.b)):
            odd = ~self.comparable & ~np.isfinite(x)
            kinds = ["NaN"] * bool((odd & np.isnan(x)).any()) + ["infinity"] * bool((odd & np.isinf(x)).any())
            rows = sorted(set(np.nonzero(odd)[0].tolist())) if odd.ndim > 1 else []
            where = f" (sequence {', '.join(map(str, rows))})" if 0 < len(rows) < len(odd) else ""
            gives = f"gives {' and '.join(kinds)} in {odd.sum()} of {odd.size} logits{where}"
            words.append(f"{name} {gives if kinds else 'in none'}")
        return ", ".join(sorted(words, key=lambda word: word.endswith("in none")))


def run(paths, dtype, shifts: int) -> Run | None:
    """Both paths in dtype, with their noise from so many shifts, if they take any; None where they do not run in it."""
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
    of_a, of_b = (rms(np.array(sliding(noise, f))) for f in (a, b))
    return Run(dtype, a[0], b[0], (of_a, of_b))


def exclude_nonfinite(runs: Sequence[Run], dtype: str) -> list[Run]:
    """The runs, without logits that are NaN or infinite where `dtype`, the one in question, has neither."""
    asked = next((now for now in runs if now.dtype == dtype), None)
    if asked is None or not asked.comparable.all():
        return list(runs)
    kept = []
    for now in runs:
        if not now.comparable.all():
            # NaN where path B has none to give: path A's logits are path B's wherever either is not finite.
            b = np.where(now.comparable | np.isfinite(now.b), now.b, np.nan)
            why = f"{now.nonfinite()}; {dtype} has numbers everywhere"
            now = replace(now, a=np.where(now.comparable, now.a, b), b=b, excluded=why)
        kept.append(now)
    return kept


def sliding(of: Callable[..., float], results: Sequence) -> list[float]:
    """of(ORDER + 1 results in a row), for each such row."""
    return [of(*results[i : i + ORDER + 1]) for i in range(len(results) - ORDER)]


def step_jump(paths, base: Run | None) -> float:
    """How far the trusted path's logits jump where rounding carries numbers across steps; 0 where no shift is taken.

    base  the run that rounding was measured on; a path that has no steps is smooth in its dtype, and jumps by nothing
    """
    if base is None or base.noise is None or roundoff(base.dtype) > roundoff("float32"):
        return 0.0
    results = [base.b, *(as_array(paths(base.dtype, i * STIR)[1], "b") for i in range(1, STIRRED + 1))]

    def third(*f) -> float:
        with np.errstate(invalid="ignore"):
            moved = np.abs(f[0] - 3 * f[1] + 3 * f[2] - f[3])
        return float(moved[np.isfinite(moved)].max(initial=0))

    return JUMP * max(sliding(third, results))


def widest_noise(top: Run, below: Run | None) -> tuple[float, str]:
    """(root mean square of the rounding, a note) of the widest rung; below is the one under it."""
    size = rms(top.b)
    if top.noise is None:
        narrow = max(roundoff(top.dtype), roundoff("float32"))
        return UNSHIFTED * narrow * size, "the paths take no shift, so their noise was not measured but assumed"
    of_a, of_b = top.noise
    least = max(of_b, top.one_rounding)
    if below is not None and of_a > (excused := NARROW * max(rms(below.b - top.b), least)):
        return excused, f"path A's own noise is {of_a:.1e}: it computes in less than {below.dtype} inside"
    measured = max(of_a, least)
    return measured, coarse_note(top, measured)


def coarse_note(top: Run, measured: float) -> str:
    """A note where paths that were asked for float64 round as float32 does, or more coarsely; else none."""
    size = rms(top.b)
    if top.dtype != "float64" or measured <= math.sqrt(roundoff("float64") * roundoff("float32")) * size:
        return ""
    floor = f"differences below {GATE * measured:.0e} cannot be told from rounding"
    if measured <= UNSHIFTED * roundoff("float32") * size:
        return f"this model computes in float32 inside: {floor}"
    return f"these paths compute in half precision inside or round to steps, as an 8-bit cache does: {floor}"


def widest_rounding(top: Run, below: Run | None, error: float, throughout: bool = False) -> tuple[float, str]:
    """`widest_noise`, corrected where the size of the difference shows whether the paths part in float64 or float32."""
    measured, note = widest_noise(top, below)
    if top.dtype != "float64" or top.noise is None:
        return measured, note
    size = rms(top.b)
    fine = UNSHIFTED * roundoff("float64") * size
    if note and error <= GATE * fine < GATE * measured:
        return fine, f"they agree to float64's own rounding, though a shift moves each by {measured:.1e} at random"
    if below is None or error <= GATE * measured:
        return measured, note
    single = roundoff("float32") * size
    parts = single if throughout and not note else min(rms(below.b - top.b), UNSHIFTED * single)
    if error > GATE * parts:
        return measured, note
    return parts, (
        f"parts of them stay in float32, as tables of positions do: differences below {GATE * parts:.0e}, which "
        "float32's rounding explains, cannot be told from it"
    )


def climb(
    runs: Sequence[Run], jumps: Callable[[Run], float] = lambda base: 0.0, throughout: bool = False,
    float64_gate: float | None = None,
) -> list[tuple[Rung, Difference]]:  # fmt: skip
    """Hold both paths, on every rung, to the gate of that rung.

    float64_gate  see parity.judge

    jumps       jumps(base) -> how far rounding across steps moves logits; asked where smooth rounding explains no rung
    throughout  in float64's run nothing stays in float32 but tables, whose numbers are rounded once; not believed where
                the measured rounding is float32's
    """
    if not runs:
        return []
    base = next((now for now in runs if now.trusted), runs[0])
    climbed, floor, alone, red = [], 0.0, True, False
    for now, below in zip(runs, [*runs[1:], None], strict=False):
        error = float(gaps(now.a, now.b).max())
        if alone:  # nothing wider to be measured by
            measured, note = widest_rounding(now, below, error, throughout)
            floor, alone = widest_noise(now, below)[0], now is not base
        else:
            measured, note = max(rms(now.b - base.b), floor, now.one_rounding), ""
        if float64_gate and now.dtype == "float64":
            measured, note = float64_gate * float(np.abs(now.b[now.comparable]).max(initial=0)) / GATE, ""
        gate = GATE * measured
        if not red and now.dtype != "float64" and gate < error < math.inf and (far := jumps(base)) > gate:
            gate, note = far, f"rounding carries numbers across steps here, which moves logits by up to {far:.0e}"
        red = red or error > gate
        climbed.append(rung_of(now, measured, gate, note, base.noise is None))
    return climbed


def rung_of(now: Run, measured: float, gate: float, note: str, assumed: bool) -> tuple[Rung, Difference]:
    """What is reported of a run held to its gate."""
    found = compare(now.a, now.b, now.dtype, measured)
    note = now.nonfinite() if found.largest == math.inf else now.excluded or note
    undefined = bool((np.isnan(now.b) | np.isposinf(now.b)).any())
    green, size = found.largest <= gate, rms(now.b)
    rung = Rung(
        now.dtype, found.largest, gate, measured, green, note, found.where, size, undefined, bool(now.excluded), assumed
    )
    return rung, found
