"""A random schedule in machine code: the draws of machine.py, and so its order of atomics, for each seed.

Between two atomics nothing that a warp does depends on what others do meanwhile, or happens-before finds a conflict.
So each runs ahead to its next one, and keeps on the way which way its branches went; replay.py draws from that. In code
for launches without checks, whose accesses may race, each stops before every access.
"""

import ctypes
from typing import Any

import numpy as np

from ..decode import Decoded
from ..drawn import ahead, teams
from ..segments import address_of
from ..start import Start
from . import replay
from .accesses import WORD
from .context import FIELDS
from .frames import LIMIT, SCRATCH, SEEN, STEP, TRAIL

KINDS = (None, "atomic", "branch", "leave", "barrier", "access", "trap")
UNDRAWN = np.array([0, WORD, 0, 0, -1, 0])  # ON to SEEN without a seed
LONGEST, ROOM = 1 << 16, 1 << 28  # bytes of a trail, and of all


def table(decoded: Decoded, events: Any) -> np.ndarray:
    """(instructions + 1, 4) uint16: of a kernel that stops before `events`."""
    N = len(decoded.steps)
    found = np.zeros((N + 1, 4), np.uint16)
    found[:, replay.END] = decoded.meets
    for n, s in enumerate(decoded.steps):
        atomic = s.instruction.opcode.startswith(("atom.", "red."))
        kind = ("atomic" if atomic else "access") if n in events else s.control if s.control in KINDS else None
        found[n, replay.KIND :] = KINDS.index(kind), s.target if s.control else 0, s.guard is not None
    return found


class Schedule:
    """That of one launch, before its first instruction; `record` is what schedule_run takes."""

    def __init__(self, start: Start, records: Any, heads: np.ndarray, run: int):
        self.random, (N, W) = start.random(), heads.shape[:2]
        start.decoded.unspecified(self.random)  # these draws come first
        self.parts, self.of, count = np.zeros((N * W, replay.PART), np.int64), np.zeros((N, W), np.int64), 0
        blocks = teams(self.random, np.arange(N))
        for block, team in enumerate(blocks):
            for warps in ahead(self.random, W):
                self.parts[count], count = (block, 0, warps is None, 0), count + 1
                self.of[team] = np.where(True if warps is None else warps, count, self.of[team])
        size = min(LONGEST, ROOM // (N * W))
        self.trails, self.turns = np.empty((N * W, size), np.uint8), np.empty(32 * N * W, np.uint32)
        self.list, self.ways = np.arange(N * W), np.empty(N * W, np.uint8)
        self.record, self.table = np.zeros(replay.WORDS, np.int64), records.made.table
        draws = self.random.bit_generator.ctypes
        first = address_of(self.trails) - address_of(records.frames) - 8 * SCRATCH
        first = first + (size - records.made.frame_size) * np.arange(N * W).reshape(N, W)
        heads[..., STEP], heads[..., TRAIL], heads[..., SEEN], heads[..., LIMIT] = 1, first, first, first + size
        known = {
            replay.COUNT: count, replay.BLOCKS: len(blocks), replay.ROWS: address_of(records.rows),
            replay.WIDTH: 8 * len(FIELDS), replay.ALL: N * W, replay.WARPS: W, replay.RUN: run, replay.LENGTH: size,
            replay.FRAMES: address_of(records.frames), replay.SIZE: records.made.frame_size,
            replay.LAST: len(self.table) - 1,
            replay.DRAW: ctypes.cast(draws.next_uint32, ctypes.c_void_p).value, replay.GENERATOR: draws.state_address,
        }  # fmt: skip
        places = {
            replay.TABLE: self.table, replay.TRAILS: self.trails, replay.LIST: self.list, replay.PARTS: self.parts,
            replay.OF: self.of, replay.WAYS: self.ways, replay.TURNS: self.turns,
        }  # fmt: skip
        for word, value in (known | {word: address_of(array) for word, array in places.items()}).items():
            self.record[word] = value
