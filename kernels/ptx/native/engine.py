"""A launch as machine code: its memory, its programs over the threads of the CPU, and the order of its atomics.

Compiled code only says that something is suspicious. Then the launch is undone, and `run` returns SUSPECT: its caller
runs it in NumPy form, which finds the words, or finds that all is well.
"""

import ctypes
import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..printed import Printed
from ..progress import Progress
from ..segments import address_of
from ..start import Start
from . import asynchronous, brief, code, context, ir, matrices, memory, numpy_loops, others, programs, shared, warp
from .arrays import Arrays
from .context import DONE, FIELDS, FUEL, PAUSED
from .counted import Counted, blocks
from .events import following
from .flow import Warp
from .frames import HEADER, STATE
from .lower import Unlowered
from .pieces import Once
from .plan import Plan, loops_by, may_write, plan
from .programs import READY
from .records import LONG, Records, given_back, taken

FAMILIES = [memory.LOWER, asynchronous.LOWER, shared.LOWER, warp.LOWER, matrices.LOWER, others.LOWER]
RUNTIME = numpy_loops.RUNTIME | programs.RUNTIME | memory.RUNTIME | shared.RUNTIME | warp.RUNTIME | matrices.RUNTIME
LASTING = 1e-3  # seconds for each instruction that a kernel has run, from which on better code is worth its price
LOOK = 0.2  # seconds between two looks at a launch that runs
QUICK = 1 << 20  # instructions of a thread that a launch may run in one that nothing can interrupt


class Compiled(NamedTuple):
    """A kernel's machine code, and what is known of it.

    blocks  of each instruction, which of plan.starts it belongs to
    events  whether programs stop at atomics, whose order is that of the default schedule
    opcodes  that it has
    writes  the parameters through which it may write; None: any array
    fine    of arrays that a launch asked for, the next ones keep each reader from the start, see arrays.py
    """

    plan: Plan
    blocks: np.ndarray
    code: Any
    frame_size: int
    events: bool
    opcodes: frozenset[str]
    writes: set[str] | None
    fine: set[str]


class Ended(NamedTuple):
    """A launch that came to its end, as a Report wants it."""

    grid: tuple[int, int, int]
    T: int
    counters: Counted
    memory: Arrays
    printed: Printed


def key(start: Start) -> bytes:
    """Stands for the machine code of a launch's kernel."""
    return key_of(start.text, start.num_warps)


@lru_cache(maxsize=256)
def key_of(text: str, warps: int) -> bytes:
    return hashlib.sha256(text.encode()).digest() + bytes([warps])


_ran: dict[bytes, float] = defaultdict(float)  # seconds of this process in machine code, by kernel, per instruction


def compiled(start: Start, best: bool = False) -> Compiled:
    """A kernel's machine code: the best, if it is asked for, at hand, or the kernel has run for long; else what is
    soonest made.

    Raises Unlowered if it has none.
    """
    name = key(start)
    best = best or _ran[name] > LASTING
    found = kept(name, 1) or (None if best else kept(name, 0))
    return found or code_of(name, Once(start.decoded), 32 * start.num_warps, int(best))


@lru_cache(maxsize=256)
def kept(key: bytes, level: int) -> Compiled | None:
    """What an earlier process has compiled, if both the code and its brief are on the disk."""

    def lost() -> list[str]:
        raise LookupError(key)

    found = brief.read(key)
    try:
        return found and found[1]._replace(
            code=code.compiled(key, lost, runtimes(found[0]["asynchronous"]), level), fine=set()
        )
    except LookupError:
        return None


def refuses(start: Start) -> str:
    """Why a launch runs in NumPy form even if its kernel has machine code, or ""."""
    if start.shadow or start.trace:
        return "it is to carry a shadow" if start.shadow else "it is to keep a log of all accesses"
    if not start.checks:
        return "it is to run without checks"
    if not start.moved and start.seed is None:
        return ""
    opcodes = brief.opcodes(key(start), Once(start.decoded))
    if start.seed is not None and any(x.startswith("mbarrier.") and "_wait" in x for x in opcodes):
        return "it waits for mbarriers, which are late at random"
    if start.moved and any(".approx" in x or ".full" in x for x in opcodes):
        return "its approximations are to be moved"
    atomics = any(x.startswith(("atom.", "red.")) for x in opcodes)
    return "it has atomics, whose order is random" if atomics and start.seed is not None else ""


@lru_cache(maxsize=256)
def code_of(key: bytes, decoded: Once, T: int, level: int = 0) -> Compiled:
    made = plan(decoded.value, T, memory.is_event, asynchronous.stop_of)
    if loops_by(decoded.value, memory.is_event):
        raise Unlowered("programs that wait for one another")
    module = ir.Module("kernel")
    writer = Warp(decoded.value, made, T, module, FAMILIES, memory.ANYWAY)

    def write() -> list[str]:
        writer.emit()
        return [str(module)]

    machine_code = code.compiled(key, write, runtimes(decoded.value.asynchronous), level)
    own = blocks(decoded.value, made.starts)
    known = bool(made.events), brief.opcodes(key, decoded), may_write(decoded.value)
    found = Compiled(made, own, machine_code, writer.frame_size, *known, set())
    brief.write(key, decoded.value, found)
    return found


def runtimes(beside: bool) -> tuple[Any, ...]:
    return (runtime(True), runtime(False)) if beside else (runtime(False),)


@cache
def runtime(beside: bool) -> Any:
    """The functions that the code of all kernels calls; beside: more, of those in which something works beside the
    threads."""

    def write() -> list[str]:
        module = ir.Module("runtime")
        for define in (asynchronous.RUNTIME | programs.RUNTIME if beside else RUNTIME).values():
            define(module)
        return [str(module)]

    return code.compiled(b"runtime" + b" beside" * beside, write, (runtime(False),) if beside else (), level=1)


class Launch:
    """One run of a launch, in records that are its own meanwhile."""

    def __init__(self, start: Start, made: Compiled, records: Records, fuel: int):
        self.start, self.made, self.records = start, made, records
        written = None if made.writes is None else {name_of(start.parameters[x]) for x in made.writes}
        known = start.readable, start.blank, start.checks
        self.arrays = Arrays(start.buffers, start.decoded.constants, *known, written, made.fine)
        records.begin(start, self.arrays, fuel)

    def run(self) -> int:
        """All programs to their ends -> a status."""
        records, begun = self.records, time.perf_counter()
        if self.made.events:
            status = self.by_events()
        else:
            call = entry("launch_run", self.start.decoded.asynchronous, ctypes.c_void_p)
            status = max(spread(call, [(address_of(row),) for row in records.rows], records))
        records.seconds = time.perf_counter() - begun
        return status

    def by_events(self) -> int:
        """Programs run as far as they come without an atomic; then those at the first one of the default schedule."""
        call = entry("rows_run", False, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        records, rows = self.records, address_of(self.records.rows)
        heads = records.frames[:, :, :HEADER].view(np.int64)
        parts = [np.arange(k, records.programs, records.threads) for k in range(records.threads)]
        calls = [(rows, address_of(part), len(part), 1) for part in parts]
        status = max(spread(call, calls, records))
        while status == DONE:
            programs = following(heads)
            if not len(programs):
                return DONE
            status = call(rows, address_of(programs), len(programs), 0)
            heads[..., STATE][heads[..., STATE] == PAUSED] = READY
            if status == DONE:
                parts = [programs[programs % records.threads == k] for k in range(records.threads)]
                status = max(spread(call, [(rows, address_of(part), len(part), 0) for part in parts], records))
        return status


@cache
def pool() -> ThreadPoolExecutor:
    """Threads of the CPU."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "kvproof-ptx")


os.register_at_fork(after_in_child=pool.cache_clear)


@cache
def entry(name: str, beside: bool, *kinds: Any) -> Callable[..., int]:
    """A runtime function that returns a status."""
    return ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(runtime(beside)[name])


def spread(call: Callable, arguments: list[tuple], records: Records) -> list[int]:
    """Call machine code with each of some arguments: in threads, so that a KeyboardInterrupt ends it, if it takes long.

    Whatever is raised, nothing runs any more then.
    """
    if records.quick:
        return [call(*a) for a in arguments]
    running = [pool().submit(call, *a) for a in arguments]
    try:
        with Progress(records.words) as progress:
            while wait(running, LOOK).not_done:  # a signal that comes just before a wait does not end it
                progress.look()
        return [f.result() for f in running]
    finally:
        while not all(f.cancel() or f.done() for f in running):
            records.stop()
            time.sleep(1e-3)


def name_of(parameter: Any) -> str:
    return getattr(getattr(parameter, "base", parameter), "name", "")  # an array's, or that of a tensor map's


def run(
    start: Start, made: Compiled, written: dict[str, np.ndarray] | None = None, fuel: int | None = None
) -> Ended | int:
    """Run a launch to its end, or say how it did not end: SUSPECT or FUEL. Then the arrays are as they came.

    written  by array, which elements it wrote: filled here
    fuel     how many instructions each thread of the CPU may run

    Raises Unlowered; KeyboardInterrupt, with the arrays as they came, too.
    """
    slow, fuel = False, fuel or 1 << 62
    while True:
        records = taken(start, made, key(start))
        records.quick = records.seconds <= LONG and not slow
        launch = Launch(start, made, records, min(fuel, QUICK) if records.quick else fuel)
        arrays = launch.arrays
        try:
            status = launch.run()
            # with a seed, which of the lanes that part go first is random, and with it how often what follows runs
            random = start.seed is not None and records.rows[:, FIELDS.index("parted")].any()
            right = status == DONE and not random and records.ordered()
        except BaseException:  # a KeyboardInterrupt
            arrays.undo()
            raise
        _ran[key(start)] += records.seconds / len(made.blocks)
        counted = Counted(start, made, records)
        if right and start.max_steps and 2 * counted.issued.sum() > start.max_steps:
            right, status = False, FUEL  # perhaps: the NumPy form counts once what programs do together, and jumps
        if right:
            arrays.end(written)
            ended = Ended(start.grid, 32 * start.num_warps, counted, arrays, Printed(start.prints))
            given_back(records, start, key(start))
            return ended
        arrays.undo()
        if status == FUEL and records.quick:
            slow = True
            continue
        asked = {*(records.rows[:, FIELDS.index("wants_fine")] - 1).tolist()} - {-1}
        wanted = {b.name for n in asked for b, _ in arrays.pieces[n].buffers} - made.fine
        if not wanted:
            return status or context.SUSPECT
        made.fine.update(wanted)
