"""Vectors in memory, for Numba: loaded as float32 or float64 from numbers of any dtype, and stored as them.

    load(n, p, stride)                   n vectors of 16 lanes: at p, p + stride, p + 2 stride ...
    load_some(n, p, stride, live)        the same, but only the first `live` lanes are read; the others are 0
    load_lanes(n, lanes, p, stride, live)  the same of vectors with fewer lanes; live may be below 0
    load_rows(n, p, rows, stride, live)  at p + rows[0] * stride, p + rows[1] * stride ...; rows points to int64
    load_tile(r, c, p, stride)           one vector of c numbers at each of p, p + stride ... (r times); store_tile
    store(p, v), store_some(p, v, live)

A stride counts elements.
"""

from llvmlite import ir
from numba import types

from .pointers import Pointer, narrowed, place, shifted, widened
from .vectors import (
    I32,
    I64,
    LANES,
    Vectors,
    declare,
    every,
    first_lanes,
    literal,
    operation,
    pack,
    shuffle,
    suffix,
    unpack,
)


def loaded(builder, kind: Pointer, address, live=None, lanes: int = LANES):
    """One vector from an address; with live, only so many lanes of it."""
    vector = ir.VectorType(kind.stored, lanes)
    where = place(builder, address, vector)
    if live is None:
        return widened(builder, kind, builder.load(where, align=kind.size))
    mask = first_lanes(builder, live, lanes)
    name = f"llvm.masked.load.{suffix(vector)}.p0"
    function = declare(builder, name, vector, where.type, I32, mask.type, vector)
    nothing = every(vector, 0 if isinstance(kind.stored, ir.IntType) else 0.0)
    return widened(builder, kind, builder.call(function, [where, I32(kind.size), mask, nothing]))


@operation
def load(context, n, start, stride):
    """n vectors, at start, start + stride, ..."""
    kind = Vectors(start.wide, literal(n, types.IntegerLiteral))

    def generate(ctx, builder, signature, args):
        addresses = [shifted(builder, start, args[1], builder.mul(args[2], I64(i))) for i in range(kind.n)]
        return pack(builder, kind, [loaded(builder, start, address) for address in addresses])

    return kind(n, start, types.int64), generate


@operation
def load_some(context, n, start, stride, live):
    """The first `live` lanes of n vectors; the others are 0."""
    kind = Vectors(start.wide, literal(n, types.IntegerLiteral))

    def generate(ctx, builder, signature, args):
        addresses = [shifted(builder, start, args[1], builder.mul(args[2], I64(i))) for i in range(kind.n)]
        return pack(builder, kind, [loaded(builder, start, address, args[3]) for address in addresses])

    return kind(n, start, types.int64, types.int64), generate


@operation
def load_lanes(context, n, lanes, start, stride, live):
    """The first `live` of so many lanes of n vectors, at start, start + stride, ...; the others are 0."""
    kind = Vectors(start.wide, literal(n, types.IntegerLiteral), literal(lanes, types.IntegerLiteral))
    whole = isinstance(live, types.IntegerLiteral) and live.literal_value == LANES

    def generate(ctx, builder, signature, args):
        addresses = [shifted(builder, start, args[2], builder.mul(args[3], I64(i))) for i in range(kind.n)]
        count = None if whole else args[4]
        return pack(builder, kind, [loaded(builder, start, a, count, kind.vector.count) for a in addresses])

    return kind(n, lanes, start, types.int64, live if whole else types.int64), generate


@operation
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


@operation
def store(context, start, vectors):
    """Put vectors at start, one after another."""

    def generate(ctx, builder, signature, args):
        for i, vector in enumerate(unpack(builder, vectors, args[1])):
            raw = narrowed(builder, start, vector)
            where = shifted(builder, start, args[0], I64(i * LANES))
            builder.store(raw, place(builder, where, raw.type), align=start.size)
        return ctx.get_dummy_value()

    return types.void(start, vectors), generate


@operation
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


@operation
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


def filled_up(values: list) -> list:
    """A list, its last value repeated until their number is a power of two."""
    return values + values[-1:] * ((1 << (len(values) - 1).bit_length()) - len(values))


def joined(builder, pieces: list):
    """Short LLVM vectors, one after another, repeated to fill LANES lanes."""
    pieces = filled_up(pieces)
    while len(pieces) > 1:
        lanes = list(range(2 * pieces[0].type.count))
        pieces = [shuffle(builder, a, b, lanes) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
    count = pieces[0].type.count
    return shuffle(builder, pieces[0], pieces[0], [i % count for i in range(LANES)])


@operation
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
