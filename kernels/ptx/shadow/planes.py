"""Twins of numbers in memory: float64 for each two bytes, and the bytes that they belong to.

A twin counts only while memory still holds the bytes it was stored with, so what else writes there need not tell.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..memory import in_order
from ..opcode import BITS
from .formats import HALF, exact

CODES = {"f16": 1, "bf16": 2, "f32": 3, "f64": 4}


class Plane:
    """Twins in P rows of `size` bytes. Untouched pages cost nothing."""

    def __init__(self, P: int, size: int):
        self.cells = -(-size // 256) * 128  # of two bytes
        self.value = np.zeros(P * self.cells)
        self.code = np.zeros(P * self.cells, np.uint8)
        self.bytes = np.zeros(P * self.cells * 2, np.uint8)
        self.low, self.high = len(self.code), -1  # the first and last cell written

    def places(self, row: Any, at: np.ndarray) -> np.ndarray:
        """Addresses of each row -> cells."""
        return (at >> 1) + np.asarray(row, np.int64) * self.cells

    def words(self, kind: str) -> np.ndarray:
        return self.bytes.view(f"u{BITS[kind] // 8}")

    def read(self, place: np.ndarray, bits: np.ndarray, kind: str) -> np.ndarray:
        """The twins at cells `place`, where memory holds `bits` of a format; without one, the numbers themselves."""
        if kind in HALF:
            half = HALF[kind]
            both = np.ascontiguousarray(bits).view(f"u{BITS[half] // 8}")
            low, high = (self.read(place + n * BITS[half] // 16, both[..., n::2], half) for n in (0, 1))
            return paired(low, high)
        found = exact(bits, kind)
        if self.high < 0 or place.min() > self.high or place.max() < self.low:
            return found
        has = self.code.take(place) == CODES[kind]
        if not has.any():
            return found
        has &= self.words(kind).take(place // (BITS[kind] // 16)) == bits
        return np.where(has, self.value.take(place), found)

    def write(self, place: np.ndarray, bits: np.ndarray, kind: str | None, value: Any, on: Any) -> None:
        """Note twins stored at cells `place`, with their bits; of a `kind` None, that these bits have none.

        on  (P or 1, T or 1) bool, which threads store; None: all
        """
        if kind in HALF:
            half = HALF[kind]
            both = np.ascontiguousarray(bits).view(f"u{BITS[half] // 8}")
            for n, part in enumerate((value.real, value.imag)):
                self.write(place + n * BITS[half] // 16, both[..., n::2], half, part, on)
            return
        shape = np.broadcast_shapes(place.shape, bits.shape, value.shape, (1, 1) if on is None else on.shape)
        chosen = [np.broadcast_to(x, shape) for x in (place, bits, value)]
        place, bits, value = chosen if on is None else (x[np.broadcast_to(on, shape)] for x in chosen)
        if kind is None:
            for n in range(max(bits.itemsize // 2, 1)):
                self.code[place + n] = 0
            return
        self.code[place], self.value[place] = CODES[kind], value
        self.words(kind)[place // (BITS[kind] // 16)] = bits
        self.low, self.high = min(self.low, int(place.min())), max(self.high, int(place.max()))

    def take(self, place: np.ndarray, other: "Plane", there: np.ndarray) -> None:
        """Copy cells of another plane, with what is known of them."""
        if not place.size:
            return
        self.value[place], self.code[place] = other.value[there], other.code[there]
        self.bytes.view("u2")[place] = other.bytes.view("u2")[there]
        self.low, self.high = min(self.low, int(place.min())), max(self.high, int(place.max()))

    def changed(self, place: np.ndarray, before: np.ndarray, value: np.ndarray, kind: str, change: Callable) -> Any:
        """Change twins at cells `place`, one after the other, where memory held `before`; returns the old ones."""
        self.value[place] = self.read(place, before, kind)
        return in_order(self.value, place, [value], change)


def paired(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Two numbers as one complex128."""
    both = np.empty(np.broadcast_shapes(low.shape, high.shape), np.complex128)
    both.real, both.imag = low, high
    return both
