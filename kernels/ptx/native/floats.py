"""Floating-point instructions in LLVM IR, with the bits of the NumPy form, ../arithmetic.py.

Not here, so that a kernel with one runs in NumPy form: arithmetic of f64 in a direction, rsqrt.approx.f64, .xorsign.
"""

from collections.abc import Callable
from typing import Any

from ..opcode import BITS, Opcode
from . import ir, numpy_loops
from .formats import decode, encode, flush, odd_sum, round_up, to_odd
from .integers import RELATIONS, shift
from .lanes import F32, F64, I16, Lanes, element, shaped, spelled
from .lower import Pure, Unlowered


def parts(L: Lanes, bits: Any, kind: str) -> Any:
    """Packed patterns as a vector of their halves; others stay as they are."""
    if not kind.endswith("x2"):
        return bits
    return L.b.bitcast(bits, ir.VectorType(ir.IntType(BITS[kind] // 2), 2 * getattr(bits.type, "count", 1)))


def number(op: Opcode, L: Lanes, bits: Any, kind: str) -> Any:
    """A source's numbers, those of f32 flushed by .ftz; of NaNs any."""
    x = bits.number or decode(L, parts(L, bits, kind), kind.removesuffix("x2"))
    return flush(L, x) if op.flushes and kind in ("f32", "f32x2") else x


def pattern(op: Opcode, L: Lanes, x: Any, kind: str, mode: str = "rn") -> Any:
    """A result rounded, and flushed by .ftz."""
    bits = encode(L, x, kind, mode)
    return L.bits(flush(L, L.number(bits))) if op.flushes and kind == "f32" else bits


def numeric(function: Callable) -> Pure:
    """Writes an instruction by a function of its opcode, L, its format and its sources' numbers to its result's.

    Of two types, f32 and a half, the half belongs to all sources but the last.
    """

    def write(op, L, values):
        kind = op.types[0]
        x = [number(op, L, v, op.types[-1]) for v in values[:-1]] + [number(op, L, values[-1], kind)]
        found = function(op, L, kind.removesuffix("x2"), *x)
        bits = L.b.later(
            shaped(found, ir.IntType(BITS[kind.removesuffix("x2")])),
            lambda: pattern(op, L, found, kind.removesuffix("x2"), op.mode),
        )
        if kind == "f32" and element(found.type) == F32 and not op.flushes:
            bits.number = found
        return [L.b.bitcast(bits, values[0].type) if kind.endswith("x2") else bits]

    return write


def arithmetic(op: Opcode, L: Lanes, kind: str, *v: Any) -> Any:
    """add, sub, mul, fma. Sums and products of two halves are innocent of a first rounding to float32."""
    if op.name == "fma" and kind in ("f32", "f64") and op.mode == "rn":
        return L.intrinsic("fma", *v)
    if op.mode != "rn" or (op.name, kind) == ("fma", "bf16"):
        v = tuple(L.cast("fpext", x, F64) for x in v)  # where a product is exact
    c = L.b.fneg(v[-1]) if op.name == "sub" else v[-1]
    p = L.b.fmul(v[0], v[1]) if op.name in ("fma", "mul") else v[0]
    if op.name == "mul":
        return p
    if op.name != "fma" and op.mode == "rn":
        return L.b.fadd(p, c)
    if op.mode == "rm":  # a zero sum of opposite numbers is -0
        return L.b.fneg(odd_sum(L, L.b.fneg(p), L.b.fneg(c)))
    return odd_sum(L, p, c)


def extreme(op: Opcode, L: Lanes, kind: str, x: Any, *rest: Any) -> Any:
    """min, max: a NaN yields to a number unless .NaN; -0 is below +0."""
    if "xorsign" in op.modifiers:
        raise Unlowered(op.text)
    b, (join, relation) = L.b, (L.b.or_, "<") if op.name == "min" else (L.b.and_, ">")
    for y in rest:
        if "NaN" in op.modifiers:
            r = b.select(b.fcmp_unordered("uno", x, x), x, b.select(b.fcmp_ordered(relation, x, y), x, y))
        else:
            r = b.select(b.fcmp_unordered("uno", x, x), y, b.select(b.fcmp_unordered(relation, x, y), x, y))
        x = b.select(b.fcmp_ordered("==", x, y), L.number(join(L.bits(x), L.bits(y))), r)  # then zeros alone differ
    return x


def quotient(op: Opcode, L: Lanes, kind: str, *v: Any) -> Any:
    """div, rcp, sqrt, rsqrt, rounded as IEEE 754 asks; an approximation by float64 rounds alike, but for rsqrt's."""
    b, root = L.b, op.name == "sqrt"
    if op.mode != "rn" or op.name == "rsqrt":
        v = tuple(L.cast("fpext", x, F64) for x in v)
    a, c = v if op.name == "div" else (v[0] if root else L.const(v[0], 1), v[0])
    c = L.intrinsic("sqrt", c) if "sqrt" in op.name else c
    q = c if root else b.fdiv(a, c)
    if op.mode != "rn":  # the error has the sign of the remainder over the divisor
        rest = L.intrinsic("fma", b.fneg(q), c, a)
        return to_odd(L, q, b.fmul(rest, L.intrinsic("copysign", L.const(c, 1), c)))
    if op.text.startswith("div.approx"):  # 1/c of what is above 2**126 is zero
        large = b.fcmp_ordered(">", L.intrinsic("fabs", c), L.const(c, 2.0**126))
        return b.select(large, b.fmul(q, L.const(q, 0)), q)
    return q


def inverse(op: Opcode, L: Lanes, values: list[Any]) -> list[Any]:
    """rcp and rsqrt; of approx.ftz.f64 only the upper 32 bits count, before and after, and subnormals are zeros."""
    if op.types[0] == "f32" or "approx" not in op.modifiers:
        return numeric(quotient)(op, L, values)
    if not op.flushes:
        raise Unlowered(op.text)
    upper = L.const(values[0], 0xFFFFFFFF << 32)
    x = quotient(op, L, "f64", flush(L, L.number(L.b.and_(values[0], upper))))
    return [L.bits(flush(L, L.number(L.b.and_(round_up(L, L.bits(x), 32), upper))))]


def approximate(op: Opcode, L: Lanes, kind: str, x: Any) -> Any:
    """Computed by NumPy in float64, rounded once."""
    if not numpy_loops.address(op.name):
        raise Unlowered(op.text)
    return L.call(f"numpy.{op.name}.{spelled(x.type)}", x.type, x)


def sign(op: Opcode, L: Lanes, values: list[Any]) -> list[Any]:
    """abs, neg: of the bits, so that without .ftz a NaN keeps its payload."""
    kind = op.types[-1].removesuffix("x2")
    bits = pattern(op, L, number(op, L, values[0], kind), kind) if op.flushes else parts(L, values[0], op.types[-1])
    top = 1 << BITS[kind] - 1
    bits = L.b.and_(bits, L.const(bits, ~top)) if op.name == "abs" else L.b.xor(bits, L.const(bits, top))
    return [L.b.bitcast(bits, values[0].type)]


def compare(op: Opcode, L: Lanes, kind: str, values: list[Any]) -> Any:
    """The relation of two numbers; one of three letters also holds for a NaN."""
    relation, v = op.modifiers[0], [number(op, L, x, kind) for x in values]
    if relation in ("num", "nan"):
        return L.b.fcmp_ordered("ord", *v) if relation == "num" else L.b.fcmp_unordered("uno", *v)
    return (L.b.fcmp_unordered if len(relation) == 3 else L.b.fcmp_ordered)(RELATIONS[relation[:2]], *v)


def setp(op: Opcode, L: Lanes, values: list[Any]) -> list[Any]:
    """The comparison and its complement; of packed pairs, that of the lower numbers and that of the upper."""
    kind = op.types[-1]
    if kind.endswith("x2"):
        return [compare(op, L, kind[:-2], [L.resize(shift(L, "lshr", v, n), 16) for v in values]) for n in (0, 16)]
    p = compare(op, L, kind, values)
    return [p, L.b.not_(p)]


def set_pair(op: Opcode, L: Lanes, values: list[Any]) -> list[Any]:
    """set of packed halves: 1.0 in each where the comparison holds, else 0.0."""
    p = L.cast("zext", compare(op, L, op.types[-1], values), I16)
    return [L.b.bitcast(L.b.mul(p, L.const(p, 0x3C00)), values[0].type)]


def moved(L: Lanes, move: Callable, *bits: Any) -> Any:
    """What only moves the bits of numbers, whose numbers move, too, if they are known."""
    found = L.b.later(bits[0].type, lambda: move(*bits))
    if any(x.number for x in bits):
        found.number = move(*(x.number or L.number(x) for x in bits))
    return found


LOWER: dict[str, Pure] = {
    **dict.fromkeys(("add", "sub", "mul", "fma"), numeric(arithmetic)),
    **dict.fromkeys(("abs", "neg"), sign),
    **dict.fromkeys(("min", "max"), numeric(extreme)),
    **dict.fromkeys(("div", "sqrt"), numeric(quotient)),
    **dict.fromkeys(("rcp", "rsqrt"), inverse),
    **dict.fromkeys(numpy_loops.LOOPS, numeric(approximate)),
    "copysign": lambda op, L, values: [L.bits(L.intrinsic("copysign", *(L.number(v) for v in reversed(values))))],
    "setp": setp,
    "set": set_pair,
    "selp": lambda op, L, values: [moved(L, lambda a, b: L.b.select(values[2], a, b), *values[:2])],
    "mov": lambda op, L, values: values,
}
