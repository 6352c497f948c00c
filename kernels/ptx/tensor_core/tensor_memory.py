"""Tensor memory: 128 lanes of 512 columns of 32 bits for each program, of which it allocates columns.

What is known of it is kept for each column of 16 lanes, for all that moves data touches as many at once. Its accesses
are all asynchronous: another one must know, by the clocks of the program's warps, that they are over.
Source: PTX ISA 8.7, section 9.7.16.1 (tensor memory) and 9.7.16.6 (memory consistency).
"""

from typing import Any

import numpy as np

from ..asynchronous.ordering import Ordering
from ..errors import Deadlock, OutOfBounds, Race, Undefined, Uninitialised
from ..rows import Rows
from ..shared import Cells

LANES, COLUMNS, SHARE, UNIT = 128, 512, 16, 32  # SHARE lanes are known together; UNIT columns are the least allocation
CELLS = LANES // SHARE * COLUMNS
ENDS = {"tcgen05": "its commit's mbarrier was waited for", "tcgen05.st": "a tcgen05.wait::st",
        "tcgen05.ld": "a tcgen05.wait::ld"}  # fmt: skip


class TensorMemory(Rows):
    """That of P programs in lockstep.

    words     (P, 128, columns) uint32; columns grow as they are allocated
    taken     (1 or P, 16) bool, allocated columns in units of 32
    closed    (1 or P,) bool, whether no more may be allocated
    written   (1 or P, CELLS) bool
    copied    cells to which a tcgen05.cp has brought what nothing had written: for the words of an error
    blank     uint32, what stands where nothing is written; see uninitialised.py
    """

    NAMES = ("taken", "closed", "written")

    def __init__(self, P: int, clocks: Any, checks: bool, filler: int | None = None):
        self.words = np.zeros((P, LANES, 0), np.uint32)
        self.taken, self.closed = np.zeros((1, COLUMNS // UNIT), bool), np.zeros(1, bool)
        self.written = np.zeros((1, CELLS), bool)
        self.copied: set[int] = set()
        self.order: Any = Ordering(clocks, CELLS) if checks else None
        self.blank = np.uint32(0xFFC0DEAD if filler is None else filler * 0x01010101)

    def take(self, rows: np.ndarray, clocks: Any) -> "TensorMemory":
        other = super().take(rows)
        other.words, other.copied = self.words[rows], {*self.copied}
        other.order = None if self.order is None else self.order.take(rows, clocks)
        return other

    def join(self, P: int, other: "TensorMemory", Q: int) -> None:
        super().join(P, other, Q)
        for memory, more in ((self, other), (other, self)):
            memory.grow(more.words.shape[2])
        self.words = np.concatenate([self.words, other.words])
        self.copied |= other.copied
        if self.order is not None:
            self.order.join(P, other.order, Q)

    def grow(self, columns: int) -> None:
        more = columns - self.words.shape[2]
        if more > 0:
            self.words = np.pad(self.words, ((0, 0), (0, 0), (0, more)), constant_values=self.blank)

    def allocate(self, block: Any, n: int, rows: np.ndarray, thread: int) -> np.ndarray:
        """The first free columns of some programs, (P or 1,) bool: addresses (P or 1,) uint32."""
        if n not in (32, 64, 128, 256, 512):
            raise block.error(Undefined, f"tcgen05.alloc of {n} columns; 32, 64, 128, 256 and 512 fit", 0, thread)
        if (rows & self.closed).any():
            raise block.error(Undefined, "tcgen05.alloc after tcgen05.relinquish_alloc_permit", 0, thread)
        if len(rows) > len(self.taken):
            self.taken = np.repeat(self.taken, len(rows), 0)
        units, where = n // UNIT, np.zeros(len(self.taken), np.uint32)
        for row in np.flatnonzero(np.broadcast_to(rows, len(self.taken))):
            starts = [s for s in range(0, COLUMNS // UNIT, units) if not self.taken[row, s : s + units].any()]
            if not starts:
                free = COLUMNS - UNIT * int(self.taken[row].sum())
                what = f"tcgen05.alloc waits for {n} columns in a row of tensor memory, of which {free} of 512 are free"
                raise block.error(Deadlock, f"{what}, and for ever if this program does not free some", row, thread)
            self.taken[row, starts[0] : starts[0] + units] = True
            where[row] = starts[0] * UNIT
            self.grow(int(where[row]) + n)
        return where

    def free(self, block: Any, at: np.ndarray, n: int, rows: np.ndarray, thread: int) -> None:
        """Give back n columns at addresses (P or 1,) in some programs, (P or 1,) bool."""
        count = max(len(at), len(rows), len(self.taken))
        if count > len(self.taken):
            self.taken = np.repeat(self.taken, count, 0)
        for row in np.flatnonzero(np.broadcast_to(rows, count)):
            start = int(at[row if len(at) > 1 else 0])
            units = slice(start // UNIT, (start + n) // UNIT)
            if start % UNIT or start + n > COLUMNS or not self.taken[row, units].all():
                what = f"tcgen05.dealloc of {n} columns at {start} of tensor memory, which are not allocated"
                raise block.error(Undefined, what, row, thread)
            self.taken[row, units] = False
        gone = np.repeat(~self.taken, UNIT, 1)
        self.written = self.written & np.tile(~gone, LANES // SHARE)

    def ended(self, block: Any, rows: np.ndarray) -> None:
        """Raise if some programs, (P or 1,) bool, end with columns that they have not given back."""
        kept = self.taken.any(1) & rows
        if kept.any():
            row = int(np.argmax(kept))
            n = UNIT * int(self.taken[row if len(self.taken) > 1 else 0].sum())
            what = f"the program ends with {n} columns of tensor memory allocated; tcgen05.dealloc must free them"
            raise block.error(Undefined, what, row, 0)

    def allocated(self, block: Any, column: int, n: int, row: int, thread: int) -> None:
        """Raise OutOfBounds unless n columns from `column` on belong to the program."""
        inside = 0 <= column and column + n <= COLUMNS
        units = slice(column // UNIT, (column + n + UNIT - 1) // UNIT)
        if not inside or not self.taken[row if len(self.taken) > 1 else 0, units].all():
            what = f"columns {column} to {column + n - 1} of tensor memory are not all allocated"
            raise block.error(OutOfBounds, what, row, thread)

    def touch(self, block: Any, kind: str, cells: np.ndarray, warp: np.ndarray, on: Any, writes: bool, reads: bool):
        """Hold an access against those before it, and note it.

        kind    of the agent: "tcgen05", "tcgen05.st" or "tcgen05.ld"
        cells   (K,) of a program; warp (K,) in whose name; on (P or 1, K) bool, or None for all

        Raises Uninitialised, and Race for an access that is not known to be over. Those of one thread's mma and cp are
        done in order.
        """
        if self.order is None:
            return
        n = max(len(self.written), self.order.rows(), 1 if on is None else len(on))
        clocks = block.clocks
        columns = np.array([clocks.column((kind, w)) for w in range(clocks.W)])
        self.order.fit(n)
        self.written = np.repeat(self.written, n, 0) if len(self.written) < n else self.written
        row, place = np.divmod(np.arange(n * len(cells)), len(cells))
        if on is not None:
            some = np.broadcast_to(on, (n, len(cells))).reshape(-1)
            row, place = row[some], place[some]
        at, warp = row * CELLS + cells[place], warp[place]
        mine, groups = columns[warp], clocks.groups(kind)
        if reads and not (known := self.written.reshape(-1)[at]).all():
            # A loop that Triton pipelines loads, without a turn of it too, what its products would write.
            self.doubt(block, known, at, warp) if kind == "tcgen05.ld" else self.unwritten(block, known, at, warp)
        agents, access = self.order.writer.reshape(-1)[at], Cells(at, at, row, 1, 32 * warp)
        late = self.order.unknown_write(access, False) & ((agents != mine) | (kind != "tcgen05"))
        verb = "written" if writes else "read"
        self.orderly(block, late, agents, verb, "writes", at, warp)
        if writes:
            early = self.order.unknown_reads(access, False)
            if kind == "tcgen05":
                early[np.arange(len(at)), mine] = False
            self.orderly(block, early.any(1), early.argmax(1), verb, "reads", at, warp)
            self.written.reshape(-1)[at] = True
        moment = groups[row if len(groups) > 1 else 0, warp] + 1
        self.order.note("writer" if writes else "read", at, mine, moment)

    def came_unwritten(self, cells: np.ndarray, known: np.ndarray) -> None:
        """After a copy to cells (K,): of which its source was written, (P or 1, K) bool; the others are blank."""
        if len(known) > len(self.written):
            self.written = np.repeat(self.written, len(known), 0)
        self.written[:, cells] &= known
        self.copied |= {*cells[~known.all(0)].tolist()}
        words = self.words.reshape(len(self.words), LANES // SHARE, SHARE, -1)
        group, column = np.divmod(cells, COLUMNS)
        row, k = np.nonzero(~np.broadcast_to(known, (len(words), len(cells))))
        words[row, group[k], :, column[k]] = self.blank

    def doubt(self, block: Any, known: np.ndarray, at: np.ndarray, warp: np.ndarray) -> None:
        """Remember the first load of what nothing has written: a fault if it changes the results."""
        try:
            self.unwritten(block, known, at, warp)
        except Uninitialised as error:
            block.world.memory.doubt = block.world.memory.doubt or error

    def unwritten(self, block: Any, known: np.ndarray, at: np.ndarray, warp: np.ndarray) -> None:
        if known.all():
            return
        copied = int(at[~known][0]) % CELLS in self.copied
        what = "that a tcgen05.cp brought from shared memory, where nothing has written it"
        self.demand(block, known, Uninitialised, what if copied else "that nothing has written", at, warp)

    def orderly(self, block: Any, late: np.ndarray, agents: np.ndarray, verb: str, other: str, at: Any, warp: Any):
        """Raise Race at the first access that comes too early."""
        if not late.any():
            return
        agent = int(agents[late][0])
        kind, w = next(key for key, column in block.clocks.agents.items() if column == agent)
        name = "tcgen05.mma or cp" if kind == "tcgen05" else kind
        what = (
            f"{verb} here, that a {name} of warp {w} {other}, and nothing tells that it is over, as {ENDS[kind]} would"
        )
        self.demand(block, ~late, Race, what, at, warp)

    @staticmethod
    def demand(block: Any, good: np.ndarray, kind: Any, what: str, at: np.ndarray, warp: np.ndarray) -> None:
        if not good.all():
            first = int(np.flatnonzero(~good)[0])
            row, cell = divmod(int(at[first]), CELLS)
            group, column = divmod(cell, COLUMNS)
            where = f"column {column} of lanes {SHARE * group} to {SHARE * group + SHARE - 1} of tensor memory, {what}"
            raise block.error(kind, where, row, 32 * int(warp[first]))
