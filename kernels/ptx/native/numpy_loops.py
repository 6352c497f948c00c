"""NumPy's own loops over float64, called by compiled code: exp2 and its like then have the same bits in both engines.

NumPy takes them from SVML or libm, by the CPU; any other exp2 differs in some last places of float64.
"""

import ctypes
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from . import ir
from .lanes import F32, F64, I64, begun, element, spelled, vector

LOOPS = {"ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh}
# Where PyUFuncObject, of NumPy's ufuncobject.h, has its loops, and then their data.
FUNCTIONS = object.__basicsize__ + 4 * 4


def address(name: str) -> int:
    """Where a loop lies in this process; 0 if it takes data of its own, as NumPy's generic ones do."""
    n = LOOPS[name].types.index("d->d")
    functions, data = (ctypes.c_size_t * 2).from_address(id(LOOPS[name]) + FUNCTIONS)
    function, own = (ctypes.c_size_t.from_address(table + 8 * n).value if table else 0 for table in (functions, data))
    return 0 if own else function


@cache
def symbols() -> dict[str, int]:
    """The names by which compiled code calls the loops, and where they lie."""
    return {f"numpy.{name}": address(name) for name in LOOPS}


def define(name: str, kind: Any, module: ir.Module) -> None:
    """numpy.NAME.KIND: numbers -> the function of each in float64, rounded once to their type."""
    words = ir.FunctionType(ir.VoidType(), [ir.PointerType()] * 4)  # the arrays, how many elements, the strides, data
    loop = module.globals.get(f"numpy.{name}") or ir.Function(module, words, f"numpy.{name}")
    L, (given,) = begun(module, f"numpy.{name}.{spelled(kind)}", kind, kind)
    b, x = L.b, L.cast("fpext", given, F64)
    source, result, table = b.alloca(x.type), b.alloca(x.type), b.alloca(I64, 5)
    b.store(x, source)
    values = [b.ptrtoint(source, I64), b.ptrtoint(result, I64), I64(getattr(kind, "count", 1)), I64(8), I64(8)]
    places = [b.gep(table, [I64(n)], source_etype=I64) for n in range(5)]
    for value, place in zip(values, places, strict=True):
        b.store(value, place)
    arguments = [b.bitcast(places[n], ir.PointerType()) for n in (0, 2, 3)]
    b.call(loop, [*arguments, ir.Constant(ir.PointerType(), None)])
    b.ret(L.cast("fptrunc", b.load(result, typ=x.type), element(kind)))


def defined(*kinds: Any) -> dict[str, Callable[[ir.Module], None]]:
    """What defines the loops in a module, by name."""
    return {f"numpy.{name}.{spelled(kind)}": partial(define, name, kind) for name in LOOPS for kind in kinds}


RUNTIME, WIDE = defined(F32, vector(F32)), defined(F64, vector(F64))  # WIDE: of float64, for a shadow
