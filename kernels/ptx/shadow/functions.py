"""What instructions compute on float64: functions of NumPy's, which native/traced.py also writes as machine code."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np

from ..parse import Immediate, Instruction
from . import formats as fm
from .formats import HALF, KINDS
from .planes import each, paired

FUNCTIONS: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "fma": lambda a, b, c: a * b + c, "div": np.divide,
    "rcp": np.reciprocal, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "ex2": np.exp2, "lg2": np.log2,
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "abs": np.abs, "neg": np.negative, "cvt": lambda x: x,
    "min": lambda *x: reduce(np.fmin, x), "max": lambda *x: reduce(np.fmax, x),
    "copysign": lambda a, b: np.copysign(b, a),
}  # fmt: skip
# A choice of an integer, and numbers that make one when they are added.
WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
MAGIC = {0x4B000000, 0x4B400000, 0x4330000000000000, 0x4338000000000000}
COMPARED: dict[str, Callable] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "nan": lambda a, b: np.isnan(a + b), "num": lambda a, b: ~np.isnan(a + b),
}  # fmt: skip


def chooses(i: Instruction) -> bool:
    """Whether an instruction rounds to an integer, as the real run does: a choice, like that of a branch."""
    added = i.opcode.startswith(("add", "fma")) and any(x.bits in MAGIC for x in i.operands if isinstance(x, Immediate))
    return added or any(x in i.opcode.split(".") for x in WHOLE)


def choice(i: Instruction) -> Callable | None:
    """What an instruction decides by floats, on float64: a predicate, or a whole number; None of any other."""
    name, *parts = i.opcode.split(".")
    sources, results = fm.pure(i)
    if not sources or sources[0] not in KINDS or not results:
        return None
    if name == "setp":
        test = COMPARED.get(parts[0].removesuffix("u"))
        test = each(test) if test and sources[0] in HALF else test
        return test and (lambda a, b, *_: test(a, b))
    if chooses(i):
        how = next((WHOLE[x] for x in parts if x in WHOLE), np.rint)
        low, high = (-np.inf, np.inf) if results[0] in KINDS or results[0][0] == "b" else range_of(results[0])
        f = FUNCTIONS[name]
        whole = lambda *x: np.clip(how(f(*x)), low, high)  # noqa: E731
        return each(whole) if sources[0] in HALF else whole
    return None


def range_of(kind: str) -> tuple[int, int]:
    """The least and the largest integer of a type."""
    n = int(kind[1:])
    return (-(1 << n - 1), (1 << n - 1) - 1) if kind[0] == "s" else (0, (1 << n) - 1)


def function(i: Instruction, doubts: bool = False) -> Callable | None:
    """What an instruction computes, on float64; None where its real result stands, as that of an integer.

    doubts  whether NaN in is NaN out
    """
    name, *parts = i.opcode.split(".")
    sources, results = fm.pure(i)
    f = FUNCTIONS.get(name) if all(x in KINDS for x in (*sources, *results)) else None
    if f is None or not results or "xorsign" in parts or chooses(i):
        return None
    strict = "NaN" in parts or (doubts and name in ("min", "max"))
    f = (lambda *x: reduce(getattr(np, f"{name}imum"), x)) if strict else f
    if name == "cvt" and len(sources) == 2:
        return lambda a, b: paired(b, a)
    f = partial(np.clip, a_min=0, a_max=1) if "sat" in parts else f
    return each(f) if results[0] in HALF else f


def differs(f: Callable, twins: list, own: list) -> Any:
    """Where f of the twins is not f of the numbers themselves, or they have become NaN; not where these are."""
    became = [np.isnan(a) & ~np.isnan(b) for a, b in zip(twins, own, strict=True)]
    return reduce(np.logical_or, became, f(*twins) != f(*own)) & ~reduce(np.logical_or, map(np.isnan, own))
