"""The caller's arrays as compiled code works on them, in place: segments of memory, and what is known of each element.

Segments, addresses and names are those of segments.py. An element is the largest power of two of bytes, 8 at most, of
which all arrays that share a segment consist. What a launch writes can be undone: of each chunk of memory there is a
copy from before its first write.
"""

import ctypes
from math import gcd
from typing import Any

import numpy as np

from ..segments import MIDDLE, Buffer, Region, Segments, address_of
from .lower import Unlowered

# Words of a segment's record: the kernel's address, a multiple of 256, that offsets count from; offsets of the first
# byte and one past the last; the address of offset 0; log2 of an element; and then addresses of what is known, 0 where
# nothing need be: by element, bytes (READ, WRITTEN, and STATE of MAPPED and READABLE bits) and words as in accesses.py
# (CELLS, of who wrote, and READERS); by chunk, DIRTY and BACKUP; by line of 64 bytes, LINES, u32, of who read.
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
    extent = array.itemsize
    for stride, n in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if n > 1 and stride != extent:
            return False
        extent *= n
    return True


class Piece:
    """One segment: `arrays` that share the memory from `low` on, and what is known of its elements."""

    def __init__(self, low: int, length: int, virtual: int, arrays: list[np.ndarray]):
        self.low, self.length, self.arrays = low, length, arrays
        self.pad = virtual % 256
        steps = [s for a in arrays for s, n in zip(a.strides, a.shape, strict=True) if n > 1]
        unit = gcd(8, self.pad, *steps, *(x for a in arrays for x in (a.itemsize, address_of(a) - low)))
        self.shift = (unit & -unit).bit_length() - 1 if arrays else 0
        self.planes: dict[int, np.ndarray] = {}
        self.record = np.zeros(RECORD, np.int64)
        self.record[: SHIFT + 1] = virtual - self.pad, self.pad, self.pad + length, low - self.pad, self.shift
        self.plane(READ, np.uint8, self.shift)

    def plane(self, word: int, kind: type, shift: int, make: Any = np.zeros) -> np.ndarray:
        """Make what is known of each 2**shift bytes."""
        plane = self.planes[word] = make((self.pad + self.length - 1 >> shift) + 1, kind)
        self.record[word] = plane.ctypes.data
        return plane

    def writable(self, fine: bool) -> None:
        self.plane(WRITTEN, np.uint8, self.shift)
        self.plane(DIRTY, np.uint8, CHUNK)
        self.plane(BACKUP, np.uint8, 0, np.empty)
        self.plane(CELLS, np.uint64, self.shift)
        self.plane(*((READERS, np.uint64, self.shift) if fine else (LINES, np.uint32, LINE)))

    def of(self, array: np.ndarray, word: int) -> np.ndarray:
        """What a plane of bytes knows of an array: in its shape, words of as many bytes as one of its items has."""
        first = address_of(array) - self.low + self.pad >> self.shift
        strides = [s >> self.shift for s in array.strides]
        return np.ndarray(array.shape, f"u{array.itemsize >> self.shift}", self.planes[word].data, first, strides)

    def undo(self) -> None:
        memory: Any = (ctypes.c_uint8 * self.length).from_address(self.low)
        data = np.frombuffer(memory, np.uint8)
        for chunk in np.flatnonzero(self.planes[DIRTY]).tolist():
            low, high = max(chunk << CHUNK, self.pad), min(chunk + 1 << CHUNK, self.pad + self.length)
            data[low - self.pad : high - self.pad] = self.planes[BACKUP][low:high]


def filled(words: np.ndarray, byte: int) -> np.ndarray:
    """A byte in each byte of a word, in the words' type."""
    return np.array(byte * 0x0101010101010101 & (1 << 64) - 1, "u8").astype(words.dtype)


class Arrays:
    """Global memory of one launch, natively: what memory.GlobalMemory is for the NumPy form.

    buffers    the array arguments
    constants  the module's .global variables
    readable   per argument: False if nothing is written there yet, or bools of its shape, True where it may be read
    blank      per argument: bools of its shape, True where unwritten; reading there is a suspicion
    may_write  the arrays that the kernel may write to; None: any
    fine       numbers of the segments of which it is kept, by element, who read last: what `wants_fine` asked for

    Raises Unlowered for what the NumPy form alone takes: no checks, arrays with holes, tables of pointers.
    """

    def __init__(
        self, buffers: list[Buffer], constants: dict[str, bytes], readable: dict[str, Any] | None = None,
        blank: dict[str, np.ndarray] | None = None, checks: bool = True, may_write: set[str] | None = None,
        fine: frozenset[int] = frozenset(),
    ):  # fmt: skip
        self.segments = segments = Segments(buffers, constants)
        self.buffers = [b for b in buffers if b.array.size]
        if not checks or segments.strides:
            raise Unlowered("a launch without checks" if not checks else "arrays with holes")
        for _, array in self.buffers:
            if array.itemsize == 8 and not np.array_equal(segments.seen(array), array):
                raise Unlowered("a table of pointers")
        self.regions: list[Region] = [segments.region(b) for b in self.buffers]
        self.pointers = {b.name: MIDDLE for b in buffers} | {
            name: int(segments.virtual[n]) for name, n in segments.constants.items()
        }
        self.pointers |= {r.buffer.name: segments.pointer(r.pointer) for r in self.regions}
        self.constants = [np.frombuffer(data, np.uint8) for data in constants.values()]
        self.pieces = self.places(may_write, fine)
        self.came_unwritten = {*(readable or {}), *(blank or {})}
        self.states(readable or {}, blank or {})
        self.table = np.stack([p.record for p in self.pieces]) if self.pieces else np.zeros((1, RECORD), np.int64)
        self.syncs = np.zeros(HEAD + SYNC * SYNCS, np.int64)
        self.lists: list[np.ndarray] = []

    def places(self, may_write: set[str] | None, fine: frozenset[int]) -> list[Piece]:
        pieces, segments = [], self.segments
        for n in range(len(segments.real)):
            low, length, virtual = (int(x[n]) for x in (segments.real, segments.length, segments.virtual))
            if n >= segments.arrays:
                pieces.append(Piece(address_of(self.constants[n - segments.arrays]), length, virtual & ~255, []))
                continue
            here = [b for b in self.buffers if low <= address_of(b.array) < low + length]
            pieces.append(Piece(low, length, virtual, [b.array for b in here]))
            written = may_write is None or any(b.name in may_write for b in here)
            if written and all(b.array.flags.writeable for b in here):
                pieces[-1].writable(n in fine)
        return pieces

    def piece(self, array: np.ndarray) -> Piece:
        n = int(np.searchsorted(self.segments.real[: self.segments.arrays], address_of(array), "right")) - 1
        return self.pieces[n]

    def states(self, readable: dict[str, Any], blank: dict[str, np.ndarray]) -> None:
        """Note which elements there are, and which may be read, where these are not all."""
        arrays = {b.name: b.array for b in self.buffers}
        if not set(readable) <= set(arrays):
            raise Unlowered("readable names no argument")
        for piece in self.pieces[: self.segments.arrays]:
            here = [b for b in self.buffers if self.piece(b.array) is piece]
            whole = any(dense(a) and a.nbytes == piece.length for a in piece.arrays)
            if whole and not any(b.name in self.came_unwritten for b in here):
                continue
            piece.plane(STATE, np.uint8, piece.shift)
            for name, array in here:
                state = piece.of(array, STATE)
                state |= filled(state, MAPPED)
                try:
                    may_read = np.broadcast_to(np.asarray(readable.get(name, True), bool), array.shape)
                except ValueError:
                    raise Unlowered("readable in another shape") from None
                np.bitwise_or(state, filled(state, READABLE), out=state, where=may_read)
            for name, array in here:
                if name in blank:
                    state = piece.of(array, STATE)
                    np.bitwise_and(state, filled(state, 0xFF ^ READABLE), out=state, where=blank[name])

    def fields(self) -> dict[str, int]:
        """Fields of the record of one thread of the CPU, which has its own lists; call once for each."""
        own = [np.zeros(HEAD + row * rows, np.int64) for row, rows in ((CONFLICT, CONFLICTS), (REPLICA, REPLICAS))]
        self.lists += own
        return {
            "segments": self.table.ctypes.data, "segment_count": len(self.pieces), "wants_fine": 0,
            "conflicts": own[0].ctypes.data, "replicas": own[1].ctypes.data, "syncs": self.syncs.ctypes.data,
        }  # fmt: skip

    def conflicts(self) -> np.ndarray:
        """(N, CONFLICT) int64, of all threads, each once: what order.py judges."""
        found = [x[HEAD : HEAD + CONFLICT * int(x[0])].reshape(-1, CONFLICT) for x in self.lists[::2]]
        return np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, CONFLICT), np.int64)

    def log(self) -> np.ndarray:
        """(N, SYNC) int64: the atomics, in order."""
        return self.syncs[HEAD : HEAD + SYNC * int(self.syncs[0])].reshape(-1, SYNC)

    def undo(self) -> None:
        """Give the callers' arrays the bytes that they had before the launch."""
        for piece in self.pieces:
            if DIRTY in piece.planes:
                piece.undo()

    def mask(self, region: Region, word: int) -> np.ndarray:
        """What a plane of bytes knows of an array, in its shape; nothing, 0, where it is not kept."""
        array = region.buffer.array
        piece = self.piece(array)
        return piece.of(array, word) if word in piece.planes else np.zeros(array.shape, np.uint8)

    def stored_to(self) -> list[Region]:
        """The arrays of which the launch wrote something."""
        return [r for r in self.regions if WRITTEN in self.piece(r.buffer.array).planes and self.mask(r, WRITTEN).any()]

    def write_back(self, written: dict[str, np.ndarray] | None = None) -> None:
        """Fill `written` by array, and make addresses of this process of those that the kernel stored."""
        if written is not None:
            for region in self.regions:
                written[region.buffer.name] = self.mask(region, WRITTEN) != 0
        for region in self.stored_to():
            array = region.buffer.array
            if array.itemsize == 8 and (words := self.segments.back(array)) is not array:
                array[...] = words

    def read_bytes(self) -> dict[str, int]:
        """By array, how many distinct bytes were read, to whole elements."""
        masks = {r.buffer.name: self.mask(r, READ) for r in self.regions}
        sizes = {r.buffer.name: r.buffer.array.itemsize for r in self.regions}
        return {name: int(np.count_nonzero(mask)) * sizes[name] for name, mask in masks.items()}

    def unwritten(self) -> dict[str, int]:
        """By array of which something came unwritten, how many elements nothing has written yet."""
        left = {}
        for region in self.regions:
            if region.buffer.name in self.came_unwritten:
                state = self.mask(region, STATE)
                bit = filled(state, READABLE)
                left[region.buffer.name] = int(np.count_nonzero(state & bit != bit))
        return left
