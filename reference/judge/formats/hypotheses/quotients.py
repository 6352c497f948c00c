"""Wrong quotients and codes: truncation, ties, double rounding, overflow."""

import ml_dtypes
import numpy as np

from ..computation import divide_step, round_step
from ..format import Format
from ..grids import FLOATS
from .base import Hypothesis, always, floats, scaled, signed, step, whole


def truncated(f: Format, q: np.ndarray) -> np.ndarray:
    """The code next to q on the side of zero."""
    values = f.codes.values
    at = np.clip(np.searchsorted(values, q, side="right") - 1, 0, len(values) - 1)
    up = (q < 0) & (values[at] < q) & (at + 1 < len(values))
    return f.codes.codes[at + up]


def floored(f: Format, q: np.ndarray) -> np.ndarray:
    at = np.clip(np.searchsorted(f.codes.values, q, side="right") - 1, 0, len(f.codes.values) - 1)
    return f.codes.codes[at]


def ties(rule: str):
    return lambda f, q: f.codes.codes[f.codes.nearest(q, rule)]


def half_up_of_size(f: Format, q: np.ndarray) -> np.ndarray:
    """Ties away from zero for floats too."""
    return f.codes.codes[f.codes.nearest(q, "away")]


def through(dtype):
    """Quotients are rounded to a narrower float before they are rounded to codes."""
    return lambda f, q: round_step(f, q.astype(dtype).astype(np.float64))


def through_cut(bits: int):
    """Quotients lose all but so many bits of their significand first, cut and not rounded."""

    def rounded(f, q):
        mantissa, exponent = np.frexp(q)
        return round_step(f, np.ldexp(np.trunc(np.ldexp(mantissa, bits)), exponent - bits))

    return rounded


def narrow_input(dtype):
    """x is rounded to a narrower float first; its scale is that of x itself."""

    def divide(f, cut, scale, kept, x):
        return divide_step(f, cut._replace(g=cut.g.astype(dtype).astype(cut.g.dtype)), scale, kept, x)

    return divide


def wrapped(f: Format, q: np.ndarray) -> np.ndarray:
    """Rounded, and the low bits kept, without saturation."""
    c = np.rint(np.where(np.isfinite(q), q, 0)).astype(np.int64)
    n = 1 << f.codes.bits
    low = -(n // 2) if f.codes.values[0] < 0 else 0
    return (c - low) % n + low


def truncated_wrapped(f: Format, q: np.ndarray) -> np.ndarray:
    return wrapped(f, np.trunc(q))


def overflowing(f: Format, q: np.ndarray) -> np.ndarray:
    """Rounded as the float type has it, without saturation."""
    return q.astype(FLOATS[f.grid]).view(np.uint8).astype(np.int64)


def early(f: Format, q: np.ndarray) -> np.ndarray:
    """The whole last binade goes to the largest value."""
    last = 2.0 ** np.floor(np.log2(f.codes.top))
    return round_step(f, np.where(np.abs(q) >= last, np.sign(q) * f.codes.top, q))


def flushed(f: Format, q: np.ndarray) -> np.ndarray:
    """Subnormal codes are zero."""
    codes = round_step(f, q)
    values = f.codes.values[f.codes.nearest(q, f.ties)]
    mantissa = {"e2m1": 1, "e4m3fn": 3, "e5m2": 2}[f.grid]
    smallest = f.codes.values[f.codes.values > 0][0] * 2**mantissa
    return np.where(np.abs(values) < smallest, 0, codes)


def no_last(f: Format, q: np.ndarray) -> np.ndarray:
    """Saturates one value early."""
    second = f.codes.values[-2]
    return round_step(f, np.clip(q, max(-second, f.codes.values[0]), second))


HYPOTHESES: tuple[Hypothesis, ...] = (
    step("truncation", "quotients are truncated towards zero, not rounded", round=truncated),
    step("floor", "quotients are rounded down, not to the nearest", signed, round=floored),
    step("ties up", "ties are rounded up (floor(q + 0.5))", lambda f: f.codes.whole and f.ties != "up",
        round=ties("up")),
    step("ties away", "ties are rounded away from zero", lambda f: f.ties not in ("away",) and (
        signed(f) or floats(f) or f.ties != "up"), round=half_up_of_size),
    step("ties even", "ties are rounded to even", lambda f: f.ties != "even", round=ties("even")),
    step("double rounding", "quotients are rounded to bfloat16 first, then to codes: twice",
        round=through(ml_dtypes.bfloat16)),
    step("double rounding", "quotients are rounded to float16 first, then to codes: twice", round=through(np.float16)),
    step("double rounding", "quotients are cut to float16 first, then rounded to codes: twice", floats,
        round=through_cut(11)),
    step("narrow input", "x is rounded to bfloat16 before it is divided", divide=narrow_input(ml_dtypes.bfloat16)),
    step("narrow input", "x is rounded to float16 before it is divided", divide=narrow_input(np.float16)),
    step("wrap", "codes beyond the range wrap round instead of saturating", whole, round=wrapped),
    step("wrap", "quotients are truncated, and codes beyond the range wrap round", lambda f: whole(f) and not scaled(f),
        round=truncated_wrapped),
    step("overflow", "quotients beyond the largest value become NaN or infinite instead of saturating",
        lambda f: f.grid in ("e4m3fn", "e5m2"), round=overflowing),
    step("early saturation", "the whole last binade saturates to the largest value", floats, round=early),
    step("early saturation", "the largest value is never used: codes saturate one before it", always, round=no_last),
    step("flushed", "subnormal codes are flushed to zero", floats, round=flushed),
)  # fmt: skip
