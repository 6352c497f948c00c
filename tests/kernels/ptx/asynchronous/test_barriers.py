"""Barriers of a part of a program, mbarriers, and what orders accesses to shared memory: PTX written by hand."""

import numpy as np
import pytest

from kvproof.kernels.ptx import errors
from kvproof.kernels.ptx.asynchronous.clocks import Clocks
from kvproof.kernels.ptx.asynchronous.ordering import Ordering

from .._text import fails, own, run

INIT = "setp.eq.u32 %p1, %r1, 0; @%p1 mbarrier.init.shared::cta.b64 [512], {}; bar.sync 0; "
WAIT = "L{0}: mbarrier.try_wait.parity.shared::cta.b64 %p2, [512], {1}; @!%p2 bra L{0}; "
FIRST = "setp.lt.u32 %p3, %r1, 32; "  # %p3: the first of two warps
# The first warp writes a word of each of its threads, the second reads them.
WRITE, READ = "@%p3 st.shared.b32 [%r5], %r1; ", "@!%p3 ld.shared.b32 %r9, [%r5+-128]; "


def handed_over(between: str, **settings) -> np.ndarray:
    """What the second warp reads of the first, with instructions of both between."""
    found = own(f"mov.u32 %r9, 77; {FIRST}{INIT.format(1)}{WRITE}{between}{READ}", threads=64, **settings)
    assert (found[:32] == 77).all()
    return found[32:]


def races(between: str, what: str = "thing to order the two", kind=errors.Race):
    body = f"mov.u32 %r9, 77; {FIRST}{INIT.format(1)}{WRITE}{between}{READ}"
    return fails(kind, what, body + "ret;", threads=64)


ARRIVE = "elect.sync _|%p4, -1; and.pred %p5, %p3, %p4; @%p5 mbarrier.arrive.shared::cta.b64 _, [512]; "


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize(
    "between",
    [
        ARRIVE + WAIT.format(1, 0),
        "bar.sync 3, 64; ",
        "@%p3 bar.arrive 2, 64; @!%p3 bar.sync 2, 64; ",
        "barrier.cta.sync.aligned 1; ",
        "barrier.cluster.arrive; barrier.cluster.wait; ",
    ],
    ids=["mbarrier", "part", "arrive", "all", "cluster of one"],
)
def test_what_orders_two_warps(between, seed):
    assert (handed_over(between, seed=seed) == np.arange(32)).all()


@pytest.mark.parametrize(
    "between",
    [
        "",
        "@%p3 bar.sync 2, 32; ",  # the writer alone
        "@%p3 bar.sync 2, 32; @!%p3 bar.sync 3, 32; ",
        ARRIVE,  # and nobody waits
        WAIT.format(1, 1),  # for the phase before the first, which is complete
        "fence.proxy.async.shared::cta; ",
    ],
)
def test_what_does_not(between):
    assert "read here, that warp 0 wrote" in str(races(between))


def test_a_write_over_what_another_warp_reads_is_a_race():
    body = FIRST + INIT.format(1) + "@%p3 st.shared.b32 [%r5], %r1; bar.sync 0; "
    body += "@!%p3 ld.shared.b32 %r9, [%r5+-128]; {}@%p3 st.shared.b32 [%r5], 5; ret;"
    caught = fails(errors.Race, "nothing to order the two", body.format(""), threads=64)
    assert "written here, that warp 1 read" in str(caught)
    run(body.format("bar.sync 1, 64; "), np.zeros(256, np.uint32), threads=64)


def test_a_warps_later_write_is_not_covered_by_what_it_gave_before():
    races(ARRIVE + WAIT.format(1, 0) + WRITE)


def test_lanes_of_one_warp_are_still_told_apart():
    body = "setp.eq.u32 %p1, %r1, 3; st.shared.b32 [%r5], %r1; {}@%p1 ld.shared.b32 %r9, [0]; ret;"
    kept = "bar.sync 2, 32; "  # makes the program one with clocks
    fails(errors.WarpRace, "thread 0 of the same warp wrote", kept + body.format(""), threads=32)
    run(kept + body.format("bar.warp.sync -1; "), np.zeros(256, np.uint32), threads=32)


def test_phases_alternate_and_count_arrivals_of_all_threads():
    body = INIT.format(64) + "mov.u32 %r9, 0; "
    for phase in range(3):
        body += f"mbarrier.arrive.shared::cta.b64 %rd{phase + 12}, [512]; " + WAIT.format(phase, phase % 2)
        body += f"cvt.u32.u64 %r10, %rd{phase + 12}; mad.lo.u32 %r9, %r9, 10, %r10; "
    assert (own(body, threads=64) == 12).all()  # 0, 1, 2: the phase is what arrive returns


def test_a_state_is_waited_for_as_a_parity_is():
    state = "mbarrier.arrive.shared::cta.b64 %rd12, [512]; L1: mbarrier.test_wait.shared::cta.b64 %p2, [512], %rd12; "
    assert (own(INIT.format(64) + state + "@!%p2 bra L1; mov.u32 %r9, 5; ", threads=64) == 5).all()


def test_bytes_are_waited_for():
    tx = "@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [512], 96; "
    done = "@%p1 mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [512], {}; "
    body = INIT.format(1) + tx + "{}" + WAIT.format(1, 0) + "mov.u32 %r9, 5; "
    assert (own(body.format(done.format(64) + done.format(32))) == 5).all()
    for short, lacks in ((32, "64 bytes"), (128, "32 bytes fewer")):
        caught = fails(errors.Deadlock, "wait for ever", body.format(done.format(short)) + "ret;")
        assert f"the mbarrier at 512 is in phase 0, which lacks {lacks}" in str(caught)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("mbarrier.arrive.shared::cta.b64 _, [512]; ret;", "at 512 of shared memory is not initialised"),
        (INIT.format(1) + "mbarrier.arrive.shared::cta.b64 _, [512]; ret;", "more arrivals in one phase than the 1"),
        (INIT.format(1) + "@%p1 mbarrier.init.shared::cta.b64 [512], 1; ret;", "initialised again without"),
        (INIT.format(0) + "ret;", "is to take 0 arrivals"),
        (INIT.format(1) + "@%p1 mbarrier.inval.shared::cta.b64 [512]; bar.sync 0; " + WAIT.format(1, 0), "not init"),
        (INIT.format(1) + "@%p1 st.shared.b32 [512], 7; bar.sync 0; " + WAIT.format(1, 0), "overwritten by other"),
    ],
)
def test_an_mbarrier_used_wrongly_is_reported(body, what):
    fails(errors.InvalidBarrier, what, body)


def test_a_wait_whose_answer_is_ignored_is_found_in_some_schedule():
    once = ARRIVE + "bar.sync 0; mbarrier.try_wait.parity.shared::cta.b64 %p2, [512], 0; "
    body = f"mov.u32 %r9, 77; {FIRST}{INIT.format(1)}" + once + "selp.b32 %r9, 1, 0, %p2; "
    seen = {int(own(body, threads=64, seed=seed)[0]) for seed in range(30)}
    assert seen == {0, 1}
    assert own(body, threads=64)[0] == 1


def test_an_mbarrier_is_no_place_to_race_for():
    early = "setp.eq.u32 %p1, %r1, 0; @%p1 mbarrier.init.shared::cta.b64 [512], 1; setp.eq.u32 %p3, %r1, 32; "
    fails(errors.Race, "arrived at here", early + "@%p3 mbarrier.arrive.shared::cta.b64 _, [512]; ret;", threads=64)
    late = (
        "setp.eq.u32 %p3, %r1, 32; @%p3 mbarrier.arrive.shared::cta.b64 _, [512]; @%p1 mbarrier.inval.shared.b64 [512];"
    )
    fails(errors.Race, "written here", INIT.format(1) + late + " ret;", threads=64)


def test_barriers_for_too_many_and_for_two_numbers_are_reported():
    fails(errors.DivergentBarrier, "barrier 2 is for 32 threads, and 64 come", "bar.sync 2, 32; ret;", threads=64)
    two = FIRST + "@%p3 bra L1; bar.sync 2, 64; ret; L1: bar.sync 2, 96; ret;"
    fails(errors.DivergentBarrier, "for 64 threads and for 96 threads", two, threads=64)
    fails(errors.DivergentBarrier, "not all threads reach", FIRST + "@%p3 bar.sync 2, 64; ret;", threads=64)


def test_programs_in_lockstep_keep_their_own_barriers():
    """Programs with other numbers of rounds part, meet again and hand over in each round."""
    body = FIRST + INIT.format(1) + "mov.u32 %r9, 0; mov.u32 %r10, 0; L5: " + WRITE + ARRIVE
    body += "and.b32 %r11, %r10, 1; " + WAIT.format(1, "%r11") + "@!%p3 ld.shared.b32 %r12, [%r5+-128]; "
    body += (
        "@!%p3 add.u32 %r9, %r9, %r12; bar.sync 4, 64; add.u32 %r10, %r10, 1; setp.le.u32 %p6, %r10, %r2; @%p6 bra L5; "
    )
    for seed in (None, 0, 1):
        found = own(body, programs=3, threads=64, seed=seed).reshape(3, 64)
        assert (found[:, 32:] == np.arange(32) * np.arange(1, 4)[:, None]).all()


def test_branches_by_index_lead_to_their_targets():
    body = "and.b32 %r10, %r1, 3; T0: .branchtargets L0, L1, L2, L0; brx.idx %r10, T0; "
    body += "L0: mov.u32 %r9, 5; bra L9; L1: mov.u32 %r9, 6; bra L9; L2: mov.u32 %r9, 7; L9: "
    assert (own(body) == np.tile([5, 6, 7, 5], 8)).all()
    with pytest.raises(errors.ParseError, match="without its"):
        run("brx.idx %r1, T0; ret;", np.zeros(256, np.uint32))


def test_a_cluster_of_one_program_is_that_program():
    body = "mov.u32 %r9, %cluster_ctarank; mad.lo.u32 %r9, %r9, 10, %cluster_nctarank; "
    body += "mad.lo.u32 %r9, %r9, 10, %clusterid.x; "
    assert (own(body, programs=3).reshape(3, 32) == np.arange(10, 13)[:, None]).all()
    body = "st.shared.b32 [%r5], %r1; bar.sync 0; mapa.shared::cluster.u32 %r6, %r5, 0; "
    body += "ld.shared::cluster.b32 %r9, [%r6]; "
    assert (own(body) == np.arange(32)).all()


@pytest.mark.parametrize("between", [ARRIVE.replace("arrive", "arrive.relaxed.cta") + WAIT.format(1, 0),
                                     ARRIVE + WAIT.format(1, 0).replace("parity", "parity.relaxed.cta")])  # fmt: skip
def test_a_relaxed_arrival_or_wait_orders_nothing(between):
    races(between)


def test_spinning_threads_whose_mbarrier_counts_on_are_no_deadlock():
    body = INIT.format(1)
    for phase in range(8):
        body += "@%p1 mbarrier.arrive.shared::cta.b64 _, [512]; " + WAIT.format(phase, phase % 2) + "bar.sync 0; "
    for seed in range(60):
        run(body + "ret;", np.zeros(256, np.uint32), threads=64, seed=seed)
    count = (
        "@%p1 mbarrier.init.shared::cta.b64 [512], 40; bar.sync 0; L1: @%p1 mbarrier.arrive.shared::cta.b64 _, [512]; "
    )
    count += "mbarrier.test_wait.parity.shared::cta.b64 %p2, [512], 0; @!%p2 bra L1; mov.u32 %r9, 3; "
    assert (own("setp.eq.u32 %p1, %r1, 0; " + count) == 3).all()


def test_every_waiting_thread_is_told_its_own_mbarrier():
    """Each warp waits at the same instruction, for another mbarrier."""
    init = "setp.eq.u32 %p1, %r1, 0; @%p1 mbarrier.init.shared::cta.b64 [512], 1; "
    init += "@%p1 mbarrier.init.shared::cta.b64 [520], 2; bar.sync 0; shr.u32 %r6, %r1, 5; shl.b32 %r6, %r6, 3; "
    wait = "L1: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r6+512], 0; @!%p2 bra L1; ret;"
    caught = fails(errors.Deadlock, "threads wait for ever", init + wait, threads=64)
    assert "at 512 is in phase 0, which lacks 1 of 1" in str(caught)
    assert "at 520 is in phase 0, which lacks 2 of 2" in str(caught)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("bar.sync 1, 33; ret;", "barrier 1 for 33 threads"),
        ("bar.sync 16; ret;", "0 to 15 have a number"),
        (INIT.format(1) + "mbarrier.arrive.expect_tx.shared::cta.b64 _, [512]; ret;", "operands that do not fit"),
    ],
)
def test_what_no_barrier_is_is_refused(body, what):
    fails(errors.ParseError, what, body, threads=64)


def test_all_who_come_to_a_barrier_name_its_size():
    one = FIRST + "@%p3 bar.arrive 1, 96; @!%p3 bar.sync 1, 64; ret;"
    fails(errors.DivergentBarrier, "for 64 threads and for 96 threads at once", one, threads=128)
    fails(errors.DivergentBarrier, "for 2048 threads, and the program has 64", "bar.sync 1, 2048; ret;", threads=64)
    two = "setp.lt.u32 %p1, %r1, 2; @%p1 mbarrier.init.shared::cta.b64 [512], 1; ret;"
    fails(errors.InvalidBarrier, "initialised by several threads", two)


def test_programs_that_part_and_join_again_keep_one_row_each_of_what_is_known_of_shared_memory():
    clocks = [Clocks({}, 2) for _ in range(2)]
    orders = [Ordering(c, 4) for c in clocks]
    for order, cell in zip(orders, (0, 1), strict=True):  # one warp wrote in each, at the same moment, at another place
        order.note("writer", np.array([cell]), 0, 1)
    orders[0].writer[:] = orders[1].writer[:] = 0  # so that one of the three is alike, and another not
    clocks[0].join(1, clocks[1], 1)
    orders[0].join(1, orders[1], 1)
    orders[0].fit(2)
    assert {name: len(getattr(orders[0], name)) for name in Ordering.NAMES} == dict.fromkeys(Ordering.NAMES, 2)
    assert orders[0].wrote.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert len(orders[0].take(np.array([True, False]), clocks[0]).read) == 1


def test_lanes_that_wait_apart_at_one_barrier_meet_whatever_other_programs_wait_at():
    """A loop whose lanes part by what they hold, as libdevice's tanh does; programs that go round unequally often."""
    body = (
        "mov.b32 %r6, 0; mov.b32 %r9, 0; and.b32 %r8, %r2, 3; L: add.u32 %r7, %r1, %r6; and.b32 %r7, %r7, 3; "
        "setp.eq.u32 %p1, %r7, 0; @%p1 bra A; add.u32 %r9, %r9, 1; A: bar.sync 0; add.u32 %r6, %r6, 1; "
        "setp.le.u32 %p2, %r6, %r8; @%p2 bra L; bar.sync 0; "
    )
    wanted = [sum((t + k) % 4 > 0 for k in range(p % 4 + 1)) for p in range(32) for t in range(64)]
    for seed in (None, *range(8)):
        assert own(body, programs=32, threads=64, seed=seed).tolist() == wanted
