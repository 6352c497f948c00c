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
    form,
    layout_of,
)  # fmt: skip

COPIED = np.arange(READ, RECORD) == BACKUP
SMALL, SPARE = 1 << 22, 4  # bytes of what is kept for another launch, where pages are mapped already; and how many

_spare: list[tuple[np.ndarray, np.ndarray]] = []  # zeros, and anything


def filled(words: np.ndarray, byte: int) -> Any:
    """A byte in each byte of a word, in the words' type."""
    return byte if words.itemsize == 1 else words.dtype.type(byte * (0x0101010101010101 >> 64 - 8 * words.itemsize))


class Arrays:
    """Global memory of one launch, natively: what memory.GlobalMemory is for the NumPy form.

    buffers    the array arguments
    constants  the module's .global variables
    readable   per argument: False if nothing is written there yet, or bools of its shape, True where it may be read
    blank      per argument: bools of its shape, True where unwritten; reading there is a suspicion
    may_write  the arrays that the kernel may write to; None: any
    fine       arrays of which it is kept, by element, who read last: what `wants_fine` asked for; None: nobody asks
               who did what

    Raises Unlowered for what the NumPy form alone takes: arrays with holes, tables of pointers.
    """

    def __init__(
        self, buffers: list[Buffer], constants: dict[str, bytes], readable: dict[str, Any] | None = None,
        blank: dict[str, np.ndarray] | None = None, may_write: set[str] | None = None,
        fine: set[str] | frozenset[str] | None = frozenset(),
    ):  # fmt: skip
        self.given, self.variables = buffers, constants
        self.buffers = [(b, address_of(b.array)) for b in buffers if b.array.size]
        self.came_unwritten = {*(readable or {}), *(blank or {})}
        if not {*(readable or {})} <= {b.name for b, _ in self.buffers}:
            raise Unlowered("readable names no argument")
        self.kept: Any = None  # what the module's variables lie in
        if not self.apart(may_write, fine):
            self.places(may_write, fine)
        for (_, array), _ in self.buffers:
            seen = self.seen(array) if array.itemsize == 8 else array
            if seen is not array and not np.array_equal(seen, array):
                raise Unlowered("a table of pointers")
        self.count, bases = len(self.table), self.table[:, BASE].tolist()
        self.pointers = {b.name: MIDDLE for b in buffers}
        self.pointers |= zip(constants, bases[len(bases) - len(constants) :], strict=True)
        self.pointers |= {b.name: bases[n] + (low & 255) + first - low for _, low, n, b, first in self.held}
        self.allocate()
        self.states(readable or {}, blank or {})

    @cached_property
    def segments(self) -> Segments:
        """As the NumPy form has them; a launch without words that may be addresses asks for none."""
        return Segments(self.given, self.variables)

    def seen(self, words: np.ndarray) -> np.ndarray:
        return self.segments.seen(words)

    def apart(self, may_write: set[str] | None, fine: set[str] | frozenset[str] | None) -> bool:
        """The pieces of arrays none of which overlap, as others of the same shapes had them; else False."""
        key = tuple([(b.name, b.array.shape, b.array.strides, b.array.dtype, b.array.flags.writeable, first & 7)
                     for b, first in self.buffers])  # fmt: skip
        writes = may_write if may_write is None else frozenset(may_write)
        known = writes, fine if fine is None else frozenset(fine), frozenset(self.came_unwritten)
        layout = layout_of(key, tuple(self.variables.items()), known, here := Once(self.buffers))
        here.value = None  # the cache keeps it, and would the arrays
        lows = [first - before for (_, first), before in zip(self.buffers, layout.before, strict=True)]
        order, ends, rank = sorted(range(len(lows)), key=lows.__getitem__), 0, [0] * len(lows)
        if layout.holes:
            return False
        for n, which in enumerate(order):
            if lows[which] < ends:
                return False
            ends, rank[which] = lows[which] + layout.pieces[which].length, n
        self.plan, self.kept, self.table = layout.planes, layout, layout.placed(lows, order)
        self.held = [(layout.pieces[k], lows[k], rank[k], *pair) for k, pair in enumerate(self.buffers)]
        return True

    def places(self, may_write: set[str] | None, fine: set[str] | frozenset[str] | None) -> None:
        """The segments as pieces, and which buffers lie where."""
        if self.segments.strides:
            raise Unlowered("arrays with holes")
        real, length, virtual = (x.tolist() for x in (self.segments.real, self.segments.length, self.segments.virtual))
        arrays, pieces = self.segments.arrays, []
        self.kept = [np.frombuffer(data, np.uint8) for data in self.variables.values()]
        here: list[list[tuple[Buffer, int]]] = [[] for _ in real]
        numbers = [bisect_right(real, first, 0, arrays) - 1 for _, first in self.buffers]
        for n, pair in zip(numbers, self.buffers, strict=True):
            here[n].append(pair)
        for n, buffers in enumerate(here):
            if n >= arrays:
                pieces.append(Piece(address_of(self.kept[n - arrays]), length[n], virtual[n] & ~255, []))
                continue
            pieces.append(piece := Piece(real[n], length[n], virtual[n], buffers))
            piece.writable(may_write, fine)
        self.pieces, self.plan = pieces, Planes(pieces, self.came_unwritten)
        self.table = np.array([p.record for p in pieces], np.int64).reshape(-1, RECORD)
        self.held = [(pieces[n], pieces[n].low, n, *pair) for n, pair in zip(numbers, self.buffers, strict=True)]

    @cached_property
    def pieces(self) -> list[Piece]:
        """In the order of the table, where they are not known from the start."""
        moved: dict[int, Piece] = {}
        for piece, low, n, buffer, first in self.held:
            moved[n] = piece.moved(low, (n + 1 << BITS) + MIDDLE, [(buffer, first)])
        return [moved[n] for n in sorted(moved)] + self.kept.pieces[len(moved) :]

    @property
    def placed(self) -> list[tuple[Piece, Buffer, int]]:
        """Each array's piece, and where it begins."""
        return [(self.pieces[n], buffer, first) for _, _, n, buffer, first in self.held]

    def allocate(self) -> None:
        """Memory for what is known of all pieces: zeros, but for the copies of what was there."""
        known, copied = self.plan.known, self.plan.copied
        self.room = _spare.pop() if _spare and max(known, copied) <= SMALL else (
            np.zeros(max(known, SMALL), np.uint8), np.empty(max(copied, SMALL), np.uint8)
        )  # fmt: skip
        self.memory, self.copies = self.room[0][:known], self.room[1][:copied]
        first = address_of(self.memory) - 1, address_of(self.copies) - 1
        planes = self.table[:, READ:]
        planes += np.where(COPIED, first[1], first[0]) * (planes > 0)

    def plane(self, piece: Piece, word: int) -> np.ndarray:
        """Its bytes."""
        first = piece.offsets[word]
        return (self.copies if word == BACKUP else self.memory)[first : first + piece.size(word)]

    def of(self, piece: Piece, low: int, array: np.ndarray, first: int, word: int, flat: bool = False) -> np.ndarray:
        """What a plane of bytes knows of an array: in its shape, words of as many bytes as one of its items has.

        low   where the piece lies
        flat  in any order and shape, as is soonest gone through
        """
        at = piece.offsets[word] + (first - low + (low & 255) >> piece.shift)
        kind, strides, row = form(array.itemsize, array.shape, array.strides, piece.shift)
        if flat and row:
            return np.ndarray((array.size,), kind, self.memory.data, at)
        return np.ndarray(array.shape, kind, self.memory.data, at, strides)

    def states(self, readable: dict[str, Any], blank: dict[str, np.ndarray]) -> None:
        """Note which elements there are, and which may be read, where these are not all."""
        whole = self.plan.whole and not readable
        if whole:
            low, high = self.plan.states
            self.memory[low:high] = MAPPED | READABLE
        for piece, low, _, (name, array), first in () if whole else self.held:
            if STATE not in piece.planes:
                continue
            state = self.of(piece, low, array, first, STATE)
            if name not in readable:
                state |= filled(state, MAPPED | READABLE)
                continue
            state |= filled(state, MAPPED)
            try:
                may_read = np.broadcast_to(np.asarray(readable[name], bool), array.shape)
            except ValueError:
                raise Unlowered("readable in another shape") from None
            np.bitwise_or(state, filled(state, READABLE), out=state, where=may_read)
        for piece, low, _, (name, array), first in self.held if blank else ():
            if name in blank:
                state = self.of(piece, low, array, first, STATE)
                np.copyto(state, filled(state, MAPPED), where=blank[name])

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
        counts = [[0, 0]] * self.count if sums is None else sums.tolist()
        for piece, low, n, (name, array), first in self.held:
            (ones, touched), alone = counts[n], piece.alone
            if not alone or array.itemsize != 1 << piece.shift:
                ones = self.items_read(piece, low, array, first) if ones else 0
            self.read[name] = ones * array.itemsize
            if name in self.came_unwritten:
                state = self.of(piece, low, array, first, STATE, True)
                may_read = state & (bit := filled(state, READABLE))
                may_read = may_read if state.itemsize == 1 else may_read == bit
                self.left[name] = state.size - int(np.count_nonzero(may_read))
            if written is not None:
                mask = self.of(piece, low, array, first, WRITTEN) if touched else np.zeros(array.shape, bool)
                written[name] = mask != 0
            if touched and (alone or np.count_nonzero(self.of(piece, low, array, first, WRITTEN, True))):
                self.stored[name] = span(array)
                if array.itemsize == 8 and (words := self.segments.back(array)) is not array:
                    array[...] = words
        if len(self.room[0]) == len(self.room[1]) == SMALL and len(_spare) < SPARE:
            self.memory[...] = 0
            _spare.append(self.room)
        del self.memory, self.copies, self.room

    def items_read(self, piece: Piece, low: int, array: np.ndarray, first: int) -> int:
        """Of how many items of an array something was read."""
        known = np.unpackbits(self.plane(piece, READ), bitorder="little")
        first = first - low >> piece.shift
        kind, strides, _ = form(array.itemsize, array.shape, array.strides, piece.shift)
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
