"""Barriers of a program by number: of all its threads, or of as many as the instruction counts.

Source: PTX ISA 8.7, section 9.7.13.1 (bar, barrier). bar.arrive counts threads that do not wait.
"""

from typing import Any

import numpy as np

from ..arrays import first_of
from ..errors import DivergentBarrier


def arrive(block: Any, number: int, count: int, threads: np.ndarray) -> None:
    """Threads, (P or 1, T) bool, come to a barrier for so many and go on; whoever passes it learns what they did."""
    warps = block.warps(threads)
    before, other = block.arrivals.get(number, (np.zeros((1, 1), np.int64), count))
    agree(block, number, {count, other}, threads)
    block.arrivals[number] = before + warps, count
    given = block.clocks.released(warps)
    before = block.given.get(number)
    block.given[number] = given if before is None else type(given)(*map(latest, before, given))


def agree(block: Any, number: int, counts: set[int], threads: np.ndarray) -> None:
    """Raise DivergentBarrier if threads come to a barrier that others take for one of another size, or is too large."""
    T = block.world.T
    both = " threads and for ".join(str(n or "all") for n in sorted(counts))
    if len(counts) > 1 or max(counts) > T:
        why = " at once" if len(counts) > 1 else f", and the program has {T}"
        raise block.error(DivergentBarrier, f"barrier {number} is for {both} threads{why}", *first_of(threads))


def latest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The larger of two tables of moments, whose later agents the older one may lack."""
    wide = max(a.shape[1], b.shape[1])
    return np.maximum(*(np.pad(x, ((0, 0), (0, wide - x.shape[1]))) for x in (a, b)))


def pass_together(block: Any, waiting: list, number: int) -> None:
    """Let the fragments that wait at one barrier pass it, if all threads have come that it is for."""
    T, came = block.world.T, block.together(waiting)
    arrived, count = block.arrivals.get(number, (np.zeros((1, 1), np.int64), waiting[0].threads))
    agree(block, number, {count, *(f.threads for f in waiting)}, block.mask(waiting[-1]))
    threads, warps = count or T, block.warps(came) + arrived
    if threads == T and number not in block.arrivals:
        done = came.all(1) | ~block.together(block.fragments).any(1)
    else:
        done = 32 * warps.sum(1) == threads
        if (over := 32 * warps.sum(1) > threads).any():
            row, thread = int(np.argmax(over)), int(np.argmax(came[int(np.argmax(over)) if len(came) > 1 else 0]))
            what = f"barrier {number} is for {threads} threads, and {32 * int(warps.sum(1)[row])} come"
            raise block.error(DivergentBarrier, what, row, thread)
        done |= ~came.any(1)
    if not done.all():
        return
    for f in waiting:
        f.barrier = None
    block.arrivals.pop(number, None)
    given = block.given.pop(number, None)
    if threads == T:
        block.barrier_passed()
        came = np.ones((1, T), bool)
    else:
        block.clocks.meet(block.warps(came))
        block.learned(came.any(1))
    if given is not None:
        block.clocks.acquire(block.warps(came), given)
