"""Bulk copies of plain bytes, reductions of them, and the groups that they are waited for by."""

import numpy as np
import pytest

from kvproof.kernels.ptx import Misaligned, OutOfBounds, Race, UnknownOpcode

from ._by_hand import BAR, ENDED, EXPECT, INIT, OUT, WAIT, run

LOAD = f"@%p1 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [{{}}], [{{}}], {{}}, [{BAR}]; "
FILL = "shl.b32 %r9, %r1, 2; st.shared.b32 [%r9], {}; fence.proxy.async.shared::cta; bar.sync 0; "


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_bytes_go_to_shared_memory_and_back(seed):
    a, out = np.arange(48, dtype=np.uint32), np.zeros(48, np.uint32)
    body = (
        INIT + EXPECT.format(192) + LOAD.format(64, "%rd2", 128) + LOAD.format(192, "%rd2+128", 64) + WAIT.format(0, 0)
    )
    run(body + OUT.format(64, 192), out, a, seed=seed)
    assert np.array_equal(out, a)


def test_programs_may_copy_different_numbers_of_bytes():
    a, out = np.arange(96, dtype=np.uint32), np.zeros(96, np.uint32)
    body = (
        INIT
        + "mul.lo.u32 %r9, %r2, 64; mul.wide.u32 %rd9, %r2, 128; add.u64 %rd10, %rd1, %rd9; add.u64 %rd11, %rd2, %rd9; "
    )
    body += EXPECT.format("%r9") + LOAD.format(0, "%rd11", "%r9") + WAIT.format(0, 0)
    body += "@%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd10], [0], %r9; " + ENDED + "ret;"
    run(body, out, a, programs=3)
    expected = np.zeros((3, 32), np.uint32)
    expected[1, :16], expected[2] = a[32:48], a[64:]
    assert np.array_equal(out, expected.ravel())


@pytest.mark.parametrize(
    ("operation", "kind", "before", "with_", "after"),
    [
        ("add.u32", np.uint32, 2**32 - 3, 5, 2),
        ("add.s32", np.int32, -3, 5, 2),
        ("add.u64", np.uint64, 2**32, 5, 2**32 + 5),
        ("add.noftz.f16", np.float16, 1.5, 2.25, 3.75),
        ("add.f32", np.float32, 1.5, 2.25, 3.75),
        ("add.f64", np.float64, 1.5, 2.25, 3.75),
        ("min.s32", np.int32, -3, 5, -3),
        ("min.u32", np.uint32, 2**32 - 3, 5, 5),
        ("max.s64", np.int64, -3, 5, 5),
        ("max.f16", np.float16, -3, -5, -3),
        ("inc.u32", np.uint32, 5, 5, 0),
        ("dec.u32", np.uint32, 0, 5, 5),
        ("and.b32", np.uint32, 12, 10, 8),
        ("or.b64", np.uint64, 12, 10, 14),
        ("xor.b32", np.uint32, 12, 10, 6),
    ],
)
def test_reductions_into_global_memory(operation, kind, before, with_, after):
    a = np.full(128 // np.dtype(kind).itemsize, before, kind)
    b = np.full_like(a, with_)
    body = INIT + EXPECT.format(128) + LOAD.format(0, "%rd2", 128) + WAIT.format(0, 0)
    body += f"@%p1 cp.reduce.async.bulk.global.shared::cta.bulk_group.{operation} [%rd1+32], [0], 64; " + ENDED + "ret;"
    run(body, a, b)
    quarter = len(a) // 4
    assert (a[quarter : 3 * quarter] == kind(after)).all()
    assert (a[:quarter] == kind(before)).all()
    assert (a[3 * quarter :] == kind(before)).all()


def test_reductions_of_many_programs_and_threads_all_count():
    total = np.zeros(32, np.uint32)
    body = FILL.format(1) + "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd1], [0], 128; "
    run(body + "cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; ret;", total, programs=5, threads=64)
    assert (total[:] == 5 * 64).all()


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (LOAD.format(8, "%rd2", 128), "a bulk copy at 8 of shared memory, which is no multiple of 16"),
        (LOAD.format(0, "%rd2+8", 128), "at [0-9]+ of global memory, which is no"),
        (LOAD.format(0, "%rd2", 120), "a bulk copy of 120 bytes, which"),
        (OUT.format(16, 24), "of 24 bytes, which"),
    ],
)
def test_places_and_sizes_are_multiples_of_16(body, what):
    with pytest.raises(Misaligned, match=what):
        run(INIT + EXPECT.format(128) + body + "ret;", np.zeros(64, np.uint32), np.zeros(64, np.uint32))


def test_past_the_end_of_an_array():
    a, out = np.zeros(20, np.uint32), np.zeros(20, np.uint32)
    with pytest.raises(OutOfBounds, match=r"piece 5 of a bulk copy: 16 bytes at b \+80 bytes, 0 past its end"):
        run(INIT + EXPECT.format(96) + LOAD.format(0, "%rd2", 96) + "ret;", out, a)
    with pytest.raises(OutOfBounds, match=r"piece 5 of a bulk copy: 16 bytes at a \+80 bytes, 0 past its end"):
        run(FILL.format(1) + OUT.format(0, 96), out, a)


def test_a_later_group_may_be_under_way_when_an_earlier_one_is_over():
    out = np.zeros(64, np.uint32)
    copy = "@%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd1{}], [{}], 64; @%p1 cp.async.bulk.commit_group; "
    body = FILL.format("%r1") + copy.format("", 0) + copy.format("+64", 64)
    wait = "@%p1 cp.async.bulk.wait_group.read {}; bar.sync 0; "
    over = "setp.lt.u32 %p3, %r1, 16; @%p3 st.shared.b32 [%r9+{}], 7; "
    run(body + wait.format(1) + over.format(0) + ENDED + "ret;", out)
    assert np.array_equal(out[:32], np.arange(32))
    run(body + wait.format(0) + over.format(64) + ENDED + "ret;", out)
    for left, at in ((1, 64), (2, 0)):
        with pytest.raises(Race, match=r"no cp.async.bulk.wait_group"):
            run(body + wait.format(left) + over.format(at) + ENDED + "ret;", out)


GENERIC = "ld.global.b32 %r11, [%rd10]; "  # of what the copy wrote


@pytest.mark.parametrize(
    ("wait", "races"),
    [("cp.async.bulk.wait_group 0; ", False), ("cp.async.bulk.wait_group.read 0; ", True), ("", True)],
)
def test_threads_read_what_was_copied_out_after_a_wait(wait, races):
    out = np.zeros(32, np.uint32)
    body = FILL.format("%r1") + "mul.wide.u32 %rd9, %r1, 4; add.u64 %rd10, %rd1, %rd9; "
    body += "@%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [0], 128; @%p1 cp.async.bulk.commit_group; "
    body += f"@%p1 {wait}" if wait else ""
    body += "bar.sync 0; " + GENERIC + ("" if wait and not races else "@%p1 cp.async.bulk.wait_group 0; ") + "ret;"
    if not races:
        run(body, out)
        return
    with pytest.raises(Race, match="this load and a store by a bulk copy by thread 0 of the same program, PTX line"):
        run(body, out)


READS, COPIES = "ld.global.b32 %r11, [%rd10]; ", "@%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [0], 128; "
ADDS = "@%p1 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd1], [0], 128; "
AGAIN = "bar.sync 0; add.u32 %r13, %r13, 1; setp.lt.u32 %p4, %r13, 3; @%p4 bra LL; "


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (
            READS + COPIES + ENDED,
            "store by a bulk copy and a load by thread 1 of the same program, .* with no barrier b",
        ),
        (
            COPIES + ENDED + READS,
            "load and a store by a bulk copy by .* no barrier after its cp.async.bulk.wait_group b",
        ),
        (COPIES + READS + ENDED, "no cp.async.bulk.wait_group between"),
        (COPIES + "bar.sync 0; " + READS + ENDED, "no cp.async.bulk.wait_group between"),
        (ADDS + "bar.sync 0; " + READS + ENDED, "an atomic by a bulk copy by thread 0 of the .* no cp.async.bulk.wait"),
        (
            "st.global.b32 [%rd10], 1; " + ADDS + ENDED,
            "this atomic by a bulk copy and a store by .* with no barrier be",
        ),
        ("LL: " + READS + COPIES + ENDED + AGAIN, "with no barrier between"),
        ("LL: " + READS + "bar.sync 0; " + COPIES + AGAIN + ENDED, "no cp.async.bulk.wait_group between"),
        ("LL: " + COPIES + ENDED + READS + AGAIN, "no barrier after its cp.async.bulk.wait_group between"),
    ],
)
def test_a_race_between_a_copy_and_its_program_says_what_is_missing(body, what):
    start = FILL.format("%r1") + "mul.wide.u32 %rd9, %r1, 4; add.u64 %rd10, %rd1, %rd9; mov.u32 %r13, 0; "
    with pytest.raises(Race, match=what):
        run(start + body + "ret;", np.zeros(32, np.uint32))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [0], [64], 64, [8192]; ",
            "within shared memory",
        ),
        ("cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%rd1], [0], 64, %h1; ", "with a mask of bytes"),
        ("cp.reduce.async.bulk.global.shared::cta.bulk_group.and.f32 [%rd1], [0], 64; ", "and of f32"),
        ("cp.reduce.async.bulk.global.shared::cta.bulk_group.u32 [%rd1], [0], 64; ", "a part of it is missing"),
    ],
)
def test_forms_that_are_not_modelled_are_named(text, why):
    with pytest.raises(UnknownOpcode, match=why):
        run(text + "ret;", np.zeros(64, np.uint32))
