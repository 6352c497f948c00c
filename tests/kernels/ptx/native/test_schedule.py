"""Random schedules of kernels with atomics: for each seed those of the NumPy form, draw by draw."""

import ctypes
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from kvproof.kernels.ptx.native import kernel, replay, tiers
from kvproof.kernels.ptx.segments import address_of

from ._random import Program, drawn
from .test_random import outcome


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(tiers, "PRICE", -1.0)


@dataclass
class Drawing:
    """A record of a schedule that only draws."""

    seed: int

    def __post_init__(self):
        self.random, self.turns = np.random.default_rng(self.seed), np.arange(1000, dtype=np.uint32)
        draws, self.record = self.random.bit_generator.ctypes, np.zeros(replay.WORDS, np.int64)
        self.record[replay.DRAW] = ctypes.cast(draws.next_uint32, ctypes.c_void_p).value or 0
        self.record[replay.GENERATOR] = draws.state_address
        self.record[replay.TURNS] = address_of(self.turns)

    def call(self, name: str, n: int) -> int:
        return kernel.entry(name, ctypes.c_void_p, ctypes.c_int64)(address_of(self.record), n)


def test_numbers_and_orders_are_those_that_numpy_draws():
    ours, numpys = Drawing(5), np.random.default_rng(5)
    for n in [*range(1, 300), 2**31 + 1, 3 * 2**30, 2**32 - 2]:
        assert [ours.call("schedule_draw", n) for _ in range(20)] == numpys.integers(n, size=20).tolist()
        assert ours.random.random() == numpys.random()  # drawn by NumPy from the same generator between ours
    for n in (0, 1, 2, 3, 500, 1000):
        ours.turns[:] = np.arange(1000)
        ours.call("schedule_shuffle", n)
        assert ours.turns[:n].tolist() == numpys.permutation(np.arange(n)).tolist()


# Every thread keeps the tickets that it draws, in rounds that differ by program and warp; `more` stands in each round.
TICKETS = """
    mov.u32 %r6, 0; add.u32 %r8, {rounds}; shl.b32 %r7, %r4, 4; mul.wide.u32 %rd12, %r7, 4; add.u64 %rd12, %rd1, %rd12;
    HEAD: setp.ge.u32 %p1, %r6, %r8; @%p1 bra OUT;
    {guard}atom.global.acq_rel.gpu.{what};
    st.global.b32 [%rd12], %r9; add.u64 %rd12, %rd12, 4; add.u32 %r6, %r6, 1;
    {more}
    bra HEAD;
    OUT: {end}ret;
"""
NEXT, FIRST = "add.u32 %r9, [%rd2], 1", "and.b32 %r10, %r1, 31; setp.eq.u32 %p2, %r10, 0; mov.u32 %r9, 7; @%p2 "
WARP = "shr.u32 %r11, %r1, 5;"
SIDES = "and.b32 %r12, %r2, 1; setp.eq.u32 %p3, %r12, 0; @%p3 bra EVEN; atom.global.add.u32 %r13, [%rd2+4], 3; EVEN: "
LEAVES = "setp.eq.u32 %p4, %r2, 2; @%p4 ret; "
BODIES = {
    "one place": ("%r2, 1", "", NEXT, "", ""),
    "floats": ("%r2, 1", "", "add.f32 %r9, [%rd2+8], 0f3DCCCCCD", "", ""),
    "a warp's first lane": ("%r2, 1", FIRST, NEXT, "", ""),
    "barriers": ("2, 0", FIRST, NEXT, "bar.sync 0;", "atom.global.exch.b32 %r9, [%rd2+4], %r4; bar.sync 0; "),
    "by warp": ("%r11, 1", "", NEXT, "", "bar.sync 0; atom.global.exch.b32 %r9, [%rd2+4], %r4; "),
    "programs part": ("%r2, 1", "", NEXT, SIDES, "red.global.add.u32 [%rd2+4], 1; "),
    "programs leave": ("3, 0", FIRST, NEXT, LEAVES, ""),
}  # fmt: skip


def tickets(name: str, threads: int, programs: int, seed: int) -> Program:
    rounds, guard, what, more, end = BODIES[name]
    body = WARP + TICKETS.format(rounds=rounds, guard=guard, what=what, more=more, end=end)
    arrays = [np.zeros(16 * threads * programs, np.uint32), np.zeros(4, np.uint32)]
    return Program(body, arrays, {"threads": threads, "programs": programs, "seed": seed})


@pytest.mark.parametrize("name", BODIES)
def test_atomics_come_in_the_order_of_the_seed(name):
    """Each thread's tickets say when its turns were: no other order leaves the same bits."""
    found = Counter()
    for seed in range(12):
        program = tickets(name, (32, 64, 128)[seed % 3], (1, 2, 5, 11)[seed % 4], seed)
        came = [a.copy() for a in program.arrays]
        usual, _ = outcome(program, "numpy", came)
        now, engine = outcome(program, None, came)
        assert now == usual, (seed, program)
        found[usual.get("error", engine).split(":")[0]] += 1
    assert found["native"] >= 10, found


FIRST_STORES = "setp.ne.u32 %p1, %r2, 0; @%p1 bra WAIT; st.global.b32 [%rd2], 1; ret; WAIT: "
END = "st.global.b32 [%rd11], %r9; ret;"
SPINS = {
    "at once": "ld.global.b32 %r9, [%rd2]; setp.eq.u32 %p2, %r9, 0; @%p2 bra WAIT; ",
    "through shared memory": (
        "bar.sync 0; ld.global.b32 %r9, [%rd2]; st.shared.b32 [%r5], %r9; bar.sync 0; ld.shared.b32 %r8, [%r5]; "
        "setp.ne.u32 %p2, %r8, 0; @%p2 bra OUT; bra WAIT; OUT: "
    ),
    "within a loop that counts": (
        "mov.u32 %r6, 0; MORE: ld.global.b32 %r9, [%rd2]; setp.eq.u32 %p2, %r9, 0; @%p2 bra MORE; "
        "add.u32 %r6, %r6, 1; setp.lt.u32 %p3, %r6, 3; @%p3 bra MORE; "
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPINS)
def test_loops_that_wait_for_a_racing_store_are_left_to_the_numpy_form(name):
    """There threads that wait are not drawn while nothing changes."""
    for seed in range(3):
        arrays = [np.zeros(128, np.uint32), np.zeros(1, np.uint32)]
        program = Program(FIRST_STORES + SPINS[name] + END, arrays, {"programs": 4, "seed": seed, "checks": False})
        came = [a.copy() for a in program.arrays]
        usual, _ = outcome(program, "numpy", came)
        assert outcome(program, None, came) == (usual, "numpy")


def same(seeds: range, checks: bool) -> Counter:
    """Random programs under random schedules on both engines -> how many ended natively, how many in an error."""
    ended = Counter()
    for seed in seeds:
        program = drawn(np.random.default_rng(seed))
        program.settings.update(seed=seed, programs=1 + seed % 7, checks=checks)
        program = program._replace(arrays=[*program.arrays[:2], np.zeros(96 * 7, np.uint32)])
        came = [a.copy() for a in program.arrays]
        usual, _ = outcome(program, "numpy", came)
        now, engine = outcome(program, None, came)
        assert now == usual, (seed, program)
        ended["error" if "error" in usual else engine] += 1
    return ended


@pytest.mark.parametrize("checks", [True, False])
def test_random_programs_end_alike_under_random_schedules(checks):
    """Without checks also those whose accesses race, whatever they find."""
    assert same(range(80), checks)["native"] > (5 if checks else 20)


@pytest.mark.exhaustive
@pytest.mark.parametrize("checks", [True, False])
def test_thousands_of_random_programs_end_alike_under_random_schedules(checks):
    assert same(range(20_000, 24_000), checks)["native"] > (300 if checks else 1000)
