"""The caller's arrays as compiled code works on them, in place: segments of memory, and what is known of each element.

Segments, addresses and names are those of segments.py. What a launch writes can be undone: of each chunk of memory
there is a copy from before its first write.
"""

import ctypes
from bisect import bisect_right
from functools import cached_property
from typing import Any

import numpy as np

from ..segments import BITS, MIDDLE, Buffer, Segments, address_of, span
from .lower import Unlowered
from .pieces import (
    BACKUP,
    BASE,
    CHUNK,
    DIRTY,
    MAPPED,
    READ,
    READABLE,
    RECORD,
    STATE,
    WRITTEN,
    Once,
    Piece,
    Planes,
    dense,
    layout_of,
)  # fmt: skip

COPIED = np.arange(READ, RECORD) == BACKUP
SMALL, SPARE = 1 << 22, 4  # bytes of what is kept for another launch, where pages are mapped already; and how many

_spare: list[np.ndarray] = []


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

    Raises Unlowered for what the NumPy form alone takes: arrays with holes, tables of pointers.
    """

    def __init__(
        self, buffers: list[Buffer], constants: dict[str, bytes], readable: dict[str, Any] | None = None,
        blank: dict[str, np.ndarray] | None = None, may_write: set[str] | None = None,
        fine: set[str] | frozenset[str] = frozenset(),
    ):  # fmt: skip
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
        layout = layout_of(key, tuple(self.variables.items()), known, here := Once(self.buffers))
        here.value = None  # the cache keeps it, and would the arrays
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
            low, high = self.plan.states
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
        """Give the callers' arrays the bytes that they had before the launch, unless its end is noted already."""
        for piece in self.pieces:
            if DIRTY in piece.planes and hasattr(self, "memory"):
                memory: Any = (ctypes.c_uint8 * piece.length).from_address(piece.low)
                data = np.frombuffer(memory, np.uint8)
                copies = self.plane(piece, BACKUP)
                for chunk in np.flatnonzero(self.plane(piece, DIRTY)).tolist():
                    low, high = max(chunk << CHUNK, piece.pad), min(chunk + 1 << CHUNK, piece.pad + piece.length)
                    data[low - piece.pad : high - piece.pad] = copies[low:high]

    def end(self, written: dict[str, np.ndarray] | None = None, sums: np.ndarray | None = None) -> None:
        """Note what the launch did, fill `written` by array, and forget the planes.

        sums  by segment, what arrays_counted counts; None: zeros

        Addresses of this process take the place of those that the kernel stored.
        """
        self.read: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.stored: dict[str, tuple[int, int]] = {}
        counts = [[0, 0]] * len(self.pieces) if sums is None else sums.tolist()
        for piece, (name, array), first in self.placed:
            ones, touched = counts[(piece.record[BASE] >> BITS) - 1]
            alone = len(piece.buffers) == 1
            if not alone or array.itemsize != 1 << piece.shift:
                ones = self.items_read(piece, array, first) if ones else 0
            self.read[name] = ones * array.itemsize
            if name in self.came_unwritten:
                state = self.of(piece, array, first, STATE, True)
                bit = filled(state, READABLE) if state.itemsize > 1 else READABLE
                may_read = state & bit if state.itemsize == 1 else state & bit == bit
                self.left[name] = state.size - int(np.count_nonzero(may_read))
            if written is not None:
                mask = self.of(piece, array, first, WRITTEN) if touched else np.zeros(array.shape, bool)
                written[name] = mask != 0
            if touched and (alone or np.count_nonzero(self.of(piece, array, first, WRITTEN, True))):
                self.stored[name] = span(array)
                if array.itemsize == 8 and (words := self.segments.back(array)) is not array:
                    array[...] = words
        if len(self.room) == SMALL and len(_spare) < SPARE:
            self.memory[...] = 0
            _spare.append(self.room)
        del self.memory, self.copies, self.room

    def items_read(self, piece: Piece, array: np.ndarray, first: int) -> int:
        """Of how many items of an array something was read."""
        known = np.unpackbits(self.plane(piece, READ), bitorder="little")
        first = first - piece.low >> piece.shift
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
