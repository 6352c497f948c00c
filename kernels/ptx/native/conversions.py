"""cvt in LLVM IR, with the bits of the NumPy form: `convert` and its like in ../arithmetic.py.

Not here, so that a kernel with one runs in NumPy form: 64-bit integers to f64 in a direction, and ue8m0x2.
"""

from typing import Any

from ..opcode import BITS, Opcode
from . import ir
from .floats import number, parts, pattern
from .formats import decode, encode, odd_sum
from .integers import shift
from .lanes import F32, F64, Lanes, shaped, spelled
from .lower import Pure, Unlowered

WHOLE = {"rni": "roundeven", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


def convert(op: Opcode, L: Lanes, values: list[Any]) -> list[Any]:
    """cvt, by what its two types are."""
    to, source = op.types
    if to.endswith("x2"):
        return [convert_pair(op, L, values)]
    if "f" in source:
        x = number(op, L, values[0], source)
        return [to_float(op, L, x) if "f" in to else to_integer(op, L, x)]
    return [from_integer(op, L, *values) if "f" in to else L.resize(values[0], BITS[to], source[0] == "s")]


def to_integer(op: Opcode, L: Lanes, x: Any) -> Any:
    """A NaN is 0, except where f64 or a 64-bit integer takes part: there the top bit alone is set."""
    to, source = op.types
    x = x if op.mode == "rz" else L.intrinsic(WHOLE[op.modifiers[0]], x)
    kind, name = shaped(x, ir.IntType(BITS[to])), "fptosi" if to[0] == "s" else "fptoui"
    bits = L.call(f"llvm.{name}.sat.{spelled(kind)}.{spelled(x.type)}", kind, x)
    if source != "f64" and BITS[to] < 64:
        return bits
    return L.b.select(L.b.fcmp_unordered("uno", x, x), L.const(bits, 1 << BITS[to] - 1), bits)


def from_integer(op: Opcode, L: Lanes, n: Any) -> Any:
    """Rounded once: integers of at most 32 bits are exact in float64, of at most 16 in float32."""
    to, source = op.types
    cast, bits = "sitofp" if source[0] == "s" else "uitofp", BITS[source]
    if (to == "f64" and (bits < 64 or op.mode == "rn")) or (to == "f32" and op.mode == "rn"):
        return L.bits(L.cast(cast, n, F64 if to == "f64" else F32))
    if to == "f64":
        raise Unlowered(op.text)
    if bits < 64:
        return encode(L, L.cast(cast, n, F32 if bits <= 16 else F64), to, op.mode)
    high = L.cast(cast, shift(L, "ashr" if source[0] == "s" else "lshr", n, 32), F64)
    low = L.cast("uitofp", L.b.and_(n, L.const(n, 0xFFFFFFFF)), F64)
    return encode(L, odd_sum(L, L.b.fmul(high, L.const(high, 2.0**32)), low), to, op.mode)


def to_float(op: Opcode, L: Lanes, x: Any) -> Any:
    """Between numbers; .rni and its like give whole ones, .sat those from 0 to 1, of NaN 0."""
    to, b = op.types[0], L.b
    whole = next((name for mode, name in WHOLE.items() if mode in op.modifiers), "")
    if whole:
        return pattern(op, L, L.intrinsic(whole, x), to)
    if "sat" in op.modifiers:
        one, zero = L.const(x, 1), L.const(x, 0)
        x = b.select(b.fcmp_ordered(">", x, zero), b.select(b.fcmp_ordered("<", x, one), x, one), zero)
    return pattern(op, L, L.cast("fpext", x, F64) if to == "f64" else x, to, op.mode)


def convert_pair(op: Opcode, L: Lanes, values: list[Any]) -> Any:
    """cvt to or from packed numbers: of two f32 the first becomes the upper one."""
    to, source = op.types
    kind, n = to[:-2], BITS[to]
    if "ue8m0x2" in op.types:
        raise Unlowered(op.text)
    if source == "f32":
        high, low = (L.resize(encode(L, L.number(x), kind, op.mode), n) for x in values)
        return L.b.or_(shift(L, "shl", high, n // 2), low)
    (x,) = values
    if source == "e2m1x2":  # two numbers to a byte
        wide = L.resize(x, 16)
        x = L.b.or_(L.b.and_(wide, L.const(wide, 15)), shift(L, "shl", shift(L, "lshr", wide, 4), 8))
    x = decode(L, parts(L, x, "e4m3x2" if source == "e2m1x2" else source), source[:-2])
    return L.b.bitcast(encode(L, x, kind), shaped(values[0], ir.IntType(n)))


LOWER: dict[str, Pure] = {"cvt": convert}
