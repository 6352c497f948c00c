"""Lanes that part, and meet again at an instruction that all must come to, wherever the slow path is laid out."""

import numpy as np
import pytest

from kvproof.kernels.ptx.native import tiers

from ._random import Program
from .test_random import outcome

# A loop whose slow path stands behind it, or jumps over its head: as LLVM lays out exp of float64.
LOOP = """
    mov.u32 %r6, 0; mov.u32 %r9, %r1;
    HEAD: add.u32 %r6, %r6, 1; setp.gt.u32 %p1, %r6, 5; @%p1 bra OUT;
    add.u32 %r9, %r9, %r6; ld.global.b32 %r10, [%rd11]; add.u32 %r9, %r9, %r10;
    {}
    and.b32 %r8, %r9, {}; setp.eq.u32 %p2, %r8, 0; @%p2 bra HEAD;
    add.u32 %r9, %r9, 7; bra.uni HEAD;
    OUT: st.global.b32 [%rd11], %r9; ret;
"""
SHUFFLE = "shfl.sync.idx.b32 %r7, %r9, 3, 31, -1; xor.b32 %r9, %r9, %r7;"
EVEN = "and.b32 %r11, %r6, 1; setp.eq.u32 %p4, %r11, 0; @%p4 bra HEAD; "
VOTE = "setp.gt.u32 %p3, %r9, 40; vote.sync.ballot.b32 %r7, %p3, -1; add.u32 %r9, %r9, %r7;"
BODIES = {
    "a shuffle": (LOOP.format(SHUFFLE, 3), True),
    "two places": (LOOP.format(SHUFFLE + EVEN + VOTE, 3), True),
    "a vote, and no lane apart": (LOOP.format(VOTE, 0), True),
    "a barrier of the warp": (LOOP.format("bar.warp.sync -1;", 1), True),
    "half of a warp": (LOOP.format(SHUFFLE.replace("-1", "65535"), 3), False),
    "a lane that leaves": ("setp.eq.u32 %p1, %r1, 5; @%p1 bra OUT; " + SHUFFLE + " OUT: ret;", False),
    "lanes that wait at two": (
        f"mov.u32 %r9, 1; setp.lt.u32 %p1, %r1, 5; @%p1 bra B; {SHUFFLE} bra OUT; B: {SHUFFLE} OUT: ret;", False
    ),
}  # fmt: skip


@pytest.mark.parametrize("threads", [32, 64])
@pytest.mark.parametrize("name", BODIES)
def test_lanes_meet_where_all_must_come(name, threads, monkeypatch):
    monkeypatch.setattr(tiers, "PRICE", -1.0)
    body, natively = BODIES[name]
    program = Program(body, [np.arange(256, dtype=np.uint32)], {"programs": 2, "threads": threads})
    came = [program.arrays[0].copy()]
    usual, _ = outcome(program, "numpy", came)
    now, engine = outcome(program, None, came)
    assert now == usual
    assert engine == ("native" if natively else "error" if "error" in usual else "numpy")


@pytest.mark.parametrize("seed", range(4))
def test_with_a_seed_lanes_that_part_go_on_in_a_random_order(seed, monkeypatch):
    monkeypatch.setattr(tiers, "PRICE", -1.0)
    settings = {"programs": 2, "threads": 64, "seed": seed}
    for name, natively in (("a shuffle", False), ("a vote, and no lane apart", True)):
        program = Program(BODIES[name][0], [np.arange(256, dtype=np.uint32)], settings)
        came = [program.arrays[0].copy()]
        usual, _ = outcome(program, "numpy", came)
        now, engine = outcome(program, None, came)
        assert now == usual
        assert engine == ("native" if natively else "numpy")
