"""exp2, GELU and LayerNorm on vectors. A number's result depends on that number alone, a row's on that row."""

import math

from llvmlite import ir
from numba import njit

from .memory import load, load_some, store, store_some
from .pointers import read, write
from .vectors import I32, I64, LANES, Vectors, every, filled, lane, lanewise, like, operation, pack, sums, unpack

OPTIONS = {
    "error_model": "numpy",
    "boundscheck": False,
    "nogil": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
LOG2E = 1 / math.log(2)  # exp(x) = exp2(x * LOG2E)
RANGE = {"float32": (-126, 127), "float64": (-1022, 1023)}  # exponents of normal numbers
TERMS = {"float32": 8, "float64": 15}  # the next, (ln(2) / 2)**i / i!, is below the rounding of 1: 5e-9 and 4e-18
BITS = {"float32": (I32, 23), "float64": (I64, 52)}  # of the significand: the exponent is above them


@operation
def exp2(context, v):
    """2 ** v, lane by lane: 0 below the least normal number, infinite above the largest; NaN stays NaN.

    2 ** v = 2 ** n * 2 ** f: n is the nearest whole number, which becomes the exponent's bits; f by Taylor's series.
    """

    def generate(ctx, builder, signature, args):
        return pack(builder, v, [power(builder, v, x) for x in unpack(builder, v, args[0])])

    return v(v), generate


def power(builder, kind: Vectors, x):
    """exp2 of one LLVM vector."""
    least, most = RANGE[kind.dtype]
    low, high, above = (every(kind.vector, float(limit)) for limit in (least, most, most + 2))
    inside = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    inside = builder.select(builder.fcmp_ordered(">", inside, above), above, inside)
    n = lanewise(builder, "rint", builder.select(builder.fcmp_ordered(">", inside, high), high, inside))
    f, total = builder.fsub(inside, n), every(kind.vector, 0.0)
    for i in reversed(range(TERMS[kind.dtype])):
        total = lanewise(builder, "fma", total, f, every(kind.vector, math.log(2) ** i / math.factorial(i)))
    whole, shift = BITS[kind.dtype]
    whole = ir.VectorType(whole, LANES)
    exponent = builder.add(builder.fptosi(n, whole), every(whole, RANGE[kind.dtype][1]))
    scale = builder.bitcast(builder.shl(exponent, every(whole, shift)), kind.vector)
    return builder.select(builder.fcmp_ordered("<", x, low), every(kind.vector, 0.0), builder.fmul(total, scale))


@njit(**OPTIONS)
def gelu_tanh(x):
    """0.5 x (1 + tanh(u)) of a vector, written as x / (1 + exp(-2 u)), which loses nothing where tanh(u) is near -1."""
    u = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    return x / (exp2(u * (-2 * LOG2E)) + 1.0)


@njit(**OPTIONS)
def gelu(y, n, exact):
    """GELU of y (n,), in place.  exact: by the error function, else OpenAI's approximation by tanh"""
    if exact:
        for i in range(n):
            x = read(y, i)
            half = x * like(x, 0.5)
            write(y, i, half + half * like(x, math.erf(x * like(x, math.sqrt(0.5)))))
        return
    whole = n - n % LANES
    for i in range(0, whole, LANES):
        store(y + i, gelu_tanh(load(1, y + i, 0)))
    if whole < n:
        store_some(y + whole, gelu_tanh(load_some(1, y + whole, 0, n - whole)), n - whole)


@njit(**OPTIONS)
def layer_norm(y, x, weight, bias, n, eps):
    """(x - mean) / sqrt(variance + eps) * weight + bias, of one row x (n,) -> y (n,)"""
    whole, zero = n - n % LANES, like(read(x, 0), 0.0)
    total = filled(1, zero)
    for i in range(0, whole, LANES):
        total = total + load(1, x + i, 0)
    mean = lane(sums(total), 0)
    for i in range(whole, n):
        mean += read(x, i)
    mean = mean / like(zero, n)
    total = filled(1, zero)
    for i in range(0, whole, LANES):
        centred = load(1, x + i, 0) - mean
        total = total + centred * centred
    variance = lane(sums(total), 0)
    for i in range(whole, n):
        variance += (read(x, i) - mean) * (read(x, i) - mean)
    scale = like(zero, 1.0) / math.sqrt(variance / like(zero, n) + like(zero, eps))
    for i in range(0, whole, LANES):
        store(y + i, (load(1, x + i, 0) - mean) * scale * load(1, weight + i, 0) + load(1, bias + i, 0))
    for i in range(whole, n):
        write(y, i, (read(x, i) - mean) * scale * read(weight, i) + read(bias, i))
