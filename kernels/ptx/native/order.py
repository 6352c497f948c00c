"""Whether happens-before orders every conflict of two programs that compiled code noted: what races.py asks, in short.

A release by a program covers what the program did before the last barrier, or the same atomic; an acquire that comes
later at the same place shows it to the program from the next barrier on, and with it all that the releasing thread, or
its program before its last barrier, had been shown. Fences order nothing here: what they order is a suspicion only.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from .accesses import EPOCH, PLAIN, PROGRAM, SEVERAL, THREADS, WRITES_ATOMICS

ACQUIRE, RELEASE = 1, 2
MOMENTS = PROGRAM - EPOCH  # bits of an epoch


def ordered(log: np.ndarray, conflicts: np.ndarray) -> bool:
    """Whether each conflict is ordered, as far as the log of atomics shows.

    log        (N, 3) int64, in order: who (see accesses.py), address, ACQUIRE and RELEASE
    conflicts  (M, 5) int64: who was before, who is now, address, atomics in the log by then, kind
    """
    if not len(conflicts):
        return True
    pairs = plain(conflicts[conflicts[:, 4] == PLAIN])
    others = atomics(log, conflicts[conflicts[:, 4] != PLAIN])
    if others is None or not len(log):
        return others is not None and not len(pairs[0])
    before, now, first = map(np.concatenate, zip(pairs, others, strict=True))
    rows = Rows(log, conflicts)
    # the last acquire before the one, and the first release after the other: a program's rows ascend in the log
    target = rows.next_to(rows.takes, now, "left", -1)
    left = rows.acquired(now, first, target) <= first
    before, now, target = before[left], now[left], target[left]
    source = rows.next_to(rows.gives, before, "right", 0)
    if (source < 0).any() or (target <= source).any():
        return False
    left = (rows.acquired(now, source, target) <= source) & (rows.released(before, source, target) >= target)
    queries = np.stack([before >> MOMENTS, source, target], 1)[left]
    return not len(queries) or by_clocks(log, rows.place, np.unique(queries, axis=0))


def plain(conflicts: np.ndarray) -> tuple:
    before, now = conflicts[:, 0] >> EPOCH, conflicts[:, 1] >> EPOCH
    return before, now, np.full(len(before), -1)


def atomics(log: np.ndarray, conflicts: np.ndarray) -> tuple | None:
    """The atomics that plain accesses must come after, as in `plain`, the third being those that release themselves;
    None if one of the same program does not come before."""
    order = np.argsort(log[:, 1], kind="stable")
    low, high = (np.searchsorted(log[order, 1], conflicts[:, 2], side) for side in ("left", "right"))
    each = np.repeat(np.arange(len(conflicts)), high - low)
    rows = order[np.arange(len(each)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[each]]
    each, rows = (x[rows < conflicts[each, 3]] for x in (each, rows))
    one, other = log[rows, 0], conflicts[each, 1]
    mine = one >> PROGRAM == other >> PROGRAM
    alone = ((one ^ other) & THREADS == 0) & (other & SEVERAL == 0)
    if (mine & (one >> EPOCH == other >> EPOCH) & ~alone).any():
        return None
    rows, one, other = rows[~mine], one[~mine], other[~mine]
    return one >> EPOCH, other >> EPOCH, np.where(log[rows, 2] & RELEASE != 0, rows, -1)


class Rows:
    """The log, to be looked up: which row of a program, and of a place, stands next to another; -1 or N if none."""

    def __init__(self, log: np.ndarray, conflicts: np.ndarray):
        self.who = log[:, 0] >> EPOCH
        self.gives, self.takes = np.flatnonzero(log[:, 2] & RELEASE), np.flatnonzero(log[:, 2] & ACQUIRE)
        self.programs, self.program = np.unique(self.who >> MOMENTS, return_inverse=True)
        # a plain write makes of a place another
        addresses, address = np.unique(log[:, 1], return_inverse=True)
        over, N = conflicts[conflicts[:, 4] == WRITES_ATOMICS], len(log)
        over = np.sort(np.searchsorted(addresses, over[:, 2]) * (N + 1) + over[:, 3])
        times = np.searchsorted(over, address * (N + 1) + np.arange(N), "right")
        self.place = np.unique(address * (len(over) + 1) + times, return_inverse=True)[1]

    def next_to(self, rows: np.ndarray, moments: np.ndarray, side: Any, step: int) -> np.ndarray:
        """Of some rows, those of the same programs that stand next to moments, programs and epochs."""
        at = np.searchsorted(np.sort(self.who[rows]), moments, side) + step
        there = (at >= 0) & (at < len(rows))
        found = np.append(rows[np.argsort(self.who[rows], kind="stable")], 0)[np.where(there, at, -1)]
        return np.where(there & (self.who[found] >> MOMENTS == moments >> MOMENTS), found, -1)

    def acquired(self, moments: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The last acquires by programs, no later than `target`, at the places of `source`; -1 where that is -1."""
        found = self.at_place(self.takes, moments, source, target, "right", -1, -1)
        return np.where(source >= 0, found, -1)

    def released(self, moments: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The first releases by programs, no earlier than `source`, at the places of `target`."""
        return self.at_place(self.gives, moments, target, source, "left", 0, len(self.who))

    def at_place(self, rows: np.ndarray, moments, at: np.ndarray, when: np.ndarray, side: Any, step: int, none: int):
        N, places = len(self.who), int(self.place.max()) + 1
        keys = np.sort((self.program[rows] * places + self.place[rows]) * N + rows)
        base = (np.searchsorted(self.programs, moments >> MOMENTS) * places + self.place[at]) * N
        n = np.searchsorted(keys, base + when, side) + step
        found = np.append(keys, -1)[np.where((n >= 0) & (n < len(keys)), n, -1)] - base
        return np.where((found >= 0) & (found < N), found, none)


def by_clocks(log: np.ndarray, place: np.ndarray, queries: np.ndarray) -> bool:
    """The same over any number of programs between: what each knows, the last release of every one, row by row."""
    sources = {p: n for n, p in enumerate(np.unique(queries[:, 0]).tolist())}
    asked = defaultdict(list)
    for p, source, target in queries.tolist():
        asked[target].append((sources[p], source))
    nothing = np.full(len(sources), -1)
    held, own = defaultdict(lambda: nothing), defaultdict(lambda: nothing)  # by place; by program and thread
    known = defaultdict(lambda: [0, nothing, nothing])  # by program: its epoch, what it knows, learns in this epoch
    rows = zip((log[:, 0] >> EPOCH).tolist(), log[:, 0].tolist(), place.tolist(), log[:, 2].tolist(), strict=True)
    for n, (moment, who, at, flags) in enumerate(rows):
        program, thread = moment >> MOMENTS, (moment >> MOMENTS, who & THREADS)
        state = known[program]
        if moment > state[0]:
            state[:] = moment, np.maximum(state[1], state[2]), nothing
        if flags & ACQUIRE:
            state[2], own[thread] = np.maximum(state[2], held[at]), np.maximum(own[thread], held[at])
            learned = np.maximum(state[1], state[2])
            if any(learned[p] < source for p, source in asked[n]):
                return False
        if flags & RELEASE:
            given = np.maximum(state[1], own[thread])
            if program in sources:
                given[sources[program]] = n
            held[at] = np.maximum(held[at], given)
    return True
