"""A launch as machine code: its memory, its programs over the threads of the CPU, and the order of its atomics.

Compiled code only says that something is suspicious. Then the launch is undone, and `Suspicion` tells its caller to run
it in NumPy form, which finds the words, or finds that all is well.
"""

import ctypes
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from ..calls import Printed
from ..counters import Counters, Traffic
from ..forms import form
from ..start import Start
from . import code, context, matrices, memory, numpy_loops, order, others, programs, shared, warp
from .arrays import Arrays
from .context import DONE, EVENT, FIELDS
from .flow import Warp
from .frames import AT, DEPTH, HEADER, PATH, STATE
from .lower import Unlowered
from .plan import Plan, loops_by, may_write, plan

FAMILIES = [memory.LOWER, shared.LOWER, warp.LOWER, matrices.LOWER, others.LOWER]
RUNTIME = numpy_loops.RUNTIME | programs.RUNTIME | memory.RUNTIME | shared.RUNTIME | warp.RUNTIME | matrices.RUNTIME
MOST_PROGRAMS = 1 << 21
ROOM = 1 << 30  # bytes that the programs of a launch may keep while they wait at events


class Compiled(NamedTuple):
    """A kernel's machine code, and what is known of it.

    events  whether programs stop at atomics, whose order is that of the default schedule
    writes  the parameters through which it may write; None: any array
    """

    plan: Plan
    code: Any
    frame_size: int
    events: bool
    writes: set[str] | None


class Ended(NamedTuple):
    """A launch that came to its end, as a Report wants it."""

    grid: tuple[int, int, int]
    T: int
    counters: Counters
    memory: Arrays
    printed: Printed


def key(start: Start) -> bytes:
    """Stands for the machine code of a launch's kernel."""
    return hashlib.sha256(start.text.encode()).digest() + bytes([start.num_warps])


def compiled(start: Start) -> Compiled:
    """Raises Unlowered if the kernel has none."""
    return code_of(key(start), Once(start.decoded), 32 * start.num_warps)


def refuses(start: Start, made: Compiled) -> str:
    """Why a launch of a kernel that has machine code runs in NumPy form all the same, or ""."""
    if start.trace or not start.checks:
        return "it is to keep a log of all accesses" if start.trace else "it is to run without checks"
    atomics = any(s.instruction.opcode.startswith(("atom.", "red.")) for s in start.decoded.steps)
    return "it has atomics, whose order is random" if atomics and start.seed is not None else ""


class Once:
    """An argument that a cache does not look at."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Once)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=256)
def code_of(key: bytes, decoded: Once, T: int) -> Compiled:
    made = plan(decoded.value, T, memory.is_event)
    if loops_by(decoded.value, made.stops):
        raise Unlowered("programs that wait for one another")
    module = ir.Module("kernel")
    writer = Warp(decoded.value, made, T, module, FAMILIES, memory.ANYWAY)

    def write() -> list[str]:
        writer.emit()
        return [str(module)]

    machine_code = code.compiled(key, write, (runtime(),))
    return Compiled(made, machine_code, writer.frame_size, writer.events, may_write(decoded.value))


@cache
def runtime() -> Any:
    """The functions that the code of all kernels calls."""

    def write() -> list[str]:
        module = ir.Module("runtime")
        for define in RUNTIME.values():
            define(module)
        return [str(module)]

    return code.compiled(b"runtime", write)


class Launch:
    """One run of a launch. fine: the segments whose readers are kept one by one, see arrays.py."""

    def __init__(self, start: Start, made: Compiled, fine: set[int], fuel: int):
        self.start, self.made, self.fuel, decoded = start, made, fuel, start.decoded
        self.programs, self.warps = int(np.prod(start.grid)), start.num_warps
        written = None if made.writes is None else {name_of(start.parameters[x]) for x in made.writes}
        known = start.readable, start.blank, start.checks
        self.arrays = Arrays(start.buffers, decoded.constants, *known, written, frozenset(fine))
        self.threads = max(1, min(os.cpu_count() or 1, self.programs))
        rows = self.programs if made.events else self.threads
        self.shared_size = -(-(start.shared + decoded.shared) // 32) * 32
        self.check_room(rows)
        self.kept: list[np.ndarray] = []  # alive as long as this
        self.rows = np.zeros((rows, len(FIELDS)), np.int64)
        self.blocks = np.zeros((self.threads, len(made.plan.starts)), np.int64)
        self.traffic = np.zeros((self.threads, len(decoded.steps), context.TRAFFIC), np.int64)
        self.frames = aligned((rows, self.warps, made.frame_size))
        self.next = np.zeros(1, np.int64)
        self.fill()

    def check_room(self, rows: int) -> None:
        bytes = rows * (self.warps * self.made.frame_size + shared.room(self.shared_size, self.start.decoded.granule))
        if bytes > ROOM:
            raise Unlowered(f"{self.programs} programs that stop at atomics, with {bytes} bytes of memory")

    def fill(self) -> None:
        """The records of all threads of the CPU, or of all programs where they stop at events."""
        rows = self.rows
        put = lambda name, value: rows.__setitem__((slice(None), FIELDS.index(name)), value)  # noqa: E731
        each = lambda name, array, n: put(name, address(array) + array.strides[0] * (n % len(array)))  # noqa: E731
        n = np.arange(len(rows))
        for axis, size in zip("xyz", self.start.grid, strict=True):
            put(f"grid_{axis}", size)
        self.given = self.launch_values()
        put("given", address(self.given))
        put("warps", self.warps)
        put("frame_size", self.made.frame_size)
        put("warp_code", self.made.code["warp"])
        put("next_program", address(self.next))
        put("last_program", self.programs)
        put("fuel", self.fuel)
        each("blocks", self.blocks, n)
        each("traffic", self.traffic, n)
        each("frames", self.frames, n)
        put("shared_size", self.shared_size)
        put("shared_cells", self.shared_size // self.start.decoded.granule)
        for name, array in shared.state(len(rows), self.shared_size, self.start.decoded.granule, self.warps).items():
            self.kept.append(array)
            each(name, array, n)
        threads = [self.arrays.fields() for _ in range(self.threads)]
        for name in threads[0]:
            put(name, np.array([fields[name] for fields in threads])[n % self.threads])

    def launch_values(self) -> np.ndarray:
        """What the launch fills in, by slot."""
        start, decoded = self.start, self.start.decoded
        random = None if start.seed is None else np.random.default_rng(start.seed)
        values = start.values(self.arrays.pointers, self.arrays.segments)
        registers = decoded.registers(self.arrays.pointers, values, 32, start.grid, random)
        given = np.zeros(len(registers), np.int64)
        for slot in (*decoded.given.values(), *decoded.undefined):
            if registers[slot] is not None:
                given[slot] = int(registers[slot].flat[0].astype(np.uint64).view(np.int64))
        return given

    def run(self) -> int:
        """All programs to their ends -> a status."""
        if self.made.events:
            return self.by_events()
        call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(runtime()["launch_run"])
        return max(spread(call, [(address(row),) for row in self.rows]))

    def by_events(self) -> int:
        """Programs run as far as they come without an atomic; then those at the first one of the default schedule."""
        kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        call = ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(runtime()["rows_run"])
        rows = address(self.rows)
        parts = [np.arange(self.programs)[k :: self.threads].copy() for k in range(self.threads)]
        status = max(spread(call, [(rows, address(part), len(part), -1) for part in parts]))
        while status == DONE:
            programs, event = self.following()
            if not len(programs):
                return DONE
            status = call(rows, address(programs), len(programs), event)
        return status

    def following(self) -> tuple[np.ndarray, int]:
        """The programs whose warps go on next, in order, and the event that these have stopped at.

        In lockstep the lowest instruction goes first. A warp that has jumped back from a higher one on its way has
        waited there for all the others.
        """
        heads = self.frames[:, :, :HEADER].view(np.int64)
        waits = heads[..., STATE] == EVENT
        if not waits.any():
            return np.empty(0, np.int64), 0
        here = heads[waits]
        depth = here[:, DEPTH]
        ways = np.where(np.arange(HEADER // 8 - PATH) < depth[:, None], here[:, PATH:], -1)
        at = here[:, AT]
        ways = np.where(ways > at[:, None], ways, -1)
        keys = np.concatenate([ways, at[:, None]], axis=1)
        keys = np.take_along_axis(keys, np.argsort(keys < 0, axis=1, kind="stable"), 1)
        first = min(map(tuple, np.unique(keys, axis=0).tolist()))
        chosen = (keys == first).all(1)
        return np.unique(np.nonzero(waits)[0][chosen]), int(at[chosen][0])

    def counters(self) -> Counters:
        decoded, starts = self.start.decoded, self.made.plan.starts
        counters = Counters(decoded, 32 * self.warps)
        for n, count in zip(starts, self.blocks.sum(0).tolist(), strict=True):
            end = next((m + 1 for m in range(n, len(decoded.steps)) if decoded.steps[m].control or m + 1 in starts), n)
            counters.issued[n:end] += count
        traffic = self.traffic.sum(0)
        for n in np.flatnonzero(traffic.any(1)).tolist():
            threads, sectors, others, wavefronts, conflicts = traffic[n].tolist()
            size = size_of(decoded.steps[n].instruction)
            if threads:
                counters.memory[n] = Traffic(threads * size, sectors, 0, 0, threads)
            if others:
                counters.shared[n] = Traffic(others * size, 0, wavefronts, conflicts, others)
        return counters


def spread(call: Callable, arguments: list[tuple]) -> list[int]:
    """Call machine code with each of some arguments, each in a thread."""
    if len(arguments) == 1:
        return [call(*arguments[0])]
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(lambda a: call(*a), arguments))


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def aligned(shape: tuple[int, ...], to: int = 64) -> np.ndarray:
    """Bytes whose first is a multiple of `to`."""
    size = int(np.prod(shape))
    whole = np.empty(size + to, np.uint8)
    first = -address(whole) % to
    return whole[first : first + size].reshape(shape)


def name_of(parameter: Any) -> str:
    return getattr(parameter, "name", "")


def size_of(i: Any) -> int:
    """Bytes that a thread accesses."""
    if "matrix" in i.opcode:
        return 16
    return i.operands[2].bits if i.opcode.startswith("cp.async") else form(i).size


def run(
    start: Start, made: Compiled, written: dict[str, np.ndarray] | None = None, fuel: int | None = None
) -> Ended | int:
    """Run a launch to its end, or say how it did not end: SUSPECT or FUEL. Then the arrays are as they came.

    written  by array, which elements it wrote: filled here
    fuel     how many instructions each thread of the CPU may run

    Raises Unlowered.
    """
    fine: set[int] = set()
    while True:
        launch = Launch(start, made, fine, fuel or 1 << 62)
        status = launch.run()
        arrays, T = launch.arrays, 32 * start.num_warps
        if status == DONE and order.ordered(arrays.log(), arrays.conflicts()):
            arrays.write_back(written)
            return Ended(start.grid, T, launch.counters(), arrays, Printed(start.prints))
        arrays.undo()
        wanted = {*(launch.rows[:, FIELDS.index("wants_fine")] - 1).tolist()} - {-1} - fine
        if not wanted:
            return status or context.SUSPECT
        fine |= wanted
