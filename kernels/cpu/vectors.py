"""Vectors for Numba: the few operations of which the engine is made, each of them one LLVM instruction per vector.

A `Vectors` value is n vectors of 16 lanes, float32 or float64, in registers. LLVM computes as written: without fastmath
it changes no order and fuses nothing, so a result's bits depend on the source alone, on any CPU. Where a product and a
sum are rounded together, it says fma.

    a + b, a - b, a * b, a / b   lane by lane; b may be a number. Vectors of one n, or b's n is 1
    maximum(a, b), largest(v)    lane by lane, and among all lanes; NaN if there is one
    first_of(v, live, x)         the first `live` lanes of all, x in the others
    fma(a, b, c)                 a * b + c, rounded once
    outer(acc, x, w)             acc[r, c] + x[r] * w[c], rounded once, for each pair of vectors
    sums(v)                      lane i is the sum of vector i: its lanes i and i + 8 are added, then 4, 2 and 1 apart

Source: LLVM's Language Reference; Numba's manual, "Low-level extension API".
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from .job import LANES

I32, I64 = ir.IntType(32), ir.IntType(64)
FLOATS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


def operation(compute: Callable[..., Any]) -> Callable[..., Any]:
    """An operation for compiled code, as LLVM instructions: Numba's intrinsic, to which constants are known.

    compute  (Numba's context, types of the arguments) -> signature, what generates the instructions
    """
    return intrinsic(prefer_literal=True)(compute)


class Vectors(types.Type):
    """n vectors of LANES numbers, or of fewer, float32 or float64."""

    def __init__(self, dtype: str, n: int, lanes: int = LANES):
        self.dtype, self.n = dtype, n
        self.vector, self.scalar = ir.VectorType(FLOATS[dtype], lanes), getattr(types, dtype)
        super().__init__(f"Vectors({dtype}, {n}, {lanes})")


@register_model(Vectors)
class VectorsModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.ArrayType(kind.vector, kind.n))


def literal(value, kind):
    """The constant that an argument is.  Raises TypingError where Numba does not know it while compiling."""
    if not isinstance(value, kind):
        raise TypingError(f"{value} must be a constant")
    return value.literal_value


def pack(builder, kind: Vectors, vectors):
    """LLVM vectors -> a Vectors value."""
    value = ir.Constant(ir.ArrayType(kind.vector, kind.n), ir.Undefined)
    for i, vector in enumerate(vectors):
        value = builder.insert_value(value, vector, i)
    return value


def unpack(builder, kind: Vectors, value) -> list:
    """A Vectors value -> its LLVM vectors."""
    return [builder.extract_value(value, i) for i in range(kind.n)]


def splat(builder, number, lanes: int = LANES):
    """A number in every lane of an LLVM vector."""
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    return shuffle(builder, builder.insert_element(undefined, number, I32(0)), undefined, [0] * lanes)


def shuffle(builder, a, b, lanes: list[int]):
    """The given lanes of a and b, counted through both."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def every(kind, number):
    """A constant in every lane of an LLVM vector type."""
    return ir.Constant(kind, [number] * kind.count)


def declare(builder, name: str, result, *arguments):
    """A function of LLVM's or of the C library."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def suffix(vector) -> str:
    """How LLVM's functions name a vector type."""
    kind = vector.element
    names = {"float": "f32", "double": "f64", "half": "f16"}
    return f"v{vector.count}" + (f"i{kind.width}" if isinstance(kind, ir.IntType) else names[str(kind)])


def first_lanes(builder, live, lanes: int = LANES):
    """A mask, true in the first `live` lanes."""
    numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(live, I32), lanes))


def lanewise(builder, function: str, *vectors):
    """LLVM's function of this name, on vectors."""
    kind = vectors[0].type
    return builder.call(declare(builder, f"llvm.{function}.{suffix(kind)}", kind, *[kind] * len(vectors)), vectors)


@operation
def filled(context, n, number):
    """n vectors whose lanes all hold a number."""
    kind = Vectors(str(number), literal(n, types.IntegerLiteral))

    def generate(ctx, builder, signature, args):
        return pack(builder, kind, [splat(builder, args[1])] * kind.n)

    return kind(n, number), generate


@operation
def like(context, one, number):
    """A number in the dtype of another."""

    def generate(ctx, builder, signature, args):
        return ctx.cast(builder, args[1], number, one)

    return one(one, number), generate


@operation
def lane(context, vectors, i):
    """Lane i of the only vector, as a number."""

    def generate(ctx, builder, signature, args):
        return builder.extract_element(builder.extract_value(args[0], 0), args[1])

    return vectors.scalar(vectors, types.int64), generate


def binary(symbol, instruction: str):
    """Give Vectors, on the left, an operator."""

    @infer_global(symbol)  # pyright: ignore[reportOptionalCall]
    class Typed(AbstractTemplate):
        def generic(self, args, keywords):
            a, b = args
            if isinstance(a, Vectors):
                return a(a, b if isinstance(b, Vectors) else a.scalar)
            return None

    def compute(ctx, builder, signature, args):
        a, b = signature.args
        ours = unpack(builder, a, args[0])
        theirs = unpack(builder, b, args[1]) if isinstance(b, Vectors) else [splat(builder, args[1])]
        theirs = theirs * a.n if len(theirs) == 1 else theirs
        return pack(builder, a, [getattr(builder, instruction)(x, y) for x, y in zip(ours, theirs, strict=True)])

    for other in (Vectors, types.Float):
        lower_builtin(symbol, Vectors, other)(compute)


for symbol, instruction in {"add": "fadd", "sub": "fsub", "mul": "fmul", "truediv": "fdiv"}.items():
    binary(getattr(operator, symbol), instruction)


@operation
def maximum(context, a, b):
    """The greater, lane by lane; NaN if either is."""

    def generate(ctx, builder, signature, args):
        pairs = zip(*(unpack(builder, a, arg) for arg in args), strict=True)
        return pack(builder, a, [lanewise(builder, "maximum", x, y) for x, y in pairs])

    return a(a, a), generate


@operation
def nearest(context, v):
    """The nearest whole number, lane by lane; halves go to the even one."""

    def generate(ctx, builder, signature, args):
        return pack(builder, v, [lanewise(builder, "rint", x) for x in unpack(builder, v, args[0])])

    return v(v), generate


@operation
def absolute(context, v):
    """|v|, lane by lane."""

    def generate(ctx, builder, signature, args):
        return pack(builder, v, [lanewise(builder, "fabs", x) for x in unpack(builder, v, args[0])])

    return v(v), generate


@operation
def largest(context, v):
    """The largest lane of all vectors, in every lane of one; NaN if one is."""
    kind = Vectors(v.dtype, 1)

    def generate(ctx, builder, signature, args):
        found, *others = unpack(builder, v, args[0])
        for other in others:
            found = lanewise(builder, "maximum", found, other)
        width = LANES
        while width > 1:
            width //= 2
            turned = shuffle(builder, found, found, [(i + width) % LANES for i in range(LANES)])
            found = lanewise(builder, "maximum", found, turned)
        return pack(builder, kind, [found])

    return kind(v), generate


@operation
def first_of(context, v, live, other):
    """The first `live` lanes, counted through all vectors, and a number in the others."""

    def generate(ctx, builder, signature, args):
        vectors = unpack(builder, v, args[0])
        left = [builder.sub(args[1], I64(i * LANES)) for i in range(v.n)]
        masks, number = [first_lanes(builder, live) for live in left], splat(builder, args[2])
        return pack(builder, v, [builder.select(m, x, number) for m, x in zip(masks, vectors, strict=True)])

    return v(v, types.int64, v.scalar), generate


@operation
def fma(context, a, b, c):
    """a * b + c, lane by lane, rounded once."""

    def generate(ctx, builder, signature, args):
        rows = zip(*(unpack(builder, a, arg) for arg in args), strict=True)
        return pack(builder, a, [lanewise(builder, "fma", *row) for row in rows])

    return a(a, a, a), generate


@operation
def outer(context, acc, x, w):
    """acc[r, c] + x[r] * w[c], rounded once, lane by lane.  acc has x.n * w.n vectors, row by row"""

    def generate(ctx, builder, signature, args):
        sums, rows, columns = (unpack(builder, kind, arg) for kind, arg in zip((acc, x, w), args, strict=True))
        pairs = [(row, column) for row in rows for column in columns]
        return pack(builder, acc, [lanewise(builder, "fma", *p, s) for p, s in zip(pairs, sums, strict=True)])

    return acc(acc, x, w), generate


# The lanes of two vectors of 8 that are added, 4, 2 and 1 apart. All but the first stay within 4 lanes, as a register's
# shuffles do, so n sums take about 3 n instructions.
FOLDS = (
    ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]),
    ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]),
    ([0, 2, 8, 10, 4, 6, 12, 14], [1, 3, 9, 11, 5, 7, 13, 15]),
)


def tree(builder, vectors: list):
    """The sums of the lanes of 8 vectors, or of fewer, as one vector of 8 lanes; the last sum fills it up."""
    halves = [[shuffle(builder, v, v, list(range(low, low + 8))) for low in (0, 8)] for v in vectors]
    folded = [builder.fadd(*pair) for pair in halves]
    folded += folded[-1:] * (8 - len(folded))
    pairs = list(zip(folded[:4], folded[4:], strict=True))
    for low, high in FOLDS:
        folded = [builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high)) for a, b in pairs]
        pairs = list(zip(folded[::2], folded[1::2], strict=False))
    return folded[0]


@operation
def sums(context, v):
    """One vector: lane i is the sum of vector i, up to LANES of them; its other lanes repeat them."""
    kind = Vectors(v.dtype, 1)

    def generate(ctx, builder, signature, args):
        vectors = unpack(builder, v, args[0])
        eights = [tree(builder, vectors[i : i + 8]) for i in range(0, v.n, 8)]
        return pack(builder, kind, [shuffle(builder, eights[0], eights[-1], list(range(LANES)))])

    return kind(v), generate
