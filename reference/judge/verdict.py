"""The verdict on two paths to the same logits: the rungs that were run, one of three words, and the reason."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from .difference import Difference, finite

ROUNDING, BUG, INCONCLUSIVE = "ROUNDING", "BUG", "INCONCLUSIVE"
CACHED, ORACLE = "cached against uncached", "against the oracle"
AXES = ("sequence", "position", "token")

# A rung whose gate is above this part of the logits' root mean square clears no path, since bugs hide below it: of the
# 58 planted faults of a model the faintest, a wrong GELU, moves logits by 7.5e-4 of it, a wrong eps by 1.2e-3.
RESOLUTION = 1e-4

# How far steps, such as those of an 8-bit cache, move float32 logits, in root mean squares of them: twice the worst of
# the 300 draws of ladder.JUMP. Where the paths take no shift, it cannot be measured.
STEPS = 0.012


@dataclass(frozen=True)
class Rung:
    """One precision of the ladder; all in logits.

    error      the largest difference of the paths
    gate       the largest that rounding explains
    noise      the measured root mean square of rounding; the gate is a multiple of it, or what steps explain
    green      error <= gate
    note       what else was found: a float32 floor, steps, a path in a narrower dtype than asked, which path has NaN
    where      the index of the largest difference
    size       the root mean square of the trusted path's logits
    undefined  both paths hold NaN or +inf at the same places; -inf is how a vocabulary is masked
    excluded   it does not decide, since its fault is not one of the dtype in question; the note names the fault, and
               the other fields describe the numbers that are left
    assumed    the paths take no shift, so their noise was not measured
    """

    dtype: str
    error: float
    gate: float
    noise: float
    green: bool
    note: str
    where: tuple[int, ...]
    size: float
    undefined: bool
    excluded: bool = False
    assumed: bool = False

    @property
    def resolution(self) -> float:
        """What rounding explains, as a part of the logits' root mean square."""
        return self.gate / max(self.size, np.finfo(float).tiny)

    @property
    def word(self) -> str:
        """ "green", "RED" or "aside"."""
        return "aside" if self.excluded else "green" if self.green else "RED"


@dataclass(frozen=True)
class Verdict:
    """ROUNDING, BUG or INCONCLUSIVE, and why.

    reason      a sentence that names rung and numbers, and one that names the question answered
    rungs       in the order they were climbed
    difference  of the two paths in the dtype in question; None where they do not run in it
    op          the attention alone on identical inputs, in multiples of its gate; None where it was not replayed
    """

    verdict: str
    reason: str
    question: str
    rungs: Sequence[Rung]
    difference: Difference | None
    op: float | None = None

    def record(self) -> dict:
        """The same for JSON; what is not finite is null."""
        return finite(asdict(self))


def exclude_contradicted(rungs: Sequence[Rung], dtype: str) -> list[Rung]:
    """The rungs, a red one excluded where a green one nearer to `dtype` would show a fault of its size."""
    names = [rung.dtype for rung in rungs]
    if dtype not in names:
        return list(rungs)
    at, kept = names.index(dtype), []
    for i, rung in enumerate(rungs):
        nearer = rungs[i + 1 : at + 1] if i < at else rungs[at:i]
        sound = [other for other in nearer if other.green and not other.excluded and not other.undefined]
        witness = next((other for other in sound if math.inf > rung.error > 2 * other.gate), None)
        if not rung.green and not rung.excluded and witness:
            shown = f"{witness.dtype} would show a fault of this size (gate {witness.gate:.1e}) and does not"
            rung = replace(rung, excluded=True, note="; ".join(filter(None, (shown, rung.note))))
        kept.append(rung)
    return kept


def decide(dtype: str, rungs: Sequence[Rung], op: float | None = None) -> tuple[str, str]:
    """The word for paths compared on these rungs, and the sentences that justify it."""
    excluded = [rung for rung in rungs if rung.excluded]
    word, reason = by_counted_rungs(dtype, [rung for rung in rungs if not rung.excluded], op, excluded)
    return word, " ".join([reason, *(exclusion(rung) for rung in excluded)])


def exclusion(rung: Rung) -> str:
    """Why a rung does not decide."""
    size = "" if rung.green else f"the paths differ by {rung.error:.2g}; "
    return f"In {rung.dtype} {size}{rung.note}, so {rung.dtype} does not decide."


def by_counted_rungs(dtype: str, rungs: Sequence[Rung], op: float | None, excluded: Sequence[Rung]) -> tuple[str, str]:
    """`decide` by the rungs that count."""
    red = next((rung for rung in rungs if not rung.green), None)
    if red and red.assumed and rungs[0].green and red.error <= STEPS * red.size:
        return INCONCLUSIVE, (
            f"In {red.dtype} the paths differ by {red.error:.2g}, though they agree in {rungs[0].dtype}: a fault of "
            f"{red.dtype} alone, or numbers that rounding carries across steps, as in an 8-bit cache. Let both take a "
            "shift, f(dtype, shift), and it can be measured which."
        )
    if red:
        return BUG, bug_reason(red, rungs)
    if op is not None and not op <= 1:
        return BUG, f"In {dtype} the attention alone errs by {op:.3g} times what rounding explains on its inputs."
    if dtype not in [rung.dtype for rung in rungs]:
        return INCONCLUSIVE, f"The paths do not run in {dtype}, so there was nothing to compare."
    blind = next((rung for rung in rungs if rung.undefined), None)
    if blind:
        return INCONCLUSIVE, f"In {blind.dtype} both paths give NaN or infinity at the same places."
    errors = ", ".join(f"{rung.error:.2g} in {rung.dtype}" for rung in rungs)
    if not any(rung.error for rung in rungs):
        return ROUNDING, f"The paths agree bit for bit ({errors})."
    finest = min(rungs, key=lambda rung: rung.resolution)
    if finest.resolution > RESOLUTION:
        return INCONCLUSIVE, (
            f"The paths differ by {errors}; rounding explains up to {finest.gate:.1e} in {finest.dtype}, the finest "
            f"rung there was, but that is {100 * finest.resolution:.2g} % of the logits and bugs hide below it: "
            f"{advice(rungs, excluded)}."
        )
    shrunk = rungs[0].error < 0.1 * rungs[-1].error
    shrinks = ": they part less with each wider dtype, as rounding does and a bug does not" if shrunk else ""
    notes = "; ".join(dict.fromkeys(rung.note for rung in rungs if rung.note))
    explained = f"in {finest.dtype} rounding explains up to {finest.gate:.1e}" + (f" ({notes})" if notes else "")
    return ROUNDING, f"The paths differ by {errors}; {explained}{shrinks}."


def advice(rungs: Sequence[Rung], excluded: Sequence[Rung]) -> str:
    """What would make the verdict conclusive, and has not been done."""
    if any(rung.dtype == "float64" for rung in excluded):
        return "float64 would tell, but gives no answer here; let both paths compute in it"
    if any(rung.dtype == "float64" for rung in rungs):
        return (
            "they were run in float64 and round more coarsely inside; compare them with that switched off, as with a "
            "cache that stores what it is given"
        )
    return "run them in float64"


def bug_reason(red: Rung, rungs: Sequence[Rung]) -> str:
    """The place and size of a bug on this rung."""
    place = ", ".join(f"{name} {i}" for name, i in zip(AXES, red.where, strict=False))
    if not np.isfinite(red.error):
        return f"In {red.dtype} {red.note}; first at {place}."
    greens = [rung.dtype for rung in rungs[: rungs.index(red)]]
    alone = f", though they agree in {' and '.join(greens)}: the fault is in {red.dtype} alone" if greens else ""
    note = f" ({red.note})" if red.note else ""
    times = f"{red.error / red.gate:.2g} times" if red.gate else "and"
    return (
        f"In {red.dtype} the paths differ by {red.error:.2g}, {times} what rounding explains there ({red.gate:.1e}), "
        f"most at {place}{alone}{note}."
    )


def scope(question: str) -> str:
    """The question that was answered, and what it cannot show."""
    if question == CACHED:
        return "Asked: cached against uncached; what both share (GELU, LayerNorm's eps, the head) it cannot see."
    return f"Asked: {question}."
