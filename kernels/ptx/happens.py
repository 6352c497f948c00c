"""Happens-before in a launch: suspected accesses are replayed in order of execution, with what synchronises them.

Knowledge is a bit set, a Python integer with one bit per item. An item is all that one thread does through one
instruction between two of its synchronisations. Threads of a warp that wait for nothing but barriers share theirs:
nobody can learn of one without the others. A program or warp that passes a barrier merges what its threads did and
learned.

Source: PTX ISA 8.7, section 8 (memory consistency model): release and acquire patterns, causality order.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

WRITES = ("store", "atomic")
EXAMPLES = 256  # granules looked at where one set of instructions collides within programs: thousands tell no more


class Rows(NamedTuple):
    """Who touched which granule through which access: equally long arrays, one row for each thread and granule."""

    access: np.ndarray  # index into the log
    granule: np.ndarray  # -1 for a fence
    who: np.ndarray  # program * T + thread
    head: np.ndarray  # bool: the first granule of the access
    epoch: np.ndarray
    warp_epoch: np.ndarray
    turn: np.ndarray  # how often this thread has synchronised by itself before
    rank: np.ndarray  # order within the access
    value: np.ndarray  # uint64, the bytes stored

    def take(self, which: np.ndarray) -> "Rows":
        return Rows(*(column[which] for column in self))


class _Log:
    """What the accesses of a log are, as arrays."""

    def __init__(self, log: Sequence[Any]):
        numbers: dict = {}
        self.instruction = np.array([numbers.setdefault((id(a.instruction), *a[1:4]), len(numbers)) for a in log])
        self.store, self.load = (np.array([a.kind == kind for a in log]) for kind in ("store", "load"))
        self.writes = np.array([a.kind in WRITES for a in log])
        self.strong, self.wide = np.array([(a.strong, a.wide) for a in log]).T
        self.acquire, self.release = (
            np.array([a.wide and a.order in (order, "acq_rel") for a in log]) for order in ("acquire", "release")
        )


def replay(log: Sequence[Any], rows: Rows, suspects: Rows) -> list[tuple]:
    """Races among the suspects, one for each pair of instructions, within a program and between two.

    rows      all rows that several threads share, and the fences: what synchronises is among them
    suspects  those of them that may race
    returns   (access, who, access, who, granule): two log indices, in order of execution, and their threads
    """
    flags, T = _Log(log), log[0].threads
    place = np.append(np.zeros(rows.granule.max() + 1, bool), False)
    sync = rows.take(flags.wide[rows.access] & rows.head & (rows.granule >= 0))
    place[sync.granule] = True
    fences = rows.take((rows.granule < 0) & np.isin(rows.who, sync.who))
    overwrites = rows.take(~flags.wide[rows.access] & flags.store[rows.access] & place[rows.granule])
    crowded = _collisions(flags, suspects, suspects.who // T)
    # A thread that synchronises counts for itself until the next barrier, when its program shares what it knows.
    moment = number(np.concatenate([rows.who, suspects.who]), np.concatenate([rows.epoch, suspects.epoch]))
    acts = np.isin(moment[len(rows.who) :], moment[: len(rows.who)][flags.wide[rows.access]]) | crowded
    party = np.where(acts, suspects.who, rows.who.max() + 1 + suspects.who // 32)
    turn = np.where(acts, suspects.turn, 0)
    value = np.where(crowded, np.unique(suspects.value, return_inverse=True)[1].ravel(), 0)
    item = number(flags.instruction[suspects.access], party, suspects.epoch, suspects.warp_epoch, turn, value)
    kept = _distinct(suspects.granule, item, flags.instruction[suspects.access], crowded)
    suspects, crowded = suspects.take(kept), crowded[kept]
    _, sample, item = np.unique(item[kept], return_index=True, return_inverse=True)
    events = _schedule(
        (1, suspects, item.ravel()),
        (0, sync.take(~flags.store[sync.access]), None),
        (2, sync.take(~flags.load[sync.access]), None),
        (0, fences, None),
        (2, overwrites, None),
    )
    return _Replay(flags, suspects, item.ravel(), sample, set(suspects.granule[crowded].tolist()), T).races(events)


def number(*columns: np.ndarray) -> np.ndarray:
    """The rows of some integer columns, equal rows by equal numbers 0, 1, ... in ascending order of the rows."""
    key, span = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        column = column - column.min()
        width = int(column.max()) + 1
        if span * width >= 2**62:
            key = np.unique(key, return_inverse=True)[1].ravel()
            span = int(key.max()) + 1
        key, span = key * width + column, span * width
    return np.unique(key, return_inverse=True)[1].ravel()


def _collisions(flags: _Log, rows: Rows, program: np.ndarray) -> np.ndarray:
    """Rows of granules where threads of one program meet between two barriers, unless in a replicated store."""
    group = number(rows.granule, program, rows.epoch)
    order = np.argsort(group, kind="stable")
    start = np.flatnonzero(np.diff(group[order], prepend=-1))

    def several(column):
        return np.minimum.reduceat(column[order], start) != np.maximum.reduceat(column[order], start)

    def every(flag):
        return np.logical_and.reduceat(flag[rows.access][order], start)

    replicated = every(flags.store) & ~several(flags.instruction[rows.access]) & ~several(rows.value)
    meets = several(rows.who) & ~every(~flags.writes) & ~every(flags.strong) & ~replicated
    crowded = np.zeros(rows.granule.max() + 1, bool)
    crowded[rows.granule[order][start][meets]] = True
    return crowded[rows.granule]


def _distinct(granule: np.ndarray, item: np.ndarray, instruction: np.ndarray, crowded: np.ndarray) -> np.ndarray:
    """Indices of rows: each item once in each granule, and one granule for each set of items (if crowded, EXAMPLES
    for each set of instructions). Sets are told apart by sums of random numbers."""
    _, first = np.unique(number(granule, item), return_index=True)
    _, start = np.unique(granule[first], return_index=True)
    draw = np.random.default_rng(0).integers(2**62, size=(2, int(max(item.max(), instruction.max())) + 1))
    items = np.add.reduceat(draw[0][item[first]], start)
    instructions = np.add.reduceat(draw[1][instruction[first]], start)
    many = crowded[first[start]]
    keep = np.zeros(len(start), bool)
    keep[np.flatnonzero(~many)[np.unique(items[~many], return_index=True)[1]]] = True
    for pattern in np.unique(instructions[many]):
        keep[np.flatnonzero(many & (instructions == pattern))[:EXAMPLES]] = True
    return np.sort(first[np.repeat(keep, np.diff(np.append(start, len(first))))])


def _schedule(*parts: tuple) -> list[tuple]:
    """Events (phase, access, granule, who, epoch, warp_epoch, value, item) in order of execution."""
    rows = Rows(*map(np.concatenate, zip(*(part for _, part, _ in parts), strict=True)))
    phase = np.concatenate([np.full(len(part.who), p) for p, part, _ in parts])
    item = np.concatenate([np.full(len(part.who), -1) if i is None else i for _, part, i in parts])
    columns = (phase, rows.access, rows.granule, rows.who, rows.epoch, rows.warp_epoch, rows.value, item)
    order = np.lexsort((phase, rows.rank, rows.access))
    return list(zip(*(column[order].tolist() for column in columns), strict=True))


class _Replay:
    """Knowledge as it spreads. item numbers the rows; sample is the first row of each item."""

    def __init__(self, flags: _Log, rows: Rows, item: np.ndarray, sample: np.ndarray, crowded: set[int], T: int):
        def bits(mask):
            return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")

        self.flags, self.rows, self.item, self.crowded, self.T = flags, rows, item, crowded, T
        access, program = rows.access[sample], rows.who[sample] // T
        self.instruction = flags.instruction[access]
        self.writes, self.strong, self.wide = (bits(f[access]) for f in (flags.writes, flags.strong, flags.wide))
        self.of_program = cache(lambda p: bits(program == p))
        self.of_instruction = cache(lambda n: bits(self.instruction == n))
        # of a program or a warp: barriers passed, what all its threads know, what they learn at the next barrier
        self.groups = defaultdict(lambda: [0, 0, 0])
        self.own, self.touched, self.alike = defaultdict(int), defaultdict(int), defaultdict(int)
        self.found: dict[tuple, tuple] = {}

    def races(self, events: list[tuple]) -> list[tuple]:
        held, offered, fenced, seen = {}, {}, {}, defaultdict(int)  # by place, (thread, place), thread, thread
        for phase, k, place, who, epoch, warp_epoch, value, item in events:
            groups = self.passed((0, who // self.T), epoch), self.passed((1, who // 32), warp_epoch)
            known = self.own[who] | groups[0][1] | groups[1][1]
            learned = 0
            if phase == 1:
                self.check(k, known, place, who, (epoch, value), item)
                learned = 1 << item
            elif place < 0:  # a fence
                learned = seen[who]
                fenced[who] = known | learned
            elif phase == 0:
                seen[who] |= held.get(place, 0)
                learned = held.get(place, 0) if self.flags.acquire[k] else 0
            elif not self.flags.wide[k]:
                held.pop(place, None)
            else:
                if self.flags.release[k]:
                    offered[who, place] = known
                given = offered.get((who, place), 0) | fenced.get(who, 0)
                held[place] = given if self.flags.store[k] else given | held.get(place, 0)
            self.own[who] |= learned
            groups[0][2] |= learned
            groups[1][2] |= learned
        return list(self.found.values())

    def passed(self, group: tuple[int, int], barriers: int) -> list[int]:
        state = self.groups[group]
        if barriers > state[0]:
            state[:] = barriers, state[1] | state[2], 0
        return state

    def check(self, k: int, known: int, place: int, who: int, store: tuple, item: int) -> None:
        """Note what an item races with among those that touched this granule before it."""
        hit = self.touched[place]
        self.touched[place] = hit | 1 << item
        hit ^= hit & known
        program, this = who // self.T, int(self.flags.instruction[k])
        if self.flags.store[k] and place in self.crowded:
            key = (place, this, program, *store)
            hit ^= hit & self.alike[key]
            self.alike[key] |= 1 << item
        if not hit:
            return
        mine = self.of_program(program)
        if self.flags.load[k]:
            hit &= self.writes
        if self.flags.strong[k]:
            hit &= ~(self.strong & mine | (self.wide if self.flags.wide[k] else 0))
        if place not in self.crowded:
            hit &= ~mine
        while hit:
            other = (hit & -hit).bit_length() - 1
            that, within = int(self.instruction[other]), bool(mine >> other & 1)
            pair = (*sorted((this, that)), within)
            if pair not in self.found:
                row = np.flatnonzero((self.rows.granule == place) & (self.item == other))[0]
                self.found[pair] = int(self.rows.access[row]), int(self.rows.who[row]), k, who, place
            hit &= ~(self.of_instruction(that) & (mine if within else ~mine))
