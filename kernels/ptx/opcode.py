"""The parts of an opcode, and the semantics of an instruction: what the rows of the instruction table are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .floats import Approximation


class Semantics(NamedTuple):
    """One instruction. The function takes an array of bit patterns per source and returns one, or a tuple, per result.

    sources, results  PTX types; a pattern of type t is an unsigned array of BITS[t] bits, a "pred" an array of bool
    section           of the PTX ISA
    carry             "", "in", "out" or "in out": one more bool source at the end, one more bool result at the end
    """

    function: Callable
    sources: tuple[str, ...]
    results: tuple[str, ...]
    section: str = ""
    carry: str = ""


class Opcode(NamedTuple):
    """One spelling taken apart, what moves approximations, and how many sources it is written with (0: unknown)."""

    text: str
    name: str
    types: tuple[str, ...]
    modifiers: tuple[str, ...]
    approximation: Approximation | None
    operands: int

    @property
    def flushes(self) -> bool:
        """.ftz: numbers of f32 that are subnormal become zeros."""
        return "ftz" in self.modifiers

    @property
    def mode(self) -> str:
        """How it rounds; of cvt.rzi "rz", whether to an integer or not."""
        return next((m[:2] if m != "rna" else m for m in self.modifiers if m[:2] in ("rn", "rz", "rm", "rp")), "rn")


BITS = {f"{letter}{n}": n for letter in "bsuf" for n in (8, 16, 32, 64) if letter != "f" or n > 8}
BITS |= {"bf16": 16, "tf32": 32, "f16x2": 32, "bf16x2": 32, "s16x2": 32, "u16x2": 32, "f32x2": 64}
BITS |= {"e4m3x2": 16, "e5m2x2": 16, "e2m3x2": 16, "e3m2x2": 16, "e2m1x2": 8, "ue8m0x2": 16, "pred": 1}


def integer(kind: str, letter: str) -> Any:
    """The NumPy type, of this letter, of a type's patterns: of one of the two numbers where they are packed."""
    if kind == "pred":
        return np.bool_
    bytes = BITS[kind] // (16 if kind.endswith("x2") else 8)
    return np.dtype(f"{letter}{max(bytes, 1)}").type  # two of e2m1 are one byte


UNSIGNED = {kind: integer(kind, "u") for kind in BITS}
NUMPY = {kind: integer(kind, "i" if kind[0] == "s" else "u") for kind in BITS}


SIGNLESS = (np.add, np.subtract, np.multiply)  # of whole numbers: the same bits whether they have a sign or not


def typed(function: Callable, sources: int | tuple[str, ...], result: str = "") -> Callable[[Opcode], Semantics]:
    """A builder for a function of NumPy integers.

    sources  their types, where "" is the opcode's last; or how many of that type
    result   its type, "" for the same
    """

    def build(op: Opcode) -> Semantics:
        t = op.types[-1]
        kinds = (t,) * sources if isinstance(sources, int) else tuple(kind or t for kind in sources)
        views, to = [NUMPY[kind] for kind in kinds], result or t
        pattern = UNSIGNED[to]

        def patterns(*x):
            return function(*(v.view(view) for v, view in zip(x, views, strict=True))).view(pattern)

        if to.endswith("x2"):
            return Semantics(packed(patterns, kinds, to), kinds, (to,))
        plain = function in SIGNLESS or (views == [UNSIGNED[kind] for kind in kinds] and NUMPY[to] is pattern)
        return Semantics(function if plain else patterns, kinds, (to,))

    return build


def elementwise(op: Opcode, function: Callable, n: int) -> Semantics:
    """Semantics of a function on the patterns of n numbers of the opcode's last type, packed in twos if the type is."""
    t = op.types[-1]
    return Semantics(packed(function, (t,) * n, t) if t.endswith("x2") else function, (t,) * n, (t,))


def packed(function: Callable, sources: tuple[str, ...], to: str) -> Callable:
    """A function on the patterns of single numbers made one on registers that hold two each."""

    def both(*x):
        T = max(v.shape[-1] for v in x)  # halves lie along the threads, for NumPy is slow where the last axis is short
        whole = (np.ascontiguousarray(v if v.shape[-1] == T else np.broadcast_to(v, (*v.shape[:-1], T))) for v in x)
        halves = [v.view(UNSIGNED[kind]) for v, kind in zip(whole, sources, strict=True)]
        return np.ascontiguousarray(function(*halves)).view(f"u{BITS[to] // 8}")

    return both
