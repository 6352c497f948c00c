"""Copies whose end an mbarrier or a group tells: PTX written by hand."""

import numpy as np
import pytest

from kvproof.kernels.ptx import errors

from .._text import run

# The first of two warps copies a number for each of its threads, the second reads them.
BODY = (
    "setp.eq.u32 %p1, %r1, 0; setp.lt.u32 %p3, %r1, 32; add.u64 %rd12, %rd1, %rd10; mov.u32 %r9, 5; "
    "@%p1 mbarrier.init.shared::cta.b64 [512], {count}; bar.sync 0; "
    "@%p3 cp.async.ca.shared.global [%r5], [%rd12], 4; {between}"
    "@!%p3 ld.shared.b32 %r9, [%r5+-128]; add.u64 %rd13, %rd2, %rd10; st.global.b32 [%rd13], %r9; ret;"
)
WAIT = "L{0}: mbarrier.try_wait.parity.shared::cta.b64 %p2, [512], 0; @!%p2 bra L{0}; "
ARRIVE = "@%p3 cp.async.mbarrier.arrive{}.shared.b64 [512]; "


def copied(between: str, count: int) -> np.ndarray:
    a, out = np.arange(64, dtype=np.uint32) + 100, np.zeros(64, np.uint32)
    run(BODY.format(between=between, count=count), a, out, threads=64)
    return out[32:]


@pytest.mark.parametrize(
    ("between", "count"),
    [
        (ARRIVE.format(".noinc") + WAIT.format(1), 32),  # the arrivals that the mbarrier waits for
        (ARRIVE.format("") + "@%p1 mbarrier.arrive.shared::cta.b64 _, [512]; " + WAIT.format(1), 1),  # and more ones
    ],
)
def test_who_waits_for_the_mbarrier_sees_what_was_copied(between, count):
    assert (copied(between, count) == np.arange(32) + 100).all()


@pytest.mark.parametrize("between", ["", ARRIVE.format(".noinc"), WAIT.format(1).replace(", 0;", ", 1;")])
def test_who_does_not_wait_races_with_the_copy(between):
    with pytest.raises(errors.Race):
        copied(between, 32)


def test_without_its_arrivals_the_mbarrier_is_waited_for_in_vain():
    with pytest.raises(errors.Deadlock, match="the mbarrier at 512 is in phase 0, which lacks 32 of 32 arrivals"):
        copied(WAIT.format(1), 32)


# Each of 32 lanes stores a word, the first one copies all of them out.
FILLED = "setp.eq.u32 %p1, %r1, 0; st.shared.b32 [%r5], %r1; fence.proxy.async{space}; {barrier}"
SENT = "@%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [0], 128; {commit}{wait}"
PARTS = {
    "space": ".shared::cta", "barrier": "bar.warp.sync -1; ", "commit": "cp.async.bulk.commit_group; ",
    "wait": "cp.async.bulk.wait_group 0; ",
}  # fmt: skip
OTHER = "setp.eq.u32 %p4, %r1, 1; @%p4 "  # another lane than the one that copies


def sent(**parts: str) -> np.ndarray:
    out = np.zeros(32, np.uint32)
    run((FILLED + SENT + "bar.warp.sync -1; st.shared.b32 [%r5], 7; ret;").format(**(PARTS | parts)), out)
    return out


@pytest.mark.parametrize(
    "parts", [{}, {"space": ""}, {"barrier": "bar.sync 0; "}, {"commit": "@%p1 cp.async.bulk.commit_group; "}]
)
def test_what_a_warp_copies_out_is_what_its_lanes_stored(parts):
    assert (sent(**parts) == np.arange(32)).all()


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"barrier": ""}, "another lane of the same warp wrote with no barrier in between"),
        ({"space": ".global"}, "no fence.proxy.async in between"),
        ({"commit": OTHER + "cp.async.bulk.commit_group; "}, "no cp.async.bulk.wait_group"),
        ({"wait": OTHER + "cp.async.bulk.wait_group 0; "}, "no cp.async.bulk.wait_group"),
    ],
)
def test_what_other_lanes_do_orders_nothing_for_the_copy(parts, what):
    with pytest.raises(errors.Race, match=what):
        sent(**parts)


@pytest.mark.parametrize("store", ["st.shared.b32 [%r5], %r1", "atom.shared.or.b32 %r9, [%r5], %r1"])
def test_what_is_not_fenced_is_reported_with_the_line_of_the_write(store):
    zero = "st.shared.b32 [%r5], 0; "
    body = (zero + FILLED + SENT).format(**PARTS | {"space": ".global"}).replace("st.shared.b32 [%r5], %r1", store)
    with pytest.raises(errors.Race, match="with no fence") as failure:
        run(body + "ret;", np.zeros(32, np.uint32))
    assert failure.value.line is not None  # of the copy, which follows a fence and a barrier
    assert f"; it was written at PTX line {failure.value.line - 3}; " in str(failure.value)
