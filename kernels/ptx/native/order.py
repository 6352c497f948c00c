"""Whether happens-before orders every conflict of two programs that compiled code noted: what races.py asks, in short.

An atomic that releases covers what its thread did before it, and what its program did before the last barrier. One that
acquires, later and at the same place, shows it to its own thread, and to its program from the next barrier on; and so
over any number of programs between. Fences order nothing here: what they order is a suspicion only.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from .accesses import LATEST, MOMENT, PROGRAM, SEVERAL, THREAD, THREADS, WRITES_ATOMICS

ACQUIRE, RELEASE = 1, 2
MOST = 1 << 20  # pairs of an access and an atomic: a second
MOMENTS = PROGRAM - MOMENT  # bits of a moment; above them stands the program


def ordered(log: np.ndarray, conflicts: np.ndarray) -> bool:
    """Whether each conflict is ordered, as far as the log of atomics shows.

    log        (N, 4) int64, in order: who (see accesses.py), address, ACQUIRE and RELEASE, since
    conflicts  (M, 6) int64: who was before, who is now, address, atomics in the log by then, kind, since
    """
    if not len(conflicts):
        return True
    pairs = plain(conflicts[conflicts[:, 0] != 0])
    others = atomics(log, conflicts[conflicts[:, 0] == 0])
    if others is None or not len(log):
        return others is not None and not len(pairs[0])
    before, now, since = distinct(np.concatenate([pairs, others], axis=1).T).T
    rows = Rows(log, conflicts)
    # first releases and last acquires: of the program beyond a barrier, which orders nearly all; of the thread itself
    sources = rows.beyond(rows.gives, rows.since, before >> MOMENT, "right", 0)
    targets = rows.beyond(rows.takes, rows.moment, since, "left", -1)
    left = (sources < 0) | (targets < 0) | (rows.last(now, sources, targets) <= sources)
    before, now, since, sources, targets = (x[left] for x in (before, now, since, sources, targets))
    source, target = rows.own(rows.gives, before, "left", 0), rows.own(rows.takes, now, "left", -1)
    done = (source >= 0) & (targets >= 0) & (rows.last(now, source, targets) > source)
    first = rows.first(before, target, sources)
    done |= (target >= 0) & (sources >= 0) & (first >= 0) & (first < target)
    first = rows.first(before, targets, sources)
    done |= (targets >= 0) & (sources >= 0) & (first >= 0) & (first < targets)
    done |= (source >= 0) & (source < target) & (rows.place[source] == rows.place[target])
    left = ~done
    if (sources[left] < 0).any() or (targets[left] <= sources[left]).any():
        return False
    queries = np.stack([before >> PROGRAM, sources, targets], 1)[left]
    return not len(queries) or by_clocks(log, rows.place, np.unique(queries, axis=0))


def distinct(rows: np.ndarray) -> np.ndarray:
    """Rows, (N, K) int64, each at least once, and hardly any twice; in any order. np.unique takes ten times as long."""
    rows = rows[np.argsort(rows @ (0x1E3779B97F4A7C15 >> 7 * np.arange(rows.shape[1])))]
    return rows[np.append(True, (rows[1:] != rows[:-1]).any(1))[: len(rows)]]


def plain(conflicts: np.ndarray) -> tuple:
    return conflicts[:, 0], conflicts[:, 1], conflicts[:, 5]


def atomics(log: np.ndarray, conflicts: np.ndarray) -> tuple | None:
    """The atomics that plain accesses must come after, as in `plain`; None if one of the same program does not, or
    they are too many to look at each."""
    order = np.argsort(log[:, 1], kind="stable")
    low, high = (np.searchsorted(log[order, 1], conflicts[:, 2], side) for side in ("left", "right"))
    if (high - low).sum() > MOST:
        return None
    each = np.repeat(np.arange(len(conflicts)), high - low)
    rows = order[np.arange(len(each)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[each]]
    each, rows = (x[rows < conflicts[each, 3]] for x in (each, rows))
    one, other, since = log[rows, 0], conflicts[each, 1], conflicts[each, 5]
    mine = one >> PROGRAM == other >> PROGRAM
    alone = ((one ^ other) & THREADS == 0) & (other & SEVERAL == 0)
    if (mine & (one >> MOMENT >= since) & ~alone).any():
        return None
    return one[~mine], other[~mine], since[~mine]


class Rows:
    """The log, to be looked up: which row stands next to another, in the log's order; -1: there is none."""

    def __init__(self, log: np.ndarray, conflicts: np.ndarray):
        self.who, self.moment, self.since = log[:, 0], log[:, 0] >> MOMENT, log[:, 3]
        self.gives, self.takes = np.flatnonzero(log[:, 2] & RELEASE), np.flatnonzero(log[:, 2] & ACQUIRE)
        self.programs, self.program = np.unique(self.who >> PROGRAM, return_inverse=True)
        # a plain write makes of a place another
        addresses, address = np.unique(log[:, 1], return_inverse=True)
        over, N = conflicts[conflicts[:, 4] == WRITES_ATOMICS], len(log)
        over = np.sort(np.searchsorted(addresses, over[:, 2]) * (N + 1) + over[:, 3])
        times = np.searchsorted(over, address * (N + 1) + np.arange(N), "right")
        self.place = np.unique(address * (len(over) + 1) + times, return_inverse=True)[1]

    def beyond(self, rows: np.ndarray, when: np.ndarray, moments: np.ndarray, side: Any, step: int) -> np.ndarray:
        """Of some rows, those of the same programs that stand next to moments, by their own."""
        return next_to(when[rows], rows, moments, side, step, MOMENTS)

    def own(self, rows: np.ndarray, who: np.ndarray, side: Any, step: int) -> np.ndarray:
        """The same of the same threads."""
        key = lambda x: (x >> PROGRAM << 10 | (x & THREADS) >> THREAD) << MOMENTS | x >> MOMENT & LATEST  # noqa: E731
        found = next_to(key(self.who[rows]), rows, key(who), side, step, MOMENTS)
        return np.where((who & SEVERAL == 0) & (who >> MOMENT & LATEST != LATEST), found, -1)

    def last(self, who: np.ndarray, at: np.ndarray, until: np.ndarray) -> np.ndarray:
        """The last acquires by programs, no later than `until`, at the places of rows `at`."""
        return self.at_place(self.takes, who, at, until, "right", -1)

    def first(self, who: np.ndarray, at: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The first releases by programs, no earlier than `start`, at the places of rows `at`."""
        return self.at_place(self.gives, who, at, start, "left", 0)

    def at_place(self, rows: np.ndarray, who: np.ndarray, at: np.ndarray, when: np.ndarray, side: Any, step: int):
        N, places = len(self.who), int(self.place.max()) + 1
        keys = (self.program[rows] * places + self.place[rows]) * N + rows
        base = np.minimum(np.searchsorted(self.programs, who >> PROGRAM), len(self.programs) - 1)
        base = (base * places + self.place[at]) * N
        found = next_to(keys, rows, base + np.maximum(when, 0), side, step, 0)
        return np.where((found >= 0) & (self.program[found] * places + self.place[found] == base // N), found, -1)


def next_to(keys: np.ndarray, rows: np.ndarray, wanted: np.ndarray, side: Any, step: int, bits: int) -> np.ndarray:
    """The rows whose keys stand next to those wanted, alike but for the lowest bits, where there are such; else -1."""
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys[order], wanted, side) + step
    there = (at >= 0) & (at < len(rows))
    at = np.where(there, at, 0)
    if not len(rows):
        return np.full(len(wanted), -1)
    alike = keys[order[at]] >> bits == wanted >> bits if bits else there
    return np.where(there & alike, rows[order[at]], -1)


def by_clocks(log: np.ndarray, place: np.ndarray, queries: np.ndarray) -> bool:
    """The same over any number of programs between: what each knows, the last release of every one, row by row."""
    sources = {p: n for n, p in enumerate(np.unique(queries[:, 0]).tolist())}
    asked = defaultdict(list)
    for p, source, target in queries.tolist():
        asked[target].append((sources[p], source))
    nothing = np.full(len(sources), -1)
    held, own = defaultdict(lambda: nothing), defaultdict(lambda: nothing)  # by place; by program and thread
    known = defaultdict(lambda: [0, nothing, nothing])  # by program: since when it knows what, and what it learns
    for n, (who, _, flags, since) in enumerate(log.tolist()):
        program, thread, at = who >> PROGRAM, who >> PROGRAM << 40 | who & THREADS, int(place[n])
        state = known[program]
        if since > state[0]:
            state[:] = since, np.maximum(state[1], state[2]), nothing
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
