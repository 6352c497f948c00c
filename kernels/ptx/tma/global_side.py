"""Global memory as bulk copies read and change it, and what races.py is to know of that.

A copy to global memory is under way from its instruction until a thread that issued it has waited for its group. So it
is not that thread which writes, but one of a program beside its own, numbered from the grid's size on: it starts with
what the issuing thread knows, by a release and acquire at a place of their own, and the wait brings back what it did.
Reads are the issuing thread's own.

What is not reported, though the ISA asks for more, since Triton emits such: two stores of one thread to one place with
no wait between, or a wait for reads alone, as in a loop that stores one box again; and a plain access to global memory
and a bulk copy's with a barrier, or a release and acquire, but no fence.proxy.async between. Triton 3.8 has no such
fence of global memory, not between tl.store, tl.debug_barrier and a load by a descriptor either.

Source: PTX ISA 8.8, 9.7.9.25.4 (completion of bulk copies, and no order among them), 8.9.1 (proxies).
"""

import warnings
from typing import Any

import numpy as np

from ..arrays import first_of
from ..errors import OutOfBounds
from ..memory import MAPPED, word
from ..races import Access, Race, Side
from .requests import Request, Site


class Bulk:
    """What one launch's memory is told of its bulk copies.

    acquired    (program, arena address of a tensor map) -> its bytes when the program last acquired it
    unreleased  the same keys, of maps that were changed in global memory and not released since
    pending     thread -> (programs,) bool: it has issued copies to global memory that it has not waited for
    """

    def __init__(self, programs: int, after: int):
        self.programs, self.after = programs, after  # places from `after` on are no array's
        self.acquired: dict[tuple[int, int], bytes] = {}
        self.unreleased: set[tuple[int, int]] = set()
        self.pending: dict[int, np.ndarray] = {}

    def place(self, thread: int, end: int, programs: np.ndarray) -> np.ndarray:
        """Where a thread hands over what it knows as a copy begins (0) or ends (1): (P, 1)."""
        column = 2 * list(self.pending).index(thread) + end
        return (self.after + 16 * (column * self.programs + programs))[:, None]


def bulk(block: Any) -> Bulk:
    """That of a block's launch, made when it is first needed."""
    memory, (X, Y, Z) = block.world.memory, block.world.grid
    if memory.bulk is None:
        memory.bulk = Bulk(X * Y * Z, -(-memory.segments.size // 16) * 16)
    return memory.bulk


def note(request: Request, kind: str, at, size: int, on, value=None, order: str = "", beside: bool = False) -> None:
    """Keep an access for races.py; beside: it is made by what works beside the program."""
    block = request.block
    if not block.world.checks:
        return
    P, G = len(block.programs), bulk(block).programs
    programs = block.programs + G if beside else block.programs
    epoch = np.zeros(P, np.int64) if beside else block.epoch
    waited = None
    if not beside and block.warp_epoch.any():
        waited = np.broadcast_to(block.warp_epoch, (P, block.world.T // 32))
    access = Access(
        block.instruction, kind, order, "gpu" if order else "", programs, np.broadcast_to(at, on.shape), size, on,
        block.world.T, epoch, waited, value, issuer=np.full(P, request.thread),
    )  # fmt: skip
    block.world.memory.log.append(access)


def begin(request: Request) -> None:
    """A copy to global memory begins: what its thread knows so far comes before it."""
    block, state = request.block, bulk(request.block)
    issued = state.pending.setdefault(request.thread, np.zeros(state.programs, bool))
    issued[block.programs[request.rows]] = True
    place = state.place(request.thread, 0, block.programs)
    note(request, "store", place, 8, request.on, order="release")
    note(request, "load", place, 8, request.on, order="acquire", beside=True)


def end(request: Request) -> None:
    """A thread has waited for its copies to global memory: they come before whatever it does now."""
    block, state = request.block, bulk(request.block)
    if request.thread not in state.pending:
        return
    issued = state.pending[request.thread]
    on = (request.rows & issued[block.programs])[:, None]
    if on.any():
        issued[block.programs[on[:, 0]]] = False
        place = state.place(request.thread, 1, block.programs)
        note(request, "store", place, 8, on, order="release", beside=True)
        note(request, "load", place, 8, on, order="acquire")


def missing(log: list[Access], race: Race, own: int) -> str:
    """What would order the two accesses of a race between a bulk copy and its own program; own: programs of the launch.

    A wait for the copy, if that came first and is under way, and else a barrier.
    """

    def who(access: Access, side: Side, here: bool) -> bool:
        """Whether an access is also a side's, and, if asked for, at the race's place."""
        _, threads, at = access.touched()
        mine = threads == side.program * access.threads + side.thread
        return bool((mine & ((at <= race.address) & (race.address < at + access.size) | (not here))).any())

    def same(access: Access, side: Side) -> bool:
        return access.instruction is side.instruction and access.kind == side.kind and who(access, side, True)

    under_way = False
    for access in log if race.first.program >= own else ():
        if under_way and same(access, race.second):
            return "no cp.async.bulk.wait_group"
        under_way |= same(access, race.first)
        if under_way and access.order == "release" and access.issuer is not None and who(access, race.first, False):
            under_way = False  # see end
    return "no barrier after its cp.async.bulk.wait_group" if race.first.program >= own else "no barrier"


def load(request: Request, address: np.ndarray, size: int, on: np.ndarray, site: Site) -> np.ndarray:
    """The bytes at addresses (P or 1, N), uint8 (P or 1, N, size); those that are off are any."""
    memory = request.block.world.memory
    at = memory.located(address, size, on, site)
    words = memory.load(at, size, site)
    note(request, "load", at, size, on)
    request.block.world.counters.copied(request.block, at, size, on)
    return bytes_of(words, size)


def store(request: Request, address: np.ndarray, data: np.ndarray, size: int, on: np.ndarray, site: Site) -> None:
    """Write uint8 (P, N, size) at addresses (P, N)."""
    memory = request.block.world.memory
    at = memory.located(address, size, on, site)
    words = np.ascontiguousarray(data).view(f"u{min(size, 8)}")
    memory.store(at, words if size > 8 else words[..., 0], size, on, site)
    note(request, "store", at, size, on, np.broadcast_to(data, (*on.shape, size)), beside=True)
    request.block.world.counters.copied(request.block, at, size, on)


def spill(request: Request, address: np.ndarray, data: np.ndarray, size: int, on: np.ndarray, site: Site) -> None:
    """Write, as `store` does, what lies past the end of a tensor's row: where an argument has it.

    What lies between the rows of an argument is a warning's matter, what lies after its last byte nobody's.
    """
    memory = request.block.world.memory
    at = memory.located(address, size, on, site)
    index = at >> size.bit_length() - 1
    mapped = memory.states[size].take(index, mode="clip") & word(MAPPED, np.dtype(f"u{size}")) != 0
    if (known := on & mapped).any():
        store(request, address, data, size, known, site)
    gap = on & ~mapped
    between = np.zeros(on.shape, bool)
    for region in memory.regions:
        between |= gap & (region.low <= at) & (at < region.high)
    if between.any():
        row, n = first_of(between)
        what = "a bulk copy writes whole pieces of 16 bytes, and so what follows a row, which belongs to no argument"
        what += ": make the innermost dimension a multiple of 16 bytes"
        warnings.warn(str(site.error(OutOfBounds, what, row, n)), RuntimeWarning, stacklevel=2)


def atomic(request: Request, address, data: np.ndarray, size: int, function: Any, on: np.ndarray, site: Site) -> None:
    """Apply function(old, new) at addresses (P, N), in their order, to the words of uint8 (P, N, size)."""
    memory = request.block.world.memory
    at = memory.located(address, size, on, site)
    chosen = np.flatnonzero(on)
    flat = lambda x: np.broadcast_to(x, on.shape).reshape(-1)[chosen]  # noqa: E731
    values = flat(np.ascontiguousarray(data).view(f"u{size}")[..., 0])
    memory.atomic(at, flat, [values], function, size, site)
    note(request, "atomic", at, size, on, order="relaxed", beside=True)
    request.block.world.counters.copied(request.block, at, size, on)


def bytes_of(words: np.ndarray, size: int) -> np.ndarray:
    """Words as memory has them -> their bytes, (..., size)."""
    return words.view(np.uint8) if size > 8 else words[..., None].view(np.uint8)
