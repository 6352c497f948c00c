"""Which wrong computation gives the numbers that came: named where it gives nearly all, and no other does nearly so.

Up to MOST that the numbers cannot tell apart are named together. A least scale is no list's but estimated: guard.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np

from .bounds import Judged
from .cases import Case
from .format import Format
from .guard import guard_of
from .hypotheses import HYPOTHESES
from .hypotheses.scales import AT_LEAST, FLOORS, RANGE, RANGES

EXPLAINED = 0.02  # of the numbers outside: what a hypothesis may leave unreproduced, for scales a last bit apart
CLEARLY = 3.0  # times as many as the best must its nearest rival leave
SAME = 0.005  # hypotheses that leave no more than this are not told apart
NOTHING = 0.5  # what leaves more is no rival
MOST = 3  # hypotheses that are named together; more say nothing
FLOOR = "scale floor"  # the name of hypotheses of a least scale
WRONG, FINE = 6, 3  # cases with and without wrong numbers on which they are tried


class Seen(NamedTuple):
    """One run of the subject: the case, what came back, and how that was judged."""

    case: Case
    y: np.ndarray
    judged: Judged


@dataclass(frozen=True)
class Candidate:
    """A hypothesis, and the numbers it does not reproduce as a part of those outside."""

    name: str
    sentence: str
    left: float


def candidates(f: Format, seen: Sequence[Seen]) -> list[Candidate]:
    """Every hypothesis that reproduces most of the wrong numbers, best first.

    What becomes of NaN in x is not asked; of subnormal scales, which depend on the order of operations, only where
    nothing else is wrong.
    """
    seen = [run for run in seen if np.isfinite(run.case.x.astype(np.float64)).all()]
    if any(run.judged.outside.any() for run in seen if run.case.name != "tiny"):
        seen = [run for run in seen if run.case.name != "tiny"]
    wrong = sorted((run for run in seen if run.judged.outside.any()), key=lambda run: -run.judged.outside.sum())
    fine = [run for run in seen if not run.judged.outside.any()]
    tried = [*spread(wrong, WRONG), *spread(fine, FINE)]
    of = sum(int(run.judged.outside.sum()) for run in tried)
    found: dict[str, Candidate] = {}
    for h in HYPOTHESES:
        if of and h.fits(f):
            left = unreproduced(h.apply, f, tried, int(NOTHING * of) + 1) / of
            if left <= NOTHING and (h.sentence not in found or left < found[h.sentence].left):
                found[h.sentence] = Candidate(h.name, h.sentence, left)
    return sorted(found.values(), key=lambda x: x.left)


@np.errstate(all="ignore")
def unreproduced(apply, f: Format, runs: Sequence[Seen], enough: int) -> int:
    """How many numbers `apply` gives otherwise than they came; it stops counting at `enough`."""
    count = 0
    for run in runs:
        try:
            y = apply(f, run.case.x, run.case.pieces)
        except (ValueError, IndexError):  # a hypothesis that has no meaning on these shapes
            return enough
        count += int((~alike(y, run.y)).sum())
        if count >= enough:
            break
    return count


def alike(y: np.ndarray, came: np.ndarray) -> np.ndarray:
    """Whether numbers are one but for the last bit of the dtype, and of the sums that a large neighbour is part of."""
    a, b = y.astype(np.float64), came.astype(np.float64)
    info = ml_dtypes.finfo(came.dtype)
    rows = np.abs(np.where(np.isfinite(b), b, 0)).max(-1, keepdims=True, initial=0)
    slack = np.abs(b) * float(info.eps) + rows * 2.0**-20 + float(info.smallest_subnormal)
    return (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= slack)


def choose(order: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The hypothesis that explains what came, with those that the numbers cannot tell from it; none if too many do."""
    if not order or order[0].left > EXPLAINED:
        return ()
    same = tuple(x for x in order if x.left <= max(CLEARLY * order[0].left, SAME))
    return same if len(same) <= MOST else ()


def explained(f: Format, seen: Sequence[Seen]) -> tuple[tuple[Candidate, ...], Candidate | None, float]:
    """What explains the numbers outside, the next best, and the least scale that permits them all, 0 for none."""
    order = candidates(f, seen)
    named = choose(order)
    rival = next((x for x in order if x not in named), None)
    if named and not any(x.name == FLOOR for x in named):
        return named, rival, 0.0
    guard = guard_of(f, seen)
    if guard:
        named = tuple(Candidate(FLOOR, sentence, 0.0) for sentence in sentences_of(f, guard))
        rival = next((x for x in order if x.name != FLOOR), None)
    return named, rival, guard


def sentences_of(f: Format, guard: float) -> list[str]:
    """What is said of that least scale: the hypotheses' own words where they have it, to as many digits as came."""
    least = {AT_LEAST.format(x): x for x in FLOORS} | {RANGE.format(x): x / abs(f.divides_by) for x in RANGES}
    known = [sentence for sentence, x in least.items() if abs(x / guard - 1) < 2.0**-7]
    return known or [f"{AT_LEAST.format(guard)}, a guard against zero"]


def spread(runs: Sequence[Seen], most: int) -> list[Seen]:
    """So many of them at most, the first and the last among them."""
    if len(runs) <= most:
        return list(runs)
    return [runs[i] for i in np.linspace(0, len(runs) - 1, most).round().astype(int)]
