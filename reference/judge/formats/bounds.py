"""All results that a format permits: for each number the values that some right program may read back.

Bounds follow from the rule, in float64: scales as scales.py has them, quotients with their roundings, every code that
is nearest to one of these quotients, and for each code the product with its roundings, rounded to the dtype that came
out. Nothing is a tolerance. A number outside is one that no order of operations gives. Ties that a rounding moves are
kept apart: ties.py.
"""

from typing import NamedTuple

import ml_dtypes
import numpy as np

from .format import Format
from .groups import split
from .scales import Stored, exact_scales, half, stored_ways
from .ties import power_shown, ties_against


class Judged(NamedTuple):
    """Of every number of x: whether y lies outside all that is permitted; what an exact computation gives (float64);
    whether the dtype of y hides one code from the next; which rules of ties give another code (see ties.py)."""

    outside: np.ndarray
    expected: np.ndarray
    hidden: np.ndarray
    ties: np.ndarray


@np.errstate(all="ignore")
def judge_numbers(f: Format, x: np.ndarray, y: np.ndarray, pieces=None) -> Judged:
    """Hold y, what was read back of x (..., T, D), to the format.

    pieces  how many tokens came with each append, (T,) by default; they matter where groups span tokens, or a window
            keeps the newest tokens unquantised
    Groups with NaN or infinity in x permit anything.  Raises ValueError where y has another shape.
    """
    if y.shape != x.shape:
        raise ValueError(f"what was read back is {y.shape}, what was stored {x.shape}; return x's own shape")
    pieces = (x.shape[-2],) if pieces is None else pieces
    judged, compute = judge_as(f, x, y, pieces), f.dtype_of("compute", x.dtype)
    if np.dtype(compute).itemsize < x.dtype.itemsize and judged.outside.any():  # x may be rounded to it first
        cast_first = judge_as(f, x.astype(compute).astype(x.dtype), y, pieces)
        judged = judged._replace(outside=judged.outside & cast_first.outside, ties=judged.ties & cast_first.ties)
    return judged


def judge_as(f: Format, x: np.ndarray, y: np.ndarray, pieces: tuple[int, ...]) -> Judged:
    """`judge_numbers`, of numbers that are not rounded before they are quantised."""
    outside = ~((y == x.astype(y.dtype)) | (np.isnan(y) & np.isnan(x)))
    expected, hidden, ties = x.astype(np.float64), np.zeros(x.shape, bool), np.zeros(x.shape, np.uint8)
    given = None
    for a, b in f.spans(pieces):
        cut = split(x[..., a:b, :], f.group, f.size)
        finite = np.isfinite(cut.g).all(-1, keepdims=True)
        finite = finite & (finite.all() | (f.rule != "two-level"))
        g = np.where(finite, cut.g, 0).astype(x.dtype)
        ways = stored_ways(f, g, cut.live, x.dtype, given)
        if f.growth == "frozen" and given is None:
            given = exact_scales(f, g, cut.live)
            if not finite.all():  # what a kept scale of NaN does to later tokens is its own affair
                return Judged(np.zeros_like(outside), expected, hidden, ties)
        came = split(y[..., a:b, :], f.group, f.size).g
        bad = judge_groups(f, g, cut.live, ways, came) & finite
        tied = np.where(finite, ties_against(f, g, cut.live, ways[0], came), 0)
        best, blind = nearest(f, g, ways[0], y.dtype)
        for whole, part in ((outside, bad), (expected, best), (hidden, blind), (ties, tied)):
            whole[..., a:b, :] = cut.join(part)
    return Judged(outside, expected, hidden, ties)


def judge_groups(f: Format, g: np.ndarray, live: np.ndarray, ways: list[Stored], came: np.ndarray) -> np.ndarray:
    """(G, S) bool: outside what is permitted. A group has one scale, so the way that fits best counts for all of it."""
    best = np.ones(g.shape, bool)
    for way in ways:
        bad = ~permitted(f, g, pinned(f, way, came), came) & live
        better = bad.sum(-1) < best.sum(-1)
        best = np.where(better[:, None], bad, best)
    return best & live


def pinned(f: Format, way: Stored, came: np.ndarray) -> Stored:
    """The way, its scale one power of two where what came shows that codes were multiplied by it."""
    p, shown = power_shown(f, way, came)
    lo, hi = way.scale
    return way._replace(scale=(np.where(shown, p, lo), np.where(shown, p, hi)))


def positions(f: Format, g: np.ndarray, way: Stored) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last position in the grid that a right quotient may be rounded to, (G, S) each."""
    u, _ = half(f.dtype_of("compute", g.dtype))
    moved = g.astype(np.float64) - way.taken[:, None]
    lo, hi = (d[:, None] for d in way.divisor)
    with np.errstate(all="ignore"):
        quotients = np.stack([moved / lo, moved / hi])
        quotients = np.where(moved == 0, 0, quotients)
        slack = np.abs(quotients).max(0) * (2 + (way.taken != 0)[:, None]) * u
    exact = ((lo == hi) & (np.abs(np.frexp(lo)[0]) == 0.5) & (way.taken == 0)[:, None]) | (moved == 0)
    slack = np.where(exact, 0, np.where(np.isfinite(slack), slack, 0))
    zero = way.zero[:, None]
    q = quotients + zero
    first, last = f.codes.below(q.min(0) - slack), f.codes.above(q.max(0) + slack)
    tied = f.codes.nearest(q[0], f.ties)
    decided = exact & (zero == 0)
    return np.where(decided, tied, first), np.where(decided, tied, last)


def permitted(f: Format, g: np.ndarray, way: Stored, came: np.ndarray) -> np.ndarray:
    """(G, S) bool: what came is a right result of g stored in this way."""
    compute, out = f.dtype_of("compute", g.dtype), came.dtype
    first, last = positions(f, g, way)
    fits = np.zeros(g.shape, bool)
    for i in range(int((last - first).max(initial=0)) + 1):
        v = f.codes.values[np.minimum(first + i, last)] - way.zero[:, None]
        lo, hi = products(v, way, compute)
        fits |= (came >= cast(lo, out)) & (came <= cast(hi, out))
    # Scales below the smallest normal number are flushed, guarded or kept: numbers may be lost, not become others.
    least = smallest_normal(f, g.dtype)
    moved = g.astype(np.float64) - way.low[:, None]
    lost = np.abs(came.astype(np.float64) - g.astype(np.float64)) <= np.abs(moved)
    none = came == cast(way.low, out)[:, None]
    return fits | ((np.abs(way.scale[1]) < least)[:, None] & (lost | none))


def smallest_normal(f: Format, dtype) -> float:
    """Below it scales are flushed, guarded or kept, as programs please."""
    return max(float(ml_dtypes.finfo(f.dtype_of(t, dtype)).smallest_normal) for t in ("compute", "scale_dtype"))


def products(v: np.ndarray, way: Stored, compute) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of value * scale + min, computed in that dtype."""
    u, tiny = half(compute)
    ends = np.stack([v * way.scale[0][:, None], v * way.scale[1][:, None]])
    exact = (way.scale[0] == way.scale[1]) & (np.abs(np.frexp(way.scale[0])[0]) == 0.5) & (way.low == 0)
    low = way.low[:, None]
    slack = np.where(exact[:, None], 0, np.abs(ends).max(0) * u + tiny)
    lo, hi = ends.min(0) - slack + low, ends.max(0) + slack + low
    again = np.where(low == 0, 0, np.maximum(np.abs(lo), np.abs(hi)) * u + tiny)
    return lo - again, hi + again


def cast(x: np.ndarray, dtype) -> np.ndarray:
    """x in that dtype. Rounding is monotone: bounds, rounded, bound what is rounded."""
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def nearest(f: Format, g: np.ndarray, way: Stored, out) -> tuple[np.ndarray, np.ndarray]:
    """What an exact computation gives, (G, S) float64, and where the next code would be read back as the same."""
    s, d = way.scale[0] / 2 + way.scale[1] / 2, way.divisor[0] / 2 + way.divisor[1] / 2
    with np.errstate(all="ignore"):
        q = (g.astype(np.float64) - way.taken[:, None]) / d[:, None] + way.zero[:, None]
    at = f.codes.nearest(q, f.ties)
    beside = np.where(at + 1 < len(f.codes.values), at + 1, at - 1)
    y, other = ((f.codes.values[i] - way.zero[:, None]) * s[:, None] + way.low[:, None] for i in (at, beside))
    return y, (cast(y, out) == cast(other, out)) & (s > 0)[:, None]


def must_lose(f: Format, x: np.ndarray, pieces=None) -> np.ndarray:
    """The least that the format loses of each number, |read back - x|, float64: at most half the step around it."""
    return np.abs(judge_numbers(f, x, x, pieces).expected - x.astype(np.float64))


@np.errstate(all="ignore")
def scales_outside(f: Format, x: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """(G,) bool: the stored scale of a group is none that the rule gives. Groups in the order of split(x).

    Where the rule gives none that is normal, as for zeros, any finite one will do: what is read back shows the rest.
    """
    cut = split(x, f.group, f.size)
    came = scales_as_numbers(f, np.asarray(stored)).ravel()
    if came.size not in (len(cut.g), 1):
        raise ValueError(f"{came.size} scales came; these numbers have {len(cut.g)} groups ({f.group}), one scale each")
    fits = np.zeros(len(cut.g), bool)
    for way in stored_ways(f, cut.g, cut.live, x.dtype):
        fits |= (came >= way.scale[0]) & (came <= way.scale[1])
    free = (np.abs(exact_scales(f, cut.g, cut.live).s) < smallest_normal(f, x.dtype)) & np.isfinite(came)
    return ~(fits | free) & np.isfinite(cut.g.astype(np.float64)).all(-1)


def scales_as_numbers(f: Format, stored: np.ndarray) -> np.ndarray:
    """Stored scales as float64; of e8m0 in bytes, 2^(byte - 127), 255 for NaN.  ValueError for other integers."""
    if stored.dtype.kind not in "iu":
        return stored.astype(np.float64)
    if f.scale_dtype != "e8m0" or stored.dtype != np.uint8:
        wanted = "floats, or uint8 exponents + 127" if f.scale_dtype == "e8m0" else "floats"
        raise ValueError(f"scales came as {stored.dtype}, and this format stores {f.scale_dtype}; return {wanted}")
    return np.where(stored == 255, np.nan, np.exp2(stored.astype(np.float64) - 127))
