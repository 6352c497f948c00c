"""A bulk copy is asked for by one thread: its request, for all programs in lockstep, and who answers for its faults."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import PtxError


class Request:
    """One thread of each program that executes an instruction.

    thread  its number
    rows    (P,) bool, the programs in which it does; on: the same, (P, 1); some: the same, None if they are all
    who     (1,) int64, the thread, as proxy.py takes it
    """

    def __init__(self, block: Any, thread: int, rows: np.ndarray):
        self.block, self.thread, self.rows, self.on = block, thread, rows, rows[:, None]
        self.some = None if rows.all() else self.on  # so that what is alike in all programs is done once
        self.who = np.array([thread])

    def value(self, read: Callable[[list], np.ndarray], signed: bool = False) -> np.ndarray:
        """An operand: (P or 1,) int64, 0 in programs that take no part."""
        x = read(self.block.R)
        x = x[:, self.thread if x.shape[1] > 1 else 0]
        x = x.view(f"i{x.itemsize}").astype(np.int64) if signed else x.astype(np.int64)
        return x if len(x) == 1 else np.where(self.rows, x, 0)

    @property
    def counted(self) -> np.ndarray:
        """(P or 1,) bool, the programs whose mbarriers count what is copied."""
        return self.rows[:1] if self.some is None else self.rows

    def error(self, kind: type[PtxError], what: str, row: int | None = None) -> PtxError:
        return self.block.error(kind, what, int(np.argmax(self.rows)) if row is None else row, self.thread)

    def site(self, where: Callable[[int, int], str], by_map: bool = False) -> "Site":
        return Site(self, where, by_map)


class Site:
    """What memory asks for its errors: (row, n) there are a program and a word of what the request moves.

    by_map  whether a tensor map gives the addresses, and not the kernel's own arithmetic
    """

    def __init__(self, request: Request, where: Callable[[int, int], str], by_map: bool):
        self.request, self.where, self.by_map, self.world = request, where, by_map, request.block.world
        self.instruction = request.block.instruction

    def error(self, kind: type[PtxError], what: str, row: int, n: int) -> PtxError:
        return self.request.error(kind, f"{self.where(row, n)}: {what}", row)


def requests(block: Any, active: np.ndarray | None, threads: list[int] | None = None) -> Iterator[Request]:
    """The requests of all threads that execute an instruction, or of some of these, one after the other."""
    P, T = len(block.programs), block.world.T
    on = np.broadcast_to(np.True_ if active is None else active, (P, T))
    for thread in np.flatnonzero(on.any(0)).tolist() if threads is None else threads:
        if on[:, thread].any():
            yield Request(block, thread, on[:, thread])
