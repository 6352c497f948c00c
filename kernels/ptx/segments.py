"""Addresses: what a kernel sees for each byte of the caller's arrays, and where the machine keeps that byte.

Each piece of the caller's memory lies in the middle of its own segment of 2**48 addresses, so the upper bits of an
address name the array whose pointer it was derived from, whatever the offset. Addresses below 2**48 are those of this
process, from tables of pointers. All pieces lie in one arena, with guard bytes between them that belong to no array. An
array with large holes falls into several pieces of one segment, as far apart there as in the caller's memory.
"""

from ctypes import c_size_t
from typing import Any, NamedTuple

import numpy as np

from .errors import Refused
from .holes import HOLE, MOST, Close, close

BITS = 48
MIDDLE = 1 << BITS - 1
GUARD = 4096
DATA = object.__basicsize__  # where PyArrayObject, of NumPy's ndarraytypes.h, has its data: first of its own
SURELY = 1 << 32  # integers from here on that equal an address of an array are one


class Buffer(NamedTuple):
    """An array argument: its memory is the caller's, so that results appear in it."""

    name: str
    array: np.ndarray


class Region(NamedTuple):
    """An array's place in the arena."""

    buffer: Buffer
    pointer: int  # of its first element
    low: int  # its first byte, which is another where a stride is negative
    high: int
    strides: tuple[int, ...]  # in the arena

    def of(self, arena: np.ndarray) -> np.ndarray:
        """The array's elements in the arena, or in its state, as unsigned words."""
        array = self.buffer.array
        return np.ndarray(array.shape, f"u{array.itemsize}", arena.data, self.pointer, self.strides)


def address_of(array: np.ndarray) -> int:
    """Of the first element: what __array_interface__ says, in a twentieth of its 3 us."""
    return c_size_t.from_address(id(array) + DATA).value


def span(array: np.ndarray) -> tuple[int, int]:
    """First byte of an array's memory, and one past its last."""
    first = address_of(array)
    if array.flags.c_contiguous:
        return first, first + array.nbytes
    reach = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    return first + sum(r for r in reach if r < 0), first + sum(r for r in reach if r > 0) + array.itemsize


def joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of memory, those that overlap made one."""
    pieces: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if pieces and low < pieces[-1][1]:
            pieces[-1] = (pieces[-1][0], max(pieces[-1][1], high))
        else:
            pieces.append((low, high))
    return pieces


def layout(array: np.ndarray) -> tuple:
    return address_of(array), array.shape, array.strides, array.itemsize


def closed(low: int, high: int, arrays: list[np.ndarray]) -> dict[tuple, Close]:
    """How arrays that share a span of memory lie in the arena without its holes, by layout; {}: the whole span does.

    There they may lie side by side, as keys and values of one cache, but all with the same holes.
    """
    if high - low < HOLE:
        return {}
    here = {layout(a): a for a in arrays if low <= address_of(a) < high}
    alone = [close(a, GUARD) for a in here.values()]
    holes = [x.apart for x in alone if x]
    if not here or len(holes) < len(alone) or any(not np.array_equal(x, holes[0]) for x in holes):
        return {}
    room = max(span(a)[0] - low + x.length for a, x in zip(here.values(), alone, strict=True) if x)
    if np.diff(holes[0]).min() - room < HOLE // 2:
        return {}
    return {key: x._replace(length=room) for key, a in here.items() if (x := close(a, GUARD, room))}


class Segments:
    """The pieces of one launch's memory: equally long arrays, one entry for each, in ascending order of `real`.

    real     its first byte in this process; 0 for the module's own variables, which come last
    arena    its first byte in the arena
    length   bytes
    virtual  its first byte as the kernel sees it, alike in its lowest 8 bits
    """

    def __init__(self, buffers: list[Buffer], constants: dict[str, bytes]):
        arrays = [b.array for b in buffers if b.array.size]
        spans = joined([span(a) for a in arrays])
        if len(spans) + len(constants) >= 1 << 63 - BITS:
            raise ValueError(f"{len(spans)} arrays came; the machine takes {(1 << 63 - BITS) - 1}: pass fewer")
        self.strides: dict[tuple, tuple[int, ...]] = {}  # in the arena, of an array with holes, by its layout
        pieces, end = [], 2 * GUARD
        sizes = [(low, high - low) for low, high in spans] + [(0, len(data)) for data in constants.values()]
        for n, (low, size) in enumerate(sizes):
            first, virtual = -(-end // 256) * 256 + low % 256, (n + 1 << BITS) + MIDDLE + low % 256
            holes = closed(low, low + size, arrays)
            if not holes:
                pieces.append((low, first, size, virtual))
            for piece in list(holes.values())[:1]:
                each = zip(piece.apart.tolist(), piece.at.tolist(), strict=True)
                pieces += [(low + apart, first + at, piece.length, virtual + apart) for apart, at in each]
            self.strides |= {key: piece.strides for key, piece in holes.items()}
            end = pieces[-1][1] + pieces[-1][2] + GUARD
        self.arrays = len(pieces) - len(constants)
        self.real, self.arena, self.length, self.virtual = np.array(pieces, np.int64).reshape(-1, 4).T.copy()
        self.size = -(-end // 256) * 256
        self.constants = dict(zip(constants, range(self.arrays, len(pieces)), strict=True))

    def region(self, buffer: Buffer) -> Region:
        low, high = span(buffer.array)
        first, pointer, last = map(self.placed, (low, address_of(buffer.array), high - 1))
        return Region(buffer, pointer, first, last + 1, self.strides.get(layout(buffer.array), buffer.array.strides))

    def placed(self, byte: int) -> int:
        """Where a byte of an array lies in the arena."""
        n = int(np.searchsorted(self.real[: self.arrays], byte, "right")) - 1
        return int(self.arena[n] - self.real[n]) + byte

    def pointer(self, at: int) -> int:
        """What the kernel sees for a byte of the arena."""
        n = int(np.searchsorted(self.arena, at, "right")) - 1
        return int(self.virtual[n] - self.arena[n]) + at

    def located(self, address: np.ndarray, active: np.ndarray | None, off: int) -> np.ndarray:
        """Addresses -> int64 bytes of the arena: -1 if no piece is near, `off` for threads that are off."""
        address = address.view(np.int64)
        n, into = self.within(address + GUARD // 2, self.virtual)
        near = (into >= 0) & (into < self.length[n] + GUARD)
        at = np.where(near, into + (self.arena[n] - GUARD // 2), -1)
        if not near.all() and self.arrays:  # addresses of this process
            n, into = self.within(address, self.real[: self.arrays])
            at = np.where(~near & (into >= 0) & (into < self.length[n]), self.arena[n] + into, at)
        return at if active is None else np.where(active, at, off)

    @staticmethod
    def within(address: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The last of the pieces that begin, at `base`, no later than each address, and how far it is from there."""
        n = np.maximum(np.searchsorted(base, address, "right") - 1, 0)
        return n, address - base[n]

    def seen(self, words: np.ndarray) -> np.ndarray:
        """64-bit words as the kernel is to see them: what is an address in one of the arrays becomes the kernel's."""
        return self.moved(words, self.real, self.virtual, SURELY)

    def back(self, words: np.ndarray) -> np.ndarray:
        """64-bit words that a kernel wrote, its addresses turned into this process's."""
        return self.moved(words, self.virtual, self.real, 1 << BITS)

    def moved(self, words: np.ndarray, base: np.ndarray, to: np.ndarray, least: int) -> np.ndarray:
        values = words.view(np.int64)
        low, high = (max(least, base[0]), base[self.arrays - 1] + self.length.max()) if self.arrays else (0, -1)
        if not ((values >= low) & (values <= high)).any():
            return words
        n, into = self.within(values, base[: self.arrays])
        address = (values >= least) & (into >= 0) & (into < self.length[n])
        return np.where(address, to[n] + into, values).view(np.uint64)


def arena(size: int, buffers: list[Buffer]) -> tuple[np.ndarray, np.ndarray]:
    """Zeros for the bytes and their state; untouched pages cost nothing. Raises Refused if the system gives no more."""
    try:
        return np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    except MemoryError:
        name, array = max(buffers, key=lambda b: span(b.array)[1] - span(b.array)[0])
        low, high = span(array)
        raise Refused(
            f"the arrays take {size} bytes of memory, twice, which is not to be had. {name} lies over {high - low}, "
            f"with its holes if it falls into more than {MOST} pieces, or shares memory with an array of other holes: "
            "pass fewer rows of it"
        ) from None


def number(value: Any, segments: Segments) -> Any:
    """A number argument as the kernel is to see it; see Segments.seen."""
    if isinstance(value, int) and SURELY <= value < 1 << BITS:
        return int(segments.seen(np.array([value], np.uint64))[0])
    return value
