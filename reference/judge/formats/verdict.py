"""Quantisation or bug: is what a quantiser loses what its format must lose, or is it a mistake of the code?

A subject is one of three:
    a function      x (B, H, T, D) -> what is read back, same shape, any float dtype
    a cache         subject() -> object with append(x (B, H, M, D)) and read() -> (B, H, T, D)
    two functions   Parts(quantise, dequantise): stored scales are held to the rule too
FORMAT: every number is one that the format permits (bounds.py). BUG: at least one is not; the wrong computation that
gives the numbers is named where one does. INCONCLUSIVE: nothing ran, or the dtype read back hides the format's steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ..difference import finite
from .bounds import Judged, judge_numbers, scales_outside
from .cases import Case, cases
from .explanation import Candidate, Seen, explained
from .format import DTYPES, Format
from .guard import advice
from .ties import other_rule, parted

FORMAT, BUG, INCONCLUSIVE = "FORMAT", "BUG", "INCONCLUSIVE"
HIDDEN = 0.5  # of the numbers: where the dtype hides one code from the next in more of them, nothing can be said


class Parts(NamedTuple):
    """A quantiser in two functions.

    quantise    x (B, H, T, D) -> codes, scales [, more]: scales with one number per group, in order of the groups, as
                floats, or for e8m0 as uint8 exponents + 127. Codes are judged by what dequantise reads
    dequantise  (codes, scales [, more]) -> x's shape
    """

    quantise: Callable[[np.ndarray], tuple]
    dequantise: Callable[..., np.ndarray]


@dataclass(frozen=True)
class Found:
    """What one case showed.

    outside  numbers that the format does not permit, of `of`
    where    the index of the worst, (b, h, t, d), with x there, what came, and what the format gives
    lost     the rms of what was lost; must: of what the format loses
    scales   stored scales that the rule does not give; None where they are not seen
    refused  what the subject raised instead, or ""
    """

    case: str
    of: int
    outside: int = 0
    where: tuple[int, ...] = ()
    x: float = 0.0
    came: float = 0.0
    permitted: float = 0.0
    lost: float = 0.0
    must: float = 0.0
    scales: int | None = None
    refused: str = ""


@dataclass(frozen=True)
class FormatVerdict:
    """FORMAT, BUG or INCONCLUSIVE, and why.

    reason     a sentence with numbers
    explained  the wrong computations that give what came: none, one, or those the numbers cannot tell apart
    rival      the next best hypothesis
    """

    verdict: str
    format: str
    rule: str
    dtype: str
    reason: str
    found: Sequence[Found]
    explained: tuple[Candidate, ...] = ()
    rival: Candidate | None = None
    names: tuple[str, ...] = field(default=())

    def record(self) -> dict[str, Any]:
        """The same for JSON; what is not finite is null."""
        return finite(asdict(self))

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.format}, {self.dtype}", self.reason]
        if self.explained:
            words = "; or ".join(x.sentence for x in self.explained)
            rest = f" (next best, {self.rival.sentence}, leaves {100 * self.rival.left:.0f} %)" if self.rival else ""
            lines.append(f"explains it: {words}{rest}")
        lines += [f"refused: {x.case}: {x.refused}" for x in self.found if x.refused]
        return "\n".join(lines)


def judge_format(
    f: Format, subject: Any, dtype: str = "float32", *, state: bool = False, D: int = 128, only=(), seed: int = 0
) -> FormatVerdict:
    """Hold a quantiser to a format.

    subject  see above; state=True says that it makes caches
    dtype    of the numbers it is given
    D        numbers of a row
    only     names of cases.KINDS; empty: all that suit the format, and rows whose last block is not full

    A subject refuses a case by NotImplementedError, and rows that blocks do not fill by ValueError too; it is reported.
    What else it raises passes. Raises ValueError for another dtype or case, for rows of fewer than 8 numbers, and for
    what comes back in another shape, or not in floats.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}; there are {', '.join(DTYPES)}")
    seen, found = [], []
    for case in cases(f, numpy_dtype(dtype), D=D, state=state, only=only, seed=seed):
        try:
            y, scales = read_back(subject, case, state)
        except refusals(case) as error:
            found.append(Found(case.name, case.x.size, refused=f"{type(error).__name__}: {error}"))
            continue
        refuse_codes(y)
        run = Seen(case, y, judge_numbers(f, case.x, y, case.pieces))
        seen.append(run)
        found.append(what_was_found(f, run, scales))
    return decide(f, dtype, seen, found)


def refusals(case: Case) -> tuple[type[Exception], ...]:
    """What a subject may raise to say that it does not take such numbers."""
    return (NotImplementedError, *((ValueError, AssertionError) if case.name == "ragged" else ()))


def refuse_codes(y: np.ndarray) -> None:
    """Raises ValueError where no floats were read back."""
    if y.dtype.kind != "f" and not str(y.dtype).startswith(("bfloat16", "float8", "float4")):
        raise ValueError(
            f"{y.dtype} came back, as codes do; return what is read back, in floats, or give quantise and dequantise"
        )


def numpy_dtype(name: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


@np.errstate(all="ignore")
def read_back(subject: Any, case: Case, state: bool) -> tuple[np.ndarray, Any]:
    """What the subject gives back of the case's numbers, and its scales where it shows them."""
    if isinstance(subject, Parts):
        kept = subject.quantise(case.x.copy())
        return np.asarray(subject.dequantise(*kept)), kept[1]
    if not state:
        return np.asarray(subject(case.x.copy())), None
    cache, at = subject(), 0
    for n in case.pieces:
        cache.append(case.x[..., at : at + n, :].copy())
        at += n
    return np.asarray(cache.read()), None


def what_was_found(f: Format, run: Seen, scales: Any) -> Found:
    """The numbers of one case."""
    x, y, expected = run.case.x.astype(np.float64), run.y.astype(np.float64), run.judged.expected
    outside = run.judged.outside
    with np.errstate(all="ignore"):
        off = np.where(outside, np.nan_to_num(np.abs(y - expected), nan=np.inf, posinf=np.inf), -1)
        at = tuple(int(i) for i in np.unravel_index(int(off.argmax()), off.shape))
        ok = np.isfinite(x) & np.isfinite(y)
        lost, must = (float(np.sqrt(np.square(np.where(ok, a - x, 0)).mean())) for a in (y, expected))
    wrong = None if scales is None or f.rule == "two-level" else int(scales_outside(f, run.case.x, scales).sum())
    numbers = float(x[at]), float(y[at]), float(expected[at])
    return Found(run.case.name, x.size, int(outside.sum()), at, *numbers, lost, must, wrong)


def decide(f: Format, dtype: str, seen: Sequence[Seen], found: Sequence[Found]) -> FormatVerdict:
    """The word for these runs, and its reason."""
    if other_rule(f, [run.judged.ties for run in seen]):
        seen, found = with_ties(f, seen, found)
    about = (f.name, f.describe(), dtype)
    wrong = [x for x in found if x.outside or x.scales]
    if wrong:
        named, rival, guard = explained(f, seen)
        names = tuple(dict.fromkeys(x.name for x in named))
        reason = bug_reason(wrong, found) + (advice(f, guard) if guard else "")
        return FormatVerdict(BUG, *about, reason, found, named, rival, names)
    if not seen:
        return FormatVerdict(INCONCLUSIVE, *about, "The subject refused every case, so nothing was compared.", found)
    hidden = float(np.mean([run.judged.hidden.mean() for run in seen if run.case.name != "tiny"] or [1.0]))
    if hidden > HIDDEN:
        reason = (
            f"Numbers read back as {seen[0].y.dtype} lie further apart than the format's codes in {100 * hidden:.0f} % "
            "of all places, and a wrong code could hide there; let the subject return float32."
        )
        return FormatVerdict(INCONCLUSIVE, *about, reason, found)
    numbers, worst = sum(x.of for x in found if not x.refused), max(found, key=lambda x: x.lost)
    reason = (
        f"All {numbers} numbers read back in {len(seen)} cases are ones that the format permits. It loses up to "
        f"{worst.lost:.2g} rms ({worst.case}); the code loses nothing beside.{ties_note(f, seen)}"
    )
    return FormatVerdict(FORMAT, *about, reason, found)


def with_ties(f: Format, seen: Sequence[Seen], found: Sequence[Found]) -> tuple[Sequence[Seen], Sequence[Found]]:
    """The runs, with ties that fell by another rule among what is outside."""
    whole = [run._replace(judged=judged_with_ties(f, run.judged)) for run in seen]
    again = {run.case.name: what_was_found(f, run, None) for run in whole}
    return whole, [replace(again[x.case], scales=x.scales) if x.case in again else x for x in found]


def judged_with_ties(f: Format, judged: Judged) -> Judged:
    return judged._replace(outside=judged.outside | parted(f, judged.ties))


def ties_note(f: Format, seen: Sequence[Seen]) -> str:
    """What is said of ties that a rounding moved."""
    moved = sum(int(parted(f, run.judged.ties).sum()) for run in seen)
    if not moved:
        return ""
    return (
        f" {moved} quotients halfway between two codes fell to the other one, and no rule of ties gives them all: a "
        "quotient that is rounded on its way, as x * (1 / max) * top, leaves a tie by its last bit."
    )


def digits(*numbers: float) -> list[str]:
    """The numbers, with as many digits as it takes to tell them apart."""
    for n in (6, 9, 17):
        words = [f"{x:.{n}g}" for x in numbers]
        if len(set(words)) == len(set(numbers)):
            return words
    return words


def bug_reason(wrong: Sequence[Found], found: Sequence[Found]) -> str:
    """The wrong numbers, and the worst of them."""
    worst = max(wrong, key=lambda x: x.outside / x.of)
    numbers, of = sum(x.outside for x in wrong), sum(x.of for x in found if not x.refused)
    cases_ = ", ".join(x.case for x in wrong[:5]) + (", …" if len(wrong) > 5 else "")
    if not numbers:
        scales = sum(x.scales or 0 for x in wrong)
        return f"{scales} stored scales are none that the rule gives ({cases_})."
    b, h, t, d = worst.where
    loss = f"there the format loses {worst.must:.2g} rms and the code {worst.lost:.2g}"
    scales = sum(x.scales or 0 for x in wrong)
    stored = f" {scales} stored scales are none that the rule gives." if scales else ""
    x, got, permitted = digits(worst.x, worst.came, worst.permitted)
    came = f"{x} at (b {b}, h {h}, t {t}, d {d}) came back as {got}"
    return (
        f"{numbers} of {of} numbers are none that the format permits ({cases_}); {worst.case}: {loss}, and {came} "
        f"where the format gives {permitted}.{stored}"
    )
