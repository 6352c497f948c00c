"""What one spelling of an instruction is made of, and what it means: the words of the instruction table."""

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
    def mode(self) -> str:
        return next((m[:2] if m != "rna" else m for m in self.modifiers if m[:2] in ("rn", "rz", "rm", "rp")), "rn")


BITS = {f"{letter}{n}": n for letter in "bsuf" for n in (8, 16, 32, 64) if letter != "f" or n > 8}
BITS |= {"bf16": 16, "tf32": 32, "f16x2": 32, "bf16x2": 32, "s16x2": 32, "u16x2": 32, "f32x2": 64}
BITS |= {"e4m3x2": 16, "e5m2x2": 16, "pred": 1}
NUMPY: dict[str, Any] = {
    t: np.dtype(f"{'i' if t[0] == 's' else 'u'}{n // 8}").type for t, n in BITS.items() if n > 1
} | {"pred": np.bool_}
UNSIGNED: dict[str, Any] = {t: np.bool_ if n == 1 else np.dtype(f"u{n // 8}").type for t, n in BITS.items()}


def typed(
    function: Callable, n: int = 0, result: str = "", types: tuple[str, ...] = ()
) -> Callable[[Opcode], Semantics]:
    """A builder: `function` on n integers of the opcode's last type, or on `types`, where "" is the opcode's."""

    def build(op: Opcode) -> Semantics:
        sources = tuple(t or op.types[-1] for t in types) if types else (op.types[-1],) * n
        to = result or op.types[-1]
        views = [NUMPY[t] for t in sources]
        return Semantics(
            lambda *x: function(*(v.view(t) for v, t in zip(x, views, strict=True))).view(UNSIGNED[to]), sources, (to,)
        )

    return build


def pairs(function: Callable, sources: list[int], to: int) -> Callable:
    """A function on halves made one on packed registers: their bits are given, and those of the packed result."""

    def packed(*x):
        T = max(v.shape[-1] for v in x)  # halves lie along the threads, for NumPy is slow where the last axis is short
        whole = (np.ascontiguousarray(v if v.shape[-1] == T else np.broadcast_to(v, (*v.shape[:-1], T))) for v in x)
        halves = [v.view(f"u{n // 16}") for v, n in zip(whole, sources, strict=True)]
        return np.ascontiguousarray(function(*halves)).view(f"u{to // 8}")

    return packed


def halves(function: Callable, n: int) -> Callable[[Opcode], Semantics]:
    """A builder for two 16-bit integers in one register."""

    def build(op: Opcode) -> Semantics:
        dtype = np.int16 if op.types[-1][0] == "s" else np.uint16
        return elementwise(op, lambda *x: function(*(v.view(dtype) for v in x)).view(np.uint16), n)

    return build


def elementwise(op: Opcode, function: Callable, n: int) -> Semantics:
    """Semantics of a function on the bits of n scalars of the opcode's type, packed in twos if the type is."""
    t = op.types[-1]
    return Semantics(pairs(function, [BITS[t]] * n, BITS[t]) if t.endswith("x2") else function, (t,) * n, (t,))
