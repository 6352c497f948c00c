"""Memory for Numba: pointers to numbers of any of the engine's dtypes, which are float32 or float64 once loaded.

    pointer("bfloat16", "float32", a)    a Pointer to an address; p + i is i elements on
    load(n, p, stride)                   n vectors of 16 lanes: at p, p + stride, p + 2 stride ...
    load_some(n, p, stride, live)        the same, but only the first `live` lanes are read; the others are 0
    load_rows(n, p, rows, stride, live)  at p + rows[0] * stride, p + rows[1] * stride ...; rows points to int64
    store(p, v), store_some(p, v, live)  rounded to nearest even; int8 takes whole numbers -128 ... 127
    load_tile(r, c, p, stride)           one vector of c numbers at each of p, p + stride ... (r times); store_tile
    read(p, i), write(p, i, x)           one number; int32 and int64 are int64 once read

A stride counts elements. bfloat16 is the upper half of a float32.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from .vectors import FLOATS, I32, I64, LANES, Vectors, declare, every, filled_up, first_lanes, literal, pack, shuffle, suffix, unpack

I8, I16 = ir.IntType(8), ir.IntType(16)
STORED = {**FLOATS, "float16": ir.HalfType(), "bfloat16": I16, "int8": I8, "int32": I32, "int64": I64}
LINE = 64  # bytes of a cache line
SIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int32": 4, "int64": 8}


class Pointer(types.Type):
    """An address, the dtype of the numbers there, and what they are once loaded: float32 or float64."""

    def __init__(self, dtype: str, wide: str):
        self.dtype, self.wide, self.size, self.stored = dtype, wide, SIZE[dtype], STORED[dtype]
        self.scalar = types.int64 if dtype in ("int32", "int64") else getattr(types, wide)
        super().__init__(f"Pointer({dtype}, {wide})")


@register_model(Pointer)
class PointerModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, I64)


def shifted(builder, kind: Pointer, address, index):
    """The address `index` elements on."""
    return builder.add(address, builder.mul(index, I64(kind.size)))


def place(builder, address, stored):
    """An address as LLVM's pointer."""
    return builder.inttoptr(address, stored.as_pointer())


def widened(builder, kind: Pointer, raw):
    """What was loaded, a number or a vector -> float32 or float64."""

    def like(element):
        return ir.VectorType(element, raw.type.count) if isinstance(raw.type, ir.VectorType) else element

    target = like(FLOATS[kind.wide])
    if kind.dtype == "int8":
        return builder.sitofp(raw, target)
    if kind.dtype == "bfloat16":
        sixteen = every(like(I32), 16) if isinstance(raw.type, ir.VectorType) else I32(16)
        raw = builder.bitcast(builder.shl(builder.zext(raw, like(I32)), sixteen), like(FLOATS["float32"]))
    return raw if raw.type == target else builder.fpext(raw, target)


def narrowed(builder, kind: Pointer, wide):
    """A number or a vector in float32 or float64 -> what is stored."""
    stored = ir.VectorType(kind.stored, LANES) if isinstance(wide.type, ir.VectorType) else kind.stored
    if kind.dtype == "bfloat16":
        return upper_half(builder, wide)
    if kind.dtype == "int8":
        return builder.fptosi(wide, stored)
    return wide if wide.type == stored else builder.fptrunc(wide, stored)


def upper_half(builder, wide):
    """bfloat16 of a vector of float32; a NaN stays one. In whole numbers: the CPU's own instruction drops denormals."""
    whole = ir.VectorType(I32, LANES)
    bits = builder.bitcast(wide, whole)
    odd = builder.and_(builder.lshr(bits, every(whole, 16)), every(whole, 1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, every(whole, 0x7FFF))), every(whole, 16))
    kept = builder.select(builder.fcmp_unordered("uno", wide, wide), every(whole, 0x7FC0), rounded)
    return builder.trunc(kept, ir.VectorType(I16, LANES))


def loaded(builder, kind: Pointer, address, live=None):
    """One vector from an address; with live, only so many lanes of it."""
    vector = ir.VectorType(kind.stored, LANES)
    where = place(builder, address, vector)
    if live is None:
        return widened(builder, kind, builder.load(where, align=kind.size))
    mask = first_lanes(builder, live)
    name = f"llvm.masked.load.{suffix(vector)}.p0"
    function = declare(builder, name, vector, where.type, I32, mask.type, vector)
    nothing = every(vector, 0 if isinstance(kind.stored, ir.IntType) else 0.0)
    return widened(builder, kind, builder.call(function, [where, I32(kind.size), mask, nothing]))


@intrinsic
def pointer(context, dtype, wide, address):
    """A Pointer to numbers of a dtype, by name, which are "float32" or "float64" once loaded."""
    kind = Pointer(literal(dtype, types.StringLiteral), literal(wide, types.StringLiteral))
    return kind(dtype, wide, types.int64), lambda _, builder, __, args: args[2]


@intrinsic
def at(context, kind, address):
    """A Pointer to an address, of the dtype of another."""
    return kind(kind, types.int64), lambda _, builder, __, args: args[1]


@infer_global(operator.add)
class PointerAdd(AbstractTemplate):
    def generic(self, args, keywords):
        return args[0](args[0], types.int64) if isinstance(args[0], Pointer) else None


@lower_builtin(operator.add, Pointer, types.Integer)
def add(ctx, builder, signature, args):
    return shifted(builder, signature.args[0], *args)


@intrinsic
def read(context, start, index):
    """The number at start + index."""

    def generate(ctx, builder, signature, args):
        address = shifted(builder, start, *args)
        raw = builder.load(place(builder, address, start.stored), align=start.size)
        if start.scalar != types.int64:
            return widened(builder, start, raw)
        return raw if raw.type == I64 else builder.sext(raw, I64)

    return start.scalar(start, types.int64), generate


@intrinsic
def write(context, start, index, number):
    """Put a number at start + index, where float32, float64 or int64 lie."""

    def generate(ctx, builder, signature, args):
        address, number = shifted(builder, start, *args[:2]), args[2]
        number = number if start.scalar == types.int64 else narrowed(builder, start, number)
        builder.store(number, place(builder, address, start.stored), align=start.size)
        return ctx.get_dummy_value()

    return types.void(start, types.int64, start.scalar), generate


@intrinsic(prefer_literal=True)
def load(context, n, start, stride):
    """n vectors, at start, start + stride, ..."""
    kind = Vectors(start.wide, literal(n, types.IntegerLiteral))

    def generate(ctx, builder, signature, args):
        addresses = [shifted(builder, start, args[1], builder.mul(args[2], I64(i))) for i in range(kind.n)]
        return pack(builder, kind, [loaded(builder, start, address) for address in addresses])

    return kind(n, start, types.int64), generate


@intrinsic(prefer_literal=True)
def load_some(context, n, start, stride, live):
    """The first `live` lanes of n vectors; the others are 0."""
    kind = Vectors(start.wide, literal(n, types.IntegerLiteral))

    def generate(ctx, builder, signature, args):
        addresses = [shifted(builder, start, args[1], builder.mul(args[2], I64(i))) for i in range(kind.n)]
        return pack(builder, kind, [loaded(builder, start, address, args[3]) for address in addresses])

    return kind(n, start, types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def load_rows(context, n, start, rows, stride, live):
    """The first `live` lanes of n vectors, at start + rows[0] * stride, ...; the other lanes are 0."""
    kind = Vectors(start.wide, literal(n, types.IntegerLiteral))
    whole = isinstance(live, types.IntegerLiteral) and live.literal_value == LANES

    def generate(ctx, builder, signature, args):
        _, begin, indices, stride, live = args
        found = []
        for i in range(kind.n):
            row = builder.load(place(builder, shifted(builder, rows, indices, I64(i)), I64), align=8)
            index = builder.mul(row, stride)
            found.append(loaded(builder, start, shifted(builder, start, begin, index), None if whole else live))
        return pack(builder, kind, found)

    return kind(n, start, rows, types.int64, live if whole else types.int64), generate


@intrinsic
def store(context, start, vectors):
    """Put vectors at start, one after another."""

    def generate(ctx, builder, signature, args):
        for i, vector in enumerate(unpack(builder, vectors, args[1])):
            raw = narrowed(builder, start, vector)
            where = shifted(builder, start, args[0], I64(i * LANES))
            builder.store(raw, place(builder, where, raw.type), align=start.size)
        return ctx.get_dummy_value()

    return types.void(start, vectors), generate


@intrinsic
def store_some(context, start, vectors, live):
    """Put the first `live` lanes of one vector at start."""

    def generate(ctx, builder, signature, args):
        raw, mask = narrowed(builder, start, builder.extract_value(args[1], 0)), first_lanes(builder, args[2])
        where = place(builder, args[0], raw.type)
        name = f"llvm.masked.store.{suffix(raw.type)}.p0"
        function = declare(builder, name, ir.VoidType(), raw.type, where.type, I32, mask.type)
        builder.call(function, [raw, where, I32(start.size), mask])
        return ctx.get_dummy_value()

    return types.void(start, vectors, types.int64), generate


@intrinsic(prefer_literal=True)
def load_tile(context, rows, columns, start, stride):
    """One vector: `columns` elements from start, then from start + stride, ... for so many rows; other lanes repeat."""
    count, width = literal(rows, types.IntegerLiteral), literal(columns, types.IntegerLiteral)
    kind = Vectors(start.wide, 1)

    def generate(ctx, builder, signature, args):
        piece, found = ir.VectorType(start.stored, width), []
        for i in range(count):
            address = shifted(builder, start, args[2], builder.mul(args[3], I64(i)))
            raw = builder.load(place(builder, address, piece), align=start.size)
            found.append(widened(builder, start, raw))
        return pack(builder, kind, [joined(builder, found)])

    return kind(rows, columns, start, types.int64), generate


def joined(builder, pieces: list):
    """Short LLVM vectors, one after another, repeated to fill LANES lanes."""
    pieces = filled_up(pieces)
    while len(pieces) > 1:
        lanes = list(range(2 * pieces[0].type.count))
        pieces = [shuffle(builder, a, b, lanes) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
    count = pieces[0].type.count
    return shuffle(builder, pieces[0], pieces[0], [i % count for i in range(LANES)])


@intrinsic(prefer_literal=True)
def store_tile(context, rows, columns, start, stride, vectors):
    """Put the lanes of one vector where load_tile finds them; start points to the dtype of the vector."""
    count, width = literal(rows, types.IntegerLiteral), literal(columns, types.IntegerLiteral)

    def generate(ctx, builder, signature, args):
        lanes = builder.extract_value(args[4], 0)
        for i in range(count):
            piece = shuffle(builder, lanes, lanes, list(range(i * width, (i + 1) * width)))
            address = shifted(builder, start, args[2], builder.mul(args[3], I64(i)))
            builder.store(piece, place(builder, address, piece.type), align=start.size)
        return ctx.get_dummy_value()

    return types.void(rows, columns, start, types.int64, vectors), generate


@intrinsic(prefer_literal=True)
def prefetch(context, start, n):
    """Ask for the n elements at start to be in the core's second cache soon; they may lie outside any array."""
    lines = range(0, literal(n, types.IntegerLiteral) * start.size, LINE)

    def generate(ctx, builder, signature, args):
        where = place(builder, args[0], I8)
        function = declare(builder, "llvm.prefetch.p0", ir.VoidType(), where.type, I32, I32, I32)
        for line in lines:
            where = place(builder, builder.add(args[0], I64(line)), I8)
            builder.call(function, [where, I32(0), I32(2), I32(1)])
        return ctx.get_dummy_value()

    return types.void(start, n), generate


@intrinsic
def elements(context, start, size):
    """How many elements of what start points to take so many bytes."""

    def generate(ctx, builder, signature, args):
        return builder.sdiv(args[1], I64(start.size))

    return types.int64(start, types.int64), generate
