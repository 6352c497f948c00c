"""The machine on PTX written by hand: threads that part and meet, barriers, waiting, registers, counters."""

import numpy as np
import pytest

from kvproof.kernels.ptx import errors
from kvproof.kernels.ptx.arrays import merged

from ._text import OWN, SEEDS, fails, own, run

tid = np.arange(64)


@SEEDS
def test_threads_that_part_twice_meet_again(seed):
    found = own(
        "and.b32 %r6, %r1, 1; and.b32 %r7, %r1, 2; setp.eq.u32 %p1, %r6, 0; setp.eq.u32 %p2, %r7, 0; "
        "@%p1 bra EVEN; mov.b32 %r9, 1; @%p2 bra ALL; mov.b32 %r9, 3; bra ALL; "
        "EVEN: mov.b32 %r9, 0; @%p2 bra ALL; mov.b32 %r9, 2; "
        "ALL: bar.sync 0; shfl.sync.bfly.b32 %r10, %r9, 1, 31, -1; add.u32 %r9, %r9, %r10; ",
        threads=64, programs=3, seed=seed,
    )  # fmt: skip
    assert found.tolist() == (tid % 4 + (tid ^ 1) % 4).tolist() * 3


@SEEDS
def test_each_thread_leaves_a_loop_after_its_own_number_of_turns(seed):
    body = (
        "mov.b32 %r9, 0; add.u32 %r6, %r1, %r2; LOOP: setp.eq.u32 %p1, %r6, 0; @%p1 bra DONE; "
        "add.u32 %r9, %r9, %r6; sub.u32 %r6, %r6, 1; bra LOOP; DONE: "
    )
    turns = np.concatenate([tid + program for program in range(3)])
    assert own(body, threads=64, programs=3, seed=seed).tolist() == (turns * (turns + 1) // 2).tolist()


@SEEDS
def test_threads_that_return_early_store_nothing(seed):
    out = np.full(192, 99, np.uint32)
    body = "setp.ge.u32 %p1, %r1, 40; @%p1 ret; setp.eq.u32 %p2, %r2, 1; @%p2 ret; " + OWN.format("%r1")
    run(body, out, programs=3, threads=64, seed=seed)
    assert out.reshape(3, 64)[[0, 2], :40].tolist() == [list(range(40))] * 2
    assert (out.reshape(3, 64)[:, 40:] == 99).all()
    assert (out.reshape(3, 64)[1] == 99).all()


@SEEDS
def test_programs_that_wait_go_on_when_another_one_of_their_block_has_returned(seed):
    out = np.full(96, 99, np.uint32)
    body = (  # program 1 leaves in two parts, so that it and the waiting ones stay in one block
        "setp.eq.u32 %p1, %r2, 1; setp.lt.u32 %p2, %r1, 7; and.pred %p2, %p1, %p2; @%p2 bra GONE; @%p1 bra GONE; "
        f"bar.sync 0; {OWN.format('%r1')} bra END; GONE: ret; END: "
    )
    run(body, out, programs=3, threads=32, seed=seed)
    assert out.reshape(3, 32).tolist() == [list(range(32)), [99] * 32, list(range(32))]


@SEEDS
def test_old_values_of_parted_programs_do_not_meet_masked_ones(seed):
    # %r9 is dead where the programs part, then written by some threads alone.
    found = own(
        "add.u32 %r9, %r4, 5; st.shared.b32 [%r5], %r9; setp.eq.u32 %p1, %r2, 1; @%p1 bra ONE; "
        "setp.lt.u32 %p2, %r1, 7; @%p2 bra LOW; mov.b32 %r9, 1; bra END; LOW: mov.b32 %r9, 2; bra END; "
        "ONE: mov.b32 %r9, 3; END: ", programs=3, seed=seed,
    )  # fmt: skip
    others = np.where(np.arange(32) < 7, 2, 1)
    assert found.tolist() == [*others, *[3] * 32, *others]


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("this thread skips", "setp.lt.u32 %p1, %r1, 32; @%p1 bar.sync 0; ret;"),
        ("not all threads reach", "setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 1; ret; A: bar.sync 0; ret;"),
        ("lanes of one warp", "setp.lt.u32 %p1, %r1, 7; @%p1 bra A; bar.sync 0; ret; A: bar.sync 0; ret;"),
        ("not all threads reach; others are returned", "setp.ge.u32 %p1, %r1, 32; @%p1 ret; bar.sync 0; ret;"),
        ("not all threads reach; others are returned", "setp.ge.u32 %p1, %r4, 70; @%p1 ret; bar.sync 0; ret;"),
        ("not all of its lanes reach",
         "setp.lt.u32 %p1, %r1, 7; @%p1 ret; shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1; ret;"),
    ],
)  # fmt: skip
def test_a_barrier_that_some_threads_miss_is_reported(what, body):
    found = fails(errors.DivergentBarrier, what, body, threads=64, programs=2)
    assert found.program in [(0, 0, 0), (1, 0, 0)]
    assert found.thread in range(64)


@SEEDS
def test_warps_may_wait_for_one_barrier_at_two_places(seed):
    body = "setp.lt.u32 %p1, %r1, 32; "
    body += "@%p1 bra A; mov.b32 %r9, 2; bar.sync 0; bra END; A: mov.b32 %r9, 1; bar.sync 0; END: "
    assert own(body, threads=64, seed=seed).tolist() == [1] * 32 + [2] * 32


SPIN = "LOOP: ld.acquire.gpu.global.b32 %r6, [%rd2]; setp.eq.u32 %p1, %r6, 0; @%p1 bra LOOP; "
RAISE = "@%p2 st.release.gpu.global.b32 [%rd2], 1; "


@SEEDS
def test_a_program_waits_until_another_has_raised_its_flag(seed):
    out, flag = np.zeros(64, np.uint32), np.zeros(1, np.uint32)
    body = f"setp.eq.u32 %p3, %r2, 0; setp.eq.u32 %p2, %r1, 0; @%p3 bra WAIT; {RAISE} ret; WAIT: {SPIN}"
    run(body + OWN.format("7"), out, flag, programs=2, seed=seed)
    assert out.tolist() == [7] * 32 + [0] * 32


@SEEDS
def test_a_wait_for_what_nobody_does_is_a_deadlock(seed):
    arrays = np.zeros((2, 64), np.uint32)
    assert fails(errors.Deadlock, "nobody is left", SPIN + "ret;", *arrays, programs=2, seed=seed).thread == 0


def test_a_loop_past_its_limit_is_reported():
    code = "mov.b32 %r9, 0; LOOP: add.u32 %r9, %r9, 1; bra LOOP;"
    fails(errors.Unfinished, "did not end within 1,000 instructions.*max_steps=1000", code, max_steps=1000)


def test_a_register_that_one_way_leaves_unwritten_is_reported():
    fails(errors.Uninitialised, "register %r9", "bra END; mov.b32 %r9, 1; END: " + OWN.format("%r9"))


@SEEDS
def test_bits_of_a_register_that_nothing_writes_do_not_matter(seed):
    assert own("mov.b32 %r10, {%h1, %h2}; and.b32 %r9, %r10, 0; ", seed=seed).tolist() == [0] * 32


def traffic(body: str, **settings):
    """The total Line of a body that may read the second array, of 4 KB."""
    words = np.zeros(1088, np.uint32)
    first = -words.ctypes.data // 4 % 64  # where a line of 256 bytes begins
    return run(body + " ret;", np.zeros(256, np.uint32), words[first : first + 1024], **settings).total


SHUFFLED = "shfl.sync.bfly.b32 %r10, %r9, 1, 31, -1"  # as Triton 3.6 sums over warps: all lanes, a few of them loaded


@SEEDS
@pytest.mark.parametrize(
    ("write", "read"),
    [
        ("mov.b32 %r9, 7", SHUFFLED),
        ("ld.shared.b32 %r9, [%r5]", SHUFFLED),
        ("ld.global.b32 %r9, [%rd11]", "add.u32 %r10, %r9, 1"),
        ("setp.eq.u32 %p2, %r1, 0", "selp.b32 %r10, 1, 2, %p2"),
        ("mov.b64 %rd12, %rd1", "cvt.u32.u64 %r10, %rd12"),
    ],
)
def test_a_register_whose_guard_leaves_out_every_thread_holds_bits_that_do_not_matter(write, read, seed):
    body = f"setp.eq.u32 %p1, %r3, 0; @%p1 {write}; {read}; selp.b32 %r9, %r10, 5, %p1; "
    assert own(body, threads=64, programs=2, seed=seed).tolist() == [5] * 128


@pytest.mark.parametrize(("stride", "sectors"), [(0, 1), (4, 4), (8, 8), (32, 32), (64, 32)])
def test_sectors_are_counted_once_for_each_warp(stride, sectors):
    body = f"mul.lo.u32 %r6, %r1, {stride}; and.b32 %r6, %r6, 2047; cvt.u64.u32 %rd9, %r6; add.u64 %rd9, %rd9, %rd2; "
    line = traffic(body + "ld.global.b32 %r9, [%rd9];", threads=64, programs=3)
    assert (line.loaded.bytes, line.loaded.sectors) == (3 * 64 * 4, 3 * 2 * sectors)
    line = traffic(body + "setp.lt.u32 %p1, %r1, 8; @%p1 ld.global.b32 %r9, [%rd9];", threads=64, programs=3)
    assert (line.loaded.bytes, line.loaded.sectors) == (3 * 8 * 4, 3 * max(1, sectors // 4))


@pytest.mark.parametrize(
    ("kind", "step", "passes"),
    [("b32", 4, 1), ("b32", 8, 2), ("b32", 128, 32), ("b32", 132, 1), ("b32", 0, 1), ("v2.b32", 8, 2),
     ("v4.b32", 16, 4), ("v2.b32", 16, 4), ("v4.b32", 32, 8), ("v4.b32", 0, 4), ("u16", 2, 1)],
)  # fmt: skip
def test_bank_conflicts_are_counted(kind, step, passes):
    registers = {"v2.b32": "{%r8, %r9}", "v4.b32": "{%r7, %r8, %r9, %r10}", "u16": "%h1"}.get(kind, "%r9")
    body = f"mul.lo.u32 %r6, %r1, {step}; st.shared.{kind} [%r6], {registers};"
    body = "mov.b32 %r7, 0; mov.b32 %r8, 0; mov.b32 %r9, 0; mov.b32 %r10, 0; mov.b16 %h1, 0; " + body
    shared = traffic(body, programs=3, shared=8192).shared
    least = {"v2.b32": 2, "v4.b32": 4}.get(kind, 1)
    assert (shared.wavefronts, shared.conflicts, shared.operations) == (3 * passes, 3 * (passes - least), 3 * 32)


def test_instructions_are_counted_by_warps_that_run_them():
    body = "setp.lt.u32 %p1, %r1, 40; @%p1 bra A; ret; A: nanosleep.u32 1; ret;"
    report = run(body, np.zeros(1), threads=96, programs=2)
    counts = {i.opcode: line.instructions for i, line in report.by_instruction}
    assert (counts["setp.lt.u32"], counts["bra"], counts["nanosleep.u32"]) == (6, 6, 4)
    by_line = sum(line.instructions for line in report.lines.values())
    assert report.total.instructions == sum(report.classes.values()) == by_line


@SEEDS
def test_without_checks_the_results_are_the_same(seed):
    body = (
        "st.shared.b32 [%r5], %r4; bar.sync 0; xor.b32 %r6, %r5, 132; ld.shared.b32 %r9, [%r6]; "
        "atom.global.add.u32 %r8, [%rd2], %r9; setp.lt.u32 %p1, %r9, 50; @%p1 bra END; add.u32 %r9, %r9, 1000; END: "
    )
    results = []
    for checks in (True, False):
        out, total = np.zeros(128, np.uint32), np.zeros(1, np.uint32)
        run(body + OWN.format("%r9"), out, total, threads=64, programs=2, seed=seed, checks=checks)
        results.append([*out, *total])
    assert results[0] == results[1]
    assert results[0][-1] == sum(range(128))


def test_lanes_that_part_meet_before_they_return():
    out = np.zeros(32, np.uint32)
    report = run("setp.eq.u32 %p1, %r1, 3; @%p1 bra END; st.global.b32 [%rd11], 5; END: ret;", out)
    assert [line.instructions for i, line in report.by_instruction if i.opcode == "ret"] == [1]
    assert (out == 5).sum() == 31


def test_values_of_programs_that_join_lie_row_by_row():
    """What writes to them by flat index would write to a copy."""
    joined = merged(np.zeros((1, 4)), 2, np.ones((1, 4)), 3)
    assert joined.shape == (5, 4)
    assert joined.flags.c_contiguous
