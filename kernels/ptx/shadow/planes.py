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

    def holds(self, cells: np.ndarray, on: Any = None) -> bool:
        """Whether any of some cells, those of the threads `on`, may have a twin."""
        found = self.code.take(cells) != 0
        return bool((found if on is None else found & on).any())

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

    def recall(self, origin: int, low: int, high: int, earlier: Any) -> None:
        """Copy what earlier launches have left of the bytes from `low` to `high`; the first cell lies at `origin`."""
        for old in earlier:
            first, end = max(low, old.low), min(high, old.high)
            if first < end:
                to, there = (slice(first - x >> 1, end - x + 1 >> 1) for x in (origin, old.origin))
                self.take(to, old.plane, there)

    def take(self, at: Any, other: "Plane", there: Any) -> None:
        """Copy cells of another plane, with what is known of them."""
        self.value[at], self.code[at] = other.value[there], other.code[there]
        self.bytes.view("u2")[at] = other.bytes.view("u2")[there]


def halves(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper half of each word."""
    both = np.ascontiguousarray(bits).view(f"u{bits.itemsize // 2}")
    return both[..., ::2], both[..., 1::2]


def paired(low: Any, high: Any) -> Any:
    """Two numbers as one complex128; of machine code, see native/traced.py, as a pair."""
    if joined := getattr(low, "joined", None):
        return joined(high)
    both = np.empty(np.broadcast_shapes(low.shape, high.shape), np.complex128)
    both.real, both.imag = low, high
    return both


def each(f: Callable) -> Callable:
    """A function of numbers made one of pairs."""
    return lambda *x: paired(f(*(v.real for v in x)), f(*(v.imag for v in x)))
