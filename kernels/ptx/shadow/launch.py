"""One launch in float64 beside its real run, and what came of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .. import lockstep
from ..machine import Machine
from ..opcode import BITS
from ..reachable import buffer
from ..segments import Buffer, address_of, span
from .constants import Numbers
from .planes import CODES, Plane

LIBRARY = ("standard.py", "core.py", "math.py")  # of Triton
Place = tuple[str, int]  # a Python line
EVERY, LOST = ("*", 0), ("?", 0)  # among the lines to keep the rounding of: every one; NaN for what is not followed


def line(where: Any) -> Place:
    """The innermost Python line of an instruction that is not of Triton's library."""
    return next((at for at in where if at[0] not in LIBRARY), ("?", 0))


class Kept(NamedTuple):
    """Twins of an array's memory after a launch; the array keeps its memory from being given to another."""

    array: Any
    first: int  # of its bytes, in this process
    plane: Plane
    length: int

    def within(self, other: "Kept") -> bool:
        return other.first <= self.first and self.first + self.length <= other.first + other.length


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

    def begun(self, world: Any, parameters: dict[str, Any]) -> "Shadow":
        return Shadow(self, world, parameters)


class Shadow:
    """The twins of one launch while it runs."""

    def __init__(self, asked: Asked, world: Any, parameters: dict[str, Any]):
        decoded, (X, Y, Z) = world.decoded, world.grid
        self.memory, self.shared = Plane(1, len(world.memory.bytes)), Plane(X * Y * Z, world.shared)
        self.given = {name: float(parameters[name]) for name, kind in decoded.parameters if kind in ("f32", "f64")}
        lines = enumerate(line(s.instruction.where) for s in decoded.steps)
        self.keeps = {n for n, at in lines if at in asked.rounding or EVERY in asked.rounding}
        self.errors, self.lost, self.choices = {}, set(), set()
        segments = world.memory.segments
        pieces = list(zip(segments.real.tolist(), segments.arena.tolist(), segments.length.tolist(), strict=True))
        for old in asked.earlier:
            for real, first, length in pieces:
                low, high = max(real, old.first), min(real + length, old.first + old.length)
                if real and low < high:
                    to, there = (slice(low - x >> 1, high - x >> 1) for x in (real - first, old.first))
                    self.memory.take(to, old.plane, there)

    def entered(self, n: int, own: np.ndarray, rounded: np.ndarray) -> np.ndarray:
        """The rounding that instruction n adds, noted in units of its result; what is no number adds none."""
        parts, size = (np.ascontiguousarray(x).view(np.float64) for x in (own - rounded, own + 0 * rounded))
        parts[np.isnan(parts)] = 0
        relative = np.abs(parts) / np.abs(size)
        self.errors[n] = max(self.errors.get(n, 0.0), float(relative[np.isfinite(relative)].max(initial=0)))
        return parts.view((own - rounded).dtype)


def by_line(world: Any, found: set[int]) -> dict[Place, set[str]]:
    """The opcodes of instructions that have run, by Python line."""
    lines: dict[Place, set[str]] = {}
    for i in (world.decoded.steps[n].instruction for n in sorted(found) if world.counters.issued[n]):
        lines.setdefault(line(i.where), set()).add(i.opcode)
    return lines


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

    def __init__(self, start: Any, came: list[np.ndarray], world: Any):
        self._start, self._came, memory = start, came, world.memory
        lost = world.decoded.lost | world.shadow.lost
        self.unmarked = set().union(*by_line(world, lost - world.decoded.marked | world.shadow.lost).values())
        self.lost, self.choices = by_line(world, lost), by_line(world, world.shadow.choices)
        if world.decoded.folded:
            self.unmarked |= {f"the constant {x}" for x in world.decoded.folded}
            self.lost[LOST] = {f"the constant {x}" for x in world.decoded.folded} | self.lost.get(LOST, set())
        self.places = {line(s.instruction.where) for s in world.decoded.steps}
        self.read = {b.name: span(b.array) for b in start.buffers if world.memory.read_bytes().get(b.name)}
        self.arrays, self.kept = stored(world), []
        for region in memory.regions if not memory.segments.strides else ():
            if region.buffer.name in self.arrays:
                cells, plane = slice(region.low >> 1, region.high + 1 >> 1), Plane(1, region.high - region.low + 2)
                plane.take(slice(0, cells.stop - cells.start), world.shadow.memory, cells)
                first = address_of(region.buffer.array) - (region.pointer - region.low) - region.low % 2
                self.kept.append(Kept(region.buffer.array, first, plane, 2 * (cells.stop - cells.start)))

    def of(self, array: Any) -> np.ndarray | None:
        """The values in float64 of an array, or a tensor or view of one, to which this launch stored; else None."""
        return recalled(self.kept, array)

    @cached_property
    def lines(self) -> dict[Place, Entered]:
        """Each Python line at which rounding entered, and what it alone did to the results; runs once for each."""
        steps, size = self._start.decoded.steps, {}
        for n, error in self._again(EVERY)[1].items():
            at = line(steps[n].instruction.where)
            size[at] = max(size.get(at, 0.0), error)
        found = {}
        for at in sorted(at for at in size if size[at]):
            arrays = self._again(at)[0]
            found[at] = Entered(size[at], {name: arrays[name] - x for name, x in self.arrays.items()})
        return found

    def _again(self, rounding: Place) -> tuple[dict[str, np.ndarray], dict[int, float]]:
        """The launch once more, from the arrays as they came, with the rounding of one line."""
        start = self._start._replace(shadow=self._start.shadow._replace(rounding=frozenset({rounding})))
        with swapped(start.buffers, self._came):
            world = lockstep.world(start, None, False)
        Machine(world).run()
        return stored(world), world.shadow.errors


def stored(world: Any) -> dict[str, np.ndarray]:
    """The twins of each array that has any, by name."""
    found = {}
    for region in world.memory.regions:
        words = region.of(world.memory.bytes)
        values = twins_of(world.shadow.memory, words, places(words, region.pointer, region.strides))
        found |= {} if values is None else {region.buffer.name: values}
    return found


def recalled(kept: Iterable[Kept], array: Any) -> np.ndarray | None:
    """The values in float64 of an array, or of a view of one, whose twins are kept, the latest last; else None."""
    words = buffer("", array).array
    low, high = span(words)
    for old in reversed([*kept]):
        if old.first <= low and high <= old.first + old.length:
            return twins_of(old.plane, words, places(words, address_of(words) - old.first, words.strides))
    return None


def twins_of(plane: Plane, words: np.ndarray, at: np.ndarray) -> np.ndarray | None:
    """The twins of an array of words at these bytes; None where nothing has one."""
    cells = at >> 1
    codes = plane.code[cells]
    kinds = [kind for kind, code in CODES.items() if (codes == code).any() and BITS[kind] == 8 * words.itemsize]
    return plane.read(cells, cells, words, kinds[0]) if kinds else None


def places(words: np.ndarray, first: int, strides: Iterable[int]) -> np.ndarray:
    """Where each element of an array lies, from the place of its first one."""
    at = np.full(words.shape, first, np.int64)
    for axis, (n, stride) in enumerate(zip(words.shape, strides, strict=True)):
        at += (np.arange(n) * stride).reshape([-1 if k == axis else 1 for k in range(words.ndim)])
    return at


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
