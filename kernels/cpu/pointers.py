"""Pointers for Numba: to numbers of any of the engine's dtypes, which are float32 or float64 once loaded.

    pointer("bfloat16", "float32", a)  a Pointer to an address; p + i is i elements on
    at(p, a)                           a Pointer like p, to another address
    read(p, i), write(p, i, x)         one number; int32 and int64 are int64 once read
    prefetch(p, n)                     ask for n elements to be near soon

bfloat16 is the upper half of a float32. Storing rounds to nearest even; int8 takes whole numbers -128 ... 127.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import lower_builtin, models, register_model

from .vectors import FLOATS, I32, I64, LANES, declare, every, literal, operation

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


@operation
def pointer(context, dtype, wide, address):
    """A Pointer to numbers of a dtype, by name, which are "float32" or "float64" once loaded."""
    kind = Pointer(literal(dtype, types.StringLiteral), literal(wide, types.StringLiteral))
    return kind(dtype, wide, types.int64), lambda _, builder, __, args: args[2]


@operation
def at(context, kind, address):
    """A Pointer to an address, of the dtype of another."""
    return kind(kind, types.int64), lambda _, builder, __, args: args[1]


@infer_global(operator.add)  # pyright: ignore[reportOptionalCall]
class PointerAdd(AbstractTemplate):
    def generic(self, args, keywords):
        return args[0](args[0], types.int64) if isinstance(args[0], Pointer) else None


@lower_builtin(operator.add, Pointer, types.Integer)
def add(ctx, builder, signature, args):
    return shifted(builder, signature.args[0], *args)


@operation
def read(context, start, index):
    """The number at start + index."""

    def generate(ctx, builder, signature, args):
        address = shifted(builder, start, *args)
        raw = builder.load(place(builder, address, start.stored), align=start.size)
        if start.scalar != types.int64:
            return widened(builder, start, raw)
        return raw if raw.type == I64 else builder.sext(raw, I64)

    return start.scalar(start, types.int64), generate


@operation
def write(context, start, index, number):
    """Put a number at start + index, where float32, float64 or int64 lie."""

    def generate(ctx, builder, signature, args):
        address, number = shifted(builder, start, *args[:2]), args[2]
        number = number if start.scalar == types.int64 else narrowed(builder, start, number)
        builder.store(number, place(builder, address, start.stored), align=start.size)
        return ctx.get_dummy_value()

    return types.void(start, types.int64, start.scalar), generate


@operation
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


@operation
def elements(context, start, size):
    """How many elements of what start points to take so many bytes."""

    def generate(ctx, builder, signature, args):
        return builder.sdiv(args[1], I64(start.size))

    return types.int64(start, types.int64), generate
