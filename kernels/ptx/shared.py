"""Shared memory of programs in lockstep, and who touched each byte of it since the last barrier.

What is known of a byte is (1, bytes) while the programs of a block use the same addresses, then (P, bytes).

What a tag says is in tags.py.

Barriers of a part of the program, and what works beside its threads, are beyond such counting: in programs that have
them, an Ordering says what orders the accesses of two warps, and tags are compared within a warp alone.
"""

from typing import Any, NamedTuple

import numpy as np

from .arrays import broadcast, first_of, near
from .errors import Misaligned, OutOfBounds, PtxError, Race, Uninitialised, WarpRace
from .memory import in_order
from .rows import Rows
from .tags import ALL, ATOMIC, PROGRAM, SEVERAL, WARP, WHO

VERBS = {"writer": "wrote", "reader": "read"}


def warp_of(tag: np.ndarray) -> np.ndarray:
    who = tag & WHO
    return np.where(who < SEVERAL, who >> 5, np.where(who < ALL, who - SEVERAL, -1))


def unordered(tag: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """Whether nothing orders the access of `tag` before mine: no barrier of the program, nor of the warp we share."""
    together = (warp_of(tag) == warp_of(mine)) & (tag >> WARP < mine >> WARP)
    same_thread = ((tag & WHO) == (mine & WHO)) & ((tag & WHO) < SEVERAL)
    return (tag >= 0) & (tag >> PROGRAM == mine >> PROGRAM) & ~same_thread & ~together


def earlier(tag: np.ndarray, mine: np.ndarray) -> bool:
    """Whether a barrier of the program orders all accesses of `tag` before mine: mostly that is so."""
    return not mine.size or int(tag.max()) < int(mine.min()) >> PROGRAM << PROGRAM


def both(tag: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """One tag for two readers: mine, unless the other's read is still unordered with some thread of the program."""
    warps, ours = warp_of(tag), warp_of(mine)
    who = np.where(warps != ours, ALL, np.where((tag & WHO) == (mine & WHO), mine & WHO, SEVERAL + ours))
    forget = (tag >> PROGRAM != mine >> PROGRAM) | ((warps == ours) & (tag >> WARP < mine >> WARP)) | (tag < 0)
    return np.where(forget, mine, (np.maximum(tag, mine) & ~WHO) | who)


class SharedMemory(Rows):
    """`size` bytes for each of P programs; `granule` bytes are the least that any instruction touches.

    ordering  makes an asynchronous.ordering.Ordering of so many cells, where barriers alone do not order accesses
    """

    def __init__(self, size: int, P: int, granule: int, checks: bool = True, ordering: Any = None):
        self.size, self.granule, self.checks = -(-size // 32) * 32, granule, checks
        self.bytes = np.zeros((P, self.size), np.uint8)
        cells = self.size // granule
        self.written = np.zeros((1, cells), bool)
        self.writer, self.reader = np.full((1, cells), -1), np.full((1, cells), -1)
        self.by = np.full((1, cells), -1)  # the instruction that wrote it
        self.copying = np.zeros((1, cells), bool)  # the target of a cp.async that no wait_group has ended
        self.order = ordering(cells) if ordering is not None and checks else None

    NAMES = ("written", "writer", "reader", "by", "copying")

    def take(self, rows: np.ndarray, clocks: Any) -> "SharedMemory":
        other = super().take(rows)
        other.bytes = self.bytes[rows]
        other.order = None if self.order is None else self.order.take(rows, clocks)
        return other

    def join(self, P: int, other: "SharedMemory", Q: int) -> None:
        super().join(P, other, Q)
        self.bytes = np.concatenate([self.bytes, other.bytes])
        if self.order is not None:
            self.order.join(P, other.order, Q)

    def check(self, at: np.ndarray, size: int, active, site, who: np.ndarray | None = None) -> None:
        """Raise unless each address (P or 1, T or 1) is a multiple of `size` inside of this memory.

        who  (P or 1,) the thread that accesses them all; None: each its own
        """
        bad = (at < 0) | (at + size > self.size) | (at & (size - 1) != 0)
        bad = bad if active is None else bad & active
        if bad.any():
            row, thread = first_of(bad)
            where = int(broadcast(at, bad.shape)[row, thread])
            kind = Misaligned if 0 <= where <= self.size - size else OutOfBounds
            verb = f"is no multiple of {size}" if kind is Misaligned else f"is not in its {self.size} bytes"
            thread = thread if who is None else int(who[row if len(who) > 1 else 0])
            raise site.error(kind, f"{size} bytes at {where} of shared memory: the address {verb}", row, thread)

    def cells(self, at: np.ndarray, size: int, active, tags: np.ndarray) -> "Cells":
        """What is known of the bytes at each address: once for all programs, if address and clock do not differ."""
        n = max(len(at), len(tags), len(self.writer), 1 if active is None else len(active))
        if self.order is not None:
            n = max(n, self.order.rows())
            self.order.fit(n)
        self.fit(n)
        width, T = max(size // self.granule, 1), tags.shape[1]
        cells = (at // self.granule + np.arange(n)[:, None] * self.writer.shape[1])[..., None] + np.arange(width)
        cells, mine = (broadcast(x, (n, T, width)).reshape(-1) for x in (cells, tags[..., None]))
        if active is None:
            return Cells(cells, mine, np.arange(n * T * width) // width, T)
        on = np.flatnonzero(broadcast(active[..., None], (n, T, width)))
        return Cells(cells[on], mine[on], on // width, T)

    def known(self, name: str) -> np.ndarray:
        """All that is known of one kind, as a flat view."""
        known = getattr(self, name)
        assert known.flags.c_contiguous, "what is written to a copy would be lost"
        return known.reshape(-1)

    def load(self, address: np.ndarray, size: int, active, tags: np.ndarray, site) -> np.ndarray:
        """The words at each thread's address, (P, T or 1), above 8 bytes (P, T or 1, size // 8); the read is noted.

        tags  (P or 1, T) who reads, and when
        """
        at = address.astype(np.int64)
        if self.checks:
            self.check(at, size, active, site)
            cells = self.cells(at, size, active, tags)
            self.demand(self.known("written")[cells.at], Uninitialised, "that nothing has written", cells, size, site)
            arrived = ~self.known("copying")[cells.at]
            self.demand(arrived, Race, "that a cp.async may still be writing", cells, size, site)
            self.ordered("writer", cells, "read", size, site)
            if self.order is not None:
                self.order.note("read", cells.at, *self.order.warps(cells))
            reader = self.known("reader")
            if earlier(reader[cells.at], cells.mine):
                reader[cells.at] = cells.mine
            for _ in range(4):  # several threads read one byte at once: until all are noted
                before = reader[cells.at]
                new = both(before, cells.mine)
                more = new != before
                if not more.any():
                    break
                reader[cells.at[more]] = new[more]
        at = at if active is None else np.where(active, at, 0)
        table = self.table(size)
        index = np.clip(at // size, 0, table.shape[1] - 1)
        words = table[np.arange(len(table))[:, None], index]
        return words if size > 8 else words[..., 0]

    def store(self, address: np.ndarray, words: np.ndarray, size: int, width: int | tuple, active, tags, site) -> int:
        """Write the words that `load` would give, of elements of `width` bits, or of any of these widths.

        Returns how many copies of one value, stored by one instruction, differ in their last bits from the one that
        stays; threads that store different numbers at one place are a Race.
        """
        at = address.astype(np.int64)
        P, T, table = len(self.bytes), tags.shape[1], self.table(size)
        on = np.arange(P * T) if active is None else np.flatnonzero(broadcast(active, (P, T)))
        flat = lambda x: broadcast(x, (P, T, *x.shape[2:])).reshape(P * T, *x.shape[2:])[on]  # noqa: E731
        place = on // T, flat(np.clip(at // size, 0, table.shape[1] - 1))
        words = flat(words if size > 8 else words[..., None])
        if not self.checks:
            table[place] = words
            return 0
        again = flat(self.claim(at, size, active, tags, site))
        before = np.where(again[:, None], table[place], words)
        table[place] = words
        lost = np.flatnonzero((table[place] != words).any(1) | (before != words).any(1))
        if not (near(table[place][lost], words[lost], width) and near(before[lost], words[lost], width)):
            first = int(on[lost[0]])
            rivals = (place[0] == place[0][lost[0]]) & (place[1] == place[1][lost[0]])
            differs = rivals & (words != words[lost[0]]).any(1)
            kind = WarpRace if differs.any() and (on[differs] // 32 == first // 32).all() else Race
            what = f"{size} bytes at {int(place[1][lost[0]]) * size} of shared memory, where two threads "
            what += "of one warp store two values" if kind is WarpRace else "store two values"
            site.world.complain(site.error(kind, what, first // T, first % T))
        return len(lost)

    def claim(self, at: np.ndarray, size: int, active, tags: np.ndarray, site) -> np.ndarray:
        """Note who writes, if nothing forbids it; which threads, (1 or P, T), repeat a store of this instruction."""
        self.check(at, size, active, site)
        cells = self.cells(at, size, active, tags)
        same = self.known("by")[cells.at] == site.number
        tag = self.known("writer")[cells.at]
        again = np.zeros(len(tag), bool) if earlier(tag, cells.mine) else unordered(tag, cells.mine) & same
        if self.order is not None:
            again |= self.order.unknown_write(cells, False) & same
        self.ordered("writer", cells, "written", size, site, ~same)
        self.ordered("reader", cells, "written", size, site)
        for name, value in (("writer", cells.mine), ("written", True), ("by", site.number)):
            self.known(name)[cells.at] = value
        if self.order is not None:
            self.order.note("writer", cells.at, *self.order.warps(cells))
        threads = np.zeros((len(self.writer), tags.shape[1]), bool)
        threads.reshape(-1)[cells.who[again]] = True
        return threads

    def copying_to(self, address: np.ndarray, size: int, active, tags: np.ndarray, begins: bool) -> None:
        """Note that a cp.async, whose bytes `store` has written, begins or, with `tags` of now, has arrived."""
        cells = self.cells(address.astype(np.int64), size, active, tags)
        self.known("copying")[cells.at] = begins
        self.known("writer")[cells.at] = cells.mine
        if self.order is not None:
            self.order.note("writer", cells.at, *self.order.warps(cells))

    def atomic(self, address, flat, values, function, size: int, on, active, tags, site) -> np.ndarray:
        """Apply `function` (old, *values) at each address of `flat`, in order; returns the old values."""
        at = address.astype(np.int64)
        self.check(at, size, active, site)
        if self.checks:
            cells = self.cells(at, size, active, tags)
            self.demand(self.known("written")[cells.at], Uninitialised, "that nothing has written", cells, size, site)
            self.changed(cells, "changed", size, site)
        table = self.bytes.view(f"u{size}")
        index = on // tags.shape[1] * table.shape[1] + flat.astype(np.int64) // size
        return in_order(table.reshape(-1), index, values, function)

    def changed(self, cells: "Cells", verb: str, size: int, site) -> None:
        """Note who changes bytes by an atomic, if nothing that is none forbids it."""
        for name in ("writer", "reader"):
            tag = self.known(name)[cells.at]
            self.ordered(name, cells, verb, size, site, tag & WHO < ATOMIC)
        self.known("writer")[cells.at], self.known("by")[cells.at] = cells.mine | ATOMIC, site.number
        if self.order is not None:
            self.order.note("writer", cells.at, *self.order.warps(cells))

    def table(self, size: int) -> np.ndarray:
        return self.bytes.view(f"u{min(size, 8)}").reshape(len(self.bytes), -1, max(size // 8, 1))

    def ordered(self, name: str, cells: "Cells", verb: str, size: int, site, matters: Any = True) -> None:
        if self.order is not None:
            good, who = self.order.held(name, cells, matters)
            what = f"{verb} here, that {who} {VERBS[name]} with nothing to order the two"
            self.demand(good, Race, what, cells, size, site)
        tag = self.known(name)[cells.at]
        if earlier(tag, cells.mine):
            return
        bad = unordered(tag, cells.mine) & matters
        if self.order is not None:
            bad &= warp_of(tag) == warp_of(cells.mine)
        if not bad.any():
            return
        other_warp = bad & (warp_of(tag) != warp_of(cells.mine))
        bad = other_warp if other_warp.any() else bad
        steps, by = site.world.decoded.steps, np.unique(self.known("by")[cells.at[bad]]).tolist()
        copies = any(i.opcode.startswith("cp.async") for i in (site.instruction, *(steps[n].instruction for n in by)))
        kind = Race if other_warp.any() or copies else WarpRace
        who = int(tag[np.flatnonzero(bad)[0]] & WHO)
        them = f"thread {who}" if who < SEVERAL else f"warp {who - SEVERAL}" if who < ALL else "several warps"
        them += " of the same warp" * (kind is WarpRace and who < SEVERAL)
        self.demand(~bad, kind, f"{verb} here, that {them} {VERBS[name]} with no barrier in between", cells, size, site)

    def demand(self, good: np.ndarray, kind: type[PtxError], what: str, cells: "Cells", size: int, site) -> None:
        if not good.all():
            first = int(np.flatnonzero(~good)[0])
            where = int(cells.at[first]) % self.writer.shape[1] * self.granule
            text = f"{size} bytes at {where} of shared memory {what}"
            who = divmod(int(cells.who[first]), cells.threads)
            who = who if cells.by is None else (who[0], int(cells.by[first]))
            site.world.complain(site.error(kind, text, *who))


class Cells(NamedTuple):
    """Flat lists, an element for each cell that each active thread touches."""

    at: np.ndarray  # index into what is known, flattened
    mine: np.ndarray  # the thread's tag
    who: np.ndarray  # row * threads + thread
    threads: int
    by: np.ndarray | None = None  # the threads in whose name the async proxy touches them; None: the threads themselves

    @property
    def row(self) -> np.ndarray:
        return self.who // self.threads

    @property
    def warp(self) -> np.ndarray:
        return (self.who % self.threads if self.by is None else self.by) >> 5
