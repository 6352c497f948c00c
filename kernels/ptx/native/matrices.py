"""Matrices that lie in the registers of a warp: mma.sync, and ldmatrix and stmatrix, which move them.

An mma's fragments become rows of eight float64 in memory, A and B with one row for each k, and are multiplied there:
`product` is written once for each form that a kernel has, of pieces that every kernel shares (RUNTIME).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from ..forms import parts_of
from ..matrix_forms import INPUTS, INTEGERS, form, matrix_form, width
from ..syntax import Instruction
from . import ir, shared
from .context import POINTER
from .formats import decode, encode
from .lanes import F64, I16, I32, I64, WARP, Lanes, begun, vector
from .lower import Unlowered

ROW = vector(F64, 8)
# Of the types of C and D: how many registers hold eight rows.
SUMS = {"f32": 2, "f64": 2, "s32": 2, "s32.satfinite": 2, "f16": 1}


def register(kind: str) -> Any:
    """The type of an operand's register in all lanes."""
    return vector(I64 if kind == "f64" else I32)


def numbers(L: Lanes, bits: Any, kind: str) -> Any:
    """The float64 behind bit patterns, which are integers of the width of their type."""
    if kind in INTEGERS:
        return L.cast("uitofp" if kind == "u8" else "sitofp", bits, F64)
    if kind == "tf32":
        bits, kind = L.b.and_(bits, L.const(bits, -1 << 13)), "f32"
    return L.cast("fpext", decode(L, bits, kind), F64)


def rounded(L: Lanes, x: Any, kind: str) -> Any:
    """The bits of sums in the type of the accumulator, rounded once: what floats.encode gives."""
    if kind.startswith("s32"):  # exact sums below 2**51: the lowest bits of the mantissa are the integer, wrapped
        if kind.endswith("satfinite"):
            x = L.intrinsic("minnum", L.intrinsic("maxnum", x, L.const(x, -(2**31))), L.const(x, 2**31 - 1))
        return L.resize(L.bits(L.b.fadd(x, L.const(x, 1.5 * 2**52))), 32)
    return encode(L, x, kind)


def widen(module: Any, kind: str) -> None:
    """(a register of A or B, where): write its numbers as rows; element e of the lanes with t is row E * t + e."""
    L, (held, rows) = begun(module, f"matrices.widen.{kind}", ir.VoidType(), register(kind), POINTER, how="noinline")
    words = L.pick(held, [4 * g + t for t in range(4) for g in range(8)])
    each = width(kind)
    E = words.type.element.width // each
    for e in range(E):
        values = numbers(L, L.resize(L.b.lshr(words, L.const(words, e * each)), each), kind)
        for t in range(4):
            L.b.store(L.pick(values, range(8 * t, 8 * t + 8)), L.at(rows, t * E + e, ROW), align=8)
    L.b.ret_void()


def multiply(module: Any, kind: str) -> None:
    """(K, rows of A, rows of B, registers of C): the registers of eight rows of D, joined; sums go in k's order."""
    held, name = [register(kind)] * (each := SUMS[kind]), f"matrices.multiply.{kind}"
    takes = I64, POINTER, POINTER, *held
    L, (K, A, B, *C) = begun(module, name, vector(held[0].element, WARP * each), *takes, how="noinline")
    start, loop, done = L.b.block, L.b.append_basic_block(), L.b.append_basic_block()
    L.b.branch(loop)
    L.b.position_at_end(loop)
    k, sums = L.b.phi(I64), [L.b.phi(ROW) for _ in range(8)]
    a, b = L.at(A, k, ROW), L.b.load(L.at(B, k, ROW), typ=ROW, align=8)
    factors = [L.splat(L.b.load(L.at(a, g, F64), typ=F64), 8) for g in range(8)]
    more = [L.intrinsic("fmuladd", x, b, total) for x, total in zip(factors, sums, strict=True)]
    after = L.b.add(k, I64(1))
    for phi, value in zip((k, *sums), (after, *more), strict=True):
        phi.add_incoming(L.const(phi, 0), start)
        phi.add_incoming(value, loop)
    L.b.cbranch(L.b.icmp_unsigned("<", after, K), loop, done)
    L.b.position_at_end(done)
    # a row's neighbours are two registers of one lane, or the halves of one
    c = L.pick(joined(L, C), [n // 2 + WARP * (n % 2) for n in range(64)]) if each == 2 else C[0]
    c = numbers(L, c if each == 2 else L.b.bitcast(c, vector(I16, 64)), kind.split(".")[0])
    D = rounded(L, L.b.fadd(joined(L, more), c), kind)
    L.b.ret(L.pick(D, [*range(0, 64, 2), *range(1, 64, 2)]) if each == 2 else L.b.bitcast(D, held[0]))


def joined(L: Lanes, parts: list) -> Any:
    """One vector of several of one length."""
    while len(parts) > 1:
        order = L.row(I32, range(2 * parts[0].type.count))
        parts = [L.b.shuffle_vector(a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def turned(module: Any) -> None:
    """(an 8x8 matrix of 16 bits): its registers with rows and columns exchanged."""
    L, (place,) = begun(module, "matrices.turned", vector(I32), POINTER, how="noinline")
    halves = L.b.load(place, typ=vector(I16, 64), align=1)
    L.b.ret(L.b.bitcast(L.pick(halves, [8 * c + r for r in range(8) for c in range(8)]), vector(I32)))


# What every kernel shares: name -> what defines it in a module.
RUNTIME: dict[str, Callable[[Any], None]] = {
    **{f"matrices.widen.{kind}": partial(widen, kind=kind) for kind in INPUTS},
    **{f"matrices.multiply.{kind}": partial(multiply, kind=kind) for kind in SUMS},
    "matrices.turned": turned,
}


def product(L: Lanes, opcode: str, *registers: Any) -> Any:
    """Registers of A, B and C -> D's, joined."""
    M, K, a, b, c, satfinite = form(opcode)
    c += ".satfinite" * satfinite
    H, each, kind = M // 8, SUMS[c], register(c)
    step = 4 * kind.element.width // width(a)  # rows of a register
    room = L.b.alloca(ROW, (H + 1) * K)  # H times K rows of A, and those of B
    for n, x in enumerate(registers[: (H + 1) * K // step]):
        of, first = (a, n % H * K + n // H * step) if n < H * K // step else (b, n * step)
        L.call(f"matrices.widen.{of}", ir.VoidType(), x, L.at(room, first, ROW))
    return sums(L, c, H, K, room, registers[-H * each :])


def sums(L: Lanes, c: str, H: int, K: int, room: Any, C: Any) -> Any:
    """D's registers, joined, of H times K rows of A, those of B behind them, and registers of C."""
    half = partial(L.call, f"matrices.multiply.{c}", vector(register(c).element, SUMS[c] * WARP), I64(K))
    sides = ((L.at(room, h * K, ROW), L.at(room, H * K, ROW), *C[h * SUMS[c] :][: SUMS[c]]) for h in range(H))
    return joined(L, [half(*side) for side in sides])


def together(w: Any) -> None:
    """All lanes must execute the instruction."""
    if not isinstance(w.on, ir.Constant):
        w.bail(w.b.icmp_unsigned("!=", w.on, I32(-1)))


def mma(w: Any, i: Instruction) -> None:
    """mma.sync. Which NaN of f64 comes out is NumPy's to say."""
    if ".block_scale" in i.opcode:
        raise Unlowered(i.opcode)
    kind = "b64" if ".f64" in i.opcode else "b32"
    together(w)
    values = [w.L.splat(w.read(x, kind)) for operand in i.operands[1:] for x in operand.parts]
    wide = vector(ir.IntType(int(kind[1:])), WARP * len(i.operands[0].parts))
    D = w.L.own(i.opcode, wide, lambda L, *x: product(L, i.opcode, *x), *values, how="noinline")
    for n, x in enumerate(i.operands[0].parts):
        value = w.L.pick(D, range(WARP * n, WARP * (n + 1)))
        if kind == "b64":
            w.bail(w.L.any(w.b.fcmp_unordered("uno", *[w.L.number(value)] * 2)))
        w.write(x, kind, value)


def load_matrix(w: Any, i: Instruction) -> None:
    m = matrix_form(i)
    if m.rows != 8:
        raise Unlowered(i.opcode)
    together(w)
    found = shared.load(w, w.read(i.operands[1], "b32"), 16, I32((1 << 8 * m.num) - 1))
    for n, x in enumerate(parts_of(i.operands[0])):
        place, kind = w.L.at(found, n, vector(I32)), vector(I32)
        w.write(x, "b32", w.L.call("matrices.turned", kind, place) if m.trans else w.b.load(place, typ=kind, align=8))


def store_matrix(w: Any, i: Instruction) -> None:
    m, room = matrix_form(i), w.room(512)
    together(w)
    for n, x in enumerate(parts_of(i.operands[1])):
        value, place = w.L.splat(w.read(x, "b32")), w.L.at(room, n, vector(I32))
        w.b.store(value, place, align=8)
        if m.trans:
            w.b.store(w.L.call("matrices.turned", value.type, place), place, align=8)
    shared.store(w, w.read(i.operands[0], "b32"), room, 16, I32((1 << 8 * m.num) - 1))


LOWER = {"mma.sync": mma, "ldmatrix.sync": load_matrix, "stmatrix.sync": store_matrix}
