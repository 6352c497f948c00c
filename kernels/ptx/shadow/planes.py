"""Twins of numbers in memory: float64 for each two bytes, and the bytes that they belong to.

A twin counts only while memory still holds the bytes it was stored with, so what else writes there need not tell.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..opcode import BITS
from .formats import HALF, exact

CODES = {"f16": 1, "bf16": 2, "f32": 3, "f64": 4}


class Plane:
    """Twins in P rows of `size` bytes, in cells of two bytes. Untouched pages cost nothing."""

    def __init__(self, P: int, size: int):
        self.cells = -(-size // 256) * 128
        self.value = np.zeros(P * self.cells)
        self.code = np.zeros(P * self.cells, np.uint8)
        self.bytes = np.zeros(P * self.cells * 2, np.uint8)
        self.low, self.high = len(self.code), -1  # the first and last cell written

    def read(self, low: np.ndarray, high: np.ndarray, bits: np.ndarray, kind: str) -> Any:
        """Twins where memory holds `bits` of a format; without one, the numbers themselves.

        low, high  the first cells of the number, or of the lower and the upper one of a pair
        """
        if kind in HALF:
            return paired(*(self.read(at, at, x, HALF[kind]) for at, x in zip((low, high), halves(bits), strict=True)))
        found = exact(bits, kind)
        if not self.holds(low):
            return found
        has = self.code.take(low) == CODES[kind]
        has &= self.words(kind).take(low // (BITS[kind] // 16)) == bits
        return np.where(has, self.value.take(low), found)

    def holds(self, cells: np.ndarray) -> bool:
        """Whether any of some cells may have a twin."""
        within = self.high >= 0 and cells.min() <= self.high and cells.max() >= self.low
        return within and bool(self.code.take(cells).any())

    def words(self, kind: str) -> np.ndarray:
        return self.bytes.view(f"u{BITS[kind] // 8}")

    def write(self, low: Any, high: Any, bits: np.ndarray, kind: str | None, value: Any, on: Any = None) -> None:
        """Note twins that are stored with their bits; of a `kind` None, that these bits have none.

        on  (P or 1, T or 1) bool, which threads store; None: all
        """
        if kind in HALF:
            for at, x, part in zip((low, high), halves(bits), (value.real, value.imag), strict=True):
                self.write(at, at, x, HALF[kind], part, on)
            return
        low, bits, value, on = np.broadcast_arrays(low, bits, value, True if on is None else on)
        low, bits, value = low[on], bits[on], value[on]
        if kind is None:
            for n in range(max(bits.itemsize // 2, 1)):
                self.code[low + n] = 0
            return
        self.code[low], self.value[low] = CODES[kind], value
        self.words(kind)[low // (BITS[kind] // 16)] = bits
        self.reach(low.min(initial=self.low), low.max(initial=self.high))

    def reach(self, first: Any, last: Any) -> None:
        self.low, self.high = min(self.low, int(first)), max(self.high, int(last))

    def take(self, at: Any, other: "Plane", there: Any) -> None:
        """Copy cells of another plane, with what is known of them."""
        self.value[at], self.code[at] = other.value[there], other.code[there]
        self.bytes.view("u2")[at] = other.bytes.view("u2")[there]
        if isinstance(at, slice):
            self.reach(at.start, at.stop)
        elif at.size:
            self.reach(at.min(), at.max())


def halves(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper half of each word."""
    both = np.ascontiguousarray(bits).view(f"u{bits.itemsize // 2}")
    return both[..., ::2], both[..., 1::2]


def paired(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Two numbers as one complex128."""
    both = np.empty(np.broadcast_shapes(low.shape, high.shape), np.complex128)
    both.real, both.imag = low, high
    return both


def each(f: Callable) -> Callable:
    """A function of numbers made one of pairs."""
    return lambda *x: paired(f(*(v.real for v in x)), f(*(v.imag for v in x)))
