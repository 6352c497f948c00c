"""The caller's arrays as compiled code works on them, in place: segments of memory, and what is known of each element.

Segments, addresses and names are those of segments.py. An element is the largest power of two of bytes, 8 at most, of
which all arrays that share a segment consist. What a launch writes can be undone: of each chunk of memory there is a
copy from before its first write.
"""

import ctypes
from bisect import bisect_right
from functools import cached_property, lru_cache
from math import gcd
from typing import Any

import numpy as np

from ..holes import HOLE
from ..segments import BITS, MIDDLE, Buffer, Segments, address_of, span
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
COPIED = np.arange(READ, RECORD) == BACKUP
SMALL, SPARE = 1 << 18, 4  # bytes of what is kept for another launch, where pages are mapped already; and how many

_spare: list[np.ndarray] = []
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
        self.whole = any(dense(b.array) and b.array.nbytes == length for b, _ in buffers)

    def writable(self, may_write: Any, fine: Any) -> None:
        """What is to be known if the kernel may write here."""
        names = {b.name for b, _ in self.buffers}
        if (may_write is None or names & may_write) and all(b.array.flags.writeable for b, _ in self.buffers):
            self.planes |= {WRITTEN: (self.shift, 1), DIRTY: (CHUNK, 1), BACKUP: (0, 1), CELLS: (self.shift, 8)}
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
    places         by word, its first byte and one past the last in all pieces, and where each piece's begin from there
    whole          whether all pieces with a STATE are arrays without gaps
    """

    def __init__(self, pieces: list[Piece], came_unwritten: set[str] | frozenset[str]):
        self.known = self.copied = 0
        for piece in pieces:
            if piece.buffers and not (piece.whole and came_unwritten.isdisjoint(b.name for b, _ in piece.buffers)):
                piece.planes[STATE] = piece.shift, 1
        self.places: dict[int, tuple[int, int, list[int]]] = {}
        self.whole = all(p.whole and len(p.buffers) == 1 for p in pieces if STATE in p.planes)
        for word in range(READ, RECORD):
            first = self.known
            for piece in pieces:
                if word in piece.planes:
                    at, size = self.copied if word == BACKUP else self.known, max(1, -(-piece.size(word) // 64)) * 64
                    piece.offsets[word], piece.record[word] = at, at + 1
                    self.copied, self.known = (at + size, self.known) if word == BACKUP else (self.copied, at + size)
            starts = [p.offsets[word] - first for p in pieces if word in p.planes]
            self.places[word] = first, self.known, starts


class Layout:
    """The pieces of arrays of which none overlap, wherever these lie, from which a launch's own are copied.

    before  by array, how many bytes of it lie before its first element
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
        self.planes = Planes(self.pieces, known[2])
        for piece in self.pieces:
            piece.buffers = []


@lru_cache(maxsize=256)
def layout_of(key: tuple, constants: tuple, known: tuple, buffers: Once) -> Layout:
    """For the names, shapes, strides, dtypes, ... of arrays; which may be written to, are fine, and come unwritten."""
    return Layout(buffers.value, constants, known)


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
        if not checks:
            raise Unlowered("a launch without checks")
        self.given, self.variables = buffers, constants
        self.buffers = [(b, address_of(b.array)) for b in buffers if b.array.size]
        self.came_unwritten = {*(readable or {}), *(blank or {})}
        if not {*(readable or {})} <= {b.name for b, _ in self.buffers}:
            raise Unlowered("readable names no argument")
        if not self.apart(may_write, fine):
            self.constants = [np.frombuffer(data, np.uint8) for data in constants.values()]
            self.places(may_write, fine)
            self.plan = Planes(self.pieces, self.came_unwritten)
        for (_, array), _ in self.buffers:
            seen = self.seen(array) if array.itemsize == 8 else array
            if seen is not array and not np.array_equal(seen, array):
                raise Unlowered("a table of pointers")
        self.pointers = {b.name: MIDDLE for b in buffers}
        bases = [p.record[BASE] for p in self.pieces[len(self.pieces) - len(constants) :]]
        self.pointers |= dict(zip(constants, bases, strict=True))
        self.pointers |= {b.name: p.record[BASE] + p.pad + first - p.low for p, b, first in self.placed}
        self.allocate()
        self.states(readable or {}, blank or {})

    @cached_property
    def segments(self) -> Segments:
        """As the NumPy form has them; a launch without words that may be addresses asks for none."""
        return Segments(self.given, self.variables)

    def seen(self, words: np.ndarray) -> np.ndarray:
        return self.segments.seen(words)

    def apart(self, may_write: set[str] | None, fine: set[str] | frozenset[str]) -> bool:
        """The pieces of arrays none of which overlap, as others of the same shapes had them; else False."""
        key = tuple([(b.name, b.array.shape, b.array.strides, b.array.dtype, b.array.flags.writeable, first & 7)
                     for b, first in self.buffers])  # fmt: skip
        writes = may_write if may_write is None else frozenset(may_write)
        known = writes, frozenset(fine), frozenset(self.came_unwritten)
        layout = layout_of(key, tuple(self.variables.items()), known, Once(self.buffers))
        lows = [first - before for (_, first), before in zip(self.buffers, layout.before, strict=True)]
        order, ends = sorted(range(len(lows)), key=lows.__getitem__), 0
        if layout.holes:
            return False
        for n in order:
            if lows[n] < ends:
                return False
            ends = lows[n] + layout.pieces[n].length
        pieces = layout.pieces.copy()
        for rank, n in enumerate(order, 1):
            pieces[n] = pieces[n].moved(lows[n], (rank << BITS) + MIDDLE, [self.buffers[n]])
        self.pieces = [pieces[n] for n in order] + pieces[len(order) :]
        self.placed = [(piece, *pair) for piece, pair in zip(pieces, self.buffers, strict=False)]
        self.constants, self.plan = layout.constants, layout.planes
        return True

    def places(self, may_write: set[str] | None, fine: set[str] | frozenset[str]) -> None:
        """The segments as pieces, and which buffers lie where."""
        if self.segments.strides:
            raise Unlowered("arrays with holes")
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
            piece.writable(may_write, fine)
        self.placed = [(self.pieces[n], *pair) for n, pair in zip(numbers, self.buffers, strict=True)]

    def allocate(self) -> None:
        """Memory for what is known of all pieces: zeros, but for the copies of what was there."""
        size = self.plan.known
        self.room = _spare.pop() if _spare and size <= SMALL else np.zeros(max(size, SMALL), np.uint8)
        self.memory, self.copies = self.room[:size], np.empty(self.plan.copied, np.uint8)
        first = address_of(self.memory) - 1, address_of(self.copies) - 1
        self.table = np.array([p.record for p in self.pieces] or [[0] * RECORD], np.int64)
        planes = self.table[:, READ:]
        planes += np.where(COPIED, first[1], first[0]) * (planes > 0)

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
        whole = self.plan.whole and not readable
        if whole:
            low, high, _ = self.plan.places[STATE]
            self.memory[low:high] = MAPPED | READABLE
        for piece in self.pieces:
            each = piece.buffers if STATE in piece.planes else []
            for (name, array), first in () if whole else each:
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
                    if state.itemsize == 1:  # READABLE is 2
                        state &= ~(blank[name].view(np.uint8) << 1)
                    else:
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
        dirty = {first for first, n in self.sums(DIRTY).items() if n}
        ones = self.sums(READ)
        for piece, (name, array), first in self.placed:
            if array.itemsize == 1 << piece.shift and len(piece.buffers) == 1:
                self.read[name] = ones[piece.offsets[READ]] * array.itemsize
            else:
                self.read[name] = self.items_read(piece, array, first) * array.itemsize
            if name in self.came_unwritten:
                state = self.of(piece, array, first, STATE, True)
                bit = filled(state, READABLE) if state.itemsize > 1 else READABLE
                may_read = state & bit if state.itemsize == 1 else state & bit == bit
                self.left[name] = state.size - int(np.count_nonzero(may_read))
            touched = piece.offsets.get(DIRTY) in dirty
            if written is not None:
                mask = self.of(piece, array, first, WRITTEN) if touched else np.zeros(array.shape, bool)
                written[name] = mask != 0
            if touched and np.count_nonzero(self.of(piece, array, first, WRITTEN, True)):
                self.stored[name] = span(array)
                if array.itemsize == 8 and (words := self.segments.back(array)) is not array:
                    array[...] = words
        if len(self.room) == SMALL and len(_spare) < SPARE:
            self.memory[...] = 0
            _spare.append(self.room)
        del self.memory, self.copies, self.room

    def sums(self, word: int) -> dict[int, int]:
        """By where a plane begins, how many of its bits are set."""
        low, high, starts = self.plan.places[word]
        if not starts:
            return {}
        counts = np.bitwise_count(self.memory[low:high].view(np.uint64))
        found = np.add.reduceat(counts, [x >> 3 for x in starts], dtype=np.int64).tolist()
        return dict(zip([low + x for x in starts], found, strict=True))

    def items_read(self, piece: Piece, array: np.ndarray, first: int) -> int:
        """Of how many items of an array something was read."""
        known = np.unpackbits(self.plane(piece, READ), bitorder="little")
        first = first - piece.low + piece.pad >> piece.shift
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
