"""The caller's arrays as compiled code works on them, in place: segments of memory, and what is known of each element.

Segments, addresses and names are those of segments.py. An element is the largest power of two of bytes, 8 at most, of
which all arrays that share a segment consist. What a launch writes can be undone: of each chunk of memory there is a
copy from before its first write.
"""

import ctypes
from bisect import bisect_right
from math import gcd
from typing import Any

import numpy as np

from ..segments import MIDDLE, Buffer, Segments, address_of, span
from .lower import Unlowered

# Words of a segment's record: the kernel's address, a multiple of 256, that offsets count from; offsets of the first
# byte and one past the last; the address of offset 0; log2 of an element; and then addresses of what is known, 0 where
# nothing need be: by element, a bit (READ), bytes (WRITTEN, and STATE of MAPPED and READABLE bits) and words as in
# accesses.py (CELLS, of who wrote, and READERS); by chunk, DIRTY and BACKUP; by line of 64 bytes, LINES, u32, of who
# read.
WORDS = BASE, FIRST, LAST, DATA, SHIFT, READ, WRITTEN, STATE, DIRTY, BACKUP, LINES, CELLS, READERS = (*range(13),)
RECORD = 16  # words
MAPPED, READABLE = 1, 2
CHUNK, LINE = 12, 6  # log2 of bytes
CONFLICTS, REPLICAS, SYNCS = 1 << 16, 1 << 12, 1 << 20  # rows of each list
CONFLICT, REPLICA, SYNC = 6, 8, 4  # words of a row; the lists begin with HEAD words: how many there are, and whose
HEAD = 8
MOST_PROGRAMS = (1 << 22) - 3  # of a grid


def dense(array: np.ndarray) -> bool:
    """Whether an array has no gaps, and no element twice."""
    if array.flags.c_contiguous:
        return True
    extent = array.itemsize
    for stride, n in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if n > 1 and stride != extent:
            return False
        extent *= n
    return True


class Piece:
    """One segment: buffers that share the memory from `low` on, each with its first address, and what is known of them.

    planes  by word, of what is known: log2 of how many bytes each entry is of, and bytes of an entry
    """

    def __init__(self, low: int, length: int, virtual: int, buffers: list[tuple[Buffer, int]]):
        self.low, self.length, self.buffers = low, length, buffers
        self.pad = virtual % 256
        unit = 8 if buffers else 1
        for (_, array), first in buffers:
            steps = (s for s, n in zip(array.strides, array.shape, strict=True) if n > 1)
            unit = gcd(unit, self.pad, array.itemsize, first - low, *steps)
        self.shift = (unit & -unit).bit_length() - 1
        self.planes: dict[int, tuple[int, int]] = {READ: (self.shift + 5, 4)}
        self.offsets: dict[int, int] = {}  # of the planes in the memory of all
        self.record = [virtual - self.pad, self.pad, self.pad + length, low - self.pad, self.shift] + [0] * (RECORD - 5)

    def writable(self, fine: bool) -> None:
        self.planes |= {WRITTEN: (self.shift, 1), DIRTY: (CHUNK, 1), BACKUP: (0, 1), CELLS: (self.shift, 8)}
        self.planes |= {READERS: (self.shift, 8)} if fine else {LINES: (LINE, 4)}

    def size(self, word: int) -> int:
        """Bytes of a plane."""
        shift, each = self.planes[word]
        return ((self.pad + self.length - 1 >> shift) + 1) * each


def filled(words: np.ndarray, byte: int) -> np.generic:
    """A byte in each byte of a word, in the words' type."""
    return words.dtype.type(byte * 0x0101010101010101 & (1 << 8 * words.itemsize) - 1)


class Arrays:
    """Global memory of one launch, natively: what memory.GlobalMemory is for the NumPy form.

    buffers    the array arguments
    constants  the module's .global variables
    readable   per argument: False if nothing is written there yet, or bools of its shape, True where it may be read
    blank      per argument: bools of its shape, True where unwritten; reading there is a suspicion
    may_write  the arrays that the kernel may write to; None: any
    fine       arrays of which it is kept, by element, who read last: what `wants_fine` asked for

    Raises Unlowered for what the NumPy form alone takes: no checks, arrays with holes, tables of pointers.
    """

    def __init__(
        self, buffers: list[Buffer], constants: dict[str, bytes], readable: dict[str, Any] | None = None,
        blank: dict[str, np.ndarray] | None = None, checks: bool = True, may_write: set[str] | None = None,
        fine: set[str] | frozenset[str] = frozenset(),
    ):  # fmt: skip
        self.segments = segments = Segments(buffers, constants)
        if not checks or segments.strides:
            raise Unlowered("a launch without checks" if not checks else "arrays with holes")
        self.buffers = [(b, address_of(b.array)) for b in buffers if b.array.size]
        for (_, array), _ in self.buffers:
            seen = segments.seen(array) if array.itemsize == 8 else array
            if seen is not array and not np.array_equal(seen, array):
                raise Unlowered("a table of pointers")
        self.constants = [np.frombuffer(data, np.uint8) for data in constants.values()]
        self.places(may_write, fine)
        self.pointers = {b.name: MIDDLE for b in buffers} | {
            name: int(segments.virtual[n]) for name, n in segments.constants.items()
        }
        self.pointers |= {b.name: p.record[BASE] + p.pad + first - p.low for p, b, first in self.placed}
        self.came_unwritten = {*(readable or {}), *(blank or {})}
        if not {*(readable or {})} <= {b.name for b, _ in self.buffers}:
            raise Unlowered("readable names no argument")
        self.allocate()
        self.states(readable or {}, blank or {})

    def places(self, may_write: set[str] | None, fine: set[str] | frozenset[str]) -> None:
        """The segments as pieces, and which buffers lie where."""
        real, length, virtual = (x.tolist() for x in (self.segments.real, self.segments.length, self.segments.virtual))
        arrays, self.pieces = self.segments.arrays, []
        here: list[list[tuple[Buffer, int]]] = [[] for _ in real]
        numbers = [bisect_right(real, first, 0, arrays) - 1 for _, first in self.buffers]
        for n, pair in zip(numbers, self.buffers, strict=True):
            here[n].append(pair)
        for n, buffers in enumerate(here):
            if n >= arrays:
                data = address_of(self.constants[n - arrays])
                self.pieces.append(Piece(data, length[n], virtual[n] & ~255, []))
                continue
            self.pieces.append(piece := Piece(real[n], length[n], virtual[n], buffers))
            names = {b.name for b, _ in buffers}
            if (may_write is None or names & may_write) and all(b.array.flags.writeable for b, _ in buffers):
                piece.writable(bool(names & fine))
        self.placed = [(self.pieces[n], *pair) for n, pair in zip(numbers, self.buffers, strict=True)]

    def allocate(self) -> None:
        """Memory for what is known of all pieces: zeros, but for the copies of what was there."""
        at, copies = 0, 0
        for piece in self.pieces:
            whole = any(dense(b.array) and b.array.nbytes == piece.length for b, _ in piece.buffers)
            if piece.buffers and not (whole and self.came_unwritten.isdisjoint(b.name for b, _ in piece.buffers)):
                piece.planes[STATE] = piece.shift, 1
            for word in piece.planes:
                piece.offsets[word] = copies if word == BACKUP else at
                size = -(-piece.size(word) // 64) * 64
                at, copies = (at, copies + size) if word == BACKUP else (at + size, copies)
        self.memory, self.copies = np.zeros(at, np.uint8), np.empty(copies, np.uint8)
        known, copied = address_of(self.memory), address_of(self.copies)
        for piece in self.pieces:
            for word, offset in piece.offsets.items():
                piece.record[word] = offset + (copied if word == BACKUP else known)
        self.table = np.array([p.record for p in self.pieces] or [[0] * RECORD], np.int64)

    def plane(self, piece: Piece, word: int) -> np.ndarray:
        """Its bytes."""
        first = piece.offsets[word]
        return (self.copies if word == BACKUP else self.memory)[first : first + piece.size(word)]

    def of(self, piece: Piece, array: np.ndarray, first: int, word: int, flat: bool = False) -> np.ndarray:
        """What a plane of bytes knows of an array: in its shape, words of as many bytes as one of its items has.

        flat  in any order and shape, as is soonest gone through
        """
        at, kind = (
            piece.offsets[word] + (first - piece.low + piece.pad >> piece.shift),
            f"u{array.itemsize >> piece.shift}",
        )
        if flat and dense(array) and min(array.strides, default=0) >= 0:
            return np.ndarray((array.size,), kind, self.memory.data, at)
        return np.ndarray(array.shape, kind, self.memory.data, at, [s >> piece.shift for s in array.strides])

    def states(self, readable: dict[str, Any], blank: dict[str, np.ndarray]) -> None:
        """Note which elements there are, and which may be read, where these are not all."""
        for piece in self.pieces:
            each = piece.buffers if STATE in piece.planes else []
            for (name, array), first in each:
                state = self.of(piece, array, first, STATE)
                if name not in readable:
                    state |= filled(state, MAPPED | READABLE)
                    continue
                state |= filled(state, MAPPED)
                try:
                    may_read = np.broadcast_to(np.asarray(readable[name], bool), array.shape)
                except ValueError:
                    raise Unlowered("readable in another shape") from None
                np.bitwise_or(state, filled(state, READABLE), out=state, where=may_read)
            for (name, array), first in each:
                if name in blank:
                    state = self.of(piece, array, first, STATE)
                    np.bitwise_and(state, filled(state, 0xFF ^ READABLE), out=state, where=blank[name])

    def undo(self) -> None:
        """Give the callers' arrays the bytes that they had before the launch."""
        for piece in self.pieces:
            if DIRTY in piece.planes:
                memory: Any = (ctypes.c_uint8 * piece.length).from_address(piece.low)
                data = np.frombuffer(memory, np.uint8)
                copies = self.plane(piece, BACKUP)
                for chunk in np.flatnonzero(self.plane(piece, DIRTY)).tolist():
                    low, high = max(chunk << CHUNK, piece.pad), min(chunk + 1 << CHUNK, piece.pad + piece.length)
                    data[low - piece.pad : high - piece.pad] = copies[low:high]

    def end(self, written: dict[str, np.ndarray] | None = None) -> None:
        """Sum up what the launch did, fill `written` by array, and forget the planes.

        Addresses of this process take the place of those that the kernel stored.
        """
        self.read: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.stored: dict[str, tuple[int, int]] = {}
        dirty = {id(p) for p in self.pieces if DIRTY in p.planes and np.count_nonzero(self.plane(p, DIRTY))}
        for piece, (name, array), first in self.placed:
            self.read[name] = self.items_read(piece, array, first) * array.itemsize
            if name in self.came_unwritten:
                state = self.of(piece, array, first, STATE, True)
                bit = filled(state, READABLE)
                self.left[name] = int(np.count_nonzero(state & bit != bit))
            touched = id(piece) in dirty
            if written is not None:
                mask = self.of(piece, array, first, WRITTEN) if touched else np.zeros(array.shape, bool)
                written[name] = mask != 0
            if touched and np.count_nonzero(self.of(piece, array, first, WRITTEN, True)):
                self.stored[name] = span(array)
                if array.itemsize == 8 and (words := self.segments.back(array)) is not array:
                    array[...] = words
        del self.memory, self.copies

    def items_read(self, piece: Piece, array: np.ndarray, first: int) -> int:
        """Of how many items of an array something was read."""
        bits = self.plane(piece, READ)
        if array.itemsize == 1 << piece.shift and len(piece.buffers) == 1:
            return int(np.bitwise_count(bits.view(np.uint32)).sum())
        known, first = np.unpackbits(bits, bitorder="little"), first - piece.low + piece.pad >> piece.shift
        kind, strides = f"u{array.itemsize >> piece.shift}", [s >> piece.shift for s in array.strides]
        return int(np.count_nonzero(np.ndarray(array.shape, kind, known.data, first, strides)))

    def read_bytes(self) -> dict[str, int]:
        """By array, how many distinct bytes were read, to whole elements."""
        return self.read

    def unwritten(self) -> dict[str, int]:
        """By array of which something came unwritten, how many elements nothing has written yet."""
        return self.left

    def spans(self) -> dict[str, tuple[int, int]]:
        """As Report.stored_to has it."""
        return self.stored
