"""Global memory: the arguments' arrays in one arena, with what may be touched and what was written, byte by byte.

A pointer is a byte offset in the arena. Between two arrays lie guard bytes that belong to nobody, and offset 0 lies in
a guard, so an access out of bounds is one that meets an unmapped byte. Arrays that share memory share it here too.
"""

from typing import Any, NamedTuple

import numpy as np

from .errors import Misaligned, OutOfBounds, PtxError, Uninitialised
from .races import Access

MAPPED, READABLE, READ = 1, 2, 4  # bits of a byte's state
GUARD = 4096
SAFE = 256  # where threads that are switched off pretend to read: bytes of nobody's


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

    def of(self, arena: np.ndarray) -> np.ndarray:
        """The array's elements in the arena, or in its state, as unsigned words."""
        array = self.buffer.array
        return np.ndarray(array.shape, f"u{array.itemsize}", arena.data, self.pointer, array.strides)


def pattern(bit: int) -> int:
    """`bit` in each byte of a 64-bit word."""
    return bit * 0x0101010101010101


def word(bit: int, like: np.ndarray) -> np.ndarray:
    return np.array(pattern(bit), "u8").astype(like.dtype)


def near(a: np.ndarray, b: np.ndarray, width: int) -> bool:
    """Whether words agree, or differ as copies of floats of `width` bits do that were summed in several orders.

    The largest of them sets the scale, since a sum may cancel. Small integers are no such floats: as those they are
    subnormal, and their differences too large.
    """
    if width not in (16, 32, 64) or not a.size:
        return np.array_equal(a, b)
    a, b = (np.ascontiguousarray(x)[..., None].view(f"f{width // 8}").astype(np.float64) for x in (a, b))
    scale = np.fmax(np.abs(a), np.abs(b)).max() * 2.0 ** {16: -6, 32: -14, 64: -30}[width]
    return bool(((a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= scale)).all())


def address_of(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def span(array: np.ndarray) -> tuple[int, int]:
    """First byte of an array's memory, and one past its last."""
    reach = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    first = address_of(array)
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


def in_order(words: np.ndarray, index: np.ndarray, values: list[np.ndarray], function) -> np.ndarray:
    """words[i] = function(words[i], *values) for each of `index`, one after the other; returns what was there before.

    All that meet for the first time go at once, then all that meet for the second time, and so on.
    """
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(index[order]) != 0])
    turn = np.empty(len(index), np.int64)
    turn[order] = np.arange(len(index)) - np.repeat(starts, np.diff(np.r_[starts, len(index)]))
    old = np.empty(len(index), words.dtype)
    by_turn = np.argsort(turn, kind="stable")
    for now in np.split(by_turn, np.flatnonzero(np.diff(turn[by_turn])) + 1):
        old[now] = words[index[now]]
        words[index[now]] = function(old[now], *(v[now] for v in values))
    return old


class GlobalMemory:
    """The arena of one launch.

    buffers    the array arguments
    constants  the module's .global variables
    readable   per argument: False if nothing is written there yet, or bools of its shape, True where it may be read
    """

    def __init__(
        self, buffers: list[Buffer], constants: dict[str, bytes], readable: dict[str, Any], checks: bool = True
    ):
        self.checks = checks
        self.log: list[Access] = []
        self.written: list[tuple[int, int]] = []  # spans of bytes within which something was written
        self.version = 0  # grows when memory changes: what a thread that waits for another looks at
        end = 2 * GUARD
        places = []  # (low, high, offset) of each piece of the caller's memory
        for low, high in joined([span(b.array) for b in buffers if b.array.size]):
            places.append((low, high, -(-end // 256) * 256 + low % 256))
            end = places[-1][2] + high - low + GUARD
        self.pointers = {}
        for name, data in constants.items():
            self.pointers[name] = -(-end // 256) * 256
            end = self.pointers[name] + len(data) + GUARD
        self.bytes = np.zeros(-(-end // 256) * 256, np.uint8)  # pages that nobody touches cost nothing
        self.state = np.zeros(len(self.bytes), np.uint8)
        self.state[SAFE : SAFE + 256] = MAPPED | READABLE | READ
        for name, data in constants.items():
            at = slice(self.pointers[name], self.pointers[name] + len(data))
            self.bytes[at], self.state[at] = np.frombuffer(data, np.uint8), MAPPED | READABLE | READ
        self.regions = [self.place(b, places) for b in buffers if b.array.size]
        self.pointers |= {b.name: GUARD for b in buffers} | {r.buffer.name: r.pointer for r in self.regions}
        self.fill(readable)
        self.words: dict[int, Any] = {size: self.bytes.view(f"u{size}") for size in (1, 2, 4, 8)}
        self.states: dict[int, Any] = {size: self.state.view(f"u{size}") for size in (1, 2, 4, 8)}
        for size in (16, 32):
            wide = [x.view("u8").reshape(-1, size // 8) for x in (self.bytes, self.state)]
            self.words[size], self.states[size] = wide

    @staticmethod
    def place(buffer: Buffer, places: list[tuple[int, int, int]]) -> Region:
        low, high = span(buffer.array)
        shift = next(offset - first for first, last, offset in places if first <= low < last)
        return Region(buffer, address_of(buffer.array) + shift, low + shift, high + shift)

    def fill(self, readable: dict[str, Any]) -> None:
        """Copy the arguments in, and note what may be read."""
        names = [region.buffer.name for region in self.regions]
        if unknown := sorted(set(readable) - set(names)):
            raise ValueError(f"readable names {', '.join(unknown)}; the array arguments are {', '.join(names)}")
        for region in self.regions:
            name, array = region.buffer
            try:
                may_read = np.broadcast_to(np.asarray(readable.get(name, True), bool), array.shape)
            except ValueError:
                shape = list(np.shape(readable[name]))
                raise ValueError(f"readable[{name!r}] has shape {shape}; {name} has {list(array.shape)}") from None
            region.of(self.bytes)[...] = array
            state = region.of(self.state)
            state |= word(MAPPED, state)
            if may_read.all():
                state |= word(READABLE, state)
            else:
                np.bitwise_or(state, word(READABLE, state), out=state, where=may_read)

    def write_back(self) -> None:
        """Give the callers' arrays what the launch wrote."""
        for region in self.regions:
            if any(low < region.high and region.low < high for low, high in self.written):
                region.buffer.array[...] = region.of(self.bytes)

    def index(self, address: np.ndarray, size: int, active, site) -> np.ndarray:
        """Addresses (bytes) -> indices of words of `size` bytes, checked; threads that are off are sent to SAFE."""
        at = address.view(np.int64)
        if active is not None:
            at = np.where(active, at, SAFE)
        if self.checks and int(np.bitwise_or.reduce(at, axis=None)) & (size - 1):
            self.fault(Misaligned, at, size, at & (size - 1) != 0, site)
        return at >> (size.bit_length() - 1)

    @staticmethod
    def has(found: np.ndarray, size: int, bits: int) -> bool:
        """Whether every byte's state, in words of `size`, has all of `bits`."""
        wanted = pattern(bits) & (2 ** (8 * min(size, 8)) - 1)
        return not found.size or int(np.bitwise_and.reduce(found, axis=None)) & wanted == wanted

    def check(self, found: np.ndarray, index: np.ndarray, size: int, bits: int, site) -> None:
        """Raise unless each byte's state has all of `bits`."""
        if not self.has(found, size, bits):
            lacks = lambda b: found & word(b, found) != word(b, found)  # noqa: E731
            kind = OutOfBounds if lacks(MAPPED).any() else Uninitialised
            bad = lacks(MAPPED if kind is OutOfBounds else READABLE)
            self.fault(kind, index * size, size, bad.any(-1) if size > 8 else bad, site)

    def load(self, address: np.ndarray, size: int, active, site) -> np.ndarray:
        """The words at each thread's address, (..., size // 8) of 8 bytes for sizes above 8; checks and notes them."""
        index = self.index(address, size, active, site)
        axis = None if size <= 8 else 0
        if self.checks:
            found = self.states[size].take(index, axis, mode="clip")
            self.check(found, index, size, MAPPED | READABLE, site)
            if not self.has(found, size, READ):
                self.states[size][index] = found | word(READ, found)
        return self.words[size].take(index, axis, mode="clip")

    def store(self, address: np.ndarray, words: np.ndarray, size: int, active, site) -> None:
        """Write each thread's words."""
        index = self.index(address, size, active, site)
        shape = np.broadcast_shapes(index.shape, words.shape[:2], () if active is None else active.shape)
        on = slice(None) if active is None else np.broadcast_to(active, shape)
        index = np.broadcast_to(index, shape)[on]
        words = np.broadcast_to(words, (*shape, *words.shape[2:]))[on]
        if self.checks:
            axis = None if size <= 8 else 0
            found = self.states[size].take(index, axis, mode="clip")
            if not self.has(found, size, MAPPED):
                whole = np.broadcast_to(self.index(address, size, active, site), shape)
                self.check(self.states[size].take(whole, axis, mode="clip"), whole, size, MAPPED, site)
            self.states[size][index] = found | word(READABLE, found)
        self.words[size][index] = words
        self.version += 1
        self.wrote(index, size)

    def wrote(self, index: np.ndarray, size: int) -> None:
        if index.size:
            self.written.append((int(index.min()) * size, (int(index.max()) + 1) * size))

    def stored(self, address: np.ndarray, size: int, active, site) -> np.ndarray:
        """What the words at each thread's address are now, unchecked."""
        return self.words[size].take(self.index(address, size, active, site), None if size <= 8 else 0, mode="clip")

    def atomic(self, address, flat, values, function, size: int, active, site) -> np.ndarray:
        """Apply `function` (old, *values) at each address of `flat`, in order; returns the old values."""
        index = self.index(address, size, active, site)
        if self.checks:
            self.check(self.states[size].take(index, mode="clip"), index, size, MAPPED | READABLE, site)
        words, index = self.words[size], np.clip(flat.view(np.int64) // size, 0, len(self.words[size]) - 1)
        before = words[index]
        self.wrote(index, size)
        old = in_order(words, index, values, function)
        self.version += not np.array_equal(before, words[index])
        return old

    def fault(self, kind: type[PtxError], at: np.ndarray, size: int, bad: np.ndarray, site) -> None:
        """Raise `kind` for the first thread of `bad`."""
        row, thread = (int(i) for i in np.argwhere(bad)[0])
        address = int(np.broadcast_to(at, bad.shape)[row, thread])
        verb = {OutOfBounds: "belongs to no argument", Misaligned: f"is no multiple of {size}"}.get(
            kind, "holds nothing that was written"
        )
        raise site.error(kind, f"{size} bytes at {self.describe(address)}: the address {verb}", row, thread)

    def describe(self, address: int) -> str:
        """An address in the arguments' own words: 'k + 128 bytes, k[0, 1, 0]'."""
        if not self.regions:
            return f"address {address}"
        distance = lambda r: max(r.low - address, address - r.high + 1, 0)  # noqa: E731
        region = min(self.regions, key=distance)
        name, array = region.buffer
        offset = address - region.pointer
        if distance(region):
            past = address - region.high
            return f"{name} {offset:+d} bytes, " + (
                f"{past} past its end" if past >= 0 else f"{-offset} before its start"
            )
        index, rest = [0] * array.ndim, offset
        for axis in sorted(range(array.ndim), key=lambda i: -abs(array.strides[i])):
            if array.strides[axis] > 0:
                index[axis], rest = divmod(rest, array.strides[axis])
        return f"{name}[{', '.join(map(str, index))}]"

    def read_bytes(self, name: str) -> int:
        """How many distinct bytes of an argument were read, to whole elements."""
        region = next(r for r in self.regions if r.buffer.name == name)
        state = region.of(self.state)
        return int(np.count_nonzero(state & word(READ, state))) * state.itemsize
