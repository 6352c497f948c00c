"""Who wrote and who read each cell of shared memory last, and whether what a warp knows orders that before its access.

A cell is the least number of bytes that any instruction of the kernel touches. Lanes of one warp are shared.py's.
"""

from typing import Any

import numpy as np

from ..rows import Rows
from .clocks import Clocks

NAMES = {
    "mbarrier": "a bulk copy (its mbarrier at {0} was not waited for)",
    "wgmma": "a wgmma that warp {0} began (no wgmma.wait_group)",
    "bulk": "a bulk copy that warp {0} began (no cp.async.bulk.wait_group)",
    "tcgen05": "a tcgen05 instruction that warp {0} began (its commit's mbarrier was not waited for)",
    "tcgen05.ld": "a tcgen05.ld that warp {0} began (no tcgen05.wait::ld)",
    "tcgen05.st": "a tcgen05.st that warp {0} began (no tcgen05.wait::st)",
}


class Ordering(Rows):
    """The last accesses to `cells` cells of programs in lockstep.

    writer, wrote  (1 or P, cells) int32, the agent of the last write, -1 if none, and its moment
    read           (1 or P, cells, agents) int32, the last moment of each agent that read it; 0 if none
    """

    NAMES = ("writer", "wrote", "read")

    def __init__(self, clocks: Clocks, cells: int):
        self.clocks = clocks
        self.writer, self.wrote = np.full((1, cells), -1, np.int32), np.zeros((1, cells), np.int32)
        self.read = np.zeros((1, cells, clocks.W), np.int32)

    def rows(self) -> int:
        """How many rows it takes to tell the programs apart."""
        return max(len(self.writer), len(self.clocks.known))

    def fit(self, rows: int = 1) -> None:
        """Room for so many rows, and for all agents."""
        self.clocks.fit()
        more = self.clocks.known.shape[2] - self.read.shape[2]
        if more:
            self.read = np.pad(self.read, ((0, 0), (0, 0), (0, more)))
        super().fit(rows)

    def take(self, rows: np.ndarray, clocks: Clocks) -> "Ordering":
        other = super().take(rows)
        other.clocks = clocks
        return other

    def join(self, P: int, other: "Ordering", Q: int) -> None:
        for ordering in (self, other):
            ordering.fit()
        super().join(P, other, Q)

    def told(self, table: np.ndarray, cells: Any, agent: np.ndarray | slice) -> np.ndarray:
        """What the warps of some accesses know, by a table of the clocks, of an agent each."""
        return table[cells.row if len(table) > 1 else 0, cells.warp, agent]

    def unknown_write(self, cells: Any, proxy: bool) -> np.ndarray:
        """Which accesses meet a write that is not ordered before them; a warp's own plain ones are, for shared.py.

        proxy  whether the async proxy makes them: plain stores must have passed a proxy fence on the way
        """
        agent, moment = self.writer.reshape(-1)[cells.at], self.wrote.reshape(-1)[cells.at]
        some = agent >= 0
        if not some.any():
            return some
        seen = self.told(self.clocks.known, cells, agent)
        if proxy:
            fenced = self.told(self.clocks.fenced, cells, agent)
            return some & (np.where(agent < self.clocks.W, fenced, seen) < moment)
        return some & (seen < moment) & (agent != cells.warp)

    def unknown_reads(self, cells: Any, proxy: bool) -> np.ndarray:
        """(accesses, agents): whose last reads are not ordered before them; a warp's own plain ones are.

        proxy  whether the async proxy writes: plain reads must have passed a proxy fence, too
        """
        agents, W = self.clocks.known.shape[2], self.clocks.W
        known = self.told(self.clocks.known, cells, slice(None))
        if proxy:
            known[:, :W] = self.told(self.clocks.fenced, cells, slice(W))
        late = self.read.reshape(-1, agents)[cells.at] > known
        if not proxy and late.any():
            late[np.arange(len(late)), cells.warp] = False
        return late

    def held(self, name: str, cells: Any, matters: Any, proxy: bool = False) -> tuple[np.ndarray, str]:
        """Which accesses are ordered after all writes ("writer") or reads before them; in words, one that is not."""
        if name == "writer":
            bad = self.unknown_write(cells, proxy) & matters
            which = self.writer.reshape(-1)[cells.at]
        else:
            late = self.unknown_reads(cells, proxy)
            bad, which = late.any(1) & matters, late.argmax(1)
        return ~bad, self.who(int(which[bad][0]), cells.warp[bad][0], proxy) if bad.any() else ""

    def note(self, name: str, at: np.ndarray, agent: Any, moment: Any) -> None:
        """Remember accesses: "writer" or "read"."""
        if name == "writer":
            self.writer.reshape(-1)[at], self.wrote.reshape(-1)[at] = agent, moment
        else:
            self.read.reshape(-1, self.read.shape[2])[at, agent] = moment

    def forget_reads(self, at: np.ndarray) -> None:
        """After a write that is ordered after them all: whoever writes next is ordered after that write."""
        self.read.reshape(-1, self.read.shape[2])[at] = 0

    def warps(self, cells: Any) -> tuple[np.ndarray, np.ndarray]:
        """The agent of each plain access, a warp, and its present moment."""
        now = self.clocks.now()
        return cells.warp, now[cells.row if len(now) > 1 else 0, cells.warp]

    def who(self, agent: int, warp: int, proxy: bool) -> str:
        """An agent in words."""
        if agent >= self.clocks.W:
            kind, *place = next(key for key, column in self.clocks.agents.items() if column == agent)
            return NAMES[kind].format(*place)
        if not proxy:
            return f"warp {agent}"
        return "its own warp" if agent == warp else f"warp {agent}"
