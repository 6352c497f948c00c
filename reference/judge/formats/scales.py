"""The scale that a format's rule gives each group, exactly, and all that floating point may make of it.

A rule is computed in few operations: max|x| / 127 takes one rounding, x * (1 / 127) two. Which of them a program uses
its numbers seldom tell, so every scale within ROUNDINGS of the exact one counts as the rule's.
"""

from typing import NamedTuple

import ml_dtypes
import numpy as np

from .format import Format

# Roundings, each of at most half a unit in the last place, that a scale or a quotient may take: one division, or a
# reciprocal and a product; the difference max - min or x - min is one more.
ROUNDINGS = {"absmax": 2, "signed": 2, "minmax": 3, "minmax-zero": 3, "two-level": 3}
E8M0 = (2.0**-127, 2.0**127)


class Scale(NamedTuple):
    """Of each group (G,) float64: the exact scale, what is added after (min), the codes' zero, and of two levels the
    tensor's scale."""

    s: np.ndarray
    low: np.ndarray
    zero: np.ndarray
    tensor: float = 1.0


class Stored(NamedTuple):
    """One way in which a group's numbers may have been stored, (G,) float64 each.

    divisor, scale  bounds of what x is divided by, and of what codes are multiplied by
    taken, low      min as it is subtracted from x, and as it is added to what is read
    zero            the code of zero
    """

    divisor: tuple[np.ndarray, np.ndarray]
    scale: tuple[np.ndarray, np.ndarray]
    taken: np.ndarray
    low: np.ndarray
    zero: np.ndarray


def half(dtype) -> tuple[float, float]:
    """Half a unit in the last place of numbers around 1, and half the smallest subnormal."""
    info = ml_dtypes.finfo(dtype)
    return float(info.eps) / 2, float(info.smallest_subnormal) / 2


def exact_scales(f: Format, g: np.ndarray, live: np.ndarray) -> Scale:
    """The rule's scales of groups g (G, S), float64, none below the format's floor."""
    exact = by_rule(f, g, live)
    return exact._replace(s=np.maximum(exact.s, f.floor)) if f.floor else exact


def by_rule(f: Format, g: np.ndarray, live: np.ndarray) -> Scale:
    """`exact_scales` without a floor."""
    g = g.astype(np.float64)
    magnitude = np.where(live, np.abs(g), 0).max(-1, initial=0)
    none = np.zeros(len(g))
    if f.rule == "fixed":
        return Scale(np.full(len(g), f.value), none, none)
    if f.rule == "signed":
        at = np.argmax(np.where(live, np.abs(g), -1), -1)
        return Scale(g[np.arange(len(g)), at] / f.divides_by, none, none)
    if f.rule.startswith("minmax"):
        low = np.where(live, g, np.inf).min(-1, initial=np.inf)
        high = np.where(live, g, -np.inf).max(-1, initial=-np.inf)
        if f.rule == "minmax":
            return Scale((high - low) / f.divides_by, low, none)
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        s = (high - low) / f.divides_by
        return Scale(s, none, zero_of(low, s, f.divides_by))
    if f.rule.startswith("pow2"):
        return Scale(power_of_two(f, magnitude), none, none)
    if f.rule == "two-level":
        tensor = float(np.float32(magnitude.max(initial=0) / (448 * f.divides_by)))
        return Scale(magnitude / f.divides_by, none, none, tensor)
    return Scale(magnitude / f.divides_by, none, none)


def zero_of(low: np.ndarray, s: np.ndarray, top: float) -> np.ndarray:
    """The code of zero, a whole number in 0..top."""
    return np.clip(np.rint(np.divide(-low, s, out=np.zeros_like(s), where=s > 0)), 0, top)


def power_of_two(f: Format, magnitude: np.ndarray) -> np.ndarray:
    """The rule's power of two within e8m0's range; of a group of zeros, the smallest."""
    with np.errstate(all="ignore"):
        mantissa, exponent = np.frexp(magnitude if f.rule == "pow2-floor" else magnitude / f.divides_by)
        if f.rule == "pow2-floor":
            exponent = exponent - 1 - int(np.floor(np.log2(f.divides_by)))
        else:
            exponent = exponent - (mantissa == 0.5)
        return np.where(magnitude > 0, np.clip(np.ldexp(1.0, exponent), *E8M0), E8M0[0])


def stored_ways(f: Format, g: np.ndarray, live: np.ndarray, dtype, given: Scale | None = None) -> list[Stored]:
    """Every way in which the groups' scales may have been stored, for numbers of this dtype.

    given  scales of an earlier append, which count instead of the groups' own
    """
    exact = given or exact_scales(f, g, live)
    u, tiny = half(f.dtype_of("compute", dtype))
    k = ROUNDINGS.get(f.rule, 0)
    if f.rule == "two-level":
        return two_levels(f, exact, u)
    spread = np.abs(exact.s) * k * u + (tiny * k if k else 0)
    lo, hi = exact.s - spread, exact.s + spread
    kept_lo, kept_hi = rounded(lo, f, dtype), rounded(hi, f, dtype)
    low = rounded(exact.low, f, dtype)
    divisor, taken = ((lo, hi), exact.low) if f.divisor == "unrounded" else ((kept_lo, kept_hi), low)
    if f.rule != "minmax-zero":
        return [Stored(divisor, (kept_lo, kept_hi), taken, low, exact.zero)]
    least = np.where(live, g.astype(np.float64), 0).min(-1, initial=0)
    zeros = [zero_of(least, s, f.divides_by) for s in (lo, exact.s, hi)]
    return [Stored(divisor, (kept_lo, kept_hi), taken, low, zero) for zero in (exact.zero, zeros[0], zeros[2])]


def two_levels(f: Format, exact: Scale, u: float) -> list[Stored]:
    """NVFP4's: the block scale is one of at most two numbers of e4m3, times the tensor's scale."""
    none, ways = np.zeros(len(exact.s)), []
    t = (exact.tensor * (1 - 2 * u), exact.tensor * (1 + 2 * u))
    for side in (1 - 4 * u, 1 + 4 * u):
        wanted = np.divide(exact.s * side, exact.tensor, out=np.zeros_like(exact.s), where=exact.tensor > 0)
        block = np.clip(wanted, 0, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
        bounds = block * t[0] * (1 - u), block * t[1] * (1 + u)
        ways.append(Stored(bounds, bounds, none, none, none))
    return ways


def rounded(s: np.ndarray, f: Format, dtype) -> np.ndarray:
    """A number as the format stores it, as float64."""
    with np.errstate(over="ignore"):
        return s.astype(f.dtype_of("scale_dtype", dtype)).astype(np.float64)
