"""Matrices that lie in the registers of a warp: mma.sync, and ldmatrix and stmatrix, which move them.

An mma's fragments become rows of eight float64 in memory, A and B with one row for each k, and are multiplied there:
`product` is written once for each form that a kernel has, of pieces that every kernel shares (RUNTIME).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir

from ..collective import matrix_form
from ..errors import UnknownOpcode
from ..floats import FORMATS
from ..forms import parts_of
from ..parse import Instruction
from ..tensor_core.mma import INTEGERS, form
from .lanes import F32, F64, I8, I16, I32, I64, WARP, Lanes, vector
from .lower import Unlowered

POINTER, ROW = ir.PointerType(), vector(F64, 8)
INPUTS = ("f16", "bf16", "tf32", "s8", "u8", "e4m3", "e5m2", "f64")
# Of the types of C and D: how many registers hold eight rows.
SUMS = {"f32": 2, "f64": 2, "s32": 2, "s32.satfinite": 2, "f16": 1}
TURNED = [8 * column + row for row in range(8) for column in range(8)]


def register(kind: str) -> Any:
    """The type of an operand's register in all lanes."""
    return vector(I64 if kind == "f64" else I32)


def width(kind: str) -> int:
    """Bits of an element."""
    return 8 if kind in INTEGERS else FORMATS[kind].bits


def begun(module: Any, name: str, result: Any, takes: list) -> tuple[Any, Lanes]:
    """A new function that is not inlined, and what writes its first block."""
    made = ir.Function(module, ir.FunctionType(result, takes), name)
    made.attributes.add("noinline")
    return made, Lanes(ir.IRBuilder(made.append_basic_block()))


def at(b: Any, pointer: Any, n: Any, kind: Any = ROW) -> Any:
    """The address of an element of an array."""
    return b.gep(pointer, [n if isinstance(n, ir.Value) else I64(n)], source_etype=kind)


def numbers(L: Lanes, bits: Any, kind: str) -> Any:
    """The float64 behind bit patterns, which are integers of the width of their type."""
    if kind in INTEGERS:
        return L.cast("uitofp" if kind == "u8" else "sitofp", bits, F64)
    if kind == "f64":
        return L.number(bits)
    if kind in ("f32", "tf32"):
        return L.cast("fpext", L.number(L.b.and_(bits, L.const(bits, -1 << 13)) if kind == "tf32" else bits), F64)
    if kind == "bf16":
        bits = L.resize(bits, 32)
        return L.cast("fpext", L.number(L.b.shl(bits, L.const(bits, 16))), F64)
    half = L.resize(bits, 16)
    if kind == "e5m2":
        half = L.b.shl(half, L.const(half, 8))
    if kind == "e4m3":  # float16's exponents, 8 lower, and a NaN in place of the last number
        size = L.b.and_(half, L.const(half, 0x7F))
        sign = L.b.and_(L.b.shl(half, L.const(half, 8)), L.const(half, 0x8000))
        nan = L.b.icmp_unsigned("==", size, L.const(size, 0x7F))
        half = L.b.select(nan, L.const(size, 0x7FFF), L.b.or_(sign, L.b.shl(size, L.const(size, 7))))
    value = L.cast("fpext", L.cast("fpext", L.cast("bitcast", half, ir.HalfType()), F32), F64)
    return L.b.fmul(value, L.const(value, 256)) if kind == "e4m3" else value


def rounded(L: Lanes, x: Any, kind: str) -> Any:
    """The bits of sums in the type of the accumulator, rounded once: what floats.encode gives."""
    if kind == "f64":
        return L.bits(x)
    if kind.startswith("s32"):  # exact sums below 2**51: the lowest bits of the mantissa are the integer, wrapped
        if kind.endswith("satfinite"):
            x = L.intrinsic("minnum", L.intrinsic("maxnum", x, L.const(x, -(2**31))), L.const(x, 2**31 - 1))
        return L.resize(L.bits(L.b.fadd(x, L.const(x, 1.5 * 2**52))), 32)
    if kind == "f32":
        bits = L.bits(L.cast("fptrunc", x, F32))
    else:  # n last places of the binade, float16's lowest at least: n is what a sum leaves in its lowest bits
        wide = L.bits(x)
        power = L.b.and_(wide, L.const(wide, 0x7FF << 52))
        power = L.intrinsic("umax", power, L.const(power, (1023 - 14) << 52))
        total = L.b.fadd(L.intrinsic("fabs", x), L.b.fmul(L.number(power), L.const(x, 1.5 * 2**42)))
        n = L.b.and_(L.bits(total), L.const(wide, 0xFFF))
        binade = L.b.sub(L.b.lshr(power, L.const(power, 42)), L.const(power, (1023 - 14) << 10))
        size = L.intrinsic("umin", L.b.add(n, binade), L.const(n, 0x7C00))
        sign = L.b.and_(L.b.lshr(wide, L.const(wide, 48)), L.const(wide, 0x8000))
        bits = L.resize(L.b.or_(size, sign), 16)
    return L.b.select(L.b.fcmp_unordered("uno", x, x), L.const(bits, FORMATS[kind].nan), bits)


def widen(module: Any, kind: str, name: str) -> None:
    """(a register of A or B, where): write its numbers as rows; element e of the lanes with t is row E * t + e."""
    f, L = begun(module, name, ir.VoidType(), [register(kind), POINTER])
    words = L.pick(f.args[0], [4 * g + t for t in range(4) for g in range(8)])
    each = width(kind)
    E = words.type.element.width // each
    for e in range(E):
        values = numbers(L, L.resize(L.b.lshr(words, L.const(words, e * each)), each), kind)
        for t in range(4):
            L.b.store(L.pick(values, range(8 * t, 8 * t + 8)), at(L.b, f.args[1], t * E + e), align=8)
    L.b.ret_void()


def multiply(module: Any, kind: str, name: str) -> None:
    """(K, rows of A, rows of B, registers of C): the registers of eight rows of D; sums go in the order of k."""
    held = [register(kind)] * SUMS[kind]
    f, L = begun(module, name, ir.LiteralStructType(held), [I64, POINTER, POINTER, *held])
    K, A, B, *C = f.args
    start, loop, done = L.b.block, f.append_basic_block(), f.append_basic_block()
    L.b.branch(loop)
    L.b.position_at_end(loop)
    k, sums = L.b.phi(I64), [L.b.phi(ROW) for _ in range(8)]
    a, b = at(L.b, A, k), L.b.load(at(L.b, B, k), typ=ROW, align=8)
    factors = [L.splat(L.b.load(at(L.b, a, g, F64), typ=F64), 8) for g in range(8)]
    more = [L.intrinsic("fmuladd", x, b, total) for x, total in zip(factors, sums, strict=True)]
    after = L.b.add(k, I64(1))
    for phi, value in zip((k, *sums), (after, *more), strict=True):
        phi.add_incoming(L.const(phi, 0), start)
        phi.add_incoming(value, loop)
    L.b.cbranch(L.b.icmp_unsigned("<", after, K), loop, done)
    L.b.position_at_end(done)
    D = [rounded(L, L.b.fadd(x, c), kind) for x, c in zip(more, rows(L, C, kind), strict=True)]
    L.b.ret(structure(L, packed(L, D, held)))


def rows(L: Lanes, C: list, kind: str) -> list:
    """The float64 numbers of each of eight rows, from their registers."""
    if kind == "f16":
        halves = L.b.bitcast(C[0], vector(I16, 64))
        return [numbers(L, L.pick(halves, range(8 * g, 8 * g + 8)), kind) for g in range(8)]
    orders = ([4 * g + t + WARP * odd for t in range(4) for odd in (0, 1)] for g in range(8))
    return [numbers(L, L.b.shuffle_vector(C[0], C[1], L.row(I32, order)), kind.split(".")[0]) for order in orders]


def packed(L: Lanes, D: list, held: list) -> list:
    """The inverse of `rows`, of bits."""
    if len(held) == 1:
        return [L.b.bitcast(joined(L, D), held[0])]
    sides = (L.row(I32, range(odd, 16, 2)) for odd in (0, 1))
    return [joined(L, [L.b.shuffle_vector(D[g], D[g + 1], side) for g in range(0, 8, 2)]) for side in sides]


def joined(L: Lanes, parts: list) -> Any:
    """One vector of several of one length."""
    while len(parts) > 1:
        order = L.row(I32, range(2 * parts[0].type.count))
        parts = [L.b.shuffle_vector(a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def structure(L: Lanes, values: list) -> Any:
    result = ir.Constant(ir.LiteralStructType([x.type for x in values]), ir.Undefined)
    for n, value in enumerate(values):
        result = L.b.insert_value(result, value, n)
    return result


# What every kernel shares: name -> what defines it in a module.
RUNTIME: dict[str, Callable[[Any], None]] = {
    name: partial(piece, kind=kind, name=name)
    for piece, kinds in ((widen, INPUTS), (multiply, SUMS))
    for kind in kinds
    for name in (f"matrices.{piece.__name__}.{kind}",)
}


def product(module: Any, opcode: str) -> Any:
    """The function of one form, defined where it is first asked for: registers of A, B and C -> those of D."""
    if opcode in module.globals:
        return module.globals[opcode]
    M, K, a, b, c, satfinite = form(opcode)
    c += ".satfinite" * satfinite
    H, each, kind = M // 8, SUMS[c], register(c)
    step = 4 * kind.element.width // width(a)  # rows of a register
    f, L = begun(module, opcode, ir.LiteralStructType([kind] * H * each), [kind] * ((H + 1) * K // step + H * each))
    f.linkage = "internal"
    A, B, C = (f.args[slice(*part)] for part in ((0, H * K // step), (H * K // step, -H * each), (-H * each, None)))
    room = L.b.alloca(ROW, (H + 1) * K)  # H times K rows of A, and those of B
    for n, x in enumerate(A):
        L.call(f"matrices.widen.{a}", ir.VoidType(), x, at(L.b, room, n % H * K + n // H * step))
    for n, x in enumerate(B):
        L.call(f"matrices.widen.{b}", ir.VoidType(), x, at(L.b, room, H * K + n * step))
    D = []
    for h in range(H):
        given = (I64(K), at(L.b, room, h * K), at(L.b, room, H * K), *C[h * each :][:each])
        half = L.call(f"matrices.multiply.{c}", ir.LiteralStructType([kind] * each), *given)
        D += [L.b.extract_value(half, n) for n in range(each)]
    L.b.ret(structure(L, D))
    return f


def together(w: Any) -> None:
    """All lanes must execute the instruction."""
    if not isinstance(w.on, ir.Constant):
        w.bail(w.b.icmp_unsigned("!=", w.on, I32(-1)))


def mma(w: Any, i: Instruction) -> None:
    """mma.sync. Which NaN of f64 comes out is NumPy's to say."""
    try:
        kind = "b64" if form(i.opcode)[4] == "f64" else "b32"
    except UnknownOpcode:
        raise Unlowered(i.opcode) from None
    together(w)
    values = [w.L.splat(w.read(x, kind)) for operand in i.operands[1:] for x in operand.parts]
    D = w.b.call(product(w.b.module, i.opcode), values)
    for n, x in enumerate(i.operands[0].parts):
        value = w.b.extract_value(D, n)
        if kind == "b64":
            w.bail(w.L.any(w.b.fcmp_unordered("uno", *[w.L.number(value)] * 2)))
        w.write(x, kind, value)


def moved(w: Any, i: Instruction, operand: Any) -> tuple[Any, Any, Any]:
    """Of an ldmatrix or stmatrix with this address: its form, the address, i32, and the lanes whose address counts."""
    m = matrix_form(i)
    together(w)
    base = w.read(operand.base, "b32")
    where = w.b.add(base, w.L.const(base, operand.offset)) if operand.offset else base
    return m, where, I32((1 << m.num * m.rows) - 1)


def load_matrix(w: Any, i: Instruction) -> None:
    from . import shared

    m, where, on = moved(w, i, i.operands[1])
    found = shared.load(w, where, 16, on, "several")
    for n, x in enumerate(parts_of(i.operands[0])):
        part, order = (vector(I16, 64), TURNED) if m.trans else (vector(I32), range(WARP))
        if m.rows == 16:  # two registers to a matrix, each of 8 of its columns
            part = vector(I8, 256)
            order = [(4 * t + j) * 16 + 8 * (n % 2) + g for g in range(8) for t in range(4) for j in range(4)]
        value = w.b.load(at(w.b, found, n * 8 // m.rows, part), typ=part, align=1)
        w.write(x, "b32", w.b.bitcast(w.L.pick(value, order), vector(I32)))


def store_matrix(w: Any, i: Instruction) -> None:
    from . import shared

    m, where, on = moved(w, i, i.operands[0])
    room = w.room(vector(I32), 4)
    for n, x in enumerate(parts_of(i.operands[1])):
        value = w.L.splat(w.read(x, "b32"))
        if m.trans:
            value = w.b.bitcast(w.L.pick(w.b.bitcast(value, vector(I16, 64)), TURNED), value.type)
        w.b.store(value, at(w.b, room, n, value.type), align=1)
    shared.store(w, where, room, 16, on, "several", (16, 32))


LOWER = {"mma.sync": mma, "ldmatrix.sync": load_matrix, "stmatrix.sync": store_matrix}
