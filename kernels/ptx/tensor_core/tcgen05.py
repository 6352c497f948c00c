"""tcgen05 but for its products: allocation of tensor memory, loads and stores, waits, fences and commits.

Source: PTX ISA 8.7, section 9.7.16 (TensorCore 5th generation family).
"""

import re
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..asynchronous import proxy
from ..collective import ALL_LANES, converge
from ..decode import Decoder, Run
from ..errors import Undefined, UnknownOpcode
from ..forms import address
from ..parse import Immediate, Instruction
from .tensor_memory import COLUMNS, SHARE, TensorMemory

# Shape of a tcgen05.ld or st -> lanes, columns of a repetition, registers of a repetition.
SHAPES = {"32x32b": (32, 1, 1), "16x32bx2": (16, 1, 1), "16x64b": (16, 2, 1), "16x128b": (16, 4, 2),
          "16x256b": (16, 8, 4)}  # fmt: skip
MOVE = re.compile(r"tcgen05\.(ld|st)\.sync\.aligned\.(\w+)\.x(\d+)(\.pack::16b|\.unpack::16b)?\.b32")


class Move(NamedTuple):
    """A tcgen05.ld or st."""

    shape: str
    repeat: int
    packed: bool  # two columns of 16 bits to a register
    split: int  # of 16x32bx2, columns between the parts of lanes 0 to 15 and 16 to 31 of the warp

    @property
    def lanes(self) -> int:
        return SHAPES[self.shape][0]

    @property
    def registers(self) -> int:
        return self.repeat * SHAPES[self.shape][2]


def move_of(i: Instruction) -> Move:
    found = MOVE.fullmatch(i.opcode)
    if found is None or found[2] not in SHAPES or (found[4] and found[2][:5] not in ("32x32", "16x32")):
        raise UnknownOpcode(i.opcode, "this form of it", i)
    split = next((x.bits for x in i.operands if isinstance(x, Immediate)), 0)
    return Move(found[2], int(found[3]), bool(found[4]), split)


@lru_cache(maxsize=64)
def places(m: Move) -> tuple[np.ndarray, np.ndarray]:
    """Lane and column, after those of the address, of each thread's registers: (registers, 32); packed, the first."""
    r, t = np.arange(m.registers)[:, None], np.arange(32)[None]
    row, quad = t // 4, t % 4
    lane, column = {
        "32x32b": (t, r),
        "16x32bx2": (t % 16, r),
        "16x64b": (row + 8 * (quad // 2), 2 * r + quad % 2),
        "16x128b": (row + 8 * (r % 2), 4 * (r // 2) + quad),
        "16x256b": (row + 8 * (r // 2 % 2), 8 * (r // 4) + 2 * quad + r % 2),
    }[m.shape]
    column = column * (1 + m.packed) + (t // 16 * m.split if m.shape == "16x32bx2" else 0)
    return np.broadcast_to(lane, (m.registers, 32)), np.broadcast_to(column, (m.registers, 32))


@lru_cache(maxsize=64)
def cells(m: Move) -> np.ndarray:
    """What is known together and touched, (K,): SHARE lanes of a column, from the address on."""
    lane, column = places(m)
    both = [column, column + 1] if m.packed else [column]
    return np.unique([lane // SHARE * COLUMNS + x for x in both])


class Span(NamedTuple):
    """Where the warps of a ld or st look: the first lane and column of each thread, (P or 1, T)."""

    lane: np.ndarray
    column: np.ndarray

    def index(self, m: Move, width: int) -> np.ndarray:
        """Of each register and thread, which word it is of a program's, of so many columns: (P or 1, R * T)."""
        lane, column = (np.tile(x, (1, self.lane.shape[1] // 32)) for x in places(m))
        index = (self.lane[:, None] + lane) * width + self.column[:, None] + column
        return index.reshape(len(index), -1)


def span(block: Any, value: np.ndarray, m: Move, active: Any) -> Span:
    """Take addresses (P or 1, T or 1) apart. Raises Undefined for lanes that are not the warp's."""
    T = block.world.T
    value = np.broadcast_to(value, (len(value), T)).astype(np.int64)
    lane, column, first = value >> 16, value & 0xFFFF, np.arange(T) // 32 % 4 * 32
    on = np.ones((1, T), bool) if active is None else active
    fits = (lane == first) | ((lane == first + 16) & (m.lanes == 16))
    warps = value.reshape(len(value), -1, 32)
    same = np.repeat((warps == warps[..., :1]).all(2), 32, 1)
    for bad, what in ((~fits & on, "lies in lanes of another warp"), (~same & on, "differs between a warp's threads")):
        if bad.any():
            row, thread = np.argwhere(bad)[0].tolist()
            where = int(value[row if len(value) > 1 else 0, thread])
            what = f"the address {where:#x} of tensor memory {what}: warp {thread // 32} has lanes"
            raise block.error(Undefined, f"{what} {first[thread]} to {first[thread] + 31}", row, thread)
    return Span(np.where(on, lane, 0), np.where(on, column, 0))


def touch(block: Any, kind: str, s: Span, m: Move, active: Any, writes: bool) -> None:
    """Check the columns of all active warps, and hold the access against earlier ones."""
    memory, T = memory_of(block), block.world.T
    on = block.warps(active)
    some, warps, which = [], [], []
    offsets = cells(m)
    wide = int((offsets % COLUMNS).max()) + 1
    rows = max(len(s.lane), len(on))
    for w in range(T // 32):
        at = s.lane[:, 32 * w] // SHARE * COLUMNS + s.column[:, 32 * w]
        here = np.broadcast_to(on[:, w], rows)
        at = np.broadcast_to(at, rows)
        for start in np.unique(at[here]).tolist():
            row = int(np.flatnonzero(here & (at == start))[0])
            memory.allocated(block, start % COLUMNS, wide, row, 32 * w)
            some.append(start + offsets)
            warps.append(np.full(len(offsets), w))
            which.append(np.repeat((here & (at == start))[:, None], len(offsets), 1))
    mask = np.concatenate(which, axis=1)
    cell, warp = np.concatenate(some), np.concatenate(warps)
    memory.touch(block, kind, cell, warp, None if mask.all() else mask, writes=writes, reads=not writes)


def memory_of(block: Any) -> TensorMemory:
    """The block's tensor memory, made when it is first needed."""
    if block.tensor is None:
        block.tensor = TensorMemory(len(block.programs), block.clocks, block.world.checks)
    return block.tensor


def load(d: Decoder, i: Instruction) -> Run:
    """tcgen05.ld: a warp reads its quarter of the lanes."""
    m = move_of(i)
    puts = [d.result(x, "b32") for x in i.operands[0].parts]
    where = address(d, i.operands[1], "shared")
    assert len(puts) == m.registers

    def run(block, active):
        converge(block, ALL_LANES, active, i)
        s, memory, T = span(block, where(block.R), m, active), memory_of(block), block.world.T
        touch(block, "tcgen05.ld", s, m, active, writes=False)
        P, _, width = memory.words.shape
        index = np.clip(s.index(m, width), 0, 128 * width - 1 - m.packed)
        words = memory.words.reshape(P, -1)
        got = gathered(words, index)
        if m.packed:
            got = got & np.uint32(0xFFFF) | gathered(words, index + 1) << np.uint32(16)
        got = got.reshape(P, -1, T)
        for r, put in enumerate(puts):
            put(block.R, got[:, r], active)

    return run


def gathered(words: np.ndarray, index: np.ndarray) -> np.ndarray:
    return words.take(index[0], axis=1) if len(index) == 1 else np.take_along_axis(words, index, 1)


def store(d: Decoder, i: Instruction) -> Run:
    """tcgen05.st: a warp writes to its quarter of the lanes."""
    m = move_of(i)
    where = address(d, i.operands[0], "shared")
    sources = [d.source(x, "b32")[0] for x in i.operands[-1].parts]
    assert len(sources) == m.registers

    def run(block, active):
        converge(block, ALL_LANES, active, i)
        s, memory, T = span(block, where(block.R), m, active), memory_of(block), block.world.T
        touch(block, "tcgen05.st", s, m, active, writes=True)
        P, _, width = memory.words.shape
        values = np.stack([np.broadcast_to(block.R[x], (P, T)) for x in sources], axis=1).reshape(P, -1)
        index = s.index(m, width)
        on = None if active is None else np.tile(np.broadcast_to(active, (P, T)), (1, m.registers))
        words = memory.words.reshape(P, -1)
        if m.packed:
            scatter(words, index, values & np.uint32(0xFFFF), on)
            index, values = index + 1, values >> np.uint32(16)
        scatter(words, index, values, on)

    return run


def scatter(words: np.ndarray, index: np.ndarray, values: np.ndarray, on: Any) -> None:
    if on is None and len(index) == 1:
        words[:, index[0]] = values
        return
    index = np.broadcast_to(index, values.shape)
    row = np.broadcast_to(np.arange(len(words))[:, None], values.shape)
    on = slice(None) if on is None else on
    words[row[on], index[on]] = values[on]


def wait(d: Decoder, i: Instruction) -> Run:
    """tcgen05.wait::ld and ::st: all that this warp has begun of the kind is over."""
    kind = {"tcgen05.wait::ld.sync.aligned": "tcgen05.ld", "tcgen05.wait::st.sync.aligned": "tcgen05.st"}.get(i.opcode)
    if kind is None:
        raise UnknownOpcode(i.opcode, "this form of it", i)

    def run(block, active):
        converge(block, ALL_LANES, active, i)
        proxy.commit(block, active, kind)
        proxy.wait(block, active, kind, 0)

    return run


def fence(d: Decoder, i: Instruction) -> Run:
    """tcgen05.fence: what it orders, the machine orders by the waits and barriers that it stands between."""
    if i.opcode not in ("tcgen05.fence::before_thread_sync", "tcgen05.fence::after_thread_sync"):
        raise UnknownOpcode(i.opcode, "this form of it", i)
    return lambda block, active: None


def issuer(block: Any, active: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Which programs, (P or 1,) bool, have a thread that issues an instruction, and which, (P or 1,)."""
    on = (
        block.world.T * np.ones(1, np.int64)
        if active is None
        else np.broadcast_to(active, (len(active), block.world.T)).sum(1)
    )
    if (on > 1).any():
        row = int(np.argmax(on > 1))
        raise block.error(Undefined, f"{int(on[row])} threads of the program each {what}: one may", row, 0)
    return on > 0, np.argmax(active, axis=1)


def picked(block: Any, value: np.ndarray, who: np.ndarray) -> np.ndarray:
    """What the issuing threads have in a register (P or 1, T or 1): (P or 1,)."""
    if value.shape[1] == 1:
        return value[:, 0]
    rows = max(len(value), len(who))
    return np.broadcast_to(value, (rows, value.shape[1]))[np.arange(rows), np.broadcast_to(who, rows)]


def commit(d: Decoder, i: Instruction) -> Run:
    """tcgen05.commit: an arrival at an mbarrier, once all that this thread has begun is done."""
    if not re.fullmatch(r"tcgen05\.commit\.cta_group::1\.mbarrier::arrive::one(\.shared::c\w+)?\.b64", i.opcode):
        raise UnknownOpcode(i.opcode, "this form of it", i)
    where = address(d, i.operands[0], "shared")

    def run(block, active):
        block.instruction = i
        rows, who = issuer(block, active, "commit")
        at = picked(block, where(block.R), who).astype(np.int64)
        block.mbarriers.arrive_after(block, at, rows, who, "tcgen05")

    return run


def allocate(d: Decoder, i: Instruction) -> Run:
    """tcgen05.alloc: the address of free columns into shared memory; by one warp."""
    where, count = address(d, i.operands[0], "shared"), d.source(i.operands[1], "u32")[0]
    d.granule = min(d.granule, 4)

    def run(block, active):
        rows, thread, n = by_warp(block, active, i, count)
        memory, T = memory_of(block), block.world.T
        at = memory.allocate(block, n, rows, thread)
        one = rows[:, None] & (np.arange(T) == thread)
        block.shared.store(where(block.R), at[:, None], 4, 32, one, block.tags, block)

    return run


def by_warp(block: Any, active: Any, i: Instruction, count: int) -> tuple[np.ndarray, int, int]:
    """Of an instruction of one warp: which programs execute it, its first thread, and a count of columns."""
    converge(block, ALL_LANES, active, i)
    warps = block.warps(active)
    if (warps.sum(1) > 1).any():
        raise block.error(Undefined, f"{int(warps.sum(1).max())} warps execute it, each for itself: one may", 0, 0)
    thread = 32 * int(np.argmax(warps.any(0)))
    n = np.unique(picked(block, block.R[count], np.full(1, thread)))
    if len(n) > 1:
        raise block.error(Undefined, "programs that execute it together ask for several numbers of columns", 0, thread)
    return warps.any(1), thread, int(n[0])


def free(d: Decoder, i: Instruction) -> Run:
    """tcgen05.dealloc"""
    where, count = d.source(i.operands[0], "b32")[0], d.source(i.operands[1], "u32")[0]

    def run(block, active):
        rows, thread, n = by_warp(block, active, i, count)
        at = picked(block, block.R[where], np.full(1, thread)).astype(np.int64)
        memory_of(block).free(block, at, n, rows, thread)

    return run


def relinquish(d: Decoder, i: Instruction) -> Run:
    """tcgen05.relinquish_alloc_permit"""

    def run(block, active):
        converge(block, ALL_LANES, active, i)
        memory = memory_of(block)
        memory.closed = memory.closed | block.warps(active).any(1)

    return run


def one_program(build: Any) -> Any:
    """Refuse by name what two programs of a cluster do together."""

    def checked(d: Decoder, i: Instruction) -> Run:
        if "cta_group::1" not in i.opcode:
            raise UnknownOpcode(i.opcode, "pairs of programs (cta_group::2) are not known", i)
        return build(d, i)

    return checked


FAMILIES = {
    "tcgen05.alloc": one_program(allocate), "tcgen05.dealloc": one_program(free),
    "tcgen05.relinquish_alloc_permit": one_program(relinquish), "tcgen05.ld": load, "tcgen05.st": store,
    "tcgen05.wait::ld": wait, "tcgen05.wait::st": wait, "tcgen05.fence::before_thread_sync": fence,
    "tcgen05.fence::after_thread_sync": fence, "tcgen05.commit": one_program(commit),
}  # fmt: skip
