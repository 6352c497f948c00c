"""Pieces of memory that arrays of a launch share, and where what compiled code knows of each of their elements lies.

An element is the largest power of two of bytes, 8 at most, of which all arrays that share a piece consist.
"""

from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np

from ..holes import HOLE
from ..segments import BITS, MIDDLE, Buffer, address_of, span

# Words of a segment's record: the kernel's address, a multiple of 256, that offsets count from; offsets of the first
# byte and one past the last; the address of offset 0; log2 of an element; and then addresses of what is known, 0 where
# nothing need be: by element, a bit (READ, from the first byte on), bytes (WRITTEN, and STATE of MAPPED and READABLE
# bits) and words as in accesses.py (CELLS, of who wrote, and READERS); by chunk, DIRTY and BACKUP; by line of 64 bytes,
# LINES, u32, of who read; and then, of a launch with a shadow, the three of its plane, see twin_cells.py.
BASE, FIRST, LAST, DATA, SHIFT, READ, WRITTEN, STATE, DIRTY, BACKUP, LINES, CELLS, READERS = (*range(13),)
VALUES, CODES, BYTES = 13, 14, 15
RECORD = 16  # words
MAPPED, READABLE = 1, 2
CHUNK, LINE = 12, 6  # log2 of bytes
CONFLICTS, REPLICAS, SYNCS = 1 << 16, 1 << 12, 1 << 20  # rows of each list
# words of a row; the lists begin with HEAD words: how many there are, and, of REPLICAS, whether programs take turns
CONFLICT, REPLICA, SYNC = 6, 8, 4
HEAD = 8
MOST_PROGRAMS = (1 << 22) - 3  # of a grid


def dense(extent: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether an array of elements of so many bytes has no gaps, and no element twice."""
    for stride, n in sorted(zip(map(abs, strides), shape, strict=True)):
        if n > 1 and stride != extent:
            return False
        extent *= n
    return True


@lru_cache(maxsize=1024)
def form(itemsize: int, shape: tuple[int, ...], strides: tuple[int, ...], shift: int) -> tuple[Any, list[int], bool]:
    """What is known of an array byte by byte, for each 1 << shift of its own: words like its items and strides; and
    whether all of it may be gone through in a row."""
    row = dense(itemsize, shape, strides) and min(strides, default=0) >= 0
    return np.dtype(f"u{itemsize >> shift}"), [s >> shift for s in strides], row


class Once:
    """An argument that a cache does not look at."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Once)

    def __hash__(self) -> int:
        return 0


class Piece:
    """One segment: buffers that share the memory from `low` on, each with its first address, and what is known of them.

    planes  by word, of what is known: log2 of how many bytes each entry is of, and bytes of an entry
    """

    def __init__(self, low: int, length: int, virtual: int, buffers: list[tuple[Buffer, int]]):
        self.low, self.length, self.buffers, self.alone = low, length, buffers, len(buffers) == 1
        self.pad = virtual % 256
        unit = 8 if buffers else 1
        for (_, array), first in buffers:
            steps = (s for s, n in zip(array.strides, array.shape, strict=True) if n > 1)
            unit = gcd(unit, self.pad, array.itemsize, first - low, *steps)
        self.shift = (unit & -unit).bit_length() - 1
        self.planes: dict[int, tuple[int, int]] = {READ: (self.shift + 5, 4)}
        self.offsets: dict[int, int] = {}  # of the planes in the memory of all
        self.record = [virtual - self.pad, self.pad, self.pad + length, low - self.pad, self.shift] + [0] * (RECORD - 5)
        self.whole = any(
            dense(b.array.itemsize, b.array.shape, b.array.strides) and b.array.nbytes == length for b, _ in buffers
        )

    def writable(self, may_write: Any, fine: Any) -> None:
        """What is to be known if the kernel may write here."""
        names = {b.name for b, _ in self.buffers}
        if (may_write is None or names & may_write) and all(b.array.flags.writeable for b, _ in self.buffers):
            self.planes |= {WRITTEN: (self.shift, 1), DIRTY: (CHUNK, 1), BACKUP: (0, 1)}
            if fine is not None:
                self.planes[CELLS] = self.shift, 8
                self.planes |= {READERS: (self.shift, 8)} if names & fine else {LINES: (LINE, 4)}

    def moved(self, low: int, base: int, buffers: list[tuple[Buffer, int]]) -> "Piece":
        """The same of other arrays, that lie elsewhere."""
        other, pad = object.__new__(Piece), low % 256
        record = [base, pad, pad + self.length, low - pad, *self.record[SHIFT:]]
        other.__dict__ = self.__dict__ | {"low": low, "pad": pad, "buffers": buffers, "record": record}
        return other

    def size(self, word: int) -> int:
        """Bytes of a plane."""
        shift, each = self.planes[word]
        return ((self.pad + self.length - 1 >> shift) + 1) * each


class Planes:
    """Where what is known of pieces lies, in one stretch of memory for all, and the copies in another.

    Notes it in the pieces' `offsets` and, plus 1, in their records.

    known, copied  bytes of each
    states         the first byte of what is a STATE, and one past the last
    whole          whether all pieces with a STATE are arrays without gaps
    """

    def __init__(self, pieces: list[Piece], came_unwritten: set[str] | frozenset[str]):
        self.known = self.copied = 0
        for piece in pieces:
            if piece.buffers and not (piece.whole and came_unwritten.isdisjoint(b.name for b, _ in piece.buffers)):
                piece.planes[STATE] = piece.shift, 1
        self.whole = all(p.whole and len(p.buffers) == 1 for p in pieces if STATE in p.planes)
        for word in range(READ, RECORD):
            first = self.known
            for piece in pieces:
                if word in piece.planes:
                    at, size = self.copied if word == BACKUP else self.known, max(1, -(-piece.size(word) // 64)) * 64
                    piece.offsets[word], piece.record[word] = at, at + 1
                    self.copied, self.known = (at + size, self.known) if word == BACKUP else (self.copied, at + size)
            if word == STATE:
                self.states = first, self.known


class Layout:
    """The pieces of arrays of which none overlap, wherever these lie, from which a launch's own are copied.

    before  by array, how many bytes of it lie before its first element
    table   the pieces' records
    holes   whether one is so long that it may have holes, see holes.py, or they are too many
    """

    def __init__(self, buffers: list[tuple[Buffer, int]], constants: tuple, known: tuple):
        spans = [span(b.array) for b, _ in buffers]
        self.before = [first - low for (_, first), (low, _) in zip(buffers, spans, strict=True)]
        self.holes = any(high - low >= HOLE for low, high in spans) or len(spans) + len(constants) >= 1 << 63 - BITS
        self.constants = [np.frombuffer(data, np.uint8) for _, data in constants]
        self.pieces = []
        for pair, (low, high) in zip(buffers, spans, strict=True):
            # As far from a multiple of 256 as it can be with the same 3 lowest bits, since planes are longest there.
            self.pieces.append(piece := Piece(low, high - low, 248 + low % 8, [pair]))
            piece.writable(*known[:2])
        for n, data in enumerate(self.constants, 1 + len(buffers)):
            self.pieces.append(Piece(address_of(data), len(data), (n << BITS) + MIDDLE, []))
        self.planes, self.count = Planes(self.pieces, known[2]), len(buffers)
        self.table = np.array([p.record for p in self.pieces], np.int64).reshape(-1, RECORD)
        self.bases = [(n << BITS) + MIDDLE for n in range(1, 1 + len(buffers))]
        for piece in self.pieces:
            piece.buffers = []

    def placed(self, lows: list[int], order: list[int]) -> np.ndarray:
        """The pieces' records, those of arrays where these lie and in their order."""
        table = self.table[[*order, *range(self.count, len(self.table))]]
        low = np.array([lows[n] for n in order], np.int64)
        pad, rows = low & 255, table[: self.count]
        rows[:, LAST] += pad - rows[:, FIRST]
        rows[:, FIRST], rows[:, DATA], rows[:, BASE] = pad, low - pad, self.bases
        return table


@lru_cache(maxsize=256)
def layout_of(key: tuple, constants: tuple, known: tuple, buffers: Once) -> Layout:
    """For the names, shapes, strides, dtypes, ... of arrays; which may be written to, are fine, and come unwritten."""
    return Layout(buffers.value, constants, known)
