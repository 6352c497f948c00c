"""mbarriers: barriers that are objects in shared memory, whose phases arrivals and the bytes of bulk copies complete.

Source: PTX ISA 8.7, section 9.7.13.15 (mbarrier). The 8 bytes of the object are opaque: the machine keeps its state
beside them and a mark in them, so that a plain store to a live mbarrier is found. One lane that arrives or waits stands
for its warp.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import InvalidBarrier
from ..rows import Rows
from .clocks import Knowledge

MOST = (1 << 20) - 1  # arrivals that an mbarrier may expect, and bytes
MARK = np.uint64(0x6D62617272696572)


class MBarriers(Rows):
    """Those of programs in lockstep, each at a place of its own along the second axis.

    places   address in shared memory -> place, for all blocks of the launch
    live     (P or 1, places) bool: between init and inval
    phase    how many phases are complete; expected, how many arrivals each phase takes; pending, how many the present
             one lacks; bytes, how many it lacks of bulk copies: (P or 1, places) int64
    given    by those that arrived in the present phase, ready by the last complete one: Knowledge with (P or 1, places,
             agents) each
    """

    NAMES = ("live", "phase", "expected", "pending", "bytes", "given", "ready")

    def __init__(self, places: dict[int, int], clocks: Any):
        self.places, self.clocks = places, clocks
        self.live = np.zeros((1, 0), bool)
        self.phase, self.expected, self.pending, self.bytes = (np.zeros((1, 0), np.int64) for _ in range(4))
        self.given, self.ready = (Knowledge(*(np.zeros((1, 0, 0), np.int32) for _ in range(2))) for _ in range(2))
        self.waits: dict[tuple[int, int], int] = {}  # (id of a wait, its warp) that found a phase incomplete -> address

    def fit(self, rows: int = 1) -> None:
        """Room for so many rows, for all places and all agents."""
        self.clocks.fit()
        whole = len(self.places), self.clocks.known.shape[2]
        self.each(lambda x: np.pad(x, ((0, 0), *((0, to - n) for n, to in zip(x.shape[1:], whole, strict=False)))))
        super().fit(rows)

    def place(self, at: int, rows: int) -> int:
        """Where the mbarrier at an address stands."""
        n = self.places.setdefault(at, len(self.places))
        self.clocks.column(("mbarrier", at))
        self.fit(rows)
        return n

    def take(self, rows: np.ndarray, clocks: Any) -> "MBarriers":
        other = super().take(rows)
        other.clocks, other.waits = clocks, dict(self.waits)
        return other

    def join(self, P: int, other: "MBarriers", Q: int) -> None:
        self.fit()
        other.fit()
        super().join(P, other, Q)
        self.waits |= other.waits

    def init(self, n: int, rows: np.ndarray, count: np.ndarray) -> None:
        """Begin phase 0 in some programs, (P or 1,) bool."""
        for name, value in (("live", True), ("phase", 0), ("expected", count), ("pending", count), ("bytes", 0)):
            getattr(self, name)[:, n] = np.where(rows, value, getattr(self, name)[:, n])
        for x in (*self.given, *self.ready):
            x[:, n] = np.where(rows[:, None], 0, x[:, n])

    def arrive(self, n: int, count: np.ndarray, given: Knowledge) -> None:
        """So many threads of each program, (P or 1,), arrive, and give what they know."""
        self.fit(max(len(count), len(given.known)))
        for mine, theirs in zip(self.given, given, strict=True):
            here = mine[:, n, : theirs.shape[1]]
            np.maximum(here, theirs, out=here, where=(count > 0)[:, None])
        self.pending[:, n] -= count

    def expect(self, n: int, bytes: np.ndarray) -> None:
        """So many more bytes of each program, (P or 1,), belong to the present phase; negative: they are here."""
        self.fit(len(bytes))
        self.bytes[:, n] += bytes

    def complete(self, n: int) -> None:
        """Go on to the next phase where nothing is missing."""
        done = self.live[:, n] & (self.pending[:, n] == 0) & (self.bytes[:, n] == 0)
        if not done.any():
            return
        self.phase[:, n] += done
        self.pending[:, n] = np.where(done, self.expected[:, n], self.pending[:, n])
        column = self.clocks.column(("mbarrier", next(at for at, m in self.places.items() if m == n)))
        known = self.given.known[:, n]
        known[:, column] = np.where(done, self.phase[:, n], known[:, column])
        for mine, ready in zip(self.given, self.ready, strict=True):
            ready[:, n] = np.where(done[:, None], mine[:, n], ready[:, n])

    def missing(self, at: int, row: int) -> str:
        """What the present phase of a program's mbarrier waits for, in words."""
        n = self.places[at]
        row = row if len(self.live) > 1 else 0
        arrivals, bytes = int(self.pending[row, n]), int(self.bytes[row, n])
        parts = [f"{arrivals} of {int(self.expected[row, n])} arrivals"] if arrivals else []
        parts += [f"{bytes:,} bytes"] if bytes > 0 else [f"{-bytes:,} bytes fewer to arrive"] if bytes else []
        return f"the mbarrier at {at} is in phase {int(self.phase[row, n])}, which lacks {' and '.join(parts)}"

    def complete_tx(self, block: Any, at: np.ndarray, bytes: Any, rows: np.ndarray) -> None:
        """A bulk copy has brought `bytes` to the mbarriers at addresses `at` (P or 1,) of some programs (P or 1,)."""
        at, rows = np.broadcast_arrays(np.asarray(at, np.int64), rows)
        for here in np.unique(at[rows]).tolist():
            some = rows & (at == here)
            n = valid(block, here, some[:, None])
            self.expect(n, -np.where(some, bytes, 0))
            settled(block, n, here)

    def arrive_after(self, block: Any, at: np.ndarray, rows: np.ndarray, who: np.ndarray, kind: str) -> None:
        """An arrival, (P or 1,) each, as soon as all that the threads `who` have begun of a kind is done."""
        at, rows, who = np.broadcast_arrays(np.asarray(at, np.int64), rows, who)
        clocks = self.clocks
        for here in np.unique(at[rows]).tolist():
            for thread in np.unique(who[rows & (at == here)]).tolist():
                some = rows & (at == here) & (who == thread)
                n, warp = valid(block, here, some[:, None]), thread // 32
                warps = some[:, None] & (np.arange(clocks.W) == warp)
                column = clocks.column((kind, warp))
                clocks.commit(warps, kind)
                given = Knowledge(*(np.where(some[:, None], x, 0) for x in clocks.released(warps)))
                given.known[:, column] = np.where(some, clocks.groups(kind)[:, warp], 0)
                self.arrive(n, some.astype(np.int64), given)
                settled(block, n, here)


def settled(block: Any, n: int, at: int) -> None:
    """After an mbarrier has changed: whoever waits may look again. Raises InvalidBarrier for more than it can count."""
    barriers = block.mbarriers
    block.world.memory.version += 1
    over = barriers.live[:, n] & (barriers.pending[:, n] < 0)
    if over.any():
        what = f"the mbarrier at {at} of shared memory gets more arrivals in one phase than the "
        what += f"{int(barriers.expected[over, n][0])} that it was initialised with"
        raise block.error(InvalidBarrier, what, int(np.argmax(over)), 0)
    if (np.abs(barriers.bytes[:, n]) > MOST).any():
        what = f"the mbarrier at {at} of shared memory is to count more than {MOST:,} bytes"
        raise block.error(InvalidBarrier, what, 0, 0)
    barriers.complete(n)


def targets(block: Any, at: np.ndarray, active: np.ndarray | None) -> Iterator[tuple[int, np.ndarray]]:
    """Each address that active threads name, and which do: (P or 1, T) bool."""
    on = np.ones((1, 1), bool) if active is None else active
    shape = max(len(at), len(on)), block.world.T
    at, on = np.broadcast_to(at.astype(np.int64), shape), np.broadcast_to(on, shape)
    for here in np.unique(at[on]).tolist():
        yield here, on & (at == here)


def valid(block: Any, at: int, here: np.ndarray) -> int:
    """The place of the mbarrier at an address, for threads or programs (P or 1, T or 1) that use it.

    Raises InvalidBarrier where it is not initialised, or its bytes were overwritten.
    """
    barriers = block.mbarriers
    n, rows = barriers.place(at, len(here)), here.any(1)
    dead = rows & ~barriers.live[:, n]
    words = block.shared.table(8)[:, at // 8, 0] if 0 <= at <= block.shared.size - 8 else np.zeros(1, np.uint64)
    broken = rows & (words != MARK)
    for bad, why in ((dead, "is not initialised"), (broken, "was overwritten by other data")):
        if bad.any():
            row = int(np.argmax(bad))
            what = f"the mbarrier at {at} of shared memory {why}"
            raise block.error(InvalidBarrier, what, row, int(np.argmax(here[row if len(here) > 1 else 0])))
    return n
