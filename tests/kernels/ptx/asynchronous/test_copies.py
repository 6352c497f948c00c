"""cp.async whose end an mbarrier tells: PTX written by hand."""

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
