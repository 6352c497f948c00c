"""Number formats in LLVM IR: from bit patterns to numbers and back, rounded once. The NumPy form is ../floats.py.

A number is `float`, or `double` for f64 and where a result is first made exact, in the shape of its pattern.
"""

from typing import Any

from ..floats import FORMATS, SMALL
from . import ir
from .integers import shift
from .lanes import F32, F64, I16, I32, Lanes, element
from .lower import Unlowered

HALF = ir.HalfType()


def round_up(L: Lanes, x: Any, n: int) -> Any:
    """x with what rounds its upper bits, from the n-th on, to nearest, ties to even, added."""
    odd = L.b.and_(shift(L, "lshr", x, n), L.const(x, 1))
    return L.b.add(L.b.add(x, L.const(x, (1 << n - 1) - 1)), odd)


def decode(L: Lanes, bits: Any, kind: str) -> Any:
    """The numbers behind patterns of a format."""
    if kind in ("f32", "f64"):
        return L.number(bits)
    if kind == "bf16":
        return L.number(shift(L, "shl", L.resize(bits, 32), 16))
    if kind == "f16":
        return L.cast("fpext", L.cast("bitcast", bits, HALF), F32)
    wide = L.resize(bits, 16)
    if kind == "e5m2":
        return decode(L, shift(L, "shl", wide, 8), "f16")
    exponent, fraction = SMALL.get(kind, (4, 3))  # of float16's exponents the upper bits are missing
    n = exponent + fraction
    size = L.b.and_(wide, L.const(wide, (1 << n) - 1))
    half = L.b.or_(shift(L, "shl", size, 10 - fraction), shift(L, "shl", shift(L, "lshr", wide, n), 15))
    x = decode(L, half, "f16")
    x = L.b.fmul(x, L.const(x, 2.0 ** (16 - (1 << exponent - 1))))
    if kind != "e4m3":
        return x
    return L.b.select(L.b.icmp_unsigned("==", size, L.const(size, 0x7F)), L.const(x, float("nan")), x)


def encode(L: Lanes, x: Any, kind: str, mode: str = "rn") -> Any:
    """Patterns of numbers rounded once to a format, with NaN, but for f64, the format's canonical one.

    x     float or double; to be rounded to f64 it must be double already
    mode  "rn" | "rz" | "rm" | "rp", for tf32 "rna" alone; formats of 8 bits take "rn" and saturate

    Raises Unlowered for f64 in a direction.
    """
    if kind == "f64":
        if mode != "rn":
            raise Unlowered(f"{mode}.f64")
        return L.bits(x)
    if element(x.type) == F64 and kind != "f32":
        x = L.number(rounded(L, x, "f32", "odd"))
    if kind == "tf32":
        bits = L.b.and_(L.b.add(L.bits(x), L.const(L.bits(x), 0x1000)), L.const(L.bits(x), ~0x1FFF))
    elif FORMATS[kind].bits == 8:
        bits = saturated(L, x, kind)
    else:
        bits = rounded(L, x, kind, mode)
    return L.b.select(L.b.fcmp_unordered("uno", x, x), L.const(bits, FORMATS[kind].nan), bits)


def rounded(L: Lanes, x: Any, kind: str, mode: str) -> Any:
    """Patterns in a format of 16 or 32 bits, of NaN any; mode "odd": the last bit is 1 if it is inexact."""
    if kind == "bf16":
        bits = L.resize(shift(L, "lshr", round_up(L, L.bits(x), 16), 16), 16)
    else:
        to, pattern = (F32, I32) if kind == "f32" else (HALF, I16)
        bits = L.cast("bitcast", L.cast("fptrunc", x, to) if element(x.type) != to else x, pattern)
    if mode == "rn" or (kind == "f32" and element(x.type) == F32):
        return bits
    back = L.cast("fpext", decode(L, bits, kind), element(x.type))
    one = element(bits.type)
    above = L.b.fcmp_ordered(">", L.intrinsic("fabs", back), L.intrinsic("fabs", x))
    down, inexact = L.b.sub(bits, L.cast("zext", above, one)), L.b.fcmp_ordered("!=", back, x)
    if mode == "odd":
        return L.b.or_(down, L.cast("zext", inexact, one))
    if mode == "rz":
        return down
    away = L.b.fcmp_ordered(">" if mode == "rp" else "<", x, L.const(x, 0))
    return L.b.add(down, L.cast("zext", L.b.and_(inexact, away), one))


def saturated(L: Lanes, x: Any, kind: str) -> Any:
    """Patterns in a format of at most 8 bits; what is too large becomes the largest, .satfinite.

    A normal number is rounded at its last place; a sum with a power of two has the subnormals as its last places.
    """
    form, wide = FORMATS[kind], L.bits(x)
    drop, size = 23 - form.fraction, L.b.and_(wide, L.const(wide, 0x7FFFFFFF))
    normal = shift(L, "lshr", round_up(L, size, drop), drop)
    normal = L.b.sub(normal, L.const(size, form.lowest + 126 << form.fraction))
    magic = L.const(x, 2.0 ** (form.lowest + drop))
    small = L.b.sub(L.bits(L.b.fadd(L.number(size), magic)), L.bits(magic))
    bits = L.b.select(L.b.icmp_unsigned("<", size, L.const(size, form.lowest + 127 << 23)), small, normal)
    largest = form.nan - {"e5m2": 4, "e4m3": 1}.get(kind, 0)
    sign = shift(L, "shl", shift(L, "lshr", wide, 31), form.nan.bit_length())
    return L.resize(L.b.or_(L.intrinsic("umin", bits, L.const(bits, largest)), sign), 8)


def flush(L: Lanes, x: Any) -> Any:
    """.ftz: subnormal numbers become zeros of their sign."""
    bits = L.bits(x)
    exponent, sign = (0x7FF << 52, 1 << 63) if element(x.type) == F64 else (0xFF << 23, 1 << 31)
    none = L.b.icmp_unsigned("==", L.b.and_(bits, L.const(bits, exponent)), L.const(bits, 0))
    return L.number(L.b.select(none, L.b.and_(bits, L.const(bits, sign)), bits))


def odd_sum(L: Lanes, a: Any, b: Any) -> Any:
    """a + b rounded to odd. Source of the error of a sum: Knuth, TAOCP 2, 4.2.2, theorem B."""
    s = L.b.fadd(a, b)
    z = L.b.fsub(s, a)
    return to_odd(L, s, L.b.fadd(L.b.fsub(a, L.b.fsub(s, z)), L.b.fsub(b, z)))


def to_odd(L: Lanes, s: Any, error: Any) -> Any:
    """Numbers to nearest and their errors, of which the sign counts -> the numbers rounded to odd."""
    bits = L.bits(s)
    inexact = L.cast("zext", L.b.fcmp_ordered("!=", error, L.const(error, 0)), element(bits.type))
    above = shift(L, "lshr", L.b.xor(bits, L.bits(error)), element(bits.type).width - 1)
    return L.number(L.b.or_(L.b.sub(bits, L.b.and_(above, inexact)), inexact))
