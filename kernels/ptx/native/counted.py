"""What a launch in machine code did, counted up when a Report is asked."""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false
# ruff: noqa: F401, F821

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from ..counters import Traffic
from ..decode import Decoded
from ..forms import form
from ..start import Start
from .context import FIELDS, GLOBAL_THREADS, SHARED_THREADS
from .pieces import CHUNK, DIRTY, FIRST, LAST, READ, RECORD, SHIFT
from .routine import routines


class Counted:
    """What counters.Counters is to a Report, from the counts of a launch that came to its end."""

    def __init__(self, start: Start, made: Any, records: Any):
        self.decoded, self.made = start.decoded, made
        self.blocks, self.traffic = np.add.reduce(records.blocks), np.add.reduce(records.traffic)
        self.disagreeing = int(np.add.reduce(records.rows[:, FIELDS.index("disagreeing")]))

    @cached_property
    def issued(self) -> np.ndarray:
        return np.append(self.blocks, 0)[self.made.blocks]

    @cached_property
    def memory(self) -> dict[int, Traffic]:
        each = self.accesses(GLOBAL_THREADS)
        return {n: Traffic(x[0] * size if size else x[SHARED_THREADS], x[1], 0, 0, x[0]) for n, size, x in each}

    @cached_property
    def shared(self) -> dict[int, Traffic]:
        each = self.accesses(SHARED_THREADS)
        return {n: Traffic(x[2] * size, 0, x[3], x[4], x[2]) for n, size, x in each if size}

    def accesses(self, word: int) -> Iterator[tuple[int, int, list[int]]]:
        """The instructions of which a count is not 0, the bytes that a thread accesses, and all counts."""
        for n in np.flatnonzero(self.traffic[:, word]).tolist():
            yield n, size_of(self.decoded.steps[n].instruction), self.traffic[n].tolist()


def blocks(decoded: Decoded, starts: list[int]) -> np.ndarray:
    """Of each instruction, which of Plan.starts begins the straight code that it stands in; -1: none."""
    found, now = np.full(len(decoded.steps), -1), -1
    where = {n: k for k, n in enumerate(starts)}
    for n, step in enumerate(decoded.steps):
        found[n] = now = where.get(n, now)
        now = -1 if step.control else now
    return found


def size_of(i: Any) -> int:
    """Bytes that a thread accesses; 0 of a bulk copy, which counts them itself."""
    if i.opcode.startswith("cp.async.bulk"):
        return 0
    if "matrix" in i.opcode:
        return 16
    return i.operands[2].bits if i.opcode.startswith("cp.async") else form(i).size


def arrays_counted(table, count, sums):
    """By segment, two words: how many elements were read, and whether anything was written."""
    for n in range(count):
        row = table + 8 * RECORD * n
        read, dirty, last = 0, 0, row.LAST - 1
        for k in range((last - row.FIRST >> row.SHIFT + 6) + 1 if last >= row.FIRST else 0):
            read = read + bits(u64[row.READ, k])
        for k in range((last >> CHUNK) + 1 if row.DIRTY != 0 else 0):
            dirty = dirty | u8[row.DIRTY, k]
        u64[sums, 2 * n], u64[sums, 2 * n + 1] = read, dirty


RUNTIME = routines(arrays_counted)
