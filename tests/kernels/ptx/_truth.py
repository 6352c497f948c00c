"""What each PTX instruction is, in Python integers and fractions, one element at a time."""

import math
from fractions import Fraction

import numpy as np

WIDTH = {"pred": 1, "bf16": 16, "tf32": 32, "e4m3": 8, "e5m2": 8, "e2m3": 8, "e3m2": 8, "e2m1": 4, "ue8m0": 8}
FINITE = ("e2m3", "e3m2", "e2m1")  # neither infinities nor NaNs
SHAPE = {"f64": (11, 52), "f32": (8, 23), "tf32": (8, 10)}  # bits of exponent and of fraction
SHAPE |= {"bf16": (8, 7), "f16": (5, 10), "e5m2": (5, 2), "e4m3": (4, 3)}
SHAPE |= {"e2m3": (2, 3), "e3m2": (3, 2), "e2m1": (2, 1)}
NAN = {"f64": 0x7FF8 << 48, **dict.fromkeys(("f32", "tf32"), 0x7FFFFFFF)}
NAN |= dict.fromkeys(("bf16", "f16"), 0x7FFF) | dict.fromkeys(("e5m2", "e4m3"), 0x7F)
NAN |= {"e2m3": 0x1F, "e3m2": 0x1F, "e2m1": 0x7}


def approximate(opcode: str) -> bool:
    return "approx" in opcode or "full" in opcode


def width(t: str) -> int:
    """Bits of a PTX type."""
    return 2 * width(t[:-2]) if t.endswith("x2") else WIDTH.get(t) or int(t.lstrip("bsuf"))


def whole(bits: int, t: str) -> int:
    """The integer behind a pattern."""
    n = width(t)
    return bits - (1 << n) if t[0] == "s" and bits >> n - 1 else bits


def number(bits: int, kind: str) -> float:
    """The number behind a pattern, field by field."""
    e, f = SHAPE[kind]
    bits >>= {"tf32": 13}.get(kind, 0)
    sign, exponent, fraction = bits >> e + f & 1, bits >> f & (1 << e) - 1, bits & (1 << f) - 1
    if kind == "e4m3" and exponent == 15 and fraction == 7:
        return math.nan
    if kind not in ("e4m3", *FINITE) and exponent == (1 << e) - 1:
        return math.nan if fraction else -math.inf if sign else math.inf
    exact = Fraction(fraction + (bool(exponent) << f)) * Fraction(2) ** (max(exponent, 1) - (1 << e - 1) + 1 - f)
    return -float(exact) if sign else float(exact)


def power(x: float, mode: str, finite: bool) -> int:
    """The ue8m0 of the power of two at or below ("rz"), or at or above ("rp"), the size of a number, by trying all."""
    most = 254 if finite else 255
    if x != x or math.isinf(x):
        return 255 if x != x else most
    below = [n for n in range(256) if Fraction(2) ** (n - 127) <= abs(Fraction(x))]
    above = [n for n in range(256) if Fraction(2) ** (n - 127) >= abs(Fraction(x))]
    return min(max(below, default=0) if mode == "rz" else min(above, default=255), most)


def pattern(x: float | Fraction, kind: str, mode: str = "rn") -> int:
    """The pattern nearest to a number: the last one below it is found by its exponent, then the direction chooses."""
    e, f = SHAPE[kind]
    sign = math.copysign(1, x) < 0 if isinstance(x, float) else x < 0
    top = (((1 << e) - 1) << f) - 1 if kind != "e4m3" else 0x7E  # the largest number; one more is infinity
    top = (1 << e + f) - 1 if kind in FINITE else top
    satfinite = kind in ("e4m3", "e5m2", *FINITE)
    if x != x:
        return NAN[kind]
    if isinstance(x, float) and math.isinf(x):
        size, away = top + (not satfinite), False
    else:
        exact = abs(Fraction(x))
        bias = (1 << e - 1) - 1
        exponent = 1 - bias
        if exact:
            binade = exact.numerator.bit_length() - exact.denominator.bit_length()
            exponent = max(exponent, binade - (exact < Fraction(2) ** binade))
        steps = exact / Fraction(2) ** (exponent - f)
        size = int(steps) + (exponent + bias - 1 << f)
        rest = steps - int(steps)
        half = (rest > Fraction(1, 2)) or (rest == Fraction(1, 2) and (size % 2 == 1 or mode == "rna"))
        away = bool(rest) and {"rz": False, "rm": sign, "rp": not sign}.get(mode, half)
        size += away
        stops = satfinite or (mode in ("rz", "rm", "rp") and {"rz": True, "rm": not sign, "rp": sign}[mode])
        size = min(size, top if stops else top + 1)
    return (sign << e + f | size) << {"tf32": 13}.get(kind, 0)


def samples(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """n patterns of a PTX type: edges of the integers and the floats of its width, and random ones."""
    if kind == "pred":
        return rng.integers(0, 2, n).astype(bool)
    if kind.endswith("x2"):
        half = samples(kind[:-2], 2 * n, rng).astype(np.uint64)
        return (half[:n] << np.uint64(width(kind) // 2) | half[n:]).astype(f"u{width(kind) // 8}")
    size = width(kind)
    edges = [0, 1, 2, 31, 32, 33, 63, 64, 255, (1 << size) - 1, 1 << size - 1, (1 << size - 1) - 1, 0x8421, 0x5410]
    if kind in SHAPE:
        e, f = SHAPE[kind]
        one = (1 << e - 1) - 1 << f
        inf = (1 << e) - 1 << f
        plain = [0, 1, (1 << f) - 1, 1 << f, one, one + 1, one - 1, one + (3 << f - 1)]
        plain += [inf - 1, inf, inf + 1, one + (20 << f >> 2)]
        sign = 1 << size - 1
        near = [one + int(x) - (1 << f) for x in rng.integers(0, 3 << f, 30)]
        edges = [x | s for x in plain for s in (0, sign)] + near + [x | sign for x in near]
    edges += [int(x) & (1 << size) - 1 for x in rng.integers(0, 1 << 63, 12)]
    return np.array([edges[i] & (1 << size) - 1 for i in rng.integers(0, len(edges), n)], f"u{max(size, 8) // 8}")


def flushed(x: float) -> float:
    """.ftz of an f32."""
    return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x


def add(a: float, b: float, mode: str) -> float | Fraction:
    """a + b, exact; a float only where it is no number or a zero, whose sign depends on the direction."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a + b
    exact = Fraction(a) + Fraction(b)
    return exact or (a + b if mode != "rm" or (a == b == 0 and math.copysign(1, a) == math.copysign(1, b)) else -0.0)


def multiply(a: float, b: float) -> float | Fraction:
    """a * b, exact; a float only where it is no number or a zero."""
    return Fraction(a) * Fraction(b) if math.isfinite(a) and math.isfinite(b) and a and b else a * b


def fused(a: float, b: float, c: float, mode: str) -> float | Fraction:
    """a * b + c, exact."""
    p = multiply(a, b)
    if isinstance(p, float) or not math.isfinite(c):
        return add(p if isinstance(p, float) else 0.0, c, mode)
    return p + Fraction(c) or (-0.0 if mode == "rm" else 0.0)


def divide(a: float, b: float) -> float | Fraction:
    """a / b, exact; a float only where it is no number or a zero."""
    if math.isfinite(a) and math.isfinite(b) and a and b:
        return Fraction(a) / Fraction(b)
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


def extreme(a: float, b: float, least: bool, nan: bool) -> float:
    """min and max."""
    if a != a or b != b:
        return math.nan if nan or a == b or (a != a and b != b) else b if a != a else a
    key = sorted((a, b), key=lambda x: (x, math.copysign(1, x)))
    return key[0 if least else 1]


def root(x: float, kind: str, mode: str) -> int:
    """The pattern of the square root: the last whose square is not above x, or the next, by the direction."""
    if x < 0 or not math.isfinite(x) or x == 0:
        return pattern(math.nan if x < 0 else x, kind)
    low = pattern(math.sqrt(x), kind, "rz")
    low -= Fraction(number(low, kind)) ** 2 > Fraction(x)
    low += Fraction(number(low + 1, kind)) ** 2 <= Fraction(x)
    values = [Fraction(number(bits, kind)) for bits in (low, low + 1)]
    away = {"rz": False, "rm": False, "rp": values[0] ** 2 < x}.get(mode, (sum(values) / 2) ** 2 < Fraction(x))
    return low + away


def field(a: int, position: int, size: int, t: str) -> int:
    """bfe, as the PTX ISA writes it down."""
    n, position, size = width(t), position & 255, size & 255
    sign = 0 if t[0] == "u" or size == 0 else a >> min(position + size - 1, n - 1) & 1
    bits = [a >> position + i & 1 if i < size and position + i < n else sign for i in range(n)]
    return sum(bit << i for i, bit in enumerate(bits))


def inserted(a: int, b: int, position: int, size: int, t: str) -> int:
    """bfi, as the PTX ISA writes it down."""
    position, size = position & 255, size & 255
    for i in range(size):
        if position + i < width(t):
            b = b & ~(1 << position + i) | (a >> i & 1) << position + i
    return b


def permuted(a: int, b: int, c: int) -> int:
    """prmt."""
    data = (a | b << 32).to_bytes(8, "little")
    out = [(255 if data[s & 7] > 127 else 0) if s & 8 else data[s] for s in (c >> 4 * i & 15 for i in range(4))]
    return int.from_bytes(bytes(out), "little")


def funnel(a: int, b: int, n: int, direction: str) -> int:
    """shf.wrap."""
    n &= 31
    both = b << 32 | a
    return (both << n >> 32 if direction == "l" else both >> n) & 0xFFFFFFFF


def towards_zero(a: int, b: int) -> int:
    """div of integers, by zero all ones."""
    return -1 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
