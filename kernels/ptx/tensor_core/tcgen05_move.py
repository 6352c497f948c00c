"""tcgen05.ld and st: a warp reads or writes its quarter of the lanes of tensor memory.

Source: PTX ISA 8.7, sections 9.7.16.2.3 (data movement shape) and 9.7.16.8 (tcgen05.ld, tcgen05.st).
"""

import re
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..collective import ALL_LANES, converge
from ..decode import Decoder, Run
from ..errors import Undefined, UnknownOpcode
from ..forms import address
from ..parse import Immediate, Instruction
from .tcgen05 import memory_of
from .tensor_memory import COLUMNS, SHARE

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
        raise UnknownOpcode(i.opcode, "its table has other forms of it", i)
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
        got = np.take_along_axis(words, index, 1)
        if m.packed:
            got = got & np.uint32(0xFFFF) | np.take_along_axis(words, index + 1, 1) << np.uint32(16)
        got = got.reshape(P, -1, T)
        for r, put in enumerate(puts):
            put(block.R, got[:, r], active)

    return run


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
    index = np.broadcast_to(index, values.shape)
    row = np.broadcast_to(np.arange(len(words))[:, None], values.shape)
    on = slice(None) if on is None else on
    words[row[on], index[on]] = values[on]


FAMILIES = {"tcgen05.ld": load, "tcgen05.st": store}
