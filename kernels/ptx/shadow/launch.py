"""One launch in float64 beside its real run, and what came of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..machine import Machine
from ..opcode import BITS
from ..reachable import buffer
from ..segments import Buffer, address_of, span
from .planes import CODES, Plane

LIBRARY = ("standard.py", "core.py", "math.py")
Place = tuple[str, int]


def line(where: Any) -> Place:
    """The innermost Python line of an instruction that is not of Triton's library."""
    return next((at for at in where if at[0] not in LIBRARY), ("?", 0))


class Kept(NamedTuple):
    """Twins of an array's memory after a launch; the array keeps its memory from being given to another."""

    array: Any
    first: int  # of its bytes, in this process
    value: np.ndarray
    code: np.ndarray
    bytes: np.ndarray


class Asked(NamedTuple):
    """What a launch is to be followed with.

    numbers   floats of the kernel's Python, which constants in its code may stand for
    pointers  what each parameter points at: "bf16"
    rounding  Python lines whose rounding is kept; None: of no line
    earlier   what earlier launches of the same route have left in memory
    """

    numbers: tuple[float, ...] = ()
    pointers: tuple[str, ...] = ()
    rounding: frozenset[Place] = frozenset()
    earlier: tuple[Kept, ...] = ()


class Shadow:
    """The twins of one launch while it runs."""

    def __init__(self, asked: Asked, world: Any, parameters: dict[str, Any]):
        decoded, self.asked = world.decoded, asked
        X, Y, Z = world.grid
        self.memory, self.shared = Plane(1, len(world.memory.bytes)), Plane(X * Y * Z, world.shared)
        self.given = {
            name: float(parameters[name]) for name, kind in decoded.parameters if kind in BITS and "f" in kind
        }
        steps = enumerate(decoded.steps)
        self.keeps = {n for n, s in steps if line(s.instruction.where) in asked.rounding or ("*", 0) in asked.rounding}
        self.errors: dict[int, float] = {}
        for old in asked.earlier:
            self.recall(world.memory, old)

    def recall(self, memory: Any, old: Kept) -> None:
        """Put what an earlier launch left into this one's memory."""
        segments = memory.segments
        for real, first, length in zip(segments.real, segments.arena, segments.length, strict=True):
            low, high = max(real, old.first), min(real + length, old.first + len(old.bytes))
            if real and low < high:
                to, source = (
                    slice(first + low - real >> 1, first + high - real >> 1),
                    slice(low - old.first >> 1, high - old.first >> 1),
                )
                self.memory.value[to], self.memory.code[to] = old.value[source], old.code[source]
                self.memory.bytes[2 * to.start : 2 * to.stop] = old.bytes[2 * source.start : 2 * source.stop]
                self.memory.low, self.memory.high = min(self.memory.low, to.start), max(self.memory.high, to.stop)

    def entered(self, n: int, error: np.ndarray) -> np.ndarray:
        """The rounding that instruction n adds, noted; what is no number adds none."""
        parts = np.ascontiguousarray(error).view(np.float64)
        parts[np.isnan(parts)] = 0
        self.errors[n] = max(self.errors.get(n, 0.0), float(np.abs(parts).max(initial=0)))
        return parts.view(error.dtype)


def twin_of(plane: Plane, words: np.ndarray, cells: np.ndarray) -> np.ndarray | None:
    """The twins of an array of words whose first cells these are; None where nothing has one."""
    codes = plane.code[cells]
    kinds = [kind for kind, code in CODES.items() if (codes == code).any() and BITS[kind] == 8 * words.itemsize]
    return plane.read(cells, words, kinds[0]) if kinds else None


class ShadowReport:
    """What a launch's shadow shows.

    arrays  by name, of each array to which numbers were stored: its values in float64, (P, ...) as the array is
    lost    Python line -> opcodes that ran there and computed with a float's bits: their real results stand
    """

    def __init__(self, start: Any, came: list[np.ndarray], world: Any):
        self._start, self._came, memory = start, came, world.memory
        steps, issued = world.decoded.steps, world.counters.issued
        lost: dict[Place, set[str]] = {}
        for n in world.decoded.lost:
            if issued[n]:
                lost.setdefault(line(steps[n].instruction.where), set()).add(steps[n].instruction.opcode)
        self.lost = {where: sorted(opcodes) for where, opcodes in sorted(lost.items())}
        self.arrays, self.kept = self._taken(world), []
        for region in memory.regions:
            if region.buffer.name in self.arrays and not (region.low | region.high) & 1 and not memory.segments.strides:
                cells = slice(region.low >> 1, region.high >> 1)
                plane, offset = world.shadow.memory, region.pointer - region.low
                parts = (
                    plane.value[cells].copy(),
                    plane.code[cells].copy(),
                    plane.bytes[region.low : region.high].copy(),
                )
                self.kept.append(Kept(region.buffer.array, address_of(region.buffer.array) - offset, *parts))

    @staticmethod
    def _taken(world: Any) -> dict[str, np.ndarray]:
        found = {}
        for region in world.memory.regions:
            words = region.of(world.memory.bytes)
            if words.itemsize > 1:
                values = twin_of(world.shadow.memory, words, places(words, region.pointer, region.strides) >> 1)
                found |= {} if values is None else {region.buffer.name: values}
        return found

    def of(self, array: Any) -> np.ndarray | None:
        """The values in float64 of an array, or a tensor or view of one, to which this launch stored; else None."""
        words = buffer("", array).array
        low, high = span(words)
        for old in self.kept:
            if old.first <= low and high <= old.first + len(old.bytes):
                plane = Plane(1, len(old.bytes))
                size = len(old.value)
                plane.value[:size], plane.code[:size], plane.bytes[: len(old.bytes)] = old[2:]
                plane.low, plane.high = 0, size
                return twin_of(plane, words, places(words, address_of(words) - old.first) >> 1)
        return None

    @cached_property
    def lines(self) -> dict[Place, "Entered"]:
        """Each Python line at which rounding entered, and what it alone did to the results; runs once for each."""
        every = self._again(frozenset({("*", 0)}))[1]
        steps = self._start.decoded.steps
        size: dict[Place, float] = {}
        for n, error in every.items():
            where = line(steps[n].instruction.where)
            size[where] = max(size.get(where, 0.0), error)
        found = {}
        for where, largest in sorted(size.items()):
            if largest:
                arrays = self._again(frozenset({where}))[0]
                found[where] = Entered(largest, {name: arrays[name] - x for name, x in self.arrays.items()})
        return found

    def _again(self, rounding: frozenset[Place]) -> tuple[dict[str, np.ndarray], dict[int, float]]:
        """The launch once more, from the arrays as they came, with the rounding of some lines."""
        start = self._start._replace(shadow=self._start.shadow._replace(rounding=rounding))
        with swapped(start.buffers, self._came):
            world = start.world(None, False, True)
        Machine(world).run()
        return self._taken(world), world.shadow.errors


class Entered(NamedTuple):
    """Rounding at one line: its largest, absolute, and what it did to each array, in float64."""

    largest: float
    effect: dict[str, np.ndarray]


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


def places(words: np.ndarray, first: int, strides: Iterable[int] | None = None) -> np.ndarray:
    """Where each element of an array lies, from the place of its first one."""
    at = np.full(words.shape, first, np.int64)
    for axis, (n, stride) in enumerate(zip(words.shape, strides or words.strides, strict=True)):
        at += (np.arange(n) * stride).reshape([-1 if k == axis else 1 for k in range(words.ndim)])
    return at
