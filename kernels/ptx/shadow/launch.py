"""One launch in float64 beside its real run, and what came of it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from ..opcode import BITS
from ..reachable import buffer
from ..segments import Buffer, Region, address_of, span
from .acts import Place
from .constants import Numbers
from .formats import exact
from .planes import CODES, Plane

EVERY, LOST = ("*", 0), ("?", 0)  # among the lines to keep the rounding of: every one; NaN for what is not followed


class Kept(NamedTuple):
    """Twins of an array's memory after a launch; the array keeps its memory from being given to another."""

    array: Any
    low: int  # its first byte, in this process, and one past the last
    high: int
    origin: int  # the byte of the plane's first cell
    plane: Plane

    def within(self, other: "Kept") -> bool:
        return other.low <= self.low and self.high <= other.high


class Asked(NamedTuple):
    """What a launch is to be followed with.

    numbers   floats of the kernel's Python, which constants in its code may stand for, and which of them are rounded
    pointers  what each parameter points at: "bf16"
    doubts    whether what is not followed is NaN
    rounding  Python lines whose rounding is kept
    earlier   what earlier launches of the same route have left in memory
    """

    numbers: Numbers = ((), frozenset())
    pointers: tuple[str, ...] = ()
    doubts: bool = False
    rounding: frozenset[Place] = frozenset()
    earlier: tuple[Kept, ...] = ()

    @property
    def lines(self) -> frozenset[Place]:
        """Those of `rounding` that are lines."""
        return self.rounding - ({LOST} if self.doubts else set())

    def begun(self, world: Any, parameters: dict[str, Any]) -> "InLockstep":
        return InLockstep(self, world, parameters)


def kept_at(asked: Asked, decoded: Any) -> set[int]:
    """The instructions whose rounding is kept."""
    lines = enumerate(decoded.followed.lines if asked.lines else ())
    return {n for n, at in lines if {at, EVERY} & asked.lines}


class Shadow:
    """The twins of one launch, by either engine.

    held     of each array that may have some, its place in a plane, its words and the plane
    lost, choices  instructions, as the launch has found
    errors   by instruction, the largest rounding that it has kept, in units of the result
    """

    held: list[tuple[Region, np.ndarray, Plane]]
    lost: set[int]
    choices: set[int]
    errors: dict[int, float]

    def arrays(self) -> dict[str, np.ndarray]:
        """The twins of each array that has any, by name."""
        found = {r.buffer.name: twins_of(plane, words, r.pointer, r.strides)
                 for r, words, plane in self.held}  # fmt: skip
        return {name: values for name, values in found.items() if values is not None}

    def kept(self, names: Iterable[str]) -> list[Kept]:
        """The twins of these arrays, but for those with holes, for launches to come."""
        arrays = [(r.buffer.array, r.pointer, p) for r, _, p in self.held
                  if r.buffer.name in names and r.strides == r.buffer.array.strides]  # fmt: skip
        return [Kept(x, *span(x), address_of(x) - pointer, plane) for x, pointer, plane in arrays]


class InLockstep(Shadow):
    """That of a launch in NumPy form, while it runs."""

    def __init__(self, asked: Asked, world: Any, parameters: dict[str, Any]):
        decoded, (X, Y, Z), segments = world.decoded, world.grid, world.memory.segments
        self.memory, self.shared = Plane(1, len(world.memory.bytes)), Plane(X * Y * Z, world.shared)
        self.given = {name: float(parameters[name]) for name, kind in decoded.parameters if kind in ("f32", "f64")}
        self.keeps = kept_at(asked, decoded)
        self.errors, self.lost, self.choices = {}, set(), set()
        self.held = [(r, r.of(world.memory.bytes), self.memory) for r in world.memory.regions]
        pieces = zip(segments.real.tolist(), segments.arena.tolist(), segments.length.tolist(), strict=True)
        for real, first, length in ((x, y, z) for x, y, z in pieces if x):
            self.memory.recall(real - first, real, real + length, asked.earlier)

    def entered(self, n: int, own: np.ndarray, rounded: np.ndarray, on: Any) -> np.ndarray:
        """The rounding that instruction n adds, noted in units of its result for the threads `on`; None: all.

        What is no number adds none.
        """
        parts, size = (np.ascontiguousarray(x).view(np.float64) for x in (own - rounded, own + 0 * rounded))
        parts[np.isnan(parts)] = 0
        relative, shape = np.abs(parts) / np.abs(size), (own - rounded).shape
        relative = np.where(True if on is None else on[..., None], relative.reshape(*shape, -1), 0)
        self.errors[n] = max(self.errors.get(n, 0.0), float(relative[np.isfinite(relative)].max(initial=0)))
        return parts.view((own - rounded).dtype)


class Entered(NamedTuple):
    """Rounding at one line: the largest, in units of what was rounded, and what it did to each array, in float64."""

    largest: float
    effect: dict[str, np.ndarray]


class ShadowReport:
    """What a launch's shadow shows.

    arrays  by name, of each array to which numbers were stored: its values in float64, shaped as the array
    lost    Python line -> opcodes that ran there and are not followed: their real results stand
    unmarked  those of them that rounding=[LOST] shows no NaN for: their results went where no twin is
    places  all Python lines of the kernel
    read    bytes, from and up to, of each array that was read
    choices  Python line -> opcodes that would have decided otherwise there, in float64
    """

    def __init__(self, start: Any, came: list[np.ndarray], launch: Any, again: Callable[[Any], Any]):
        """again: runs a launch, start.Start -> what came of it, as `launch` is"""
        self._start, self._came, self._again = start, came, again
        known, shadow = start.decoded.followed, launch.shadow
        by_line = partial(opcodes, start.decoded, launch.counters.issued)
        lost = known.lost | shadow.lost
        self.unmarked = set().union(*by_line(lost - known.marked | shadow.lost).values())
        self.lost, self.choices = by_line(lost), by_line(shadow.choices)
        if folded := {f"the constant {x}" for x in known.folded}:
            self.unmarked |= folded
            self.lost[LOST] = folded | self.lost.get(LOST, set())
        self.places = {*known.lines}
        self.read = {b.name: span(b.array) for b in start.buffers if launch.memory.read_bytes().get(b.name)}
        self.arrays = shadow.arrays()
        self.kept = shadow.kept(self.arrays)

    def of(self, array: Any) -> np.ndarray | None:
        """The values in float64 of an array, or a tensor or view of one, to which this launch stored; else None."""
        return recalled(self.kept, array)

    @cached_property
    def lines(self) -> dict[Place, Entered]:
        """Each Python line at which rounding entered, and what it alone did to the results; runs once for each."""
        lines, size = self._start.decoded.followed.lines, {}
        for n, error in self._rounding(EVERY)[1].items():
            at = lines[n]
            size[at] = max(size.get(at, 0.0), error)
        found = {}
        for at in sorted(at for at in size if size[at]):
            arrays = self._rounding(at)[0]
            found[at] = Entered(size[at], {name: arrays[name] - x for name, x in self.arrays.items()})
        return found

    def _rounding(self, at: Place) -> tuple[dict[str, np.ndarray], dict[int, float]]:
        """The launch once more, from the arrays as they came, with the rounding of one line: its twins, and errors."""
        asked = self._start.shadow._replace(rounding=frozenset({at}))
        with swapped(self._start.buffers, self._came):
            shadow = self._again(self._start._replace(shadow=asked, prints=False)).shadow
            return shadow.arrays(), shadow.errors


def opcodes(decoded: Any, issued: Any, found: set[int]) -> dict[Place, set[str]]:
    """Those of instructions that have run, by Python line."""
    lines: dict[Place, set[str]] = {}
    for n in (n for n in sorted(found) if issued[n]):
        lines.setdefault(decoded.followed.lines[n], set()).add(decoded.steps[n].instruction.opcode)
    return lines


def recalled(kept: Iterable[Kept], array: Any) -> np.ndarray | None:
    """The values in float64 of an array, or of a view of one, whose twins are kept, the latest last; else None."""
    words = buffer("", array).array
    low, high = span(words)
    for old in reversed([*kept]):
        if old.low <= low and high <= old.high:
            return twins_of(old.plane, words, address_of(words) - old.origin, words.strides)
    return None


def twins_of(plane: Plane, words: np.ndarray, first: int, strides: Iterable[int]) -> np.ndarray | None:
    """The twins of an array of words, of which the first is at this byte of a plane; None where nothing has one."""

    def part(x: np.ndarray, kind: Any) -> np.ndarray:
        """What a plane has for each two bytes, of each word."""
        size = x.nbytes // plane.cells
        return np.ndarray(words.shape, kind, x.data, (first >> 1) * size, [(s >> 1) * size for s in strides])

    fits = {kind: code for kind, code in CODES.items() if BITS[kind] == 8 * words.itemsize}
    found = {code: kind for kind, code in fits.items() if (part(plane.code, np.uint8) == code).any()}
    if not found:
        return None
    code, kind = next(iter(found.items()))
    has = (part(plane.code, np.uint8) == code) & (part(plane.bytes, words.dtype) == words)
    return np.where(has, part(plane.value, np.float64), exact(words, kind))


@contextmanager
def swapped(buffers: list[Buffer], came: list[np.ndarray]) -> Iterator[None]:
    """Inside, the callers' arrays hold what they did before a launch."""
    now = [b.array.copy() for b in buffers]
    try:
        for b, x in zip(buffers, came, strict=True):
            b.array[...] = x
        yield
    finally:
        for b, x in zip(buffers, now, strict=True):
            b.array[...] = x
