"""What a launch needs beside the caller's arrays: records of its threads, frames, shared memory, counts, lists.

It depends on the kernel and the grid alone, and is kept for the next launch of both, if it is small.
"""

import math
import os
import threading
from collections import Counter, OrderedDict
from typing import Any

import numpy as np

from ..segments import address_of
from ..start import Start
from . import clocks, context, order, shared
from .accesses import PLAIN
from .arrays import Arrays
from .context import FIELDS
from .frames import HEADER
from .lower import Unlowered
from .pieces import CONFLICT, CONFLICTS, HEAD, MOST_PROGRAMS, REPLICA, REPLICAS, SYNC, SYNCS
from .tensor_maps import maps

ROOM = 1 << 30  # bytes that the programs of a launch may keep which run at a time, or wait at events
SMALL, MOST = 1 << 25, 16  # bytes of what is kept for another launch, where most were never touched; how many
ALONE, QUICK = 2e-4, 2e-2  # seconds of the CPU up to which a launch's own thread runs all of it, or a share
FEW = 256  # conflicts that are compared as they came first
STEPS = 1 << 24  # instructions of a thread that it may run then

OWN = [FIELDS.index(x) for x in ("fuel", "segments", "segment_count", "generation", "maps", "map_count")]

_kept: OrderedDict[tuple, "Records"] = OrderedDict()
_lock = threading.Lock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class Records:
    """One launch's at a time.

    rows     (threads, or programs where they stop at events, FIELDS) int64
    seconds  of the CPU that the last run took
    mine     how many shares of this one its own thread runs, which nothing can interrupt meanwhile
    steady   whether a run has never needed more than STEPS where the one before was quick
    """

    def __init__(self, start: Start, made: Any):
        decoded, warps = start.decoded, start.num_warps
        maps(start.parameters, Counter(), 0)  # or Unlowered, before there is room for anything
        self.made, self.programs, self.warps, self.seconds = made, math.prod(start.grid), warps, math.inf
        self.mine, self.steady, self.launches = 0, True, 0
        self.right: Any = None  # the log and the conflicts that were last found to be in order, and their bytes
        self.same: Any = None
        granule, size = decoded.granule, -(-(start.shared + decoded.shared) // 32) * 32
        beside = size // granule, warps, made.plan.mbarriers
        each = warps * made.frame_size + shared.room(size, granule)
        each += clocks.room(*beside) if decoded.asynchronous else 0
        self.threads = threads = max(1, min(os.cpu_count() or 1, self.programs, ROOM // each))
        rows = self.programs if made.events else threads
        if self.programs > MOST_PROGRAMS:
            raise Unlowered(f"{self.programs} programs")
        if rows * each > ROOM:
            raise Unlowered(f"{rows} programs at a time, with {rows * each} bytes of memory")
        self.blocks = np.zeros((threads, len(made.plan.starts)), np.int64)
        self.traffic = np.zeros((threads, len(made.blocks), context.TRAFFIC), np.int64)
        self.frames = aligned((rows, warps, made.frame_size))
        self.heads = self.frames[:, :, :HEADER].view(np.int64)
        self.parts = [np.arange(k, self.programs, threads) for k in range(threads)]  # each thread's programs
        self.next, self.given = np.zeros(1, np.int64), np.zeros(len(decoded.slots), np.int64)
        self.conflicts = np.zeros((threads, HEAD + CONFLICT * CONFLICTS), np.int64)
        self.replicas = np.zeros((threads, HEAD + REPLICA * REPLICAS), np.int64)
        self.syncs = np.zeros(HEAD + SYNC * SYNCS, np.int64)
        copies = rows if any(x.startswith("cp.async") for x in made.opcodes) else 1
        self.shared_size, self.state = size, shared.state(rows, size, granule, warps, copies, threads)
        if decoded.asynchronous:
            self.state |= clocks.state(rows, *beside)
        self.rows = np.zeros((rows, len(FIELDS)), np.int64)
        sizes = {"shared_size": size, "shared_cells": size // granule, "mbarriers": made.plan.mbarriers}
        self.fill(start.grid, sizes | {"agents": clocks.columns(warps, sizes["mbarriers"])})
        self.plain = self.rows.copy()
        self.slots, self.names = self.fixed_values(start)
        self.small = sum(x.nbytes for x in (self.frames, self.traffic, *self.state.values())) <= SMALL

    def fill(self, grid: tuple[int, int, int], sizes: dict[str, int]) -> None:
        """All that is the same in the next launch."""
        n = np.arange(len(self.rows))
        made, each = self.made, {name: getattr(self, name) for name in ("blocks", "traffic", "frames", "conflicts")}
        for name, array in (each | {"replicas": self.replicas} | self.state).items():
            self.put(name, address_of(array) + array.strides[0] * (n % len(array)))
        known = {f"grid_{axis}": size for axis, size in zip("xyz", grid, strict=True)} | sizes
        known |= {"given": address_of(self.given), "warps": self.warps, "frame_size": made.frame_size}
        known |= {"warp_code": made.code["warp"], "next_program": address_of(self.next), "last_program": self.programs}
        for name, value in (known | {"syncs": address_of(self.syncs)}).items():
            self.put(name, value)

    def put(self, name: str, value: Any) -> None:
        self.rows[:, FIELDS.index(name)] = value

    def fixed_values(self, start: Start) -> tuple[np.ndarray, list[str]]:
        """Fill in what the grid fixes; the slots and the names of what each launch fills in."""
        decoded = start.decoded
        registers = decoded.registers({}, {}, 32, start.grid, None)
        for slot in decoded.given.values():
            if registers[slot] is not None:
                self.given[slot] = registers[slot].flat[0]
        names = [name for name, slot in decoded.given.items() if registers[slot] is None]
        return np.array([decoded.given[name] for name in names], np.int64), names

    def begin(self, start: Start, arrays: Arrays, fuel: int) -> None:
        """For a launch that has not begun."""
        self.mine = self.steady and (self.threads if self.seconds <= ALONE else int(self.seconds <= QUICK))
        self.seconds = 0.0
        self.rows[...] = self.plain
        fuel = min(fuel, STEPS * self.threads // len(self.rows)) if self.mine else fuel
        self.maps, places = maps(start.parameters, arrays.pointers, arrays.count)
        self.launches += 1  # and as many programs are numbers of their own
        known = fuel, address_of(arrays.table), arrays.count, self.launches << 32, address_of(self.maps)
        self.rows[:, OWN] = *known, len(places)
        values = start.bits(arrays.pointers, arrays) | arrays.pointers | places
        self.given.view(np.uint64)[self.slots] = np.array([values.get(name, 0) for name in self.names], np.uint64)
        for slot, value in start.decoded.unspecified(start.random()).items():
            self.given[slot] = signed(value.item())
        self.next[0], self.blocks[...], self.traffic[...] = 0, 0, 0
        self.conflicts[:, :HEAD], self.syncs[:HEAD] = 0, 0
        if self.replicas[:, 0].any():
            self.replicas[...] = 0
        self.replicas[:, 1] = self.made.events

    def words(self) -> str:
        """How far a launch has come."""
        return f"{min(int(self.next[0]), self.programs) or self.programs:,} of {self.programs:,} programs begun"

    def stop(self) -> None:
        """Let what runs end soon; to be called until it has, for who counts fuel down may not see it."""
        self.put("fuel", -1)
        self.next[0] = self.programs

    def noted(self) -> np.ndarray:
        """(N, CONFLICT) int64: the conflicts of all threads, which order.py judges."""
        return np.concatenate([x[HEAD : HEAD + CONFLICT * int(x[0])] for x in self.conflicts]).reshape(-1, CONFLICT)

    def log(self) -> np.ndarray:
        """(N, SYNC) int64: the atomics, in order."""
        return self.syncs[HEAD : HEAD + SYNC * int(self.syncs[0])].reshape(-1, SYNC)

    def ordered(self) -> bool:
        """Whether happens-before orders all conflicts; looked into only if they are not those of the last launch."""
        log, noted = self.log().copy(), self.noted()
        same = (log.tobytes(), noted.tobytes()) if len(noted) < FEW else None
        if same and same == self.same:
            return True
        low = log[:, 1].min(initial=1 << 62)  # of addresses it only counts which are equal
        log[:, 1] -= low
        noted[:, 2] = np.where(noted[:, 4] == PLAIN, 0, noted[:, 2] - low)
        if self.right is None or not all(map(np.array_equal, (log, noted), self.right)):
            self.right = (log, noted) if order.ordered(log, noted) else None
        self.same = same if self.right else None
        return self.right is not None


def taken(start: Start, made: Any, key: bytes) -> Records:
    """Records for a launch, which nobody else has meanwhile. Raises Unlowered for programs that keep too much."""
    with _lock:
        found = _kept.pop((key, start.grid, start.shared), None)
    return found if found and found.made is made else Records(start, made)


def given_back(records: Records, start: Start, key: bytes) -> None:
    if not records.small:
        return
    with _lock:
        _kept[key, start.grid, start.shared] = records
        if len(_kept) > MOST:
            _kept.popitem(last=False)


def signed(bits: int) -> int:
    """64 bits as NumPy's int64 takes them."""
    return bits - (bits >> 63 << 64)


def aligned(shape: tuple[int, ...], to: int = 64) -> np.ndarray:
    """Bytes whose first is a multiple of `to`."""
    size = math.prod(shape)
    whole = np.empty(size + to, np.uint8)
    first = -address_of(whole) % to
    return whole[first : first + size].reshape(shape)
