"""Floating-point instructions: builders that turn one spelling into its semantics."""

from collections.abc import Callable
from functools import reduce

import numpy as np

from . import exact as ex
from . import floats as fl
from .opcode import BITS, NUMPY, UNSIGNED, Opcode, Semantics, elementwise, packed


def flushed(op: Opcode, x: np.ndarray) -> np.ndarray:
    """Numbers as they enter and leave an instruction: with .ftz, which concerns f32 alone, none is subnormal."""
    return fl.flush(x) if op.flushes and x.dtype == np.float32 else x


def numbers(op: Opcode, kind: str, bits: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """The sources' values."""
    values = [fl.decode(x, kind) for x in bits]
    return [flushed(op, x) for x in values] if op.flushes else values


def result(op: Opcode, bits: np.ndarray) -> np.ndarray:
    """Patterns of the result, flushed."""
    return fl.flush(bits.view(np.float32)).view(np.uint32) if op.flushes and bits.dtype == np.uint32 else bits


def arithmetic(op: Opcode) -> Semantics:
    """add, sub, mul, fma; of two types, f32 and a half, the half belongs to all sources but the last."""
    kind, other = op.types[0].removesuffix("x2"), op.types[-1].removesuffix("x2")
    n, mode, name = 3 if op.name == "fma" else 2, op.mode, op.name

    def function(*x):
        v = numbers(op, kind, x) if kind == other else [*numbers(op, other, x[:-1]), *numbers(op, kind, x[-1:])]
        if name == "fma":
            a, b, c = v
        elif name == "mul":
            a, b, c = v[0], v[1], None
        else:
            a, b, c = v[0], None, v[1] if name == "add" else -v[1]
        return result(op, ex.fma(a, b, c, kind, mode))

    if kind != other:
        return Semantics(function, (other,) * (n - 1) + (kind,), (kind,))
    return elementwise(op, function, n)


def extreme(op: Opcode) -> Semantics:
    """min, max: a NaN yields to a number unless .NaN; -0 is below +0; .xorsign.abs: of magnitudes, signs multiplied."""
    kind = op.types[-1].removesuffix("x2")
    least, strict = op.name == "min", "NaN" in op.modifiers
    choose = (np.minimum if strict else np.fmin) if least else np.maximum if strict else np.fmax

    def two(a, b):
        r = choose(a, b)
        nan = r != r
        if not strict and np.count_nonzero(nan):  # libm's fmin takes a signalling NaN for an answer, PTX does not
            r = np.where(nan, np.where(a == a, a, b), r)
        zero = (a == 0) & (b == 0)
        return np.where(zero, -(-a - b) if least else a + b, r) if np.count_nonzero(zero) else r

    def magnitudes(a, b):
        r = two(np.abs(a), np.abs(b))
        return np.where(np.signbit(a) ^ np.signbit(b), -r, r)

    step = magnitudes if "xorsign" in op.modifiers else two
    return elementwise(op, lambda *x: fl.encode(reduce(step, numbers(op, kind, x)), kind), op.operands or 2)


def sign(op: Opcode) -> Semantics:
    """abs, neg: of the bits, so that without .ftz a NaN keeps its payload."""
    kind = op.types[-1].removesuffix("x2")
    top = UNSIGNED[kind](1 << BITS[kind] - 1)

    def function(x):
        x = fl.encode(flushed(op, fl.decode(x, kind)), kind) if "ftz" in op.modifiers else x
        return x & ~top if op.name == "abs" else x ^ top

    return elementwise(op, function, 1)


ROUNDED: dict[str, tuple[int, Callable, Callable]] = {  # operands, in NumPy, of Fractions
    "div": (2, np.divide, lambda a, b: a / b),
    "rcp": (1, np.reciprocal, lambda a: 1 / a),
    "sqrt": (1, np.sqrt, ex.square_root),
}


def rounded(op: Opcode) -> Semantics:
    """div, rcp and sqrt, rounded as IEEE 754 asks."""
    kind = op.types[-1]
    n, native, exact = ROUNDED[op.name]

    def function(*x):
        v = numbers(op, kind, x)
        r = native(*v)
        return result(op, fl.encode(r if op.mode == "rn" else ex.exactly(exact, r, kind, op.mode, *v), kind))

    return elementwise(op, function, n)


def quotient(a, c):
    """div.approx: a * (1/c), and 1/c of what is above 2**126 is zero."""
    return np.where(np.abs(c) > 2.0**126, a / c * 0, a / c)


APPROXIMATED: dict[str, Callable] = {
    "ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "sqrt": np.sqrt,
    "rcp": np.reciprocal, "rsqrt": lambda x: 1 / np.sqrt(x), "div.approx": quotient, "div.full": np.divide,
}  # fmt: skip


def approximate(op: Opcode) -> Semantics:
    """Computed in float64 (f64: in longdouble), rounded once, and moved if the caller asks for it."""
    kind = op.types[-1]
    exact = APPROXIMATED[f"div.{op.modifiers[0]}" if op.name == "div" else op.name]

    def function(*x):
        wide = np.longdouble if kind == "f64" else np.float64
        bits = fl.encode(exact(*(v.astype(wide) for v in numbers(op, kind, x))).astype(np.float64), kind)
        if op.approximation:
            bits = op.approximation.move(op.text, bits, *x)
        return result(op, bits)

    return elementwise(op, function, 2 if op.name == "div" else 1)


LOWER = np.uint64(0xFFFFFFFF)


def coarse(op: Opcode) -> Semantics:
    """rcp, rsqrt.approx.ftz.f64: from the upper 32 bits, and only those of the result; no subnormal comes or goes."""

    def function(x):
        v = fl.flush((x & ~LOWER).view(np.float64))
        bits = fl.encode(APPROXIMATED[op.name](v), "f64")
        bits = (bits + (LOWER >> np.uint64(1)) + (bits >> np.uint64(32) & np.uint64(1))) & ~LOWER
        if op.approximation:
            bits = op.approximation.move(op.text, bits, x, unit=1 << 32)
        return fl.flush(bits.view(np.float64)).view(np.uint64)

    return elementwise(op, function, 1)


COMPARE: dict[str, Callable] = {
    "eq": np.equal, "neu": np.not_equal, "ne": lambda a, b: (a < b) | (a > b), "num": lambda a, b: (a == a) & (b == b),
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
UNORDERED = {"equ": "ne", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt", "nan": "num"}  # what each is not


def comparison(op: Opcode) -> Callable:
    """The relation of two patterns: of numbers, all but neu and those of UNORDERED are false for a NaN."""
    t, relation = op.types[-1].removesuffix("x2"), op.modifiers[0]
    if "f" not in t:
        compare, view = COMPARE["neu" if relation == "ne" else relation], NUMPY[t]
        return compare if view is UNSIGNED[t] else lambda x, y: compare(x.view(view), y.view(view))
    if relation in UNORDERED:
        opposite = COMPARE[UNORDERED[relation]]
        return lambda *x: ~opposite(*numbers(op, t, x))
    return lambda *x: COMPARE[relation](*numbers(op, t, x))


def compare(op: Opcode) -> Semantics:
    """setp: the comparison and its complement; of packed pairs, that of the lower numbers and that of the upper."""
    t, test = op.types[-1], comparison(op)

    def one(x, y):
        p = test(x, y)
        return p, ~p

    if not t.endswith("x2"):
        return Semantics(one, (t, t), ("pred", "pred"))
    return Semantics(halves(test), (t, t), ("pred", "pred"))


def halves(test: Callable) -> Callable:
    """A comparison of packed numbers: that of the lower ones and that of the upper."""
    return lambda x, y: tuple(test(*((v >> n).astype(np.uint16) for v in (x, y))) for n in map(np.uint32, (0, 16)))


def compare_pair(op: Opcode) -> Semantics:
    """set of packed halves: 1.0 in each where the comparison holds, else 0.0."""
    test, one = halves(comparison(op)), np.uint32(0x3C00)

    def pair(x, y):
        low, high = test(x, y)
        return low * one | (high * one) << np.uint32(16)

    return Semantics(pair, (op.types[-1],) * 2, (op.types[0],))


def convert(op: Opcode) -> Semantics:
    """cvt: each of its two types is an integer or a float; see `convert_pair` for packed ones."""
    to, source = op.types
    whole = any(m in ("rni", "rzi", "rmi", "rpi") for m in op.modifiers)

    view, cast, pattern = NUMPY[source], NUMPY[to], UNSIGNED[to]

    def resize(x):
        return x.view(view).astype(cast).view(pattern)

    def to_integer(x):
        """A NaN is 0, except where f64 or a 64-bit integer takes part: there the top bit alone is set."""
        top = 1 << BITS[to] - 1
        nan = 0 if source != "f64" and BITS[to] < 64 else -top if to[0] == "s" else top
        return fl.to_integer(flushed(op, fl.decode(x, source)), op.mode, NUMPY[to], nan).view(UNSIGNED[to])

    def from_integer(x):
        return ex.from_integer(x.view(NUMPY[source]), to, op.mode)

    def to_float(x):
        v = fl.decode(x, source)
        v = flushed(op, v) if source == "f32" else v
        v = fl.ROUND[op.mode](v) if whole else v.astype(np.float64) if to == "f64" else v
        if "sat" in op.modifiers:
            v = np.where(v > 0, np.minimum(v, v.dtype.type(1)), v.dtype.type(0))
        return result(op, fl.encode(v, to, "rn" if whole else op.mode))

    numeric = (from_integer, to_float) if "f" in to else (resize, to_integer)
    return Semantics(numeric["f" in source], (source,), (to,))


def convert_pair(op: Opcode) -> Semantics:
    """cvt to or from packed numbers: of two f32 the first becomes the upper one."""
    to, source = op.types
    one = lambda x: fl.encode(fl.decode(x, source.removesuffix("x2")), to.removesuffix("x2"), op.mode)  # noqa: E731
    if source != "f32":
        return Semantics(packed(one, (source,), to), (source,), (to,))
    wide = np.dtype(f"u{BITS[to] // 8}").type  # of e2m1, two to a byte
    return Semantics(lambda a, b: one(a).astype(wide) << wide(BITS[to] // 2) | one(b), ("f32", "f32"), (to,))


def convert_nibbles(op: Opcode) -> Semantics:
    """cvt from e2m1x2: two numbers to a byte."""

    def pair(x):
        low, high = (
            fl.encode(fl.decode(n, "e2m1"), "f16").astype(np.uint32) for n in (x & np.uint8(15), x >> np.uint8(4))
        )
        return low | high << np.uint32(16)

    return Semantics(pair, (op.types[1],), (op.types[0],))


def convert_power(op: Opcode) -> Semantics:
    """cvt to ue8m0x2: powers of two at or below (rz), at or above (rp), the sizes of two f32, the first the upper one.

    Source of what the ISA leaves out, signs and ends: __nv_cvt_float_to_e8m0 of NVIDIA's cuda_fp8.hpp.
    """

    def one(x):
        size = x & np.uint32(0x7FFFFFFF)
        exponent, infinite = size >> np.uint32(23), np.uint32(0x7F800000)
        if op.mode == "rp":  # the least power, 2**-127, is a subnormal f32
            exponent = exponent + ((size & np.uint32(0x7FFFFF) != 0) & (size > 1 << 22) & (size < infinite))
        if "satfinite" in op.modifiers:
            exponent = np.where((size <= infinite) & (exponent == 255), 254, exponent)
        return exponent.astype(np.uint16)

    return Semantics(lambda a, b: one(a) << np.uint16(8) | one(b), ("f32", "f32"), (op.types[0],))


def convert_from_power(op: Opcode) -> Semantics:
    """cvt from ue8m0x2 to bf16x2; 255 is NaN."""

    def one(x):
        pattern = np.where(x == 0, 0x40, x.astype(np.uint32) << np.uint32(7))
        return np.where(x == 255, fl.FORMATS["bf16"].nan, pattern).astype(np.uint32)

    both = lambda x: one(x >> np.uint16(8)) << np.uint32(16) | one(x & np.uint16(255))  # noqa: E731
    return Semantics(both, (op.types[1],), (op.types[0],))
