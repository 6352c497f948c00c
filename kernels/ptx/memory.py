"""Global memory: the arguments' arrays in one arena, with what may be touched and what was written, byte by byte.

segments.py maps addresses to bytes. Guard bytes surround each array: an access out of bounds meets one of them, or is
near no array. Arrays that share memory share it here too.
"""

from functools import cache, partial
from typing import Any

import numpy as np

from .arrays import broadcast, first_of, turns
from .errors import InvalidTensorMap, Misaligned, OutOfBounds, PtxError, Uninitialised
from .locations import described, stray
from .races import Access
from .segments import MIDDLE, Buffer, Region, Segments, arena, span

MAPPED, READABLE, READ = 1, 2, 4  # bits of a byte's state
BLANK = 8  # unwritten, and to be found out whether a read of it changes results; see uninitialised.py
WRITTEN = 16  # by the launch
SAFE = 256  # where threads that are switched off seem to read: bytes of no array


@cache
def word(bit: int, dtype: np.dtype) -> np.ndarray:
    """`bit` in each byte of a word of an unsigned type."""
    return np.array(bit * 0x0101010101010101, "u8").astype(dtype)


def in_order(words: np.ndarray, index: np.ndarray, values: list[np.ndarray], function) -> np.ndarray:
    """words[i] = function(words[i], *values) for each of `index`, one after the other; returns what was there before.

    All that meet for the first time go at once, then all that meet for the second time, and so on.
    """
    turn = turns(index)
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
    blank      per argument: bools of its shape, True where unwritten, which may be read and is noted
    filler     what each byte there holds; None: what the array does
    """

    def __init__(
        self, buffers: list[Buffer], constants: dict[str, bytes], readable: dict[str, Any], checks: bool = True,
        blank: dict[str, np.ndarray] | None = None, filler: int | None = None,
    ):  # fmt: skip
        self.checks = checks
        self.log: list[Access] = []
        self.written: list[tuple[int, int]] = []  # spans of bytes within which something was written
        self.version = 0  # grows when memory changes: what a thread that waits for another looks at
        self.segments = segments = Segments(buffers, constants)
        self.bulk: Any = None  # what is known of bulk copies, once there are any: see tma/global_side.py
        self.bytes, self.state = arena(segments.size, buffers)
        self.state[SAFE : SAFE + 256] = MAPPED | READABLE | READ | WRITTEN
        self.pointers = {name: int(segments.virtual[n]) for name, n in segments.constants.items()}  # as in kernels
        for name, data in constants.items():
            first = int(segments.arena[segments.constants[name]])
            at = slice(first, first + len(data))
            self.bytes[at], self.state[at] = np.frombuffer(data, np.uint8), MAPPED | READABLE | READ
        self.regions = [segments.region(b) for b in buffers if b.array.size]
        self.pointers |= {b.name: MIDDLE for b in buffers}  # of an array without elements
        self.pointers |= {r.buffer.name: segments.pointer(r.pointer) for r in self.regions}
        self.came_unwritten = {*readable, *(blank or {})}
        self.fill(readable)
        self.maps: dict[int, str] = {}  # first byte of each tensor map among the parameters -> its name
        self.untouched: list[Region] = []  # of which nothing is written at all
        self.filler = filler
        self.blank(blank or {}, filler)
        self.doubt: PtxError | None = None  # the first read of what is blank
        self.all_doubtful = False  # whether an array of which nothing is written was read
        self.words: dict[int, Any] = {size: self.bytes.view(f"u{size}") for size in (1, 2, 4, 8)}
        self.states: dict[int, Any] = {size: self.state.view(f"u{size}") for size in (1, 2, 4, 8)}
        for size in (16, 32):
            wide = [x.view("u8").reshape(-1, size // 8) for x in (self.bytes, self.state)]
            self.words[size], self.states[size] = wide

    def fill(self, readable: dict[str, Any]) -> None:
        """Copy the arguments in, and note what may be read."""
        names = [region.buffer.name for region in self.regions]
        if unknown := sorted(set(readable) - set(names)):
            raise ValueError(f"readable names {', '.join(unknown)}; the array arguments are {', '.join(names)}")
        for region in self.regions:
            name, array = region.buffer
            region.of(self.bytes)[...] = self.segments.seen(array) if array.itemsize == 8 else array
            state = region.of(self.state)
            if name not in readable:
                state |= word(MAPPED | READABLE, state.dtype)
                continue
            try:
                may_read = np.broadcast_to(np.asarray(readable[name], bool), array.shape)
            except ValueError:
                shape = list(np.shape(readable[name]))
                raise ValueError(f"readable[{name!r}] has shape {shape}; {name} has {list(array.shape)}") from None
            state |= word(MAPPED, state.dtype)
            np.bitwise_or(state, word(READABLE, state.dtype), out=state, where=may_read)

    def blank(self, blank: dict[str, np.ndarray], filler: int | None) -> None:
        self.blanks = bool(blank)
        for region in self.regions:
            which = blank.get(region.buffer.name)
            if which is None:
                continue
            words, state = region.of(self.bytes), region.of(self.state)
            np.bitwise_or(state, word(BLANK, state.dtype), out=state, where=which)
            if filler is not None:
                words[which] = word(filler, words.dtype)
            self.untouched += [region] if which.all() else []

    def write_back(self, written: dict[str, np.ndarray] | None = None) -> None:
        """Give the callers' arrays what the launch wrote, and `written` which elements, by array; unchecked, none."""
        if self.checks and written is not None:
            states = {r.buffer.name: r.of(self.state) for r in self.regions}
            written |= {name: state & word(WRITTEN, state.dtype) != 0 for name, state in states.items()}
        for region in self.stored_to():
            words = region.of(self.bytes)
            region.buffer.array[...] = self.segments.back(words) if words.itemsize == 8 else words

    def stored_to(self) -> list[Region]:
        """The arrays that the launch wrote to, whatever it wrote."""
        near = [r for r in self.regions if any(low < r.high and r.low < high for low, high in self.written)]
        states = [(r, r.of(self.state)) for r in near]  # arrays may lie in each other's gaps
        return [r for r, state in states if (state & word(WRITTEN, state.dtype)).any()]

    def spans(self) -> dict[str, tuple[int, int]]:
        """As Report.stored_to has it."""
        return {r.buffer.name: span(r.buffer.array) for r in self.stored_to()}

    def located(self, address: np.ndarray, size: int, active, site) -> np.ndarray:
        """Addresses, as kernels see them, of `size` bytes each -> int64 bytes of the arena, SAFE where threads are off.

        Raises Misaligned, OutOfBounds for what is not even near an array; unchecked, that leads to byte 0, of no array.
        """
        self.at = at = self.segments.located(address, active, SAFE)
        if not self.checks:
            return np.maximum(at, 0)
        bits = int(np.bitwise_or.reduce(at, axis=None))
        if bits < 0:
            far = partial(self.stray, wraps=not site.by_map)
            raise self.fault(OutOfBounds, address.view(np.int64), size, at < 0, site, far)
        if bits & (size - 1):
            raise self.fault(Misaligned, at, size, at & (size - 1) != 0, site)
        return at

    @staticmethod
    def has(found: np.ndarray, bits: int) -> bool:
        """Whether every byte's state has all of `bits`."""
        return not found.size or not ~np.bitwise_and.reduce(found, axis=None) & word(bits, found.dtype)

    def check(self, found: np.ndarray, index: np.ndarray, size: int, bits: int, site) -> None:
        """Raise unless each byte's state has all of `bits`."""
        if not self.has(found, bits):
            lacks = lambda b: found & word(b, found.dtype) != word(b, found.dtype)  # noqa: E731
            kind = OutOfBounds if lacks(MAPPED).any() else Uninitialised
            bad = lacks(MAPPED if kind is OutOfBounds else READABLE)
            raise self.fault(kind, index * size, size, bad.any(-1) if size > 8 else bad, site)

    def doubts(self, found: np.ndarray, index: np.ndarray, size: int, site) -> None:
        """Note a read of unwritten bytes."""
        bad = found & word(BLANK, found.dtype) != 0
        if not bad.any():
            return
        bad = bad.any(-1) if size > 8 else bad
        if self.doubt is None:
            self.doubt = self.fault(Uninitialised, index * size, size, bad, site)
        at = np.broadcast_to(index * size, bad.shape)[bad]
        self.all_doubtful |= any(((r.low <= at) & (at < r.high)).any() for r in self.untouched)

    def load(self, at: np.ndarray, size: int, site) -> np.ndarray:
        """The words at each byte of `located`, (..., size // 8) of 8 bytes for sizes above 8; checks and notes them."""
        index = at >> (size.bit_length() - 1)
        if self.checks:
            found = self.states[size].take(index, 0, mode="clip")
            self.check(found, index, size, MAPPED | READABLE, site)
            if self.blanks:
                self.doubts(found, index, size, site)
            if not self.has(found, READ):
                self.states[size][index] = found | word(READ, found.dtype)
        return self.words[size].take(index, 0, mode="clip")

    def store(self, at: np.ndarray, words: np.ndarray, size: int, active, site) -> None:
        """Write each thread's words at a byte of `located`."""
        whole = at >> (size.bit_length() - 1)
        shapes = whole.shape, words.shape, (1, 1) if active is None else active.shape
        shape = tuple(max(lengths) for lengths in zip(*(shape[:2] for shape in shapes), strict=True))
        on = slice(None) if active is None else broadcast(active, shape)
        index = broadcast(whole, shape)[on]
        words = broadcast(words, (*shape, *words.shape[2:]))[on]
        if self.checks:
            found = self.states[size].take(index, 0, mode="clip")
            if not self.has(found, MAPPED):
                self.check(self.states[size].take(whole, 0, mode="clip"), whole, size, MAPPED, site)
            self.keep_maps(whole, size, True if active is None else active, site)
            self.states[size][index] = (found | word(READABLE | WRITTEN, found.dtype)) & ~word(BLANK, found.dtype)
        else:
            self.states[size][index] |= word(WRITTEN, self.states[size].dtype)
        self.words[size][index] = words
        self.version += 1
        self.wrote(index, size)

    def keep_maps(self, index: np.ndarray, size: int, active, site) -> None:
        """Raise if some threads write to a tensor map among the parameters, which come last in the arena."""
        if self.maps and (bad := (index * size >= min(self.maps)) & active).any():
            raise self.fault(InvalidTensorMap, index * size, size, bad, site)

    def wrote(self, index: np.ndarray, size: int) -> None:
        if index.size:
            self.written.append((int(index.min()) * size, (int(index.max()) + 1) * size))

    def stored(self, at: np.ndarray, size: int) -> np.ndarray:
        """What the words at each byte of `located` are now, unchecked."""
        return self.words[size].take(at >> (size.bit_length() - 1), 0, mode="clip")

    def atomic(self, at: np.ndarray, flat, values, function, size: int, site) -> np.ndarray:
        """Apply `function` (old, *values) at each thread's byte of `located`, in the order of `flat`, which takes those
        of the threads that are on; returns the old values."""
        index = at >> (size.bit_length() - 1)
        if self.checks:
            found = self.states[size].take(index, mode="clip")
            self.check(found, index, size, MAPPED | READABLE, site)
            self.keep_maps(index, size, True, site)
            if self.blanks:
                self.doubts(found, index, size, site)
        words, index = self.words[size], flat(index)
        if not self.checks or self.blanks or not self.has(found, WRITTEN):
            states = self.states[size]
            states[index] = states[index] & ~word(BLANK, states.dtype) | word(WRITTEN, states.dtype)
        before = words[index]
        self.wrote(index, size)
        old = in_order(words, index, values, function)
        self.version += not np.array_equal(before, words[index])
        return old

    def fault(self, kind: type[PtxError], at: np.ndarray, size: int, bad: np.ndarray, site, describe=None) -> PtxError:
        """A `kind` for the first thread of `bad`; `describe` puts an element of `at` into words."""
        row, thread = first_of(bad)
        byte = int(np.broadcast_to(at, bad.shape)[row, thread])
        place = describe(byte) if describe else described(byte, self.regions, self.maps)
        verbs = {OutOfBounds: "belongs to no argument", Misaligned: f"is no multiple of {size}"}
        verbs[InvalidTensorMap] = "is a parameter's, and parameters are read-only"
        verb = verbs.get(kind, "holds nothing that was written")
        return site.error(kind, f"{size} bytes at {place}: the address {verb}", row, thread)

    def stray(self, address: int, wraps: bool = True) -> str:
        """An address, as a kernel sees it, that is near no array, in words."""
        return stray(address, self.segments, self.regions, wraps)

    def read_bytes(self) -> dict[str, int]:
        """By array, how many distinct bytes were read, to whole elements; {} without checks, which keep count."""
        found = {}
        for region in self.regions if self.checks else ():
            state = region.of(self.state)
            state = state[tuple(slice(None) if stride else slice(1) for stride in state.strides)]  # each element once
            found[region.buffer.name] = int(np.count_nonzero(state & word(READ, state.dtype))) * state.itemsize
        return found

    def unwritten(self) -> dict[str, int]:
        """By array of which something came unwritten, how many elements nothing has written yet; {} without checks."""
        left = {}
        for region in self.regions if self.checks else ():
            if region.buffer.name in self.came_unwritten:
                state = region.of(self.state)
                written = state & word(READABLE | BLANK, state.dtype) == word(READABLE, state.dtype)
                left[region.buffer.name] = int(np.count_nonzero(~written))
        return left
