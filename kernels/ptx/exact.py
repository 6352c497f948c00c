"""Sums and products rounded once, in every direction, and fused multiply-add: NumPy has neither.

The error of a sum is a float (TwoSum, Knuth), and a float64 rounded to *odd* rounds to a format of at most 51 bits as
the exact value does (Boldo and Melquiond 2008, "Emulation of an FMA and correctly rounded sums"). Values: floats.py.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from .floats import FORMATS, Format, encode


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b and its error, exactly, without overflow. Source: Knuth, TAOCP 2, 4.2.2, theorem B."""
    s = a + b
    z = s - a
    return s, (a - (s - z)) + (b - z)


def odd_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b (float64) rounded to odd: where inexact, the neighbour whose last bit is 1."""
    s, error = two_sum(a, b)
    inexact = np.abs(error) > 0  # never where the sum is not finite: there the error is NaN
    smaller = inexact & (np.signbit(error) != np.signbit(s))  # than s, in magnitude
    return (s.view(np.uint64) - smaller | inexact).view(np.float64)


def fma(a: np.ndarray, b: np.ndarray | None, c: np.ndarray | None, kind: str, mode: str = "rn") -> np.ndarray:
    """a*b + c rounded once; b None is the sum a + c, c None the product a*b.

    kind     "f32" | "f64" | "f16" | "bf16", the last two in mode "rn" alone
    a, b, c  values of one broadcastable shape: float64 for f64, float32 otherwise
    returns  bit patterns of `kind`; a zero sum of opposite numbers is +0, under "rm" -0, as IEEE 754 has it
    """
    if mode == "rn" and kind in ("f32", "f64") and (b is None or c is None):
        return encode(a + c if b is None else a * b, kind)  # pyright: ignore[reportOptionalOperand]
    if kind == "f64":
        return encode(_fma64(a, b, c) if mode == "rn" else _exact_fma(a, b, c, mode), kind)
    p = a.astype(np.float64) if b is None else a.astype(np.float64) * b
    if c is None:
        return encode(p, kind, mode)
    s = -odd_sum(-p, -c.astype(np.float64)) if mode == "rm" else odd_sum(p, c.astype(np.float64))
    return encode(s, kind, mode)


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x as two floats of 26 bits each. Source: Veltkamp 1968, after Dekker 1971."""
    t = x * 134217729.0
    high = t - (t - x)
    return high, x - high


def _fma64(a, b, c) -> np.ndarray:
    """a*b + c as high + low parts, the low ones summed to odd; elements near the ends of the range are done exactly."""
    p = a * b
    (ah, al), (bh, bl) = _split(a), _split(b)
    s, error = two_sum(p, c)
    r = s + odd_sum(error, ((ah * bh - p) + ah * bl + al * bh) + al * bl)
    size = np.abs(p)
    plain = (size > 2.0**-900) & (size < 2.0**1000) & np.isfinite(r)
    if np.count_nonzero(plain) < plain.size:
        infinite = ~np.isfinite(a) | ~np.isfinite(b) | (np.isfinite(p) & ~np.isfinite(c))
        native = infinite | (((a == 0) | (b == 0)) & (p == 0))
        r, todo = np.where(native, s, r), ~(plain | native)
        if np.count_nonzero(todo):
            a, b, c = (np.broadcast_to(x, r.shape)[todo] for x in (a, b, c))
            r[todo] = _exact_fma(a, b, c)
    return r


def _exact_fma(a, b, c, mode: str = "rn") -> np.ndarray:
    """fma in rational arithmetic, element by element: slow, with no bound on the exponents."""
    b, c = np.ones_like(a) if b is None else b, c if c is not None else np.copysign(0.0, np.where(a * b == 0, a * b, 1))
    native = -(-a * b - c) if mode == "rm" else a * b + c
    native = np.where(np.isfinite(a) & np.isfinite(b) & ~np.isfinite(c), c, native)  # though a*b may be too large
    return exactly(lambda a, b, c: a * b + c, native, "f64", mode, a, b, c)


def exactly(operation: Callable, native: np.ndarray, kind: str, mode: str, *values) -> np.ndarray:
    """An operation on Fractions rounded once, element by element, as float64; an exact zero takes native's sign.

    `native` stands where an operand is not finite, a divisor is zero, or a root's operand is negative.
    """
    result = np.array(native, np.float64)
    values = [np.broadcast_to(x, result.shape) for x in values]
    finite = np.logical_and.reduce([np.isfinite(x) for x in values])
    for index in zip(*finite.nonzero(), strict=True):
        try:
            exact = operation(*(Fraction(float(x[index])) for x in values))
        except (ArithmeticError, ValueError):
            continue
        result[index] = _nearest(exact, FORMATS[kind], mode) if exact else 0 * result[index]
    return result


def square_root(x: Fraction) -> Fraction:
    """The root of a float64, or, where that is irrational, a number so near that it rounds alike in every direction."""
    scale = 100 + x.denominator.bit_length()
    square = x.numerator * 4**scale // x.denominator
    root = math.isqrt(square)
    return Fraction(2 * root + (root * root != square), 2 << scale)


def _nearest(x: Fraction, form: Format, mode: str) -> float:
    """A nonzero rational rounded to a format."""
    size = abs(x)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = Fraction(2) ** (max(exponent, form.lowest) - form.fraction)
    down, rest = divmod(size / unit, 1)
    away = {"rz": False, "rm": x < 0, "rp": x > 0}.get(mode, (rest, down % 2) > (Fraction(1, 2), 0))
    result = (down + (away and rest > 0)) * unit
    over = form.largest if mode != "rn" and not away else float("inf")
    value = over if result > Fraction(form.largest) else float(result)
    return -value if x < 0 else value


def from_integer(n: np.ndarray, kind: str, mode: str) -> np.ndarray:
    """Integers rounded once to a format; bit patterns."""
    if n.dtype.itemsize < 8:
        return encode(n.astype(np.float64), kind, mode)
    if mode == "rn" and kind in ("f32", "f64"):
        return encode(n.astype(np.float32 if kind == "f32" else np.float64), kind)
    high = (n >> n.dtype.type(32)).astype(np.float64) * 2.0**32
    low = (n & n.dtype.type(0xFFFFFFFF)).astype(np.float64)
    if kind == "f64":
        return encode(exactly(lambda a, b: a + b, high + low, kind, mode, high, low), kind)
    return encode(odd_sum(high, low), kind, mode)
