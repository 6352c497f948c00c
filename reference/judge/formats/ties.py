"""Ties where the scale is a power of two, and the rule by which a program rounds them.

There x / scale lies exactly halfway between two codes, and the rule of ties says which is right. Other right orders of
operations, x * (1 / max) * top or x / max * top, round on their way to that quotient and leave the tie by a last bit.
So one tie that falls otherwise is no mistake. All ties of a program, each as another rule has it, are.
"""

from collections.abc import Sequence

import numpy as np

from .format import Format
from .scales import Stored

RULES = ("even", "away", "up", "odd", "zero", "down")
FEWEST = 8  # ties that fall otherwise, to say that it is by another rule


def power_shown(f: Format, way: Stored, came: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A power of two (G,) within the scale's bounds, and whether (G,) all that came is codes times that."""
    lo, hi = way.scale
    if f.rule != "absmax" or (f.divisor == "unrounded" and f.scale_dtype != "float32"):
        return np.ones(len(lo)), np.zeros(len(lo), bool)
    with np.errstate(all="ignore"):
        p = np.exp2(np.rint(np.log2((lo + hi) / 2)))
        multiples = came.astype(np.float64) / p[:, None]
        codes = f.codes.values[f.codes.below(multiples)]
        return p, (multiples == codes).all(-1) & (lo <= p) & (p <= hi) & (lo > 0)


def ties_against(f: Format, g: np.ndarray, live: np.ndarray, way: Stored, came: np.ndarray) -> np.ndarray:
    """(G, S) uint8: bit i is set where RULES[i] gives another code than came; 0 where there is no tie."""
    p, shown = power_shown(f, way, came)
    if not shown.any():
        return np.zeros(g.shape, np.uint8)
    with np.errstate(all="ignore"):
        q, at = g.astype(np.float64) / p[:, None], f.codes.below(came.astype(np.float64) / p[:, None])
    low, high = f.codes.below(q), f.codes.above(q)
    even, away = f.codes.nearest(q, "even"), f.codes.nearest(q, "away")
    given = (even, away, high, low + high - even, low + high - away, low)
    against = sum((at != code).astype(np.uint8) << i for i, code in enumerate(given))
    return np.where(shown[:, None] & (low != high) & live, against, 0).astype(np.uint8)


def parted(f: Format, against: np.ndarray) -> np.ndarray:
    """Bool: ties that fall otherwise than the format's rule has them."""
    return (against >> RULES.index(f.ties) & 1).astype(bool)


def other_rule(f: Format, against: Sequence[np.ndarray]) -> str:
    """The rule by which all ties fell, where that is not the format's; "" where there is none, or too few ties."""
    counts = {rule: sum(int((x >> i & 1).sum()) for x in against) for i, rule in enumerate(RULES)}
    if counts[f.ties] < FEWEST:
        return ""
    return next((rule for rule, count in counts.items() if count == 0), "")
