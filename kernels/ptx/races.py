"""Races in global memory, found after a launch in the log of its accesses: two touch one byte, nothing orders them.

What orders two accesses is happens-before: the program order of a thread, the barriers of a program and of a warp, and
between threads anywhere a release of gpu or sys scope that an acquire of such scope reads. Arrays drop every byte that
one thread alone touches, or nobody writes, or only atomics do: mostly nothing is left. happens.py judges the rest.

Source: PTX ISA 8.7, section 8 (memory consistency model): release and acquire patterns, causality order.
Two deviations: synchronisation of cta scope orders nothing here, and a location is its first bytes, whatever its width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .happens import WRITES, Rows, replay

PAD = 16  # bytes: no thread's access is wider


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

    @property
    def strong(self) -> bool:
        return self.kind == "atomic" or self.order != ""

    @property
    def wide(self) -> bool:
        """Whether other programs may be synchronised with: strong, and of gpu or sys scope."""
        return self.strong and self.scope in ("gpu", "sys")

    def who(self) -> tuple[np.ndarray, np.ndarray]:
        """Active threads: indices into the flattened (P, T), and their numbers program * T + thread."""
        P, T = len(self.programs), self.threads
        everyone = (np.asarray(self.programs, np.int64)[:, None] * T + np.arange(T)).ravel()
        if self.active is None:
            return np.arange(P * T), everyone
        flat = np.flatnonzero(np.broadcast_to(self.active, (P, T)))
        return flat, everyone[flat]

    def of(self, array: np.ndarray | None, flat: np.ndarray) -> np.ndarray:
        """Each active thread's entry of a (P or 1, T or 1, ...) array."""
        assert array is not None
        shape = (len(self.programs), self.threads, *array.shape[2:])
        return np.broadcast_to(array, shape).reshape(-1, *array.shape[2:])[flat]


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


def find_races(log: Sequence[Access]) -> list[Race]:
    """Races among the accesses of a launch, which the log has in order of execution.

    returns one Race for each pair of instructions and each of within a program and between two; [] if all is ordered.

    Stores of the same bytes by threads of one program through one instruction between two barriers are one replicated
    store, no race. Neither are two atomic or strong accesses, if they are of gpu or sys scope or of the same program.
    """
    touches, address_of, total = _near_writes(log)
    if not touches:
        return []
    low_bits = [log[k].size for k in touches] + [int(np.bitwise_or.reduce(offset)) for *_, offset in touches.values()]
    granule = int(np.gcd.reduce([8, *low_bits]))
    rows = _shared_rows(log, touches, granule, total // granule)
    weak = np.zeros(total // granule + 1, bool)
    weak[rows.granule[~np.array([access.wide for access in log])[rows.access]]] = True
    weak[-1] = False  # where a fence's granule of -1 leads
    suspects = rows.take(weak[rows.granule])
    if not len(suspects.who):
        return []

    def side(k, who):
        return Side(log[k].instruction, log[k].kind, *divmod(who, log[k].threads))

    races = replay(log, rows, suspects)
    return [Race(side(a, i), side(b, j), int(address_of(place * granule))) for a, i, b, j, place in races]


def _near_writes(log: Sequence[Access]):
    """The accesses that come near a written byte, {index: (flat, who, offset)}, with bytes numbered anew, without the
    gaps between what is written; the way back from an offset to its address; the number of bytes."""
    near, spans = {}, []
    for k, access in enumerate(log):
        flat, who = access.who() if access.kind in WRITES else (np.empty(0), np.empty(0))
        if flat.size:
            near[k] = flat, who, access.of(access.address, flat)
            spans.append((near[k][2].min() // PAD * PAD - PAD, near[k][2].max() // PAD * PAD + 3 * PAD))
    ranges: list[list[int]] = []
    for low, high in sorted(spans):
        if ranges and low <= ranges[-1][1]:
            ranges[-1][1] = max(high, ranges[-1][1])
        else:
            ranges.append([low, high])
    low, high = np.array(ranges, np.int64).reshape(-1, 2).T
    start = np.cumsum(high - low) - (high - low)
    for k, access in enumerate(log):
        if access.kind == "load" and access.address is not None and ranges and access.address.size:
            i = np.searchsorted(high, access.address.min(), "right")
            if i < len(low) and low[i] <= access.address.max():
                flat, who = access.who()
                address = access.of(access.address, flat)
                i = np.searchsorted(low, address, "right") - 1
                inside = (i >= 0) & (address < high[i])
                if inside.any():
                    near[k] = flat[inside], who[inside], address[inside]
    for k, (flat, who, address) in near.items():
        near[k] = flat, who, address + (start - low)[np.searchsorted(low, address, "right") - 1]

    def address_of(offset):
        return offset + (low - start)[np.searchsorted(start, offset, "right") - 1]

    return dict(sorted(near.items())), address_of, int((high - low).sum())


def _shared_rows(log: Sequence[Access], touches: dict, granule: int, granules: int) -> Rows:
    """Rows of the granules that one thread writes and another touches, and of the fences."""
    owner = np.full(granules, -1)
    shared, written = np.zeros((2, granules), bool)
    places = {k: offset[:, None] // granule + np.arange(log[k].size // granule) for k, (*_, offset) in touches.items()}
    for k in sorted(touches, key=lambda k: log[k].kind not in WRITES):  # writes first
        place, who = places[k], touches[k][1][:, None]
        before = owner[place]
        if log[k].kind in WRITES:
            shared[place[(before >= 0) & (before != who)]] = True
            owner[place] = who
            shared[place[owner[place] != who]] = True
            written[place] = True
        else:
            shared[place[written[place] & (before != who)]] = True
    most = max((int(access.programs.max()) + 1) * access.threads for access in log if access.programs.size)
    turn = np.zeros(most, np.int64)
    parts = []
    for k, access in enumerate(log):
        if access.kind == "fence" and access.wide:
            flat, who = access.who()
            parts.append(
                _rows_of(k, access, flat, who, np.full((len(flat), 1), -1), np.ones((len(flat), 1), bool), turn)
            )
            turn[who] += 1
        elif k in touches and (here := shared[places[k]]).any():
            flat, who, _ = touches[k]
            parts.append(_rows_of(k, access, flat, who, places[k], here, turn))
            turn[who] += access.wide
    return Rows(*map(np.concatenate, zip(*parts, strict=True))) if parts else Rows(*[np.zeros(0, np.int64)] * 9)


def _rows_of(k: int, access: Access, flat, who, place, here, turn) -> Rows:
    """Rows of one access: those of its granules place (threads, granules of each) that are here."""
    i, j = np.nonzero(here)
    program, warp = flat // access.threads, flat % access.threads // 32
    passed = np.zeros(len(flat), np.int64) if access.warp_epoch is None else access.warp_epoch[program, warp]
    # A program of one warp has no other barrier than the warp's.
    epoch = access.epoch[program] + (passed if access.threads == 32 else 0)
    rank, value = flat, np.zeros(place.shape, np.uint64)
    if access.sequence is not None:
        rank = np.zeros(len(access.programs) * access.threads, np.int64)
        rank[access.sequence] = np.arange(len(access.sequence))
        rank = rank[flat]
    if access.kind == "store":
        value = who[:, None].astype(np.uint64) + np.zeros_like(value)
        if access.value is not None:
            value = np.ascontiguousarray(access.of(access.value, flat)).view(f"u{access.size // place.shape[1]}")
    columns = (np.full(len(i), k), place[i, j], who[i], j == 0, epoch[i], passed[i], turn[who[i]], rank[i])
    return Rows(*columns, value[i, j].astype(np.uint64))
