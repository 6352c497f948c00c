"""A launch as machine code: its memory, its programs over the threads of the CPU, and what they did.

Compiled code only says that something is suspicious. Then the launch is undone, and `run` returns SUSPECT: its caller
runs it in NumPy form, which finds the words, or finds that all is well.
"""

import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError, wait
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..printed import Printed
from ..progress import Progress
from ..segments import Buffer, address_of
from ..start import Start
from .arrays import Arrays
from .carried import Carried
from .context import DONE, FIELDS, FUEL, PAUSED, SUSPECT
from .counted import Counted
from .events import following
from .frames import ON, SCRATCH, STATE
from .kernel import Compiled, entry, key, ran, runtime
from .programs import READY
from .records import Records, given_back, taken
from .schedule import UNDRAWN, Schedule

LOOK = 0.2  # seconds between two looks at a launch that runs


class Ended(NamedTuple):
    """A launch that came to its end, as a Report wants it."""

    grid: tuple[int, int, int]
    T: int
    counters: Counted
    memory: Arrays
    printed: Printed
    shadow: Carried | None


class Launch:
    """One run of a launch, in records that are its own meanwhile."""

    def __init__(self, start: Start, made: Compiled, fuel: int, steady: bool):
        self.start, self.made = start, made
        written = None if made.writes is None else {name_of(start.parameters[x]) for x in made.writes}
        known = (start.readable, start.blank) if start.checks else ({}, {})  # all else is checked, and not reported
        fine = None if start.may_race else made.fine
        self.arrays = Arrays(start.buffers, start.decoded.constants, *known, written, fine)
        self.records = taken(start, made, key(start))
        self.records.steady &= steady
        self.records.begin(start, self.arrays, fuel)
        self.shadow = Carried(start, self.records, self.arrays) if start.shadow else None

    def run(self) -> int:
        """All programs to their ends -> a status."""
        if self.made.events:
            return self.by_events()
        call = entry("launch_run", ctypes.c_void_p, of="asynchronous" if self.start.decoded.asynchronous else "all")
        return max(spread(call, [(address_of(row),) for row in self.records.rows], self.records))

    def by_events(self) -> int:
        """Programs run as far as they come without an atomic; then those at the first one of the default schedule."""
        call = entry("rows_run", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        records, rows, heads = self.records, address_of(self.records.rows), self.records.heads
        heads[..., ON:SCRATCH] = UNDRAWN
        drawn = Schedule(self.start, records, heads, runtime()["program_run"]) if self.start.seed is not None else None
        calls = [(rows, address_of(part), len(part), 1) for part in records.parts]
        status = max(spread(call, calls, records))
        if drawn and status == DONE:
            ended = spread(entry("schedule_run", ctypes.c_void_p), [(address_of(drawn.record),)], records)
            return max(ended) or SUSPECT * bool(heads[..., STATE].any())
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

    def end(self, status: int, written: dict[str, np.ndarray] | None) -> Ended | int:
        """What a launch did that ended in a status; if it is to be undone, SUSPECT or FUEL."""
        start, records, arrays = self.start, self.records, self.arrays
        # with a seed, which of the lanes that part go first is random, and with it how often what follows runs
        random = start.seed is not None and records.rows[:, FIELDS.index("parted")].any()
        if status != DONE or random or not records.ordered():
            return status or SUSPECT
        counts = Counted(start, self.made, records)
        if start.max_steps and 2 * counts.issued.sum() > start.max_steps:
            return FUEL  # perhaps: the NumPy form counts once what programs do together, and jumps
        sums = np.empty((len(arrays.table), 2), np.int64)
        call = entry("arrays_counted", *[ctypes.c_void_p] * 3)
        call(address_of(arrays.table), arrays.count, address_of(sums))
        arrays.end(written if start.checks else None, sums)
        if not start.checks:
            arrays.read, counts.disagreeing = {}, 0
        return Ended(start.grid, 32 * start.num_warps, counts, arrays, Printed(start.prints), self.shadow)


@cache
def pool() -> ThreadPoolExecutor:
    """Threads of the CPU."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "kvproof-ptx")


os.register_at_fork(after_in_child=pool.cache_clear)


def spread(call: Callable, arguments: list[tuple], records: Records) -> list[int]:
    """Call machine code with each of some arguments: `records.mine` of them here, the others in threads, so that a
    KeyboardInterrupt ends it, if it takes long.

    Whatever is raised, nothing runs any more then.
    """
    running = [pool().submit(call, *a) for a in arguments[records.mine :]]
    begun = time.perf_counter()
    try:
        found = [call(*a) for a in arguments[: records.mine]]
        share = (time.perf_counter() - begun) / len(found) if found else 0.0
        found += ended(running, records)
    finally:
        while not all(f.done() or f.cancel() for f in running):
            records.stop()
            time.sleep(1e-3)
    records.seconds += len(arguments) * (share or time.perf_counter() - begun)
    return found


def ended(running: list[Future], records: Records) -> list[int]:
    """What calls in threads return."""
    with suppress(TimeoutError):
        return [f.result(LOOK) for f in running]
    with Progress(records.words) as progress:
        while wait(running, LOOK).not_done:  # a signal that comes just before a wait does not end it
            progress.look()
    return [f.result() for f in running]


def name_of(parameter: Any) -> str:
    array = parameter if parameter.__class__ is Buffer else getattr(parameter, "base", parameter)  # of a tensor map
    return getattr(array, "name", "")


def run(
    start: Start, made: Compiled, written: dict[str, np.ndarray] | None = None, fuel: int | None = None
) -> Ended | int:
    """Run a launch to its end, or say how it did not end: SUSPECT or FUEL. Then the arrays are as they came.

    written  by array, which elements it wrote: filled here
    fuel     how many instructions each thread of the CPU may run

    Raises Unlowered; KeyboardInterrupt, with the arrays as they came, too.
    """
    fuel, steady, name = fuel or 1 << 62, True, key(start)
    while True:
        launch = Launch(start, made, fuel, steady)
        arrays, records = launch.arrays, launch.records
        try:
            status = launch.run()
            ran[name] += records.seconds / len(made.blocks)
            found = launch.end(status, written)
        except BaseException:  # a KeyboardInterrupt
            arrays.undo()
            raise
        if isinstance(found, Ended):
            given_back(records, start, name)
            return found
        arrays.undo()
        if status == FUEL and records.mine:
            steady = False
            continue
        asked = {*(records.rows[:, FIELDS.index("wants_fine")] - 1).tolist()} - {-1}
        wanted = {b.name for n in asked for b, _ in arrays.pieces[n].buffers} - made.fine
        if not wanted:
            return found
        made.fine.update(wanted)
