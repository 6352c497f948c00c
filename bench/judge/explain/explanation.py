"""The explanation of a bug: the hypothesis that fits the numbers, if no other one fits them nearly as well."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from .attention_formula import Formula, Query, right
from .divergence import GATE
from .hypotheses import hypotheses

EXPLAINED = 1e-3  # of the difference that a hypothesis may leave over; the right one leaves rounding
CLEARLY = 3.0  # times as much as the best must its nearest rival leave over
SAME = 1e-9  # of the difference: what is left below this is rounding, and no reason to prefer one to another
NOTHING = 0.99  # of the difference: what leaves more explains none of it
MOST = 3  # hypotheses that are named together; more say nothing
SAMPLE = 16  # places on which hypotheses are tried
NOTABLE = 1e-2  # of the largest difference: smaller ones are weighed as if they were so large


@dataclass(frozen=True)
class Candidate:
    """One of the things that were tried: its kind, its sentence, and the part of the difference that it leaves over."""

    name: str
    sentence: str
    left: float


@dataclass(frozen=True)
class Explanation:
    """What explains a difference, and its best rival.

    candidates  one, or up to MOST that the data cannot separate
    rival       the best of all others, None where none explains a part of it
    size        the difference, in units of the operation's rms
    """

    candidates: tuple[Candidate, ...]
    rival: Candidate | None
    size: float

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        words = "; or ".join(x.sentence for x in self.candidates)
        if len(self.candidates) > 1:
            words = f"one of, since these numbers cannot tell them apart: {words}"
        left = max(x.left for x in self.candidates) * self.size
        rival = "; nothing else that was tried explains a part of it"
        if self.rival:
            rival = f"; next best, {self.rival.sentence}, leaves {self.rival.left * self.size:.1e}"
        return f"{words} (leaves {left:.1e} of {self.size:.1e}{rival})"


def choose(candidates: Iterable[Candidate], size: float, noise: float = 0.0) -> Explanation | None:
    """The candidate that explains the difference where no rival does; None where none explains it or too many do.

    noise  the part of the difference that rounding may be
    """
    best: dict[str, Candidate] = {}
    for x in candidates:
        if x.sentence not in best or x.left < best[x.sentence].left:
            best[x.sentence] = x
    order = sorted(best.values(), key=lambda x: x.left)
    if not order or not order[0].left <= EXPLAINED:
        return None
    reach = max(CLEARLY * order[0].left, SAME, noise)
    alike = [x for x in order if x.left <= reach]
    if len(alike) > MOST:
        return None
    rivals = [x for x in order[len(alike) :] if x.left < NOTHING]
    return Explanation(tuple(alike), rivals[0] if rivals else None, size)


def explain(wrong: Sequence[Query], fine: Sequence[Query], formula: Formula, noise: float = 0.0) -> Explanation | None:
    """The wrong attention that gives a's output wherever it parts from b's, and b's where it does not.

    wrong    the queries whose outputs part; fine, others of the same phase, whose outputs agree
    formula  what the trusted attention computes
    noise    how far rounding may part the outputs, in their own units

    None where the formula does not give b's outputs, where no hypothesis or too many explain a's, or a has NaN.
    """
    wrong, fine = spread(wrong), spread(fine)
    if not wrong or not all(np.isfinite(x.a).all() and np.isfinite(x.b).all() for x in (*wrong, *fine)):
        return None
    sizes = np.array([np.abs(x.a - x.b).max() for x in wrong])
    moved = sizes.max()
    # torch's fused attention knows no softcap
    forms = (formula, replace(formula, softcap=None), replace(formula, sinks=None))
    formula = next((f for f in forms if gives(f, (*wrong, *fine), max(EXPLAINED * moved, noise))), None)  # type: ignore
    if formula is None:
        return None

    def left(op) -> float:
        """The part of the difference that op leaves over, the largest of all places'."""
        worst = 0.0
        with np.errstate(all="ignore"):
            for x, size in [*zip(wrong, np.maximum(sizes, NOTABLE * moved), strict=True), *((x, moved) for x in fine)]:
                part = float(np.abs(op(x) - x.a).max()) / size
                worst = max(worst, part if np.isfinite(part) else np.inf)
                if worst >= NOTHING:
                    break  # it is no rival either
        return worst

    pilot = wrong[int(sizes.argmax())]
    with np.errstate(all="ignore"):
        known = max(x.n for x in wrong), any(x.prefilled for x in wrong)
        tried = [Candidate(x.name, x.sentence, left(x.op)) for x in hypotheses(pilot, formula, *known)]
    rms = np.sqrt(np.mean([np.square(x.b).mean() for x in (*wrong, *fine)]))
    return choose(tried, float(moved / (rms or 1.0)), noise / (GATE * moved))


def gives(formula: Formula, places: Sequence[Query], within: float) -> bool:
    with np.errstate(all="ignore"):
        return all(np.abs(right(x, formula) - x.b).max() <= within for x in places)


def spread(places: Sequence[Query]) -> list[Query]:
    """SAMPLE of them at most, the first and the last among them, evenly between."""
    if len(places) <= SAMPLE:
        return list(places)
    return [places[i] for i in np.linspace(0, len(places) - 1, SAMPLE).round().astype(int)]
