"""Happens-before in a launch: a replay of the suspected accesses and their synchronisation, in order of execution.

What a thread knows is a bit set, a Python integer with one bit per stretch; a stretch is all that a thread does between
two of its synchronisations. Threads of a warp that only wait at barriers share one. At a barrier the sets are merged.

Source: PTX ISA 8.7, section 8 (memory consistency model): release and acquire patterns, causality order.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, reduce
from operator import or_
from typing import Any, NamedTuple

import numpy as np

from .arrays import turns

WRITES = ("store", "atomic")
LEVELS = ("launch", "program", "warp")  # two programs, two warps of one, two lanes of one warp: the gravest first
EXAMPLES = 256  # places looked at where one set of instructions collides within programs: thousands show nothing new


class Rows(NamedTuple):
    """Who touched which granule through which access: equally long arrays, one row for each thread and granule."""

    access: np.ndarray  # index into the log
    place: np.ndarray  # the granule's first byte; -1 for a fence
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
    """What the accesses of a log are, as arrays; an instruction is known by the index of its first access."""

    def __init__(self, log: Sequence[Any]):
        first: dict = {}
        self.instruction = np.array([first.setdefault((id(a.instruction), *a[1:4]), k) for k, a in enumerate(log)])
        self.store, self.load = (np.array([a.kind == kind for a in log]) for kind in ("store", "load"))
        self.writes = np.array([a.kind in WRITES for a in log])
        self.strong, self.wide = np.array([(a.strong, a.wide) for a in log]).T
        orders = [a.order if a.wide else "" for a in log]
        self.acquire, self.release = (np.isin(orders, (order, "acq_rel")) for order in ("acquire", "release"))


def replay(log: Sequence[Any], rows: Rows | None) -> list[tuple]:
    """Races among the rows, one for each pair of instructions and level.

    rows      of all places that several threads share, and of the fences
    returns   (access, who, access, who, place): two log indices, in order of execution, and their threads
    """
    if rows is None:
        return []
    flags, T = _Log(log), log[0].threads
    wide = flags.wide[rows.access]
    sync, weak = rows.take(wide & rows.head & (rows.place >= 0)), rows.take(~wide)
    suspects = rows.take(_among(rows.place, weak.place))
    if not suspects.who.size:
        return []
    group = number(suspects.place, suspects.who // T, suspects.epoch)
    copies = _copies(flags, suspects, group)
    crowded = _among(suspects.place, _meeting(flags, suspects.take(~copies), group[~copies]))
    # A thread that synchronises counts for itself until the next barrier, when its program shares what it knows.
    both = Rows(*map(np.concatenate, zip(suspects, rows.take(wide), strict=True)))
    moment = number(both.who, both.epoch)
    synced = np.isin(moment[: len(crowded)], moment[len(crowded) :])
    acts = synced | crowded
    party = np.where(acts, suspects.who, rows.who.max() + 1 + suspects.who // 32)
    stretch = number(party, suspects.epoch, suspects.warp_epoch, np.where(acts, suspects.turn, 0))
    value = np.where(crowded, np.unique(suspects.value, return_inverse=True)[1].ravel(), 0)
    kept = _distinct(suspects.place, flags.instruction[suspects.access], crowded, stretch, value)
    kept = kept[_two_of_each(suspects, copies, value, synced)[kept]]
    found = _Replay(flags, T, suspects.take(kept), stretch[kept], copies[kept], crowded[kept])
    overwrites = weak.take(flags.store[weak.access] & _among(weak.place, sync.place))
    fences = rows.take((rows.place < 0) & np.isin(rows.who, sync.who))
    return found.races(
        (1, found.rows),
        (0, sync.take(~flags.store[sync.access])),
        (2, sync.take(~flags.load[sync.access])),
        (0, fences),
        (2, overwrites),
    )


def _among(place: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which of the first are among the second; a fence's -1 never is."""
    found = np.zeros(max(place.max(initial=0), places.max(initial=0)) + 2, bool)
    found[places[places >= 0]] = True
    return found[place]


def number(*columns: np.ndarray) -> np.ndarray:
    """The rows of some integer columns, equal rows by equal numbers 0, 1, ... in ascending order of the rows."""
    key, span = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        column = column.astype(np.int64) - column.min()
        width = int(column.max()) + 1
        if span * width >= 2**62:
            key = np.unique(key, return_inverse=True)[1].ravel()
            span = int(key.max()) + 1
        key, span = key * width + column, span * width
    return np.unique(key, return_inverse=True)[1].ravel()


def _copies(flags: _Log, rows: Rows, group: np.ndarray) -> np.ndarray:
    """Rows of weak loads by threads that do not write there, if all that do have loaded by the same instruction before.

    group  number of the place, program and epoch of each row
    """
    write, weak = flags.writes[rows.access], flags.load[rows.access] & ~flags.strong[rows.access]
    mine, read = number(group, rows.who), number(group, flags.instruction[rows.access])
    first = np.full(mine.max() + 1, np.iinfo(np.int64).max)  # write of each thread
    np.minimum.at(first, mine[write], rows.access[write])
    writes = first[mine] < np.iinfo(np.int64).max

    def threads(which, within):
        """How many threads there are in each of `within`, among these rows."""
        _, one = np.unique(number(within, rows.who)[which], return_index=True)
        return np.bincount(within[which][one], minlength=within.max() + 1)

    prepared = threads(weak & (rows.access < first[mine]) & writes, read)
    strong = np.bincount(group[write & flags.strong[rows.access]], minlength=group.max() + 1) > 0  # meant for others
    return weak & ~writes & ~strong[group] & (prepared[read] == threads(write, group)[group])


def _meeting(flags: _Log, rows: Rows, group: np.ndarray) -> np.ndarray:
    """Places where threads of one program meet between two barriers, unless in a replicated store."""
    order = np.argsort(group, kind="stable")
    start = np.flatnonzero(np.diff(group[order], prepend=-1))

    def several(column):
        return np.minimum.reduceat(column[order], start) != np.maximum.reduceat(column[order], start)

    def every(flag):
        return np.logical_and.reduceat(flag[rows.access][order], start)

    replicated = every(flags.store) & ~several(flags.instruction[rows.access]) & ~several(rows.value)
    meets = several(rows.who) & ~every(~flags.writes) & ~every(flags.strong) & ~replicated
    return rows.place[order][start][meets]


def _distinct(place, instruction, crowded, *what: np.ndarray) -> np.ndarray:
    """Indices of rows: what an instruction does in a place once, and one place for each set of that (if crowded,
    EXAMPLES for each set of instructions). Sets are compared by sums of random numbers."""
    item = number(instruction, *what)
    _, first = np.unique(number(place, item), return_index=True)
    _, start = np.unique(place[first], return_index=True)
    draw = np.random.default_rng(0).integers(2**62, size=(2, int(max(item.max(), instruction.max())) + 1))
    items = np.add.reduceat(draw[0][item[first]], start)
    instructions = np.add.reduceat(draw[1][instruction[first]], start)
    many = crowded[first[start]]
    keep = np.zeros(len(start), bool)
    keep[np.flatnonzero(~many)[np.unique(items[~many], return_index=True)[1]]] = True
    for pattern in np.unique(instructions[many]):
        keep[np.flatnonzero(many & (instructions == pattern))[:EXAMPLES]] = True
    return np.sort(first[np.repeat(keep, np.diff(np.append(start, len(first))))])


def _two_of_each(rows: Rows, copies: np.ndarray, value: np.ndarray, synced: np.ndarray) -> np.ndarray:
    """Rows (bool) without those that add nothing: of lanes of a warp that do the same in one place at once, and do
    not synchronise by themselves, two race with whomever any of them races with."""
    group = number(rows.access, rows.place, rows.who // 32, value, copies)
    return turns(np.where(synced, group.max() + 1 + np.arange(len(group)), group)) < 2


def _members(group: np.ndarray) -> Callable[[int], int]:
    """A function of a number: where it stands in the group, as bits."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]

    @cache
    def bits(number: int) -> int:
        first, last = np.searchsorted(ordered, [number, number + 1])
        return reduce(or_, (1 << n for n in order[first:last].tolist()), 0)

    return bits


class _Replay:
    """Knowledge as it spreads: the suspects' rows, the stretch of each, and whether it is a copy, or in a crowd."""

    def __init__(self, flags: _Log, T: int, rows: Rows, stretch: np.ndarray, copies: np.ndarray, crowded: np.ndarray):
        self.flags, self.T, self.rows, self.copies = flags, T, rows, copies.tolist()
        _, sample, self.stretch = np.unique(stretch, return_index=True, return_inverse=True)
        self.of = {level: _members(rows.who[sample] // size) for level, size in (("program", T), ("warp", 32))}
        self.crowded = set(rows.place[crowded].tolist())
        # of a program or a warp: barriers passed, what all its threads know, what they learn at the next barrier
        self.groups = defaultdict(lambda: [0, 0, 0])
        self.own = defaultdict(int)
        self.touched = defaultdict(lambda: defaultdict(int))  # place: {(instruction, whether as a copy): by whom}
        self.stored = defaultdict(lambda: defaultdict(int))  # (place, instruction): {bytes: by whom}
        self.found: dict[tuple, tuple] = {}

    def races(self, *parts: tuple[int, Rows]) -> list[tuple]:
        """Replay the rows of all parts: of one access, what is acquired (0) before the suspects (1) before releases."""
        phase = np.repeat([p for p, _ in parts], [len(part.who) for _, part in parts])
        rows = Rows(*map(np.concatenate, zip(*(part for _, part in parts), strict=True)))
        order = np.lexsort((phase, rows.rank, rows.access))
        columns = (order, phase[order], *rows.take(order))
        held, offered, fenced, seen = {}, {}, {}, defaultdict(int)  # by place, (thread, place), thread, thread
        each = zip(*(column.tolist() for column in columns), strict=True)
        for n, step, k, place, who, _, epoch, warp_epoch, _, _, value in each:
            groups = self.passed((0, who // self.T), epoch), self.passed((1, who // 32), warp_epoch)
            known = self.own[who] | groups[0][1] | groups[1][1]
            learned = 0
            if step == 1:
                learned = 1 << int(self.stretch[n])
                self.check(n, k, known, learned, place, who, value)
            elif place < 0:  # a fence
                learned = seen[who]
                fenced[who] = known | learned
            elif step == 0:
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

    def check(self, n: int, k: int, known: int, me: int, place: int, who: int, value: int) -> None:
        """Note what row n, of stretch `me`, races with among those that touched this place before it."""
        flags, crowded = self.flags, place in self.crowded
        this, copy = int(flags.instruction[k]), self.copies[n]
        for (that, other_copy), stretches in self.touched[place].items():
            if not (flags.writes[this] or flags.writes[that]):
                continue
            pairs = {level: (*sorted((this, that)), level) for level in LEVELS}
            if flags.strong[this] and flags.strong[that]:
                if flags.wide[this] and flags.wide[that]:
                    continue
                pairs = {"launch": pairs["launch"]}
            if copy or other_copy or not crowded:
                pairs = {"launch": pairs["launch"]}
            if not (pairs := {level: pair for level, pair in pairs.items() if pair not in self.found}):
                continue
            if not (hit := stretches ^ stretches & known):
                continue
            program, warp = self.of["program"](who // self.T), self.of["warp"](who // 32)
            for level, pair in pairs.items():
                others = hit & {"launch": ~program, "program": program & ~warp, "warp": warp}[level]
                if others and level != "launch" and this == that and flags.store[this]:
                    others &= reduce(or_, (by for bytes, by in self.stored[place, this].items() if bytes != value), 0)
                if others:
                    other = (others & -others).bit_length() - 1
                    here = (self.rows.place == place) & (self.stretch == other)
                    row = np.flatnonzero(here & (flags.instruction[self.rows.access] == that))[0]
                    self.found[pair] = int(self.rows.access[row]), int(self.rows.who[row]), k, who, place
        self.touched[place][this, copy] |= me
        if crowded and flags.store[k]:
            self.stored[place, this][value] |= me
