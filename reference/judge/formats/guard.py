"""The least scale of a program that guards against zero, from what it read back of small numbers.

Where the rule's scale is below the guard's, all numbers are codes times the guard's. One group gives a least scale for
each code that its largest number may have; that one is the guard's with which every number of every run is permitted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from .bounds import judge_numbers, smallest_normal
from .format import Format
from .groups import split
from .scales import exact_scales, half

RULES = ("absmax", "minmax", "minmax-zero")
FULL = 12  # least scales that fit the one group, of which so many are held to all runs
DIGITS = 9  # of a least scale as it is written on a command line


@np.errstate(all="ignore")
def guard_of(f: Format, seen: Sequence[Any]) -> float:
    """The least scale with which all that came is the format; 0 where there is none.

    seen  runs, explanation.Seen
    """
    wrong = [found for run in seen if (found := largest_wrong_group(f, run)) is not None]
    if f.rule not in RULES or not wrong:
        return 0.0
    s, x, y, low = max(wrong, key=lambda group: group[0])
    row = replace(f, group="row", size=0, window=0, window_kind="sliding", growth="own")
    s = max(s, smallest_normal(f, x.dtype))  # below it many a least scale fits, and none is told from another
    fits = (g for g in guards(f, s, y, low) if not judge_numbers(replace(row, floor=g), x, y).outside.any())
    return next((g for g in islice(fits, FULL) if permits_all(replace(f, floor=g), seen)), 0.0)


def permits_all(f: Format, seen: Sequence[Any]) -> bool:
    return not any(judge_numbers(f, run.case.x, run.y, run.case.pieces).outside.any() for run in seen)


def largest_wrong_group(f: Format, run: Any) -> tuple[float, np.ndarray, np.ndarray, float] | None:
    """Of the groups with numbers outside that are not all read back as zero, the one of the largest scale: the scale,
    x and what came (1, S), and min."""
    spans = f.spans(run.case.pieces)
    if not spans or not run.judged.outside.any():
        return None
    a, b = spans[0]
    x, y, outside = (split(v[..., a:b, :], f.group, f.size) for v in (run.case.x, run.y, run.judged.outside))
    exact = exact_scales(f, x.g, x.live)
    moved = np.abs(y.g.astype(np.float64) - exact.low[:, None]).max(-1)
    usable = outside.g.any(-1) & (moved > 0) & np.isfinite(moved) & np.isfinite(exact.s) & (exact.s > 0)
    if not usable.any():
        return None
    at = int(np.where(usable, exact.s, -1).argmax())
    live = x.live[at]
    return float(exact.s[at]), x.g[at : at + 1, live], y.g[at : at + 1, live], float(exact.low[at])


def guards(f: Format, s: float, y: np.ndarray, low: float) -> Iterator[float]:
    """Least scales above s with which the largest of these numbers is a code, smallest first; of those that the dtype
    cannot tell apart, in few digits first."""
    moved = float(np.abs(y.astype(np.float64) - low).max())
    u, tiny = half(y.dtype)
    wide = 2 * (u * (moved + 2 * abs(low)) + tiny)
    for v in np.unique(np.abs(f.codes.values))[::-1]:
        if v and moved / v > s:
            yield from written((moved - wide) / v, moved / v, (moved + wide) / v, f.divides_by)


def written(lo: float, middle: float, hi: float, top: float) -> Iterator[float]:
    """Numbers in [lo, hi] as people write them: powers of two, short decimals, those over top; then the middle."""
    powers = (2.0 ** np.rint(np.log2(middle)), 2.0 ** np.rint(np.log2(middle * top)) / top)
    short = (float(f"{middle * by:.{n}g}") / by for n in range(1, 5) for by in (1, top))
    tried = (float(f"{x:.{DIGITS}g}") for x in (*powers, *short, middle))
    yield from dict.fromkeys(x for x in tried if lo <= x <= hi)


def advice(f: Format, guard: float) -> str:
    """How to say that the guard is meant."""
    name = ",".join(part for part in f.name.split(",") if not part.strip().startswith("floor="))
    return (
        f" With a scale of at least {guard:.{DIGITS}g}, a guard against zero, every number is right; if that guard is "
        f"meant: --format {name},floor={guard:.{DIGITS}g}"
    )
