"""Races in global memory, found after a launch in the log of its accesses: two touch one byte, nothing orders them.

What orders two accesses is happens-before: the program order of a thread, the barriers of a program and of a warp, and
between threads anywhere a release of gpu or sys scope that an acquire of such scope reads. Bytes that one thread alone
touches, that are only read, or that only atomics touch are dropped first; happens_before.py judges the few others.

Source: PTX ISA 8.7, section 8 (memory consistency model): release and acquire patterns, causality order.
Two deviations: synchronisation of cta scope orders nothing here, and a location is its first bytes, whatever its width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .happens_before import LEVELS, WRITES, Rows, replay

WIDEST = 16  # bytes: no thread's access is wider
MANY = 256  # threads at one place, from which on some of their programs stand for all


class Access(NamedTuple):
    """One instruction's access to global memory, by P programs in lockstep with T threads each.

    kind        "load", "store", "atomic" or "fence"
    order       "" (weak), "relaxed", "acquire", "release" or "acq_rel"; a fence is "acq_rel", volatile is "relaxed"
    scope       "", "cta", "gpu" or "sys"
    programs    (P,) int64, linear numbers of the programs
    address     (P or 1, T or 1) int64, the first byte that each thread touches; None for a fence
    size        bytes that each thread touches, 1 to 16
    active      (P or 1, T or 1) bool; None: all threads
    epoch       (P,) barriers of the whole program that each program has passed
    warp_epoch  (P, W) bar.warp.sync's that each warp has passed; None: none so far
    value       stores: (P or 1, T or 1, size) uint8, the bytes written; None: unknown, so that no two stores are alike
    sequence    atomics: indices into the flattened (P, T), active threads in the order in which they took effect;
                None: ascending
    issuer      (P,) the one thread of each program that makes the whole access, whose second axes are then not threads
                but words, N of them; None: each thread its own
    """

    instruction: Any
    kind: str
    order: str
    scope: str
    programs: np.ndarray
    address: np.ndarray | None
    size: int
    active: np.ndarray | None
    threads: int
    epoch: np.ndarray
    warp_epoch: np.ndarray | None = None
    value: np.ndarray | None = None
    sequence: np.ndarray | None = None
    issuer: np.ndarray | None = None

    @property
    def strong(self) -> bool:
        return self.kind == "atomic" or self.order != ""

    @property
    def wide(self) -> bool:
        """Whether other programs may be synchronised with: strong, and of gpu or sys scope."""
        return self.strong and self.scope in ("gpu", "sys")

    @property
    def many(self) -> int:
        """The length of the second axes."""
        return self.threads if self.issuer is None or self.address is None else self.address.shape[1]

    def who(self) -> tuple[np.ndarray, np.ndarray]:
        """Active threads in their order: indices into the flattened (P, T), and their numbers program * T + thread."""
        P, N, T = len(self.programs), self.many, self.threads
        flat = self.sequence
        if flat is None:
            flat = np.arange(P * N)
            flat = flat if self.active is None else flat[np.broadcast_to(self.active, (P, N)).ravel()]
        thread = flat % T if self.issuer is None else self.issuer[flat // N]
        return flat, np.asarray(self.programs, np.int64)[flat // N] * T + thread

    def of(self, array: np.ndarray | None, flat: np.ndarray) -> np.ndarray:
        """Each active thread's entry of a (P or 1, T or 1, ...) array."""
        assert array is not None
        shape = (len(self.programs), self.many, *array.shape[2:])
        return np.broadcast_to(array, shape).reshape(-1, *array.shape[2:])[flat]

    def touched(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Active threads as in who(), and the first byte that each touches."""
        flat, who = self.who()
        return flat, who, self.of(self.address, flat)


class Side(NamedTuple):
    """One of the two accesses of a race."""

    instruction: Any
    kind: str
    program: int
    thread: int


class Race(NamedTuple):
    """Two unordered accesses, first and second in order of execution, to the byte at address."""

    first: Side
    second: Side
    address: int

    @property
    def within(self) -> bool:
        """Whether both are of one program."""
        return self.first.program == self.second.program

    @property
    def level(self) -> str:
        """ "launch" between two programs, "program" between two warps of one, "warp" between two lanes of one warp."""
        same_warp = self.first.thread // 32 == self.second.thread // 32
        return "launch" if not self.within else "warp" if same_warp else "program"


def find_races(log: Sequence[Access]) -> list[Race]:
    """Races among the accesses of a launch, which the log has in order of execution.

    returns one Race for each pair of instructions and each level, the gravest first; [] if all is ordered.

    No races are: two atomic or strong accesses of gpu or sys scope or of one program; and, between two barriers of a
    program, the copies of a value that Triton lets several of its threads hold: stores of the same bytes by one
    instruction; and a weak load by a thread that writes nothing there, if every thread that does, by plain stores, has
    loaded the place before by the same instruction. A race by what is made of such a copy stays unreported.
    """
    rows = _shared_rows(log, _near_writes(log))

    def side(k, who):
        return Side(log[k].instruction, log[k].kind, *divmod(who, log[k].threads))

    found = [Race(side(a, i), side(b, j), address) for a, i, b, j, address in replay(log, rows)]
    return sorted(found, key=lambda race: LEVELS.index(race.level))


def _near_writes(log: Sequence[Access]) -> dict[int, tuple]:
    """The accesses that come near a written byte, {index: (flat, who, address)} of their active threads."""
    near = {k: access.touched() for k, access in enumerate(log) if access.kind in WRITES}
    cells = np.zeros(max((int(t[2].max(initial=0)) for t in near.values()), default=0) // WIDEST + 4, bool)
    for *_, address in near.values():
        for neighbour in range(3):
            cells[address // WIDEST + neighbour] = True
    for k, access in enumerate(log):
        if access.kind != "load" or access.address is None:
            continue
        if cells.take(access.address // WIDEST + 1, mode="clip").any():
            flat, who, address = access.touched()
            here = cells.take(address // WIDEST + 1, mode="clip")
            near[k] = flat[here], who[here], address[here]
    return {k: near[k] for k in sorted(near) if near[k][0].size}


def _shared_rows(log: Sequence[Access], near: dict[int, tuple]) -> Rows | None:
    """Rows of the granules that one thread writes and another touches, and of the fences; None if there are none."""
    if not near:
        return None
    low_bits = [log[k].size | int(np.bitwise_or.reduce(address)) for k, (*_, address) in near.items()]
    granule = int(np.gcd.reduce([8, *low_bits]))
    places = {k: near[k][2][:, None] // granule + np.arange(log[k].size // granule) for k in near}
    contested, handed_on = shared = _sharing(log, near, places)
    stand_in = _stand_ins(log, near, places, shared)
    turn = np.zeros((max(int(access.programs.max()) for access in log) + 1) * log[0].threads, np.int64)
    parts, seen = [], set()
    for k, access in enumerate(log):
        if access.kind == "fence" and access.wide:
            flat, who = access.who()
            place, here = np.full((len(flat), 1), -1), np.ones((len(flat), 1), bool)
        elif k in near:
            (flat, who, _), place = near[k], places[k]
            here = (contested[place] | handed_on[place]) & stand_in(who // access.threads, place)
        else:
            continue
        if here.any():
            value = _stored(access, flat, who, granule) * contested[place]
            rows = _rows_of(k, access, flat, who, np.where(place < 0, -1, place * granule), value, here, turn)
            # What a loop repeats with no synchronisation between adds nothing.
            what = hash((id(access.instruction), *access[1:4], *(column.tobytes() for column in rows[1:])))
            if what not in seen:
                parts.append(rows)
                seen.add(what)
            turn[who] += access.wide
    return Rows(*map(np.concatenate, zip(*parts, strict=True))) if parts else None


def _sharing(log: Sequence[Access], near: dict[int, tuple], places: dict[int, np.ndarray]) -> np.ndarray:
    """(2, granules) bool: written by two threads; written by one and read by another."""
    most = max(int(place.max()) for place in places.values()) + 1
    writer, shared = np.zeros(most, np.int32), np.zeros((2, most), bool)
    for k in sorted(places, key=lambda k: log[k].kind == "load"):  # all writes first
        place, me, read = places[k], near[k][1][:, None].astype(np.int32) + 1, int(log[k].kind == "load")
        before = writer[place]
        shared[read, place[(before != 0) & (before != me)]] = True
        if not read:
            writer[place] = me
            shared[0, place[writer[place] != me]] = True
    return shared


def _stand_ins(log: Sequence[Access], near: dict[int, tuple], places: dict[int, np.ndarray], shared: np.ndarray):
    """A filter of rows: programs (threads,) and places (threads, granules of each) -> bool.

    Programs that never synchronise are all unordered. Where thousands of threads meet, the first two such programs, and
    the first two that write, race if any do; the filter drops the others.
    """
    count = {k: int(np.count_nonzero(shared[0, place] | shared[1, place])) for k, place in places.items()}
    if sum(count.values()) <= MANY:  # before anything is made of all granules: of buffers far apart there are billions
        return lambda program, place: np.True_
    shared = shared[0] | shared[1]
    threads, slot = log[0].threads, np.cumsum(shared, dtype=np.int32) - 1
    met = np.zeros(int(slot[-1]) + 1, np.int64)
    synced = np.zeros(max(int(access.programs.max()) for access in log) + 1, bool)
    for k, access in enumerate(log):
        if access.wide:
            synced[access.who()[1] // threads] = True
        if count.get(k):
            met += np.bincount(slot[places[k][shared[places[k]]]], minlength=len(met))
    nobody = np.iinfo(np.int64).max
    first = np.full((4, len(met)), nobody)  # of all and of those that write, the first program and the second
    for second in (0, 1):
        for k, place in places.items():
            program = np.broadcast_to(near[k][1][:, None] // threads, place.shape)
            here = shared[place] & ~synced[program]
            program, at = program[here], slot[place[here]]
            for row in (0, 2) if log[k].kind in WRITES else (0,):
                new = program != first[row, at] if second else slice(None)
                np.minimum.at(first[row + second], at[new], program[new])

    def looked_at(program: np.ndarray, place: np.ndarray) -> np.ndarray:
        at = slot[place]
        return (met[at] <= MANY) | synced[program][:, None] | (first[:, at] == program[None, :, None]).any(0)

    return looked_at


def _stored(access: Access, flat: np.ndarray, who: np.ndarray, granule: int) -> np.ndarray:
    """(threads, granules of each or 1) uint64, the bytes of a store; if unknown, no two threads' are alike."""
    if access.kind != "store":
        return np.zeros((1, 1), np.uint64)
    if access.value is None:
        return who[:, None].astype(np.uint64)
    return np.ascontiguousarray(access.of(access.value, flat)).view(f"u{granule}").astype(np.uint64)


def _rows_of(k: int, access: Access, flat, who, place, value, here, turn) -> Rows:
    """Rows of one access: those of its places (threads, granules of each) that are here."""
    i, j = np.nonzero(here)
    program, warp = flat // access.many, who % access.threads // 32
    passed = np.zeros(len(flat), np.int64) if access.warp_epoch is None else access.warp_epoch[program, warp]
    # A program of one warp has no other barrier than the warp's.
    epoch = access.epoch[program] + (passed if access.threads == 32 else 0)
    return Rows(np.full(len(i), k), place[i, j], who[i], j == 0, epoch[i], passed[i], turn[who[i]], i, value[i, j])
