"""NumPy's functions of numbers, called with values of LLVM IR: what shadow/functions.py computes is written as code."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..opcode import BITS
from ..shadow.formats import HALF
from .formats import decode
from .integers import shift
from .lanes import F64, I1, Lanes, element, spelled
from .lower import Unlowered
from .numpy_loops import address


def called(name: str) -> Callable:
    return lambda L, *x: L.intrinsic(name, *x)


def looped(name: str) -> Callable:
    def emit(L: Lanes, x: Any) -> Any:
        if not address(name):
            raise Unlowered(f"{name} of a shadow")
        return L.call(f"numpy.{name}.{spelled(x.type)}", x.type, x)

    return emit


def compared(relation: str) -> Callable:
    return lambda L, a, b: L.b.fcmp_ordered(relation, a, b)


def unequal(L: Lanes, a: Any, b: Any) -> Any:
    """Of numbers, or of predicates."""
    return L.b.xor(a, b) if element(a.type) == I1 else L.b.fcmp_unordered("!=", a, b)


def extreme(L: Lanes, a: Any, b: Any, relation: str) -> Any:
    """np.minimum and np.maximum: a NaN stays."""
    chosen = L.b.select(L.b.fcmp_ordered(relation, a, b), a, b)
    return L.b.select(L.b.fcmp_unordered("uno", a, b), L.b.fadd(a, b), chosen)


def clipped(L: Lanes, x: Any, low: Any, high: Any) -> Any:
    x = L.b.select(L.b.fcmp_ordered("<", x, low), low, x)
    return L.b.select(L.b.fcmp_ordered(">", x, high), high, x)


EMIT: dict[Any, Callable] = {
    np.add: lambda L, a, b: L.b.fadd(a, b), np.subtract: lambda L, a, b: L.b.fsub(a, b),
    np.multiply: lambda L, a, b: L.b.fmul(a, b), np.divide: lambda L, a, b: L.b.fdiv(a, b),
    np.reciprocal: lambda L, x: L.b.fdiv(L.const(x, 1), x), np.negative: lambda L, x: L.b.fneg(x),
    np.absolute: called("fabs"), np.sqrt: called("sqrt"), np.copysign: called("copysign"),
    np.rint: called("roundeven"), np.trunc: called("trunc"), np.floor: called("floor"), np.ceil: called("ceil"),
    np.fmin: called("minnum"), np.fmax: called("maxnum"),
    np.minimum: partial(extreme, relation="<"), np.maximum: partial(extreme, relation=">"),
    np.exp2: looped("ex2"), np.log2: looped("lg2"), np.sin: looped("sin"), np.cos: looped("cos"),
    np.tanh: looped("tanh"), np.equal: compared("=="), np.not_equal: unequal, np.less: compared("<"),
    np.less_equal: compared("<="), np.greater: compared(">"), np.greater_equal: compared(">="),
    np.isnan: lambda L, x: L.b.fcmp_unordered("uno", x, x), np.invert: lambda L, p: L.b.not_(p),
    np.bitwise_and: lambda L, p, q: L.b.and_(p, q), np.logical_or: lambda L, p, q: L.b.or_(p, q),
    np.where: lambda L, p, a, b: L.b.select(p, a, b), np.clip: clipped,
}  # fmt: skip
EITHER = (np.isnan, np.not_equal)  # of a complex number it holds if it does of a part


class Traced(NDArrayOperatorsMixin):
    """A number, or a predicate, of machine code; a pair is complex, as in NumPy.

    parts  values of LLVM IR: one, or those of the real and of the imaginary part
    """

    def __init__(self, L: Lanes, *parts: Any):
        self.L, self.parts = L, parts

    real = property(lambda self: Traced(self.L, self.parts[0]))
    imag = property(lambda self: Traced(self.L, self.parts[1]))

    def joined(self, high: "Traced") -> "Traced":
        """Two numbers as one."""
        return Traced(self.L, *self.parts, *high.parts)

    def part(self, x: Any, n: int) -> Any:
        """A part of an operand, or of a number or array of one."""
        if isinstance(x, Traced):
            return x.parts[n]
        one = np.asarray(x).reshape(-1)[0]
        return F64(float((one.real, one.imag)[n]))

    def __array_ufunc__(self, ufunc: Any, method: str, *x: Any, **kwargs: Any) -> "Traced":
        assert (method, kwargs) == ("__call__", {})
        return self.__array_function__(ufunc, (), x, {})

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> "Traced":
        x, L = [*args, *kwargs.values()], self.L
        count = max(len(y.parts) for y in x if isinstance(y, Traced))
        if function not in EMIT:
            raise Unlowered(f"{function.__name__} of a shadow")
        each = [EMIT[function](L, *L.alike(*(self.part(y, n if wide(y) else 0) for y in x))) for n in range(count)]
        return Traced(L, L.b.or_(*each)) if function in EITHER and count == 2 else Traced(L, *each)


def wide(x: Any) -> bool:
    """Whether an operand has a part for each of a pair; else it is the same for both."""
    return len(x.parts) > 1 if isinstance(x, Traced) else np.iscomplexobj(x)


def exact(L: Lanes, bits: Any, kind: str) -> Traced:
    """The numbers behind patterns of a format."""
    if kind not in HALF:
        known = bits.number if kind == "f32" else None
        return Traced(L, L.cast("fpext", known or decode(L, bits, kind), F64))
    n = BITS[kind] // 2
    low, high = (exact(L, L.resize(x, n), HALF[kind]) for x in (bits, shift(L, "lshr", bits, n)))
    return low.joined(high)
