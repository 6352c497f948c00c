"""Vector clocks, what they order, and the tables of instructions: by hand."""

import numpy as np
import pytest

from kvproof.kernels.ptx.arrays import chosen, merged
from kvproof.kernels.ptx.asynchronous import barriers, instructions, proxy
from kvproof.kernels.ptx.asynchronous.clocks import Clocks
from kvproof.kernels.ptx.asynchronous.mbarrier import MBarriers
from kvproof.kernels.ptx.asynchronous.ordering import Ordering
from kvproof.kernels.ptx.shared import Cells


def warps(*numbers: int, of=3) -> np.ndarray:
    return np.isin(np.arange(of), numbers)[None]


def one(warp: int, cell=0) -> Cells:
    """An access to one cell by the first lane of a warp of the first program."""
    return Cells(np.array([cell]), np.array([0]), np.array([32 * warp]), 96)


def test_what_a_warp_releases_is_known_to_whom_acquires_it_and_what_it_does_later_is_not():
    clocks = Clocks({}, 3)
    before = clocks.now().copy()
    given = clocks.released(warps(0))
    clocks.acquire(warps(2), given)
    assert clocks.known[0, 2, 0] == before[0, 0]
    assert clocks.known[0, 1, 0] < before[0, 0]
    assert clocks.now()[0, 0] > clocks.known[0, 2, 0]


def test_a_meeting_shares_what_all_know_and_a_fence_what_one_knows():
    clocks = Clocks({}, 3)
    clocks.meet(warps(0, 1))
    assert clocks.known[0, 0, 1] == clocks.known[0, 1, 0] == 1
    assert not clocks.fenced.any()
    clocks.fence(warps(1))
    assert clocks.fenced[0].tolist() == [[0, 0, 0], [1, 2, 0], [0, 0, 0]]
    clocks.meet(warps(1, 2))
    assert clocks.fenced[0, 2].tolist() == [1, 2, 0]


def test_programs_that_part_and_join_keep_what_each_knows():
    clocks = Clocks({}, 3)
    column = clocks.column(("bulk", 0))
    clocks.learn(warps(0), column, np.array([4, 7]))
    parts = [clocks.take(np.array([row])) for row in (0, 1)]
    assert [part.known[0, 0, column] for part in parts] == [4, 7]
    parts[0].join(1, parts[1], 1)
    assert parts[0].known[:, 0, column].tolist() == [4, 7]
    assert merged(np.ones((1, 2)), 3, np.ones((1, 2)), 2).shape == (1, 2)
    assert merged(np.ones((1, 1)), 3, np.zeros((2, 2)), 2).tolist() == [[1, 1]] * 3 + [[0, 0]] * 2
    assert merged(np.ones((1, 2)), 3, np.zeros((1, 2)), 2).flags.c_contiguous  # so that a flat view is no copy
    once = np.zeros((1, 2))
    assert chosen(once, np.array([True, False])) is not once
    assert chosen(np.arange(3), np.array([True, False, True])).tolist() == [0, 2]


@pytest.mark.parametrize(("proxied", "fenced"), [(False, False), (True, False), (True, True)])
def test_a_write_is_unknown_until_it_is_handed_over_and_to_the_async_proxy_until_it_is_fenced(proxied, fenced):
    clocks = Clocks({}, 3)
    ordering = Ordering(clocks, 2)
    ordering.note("writer", np.array([0]), *ordering.warps(one(0)))
    assert ordering.unknown_write(one(1), proxied).all()
    assert not ordering.unknown_write(one(1, cell=1), proxied).any()
    if fenced:
        clocks.fence(warps(0))
    clocks.meet(warps(0, 1))
    assert ordering.unknown_write(one(1), proxied).any() == (proxied and not fenced)
    assert ordering.unknown_write(one(2), proxied).all()


def test_reads_are_kept_for_each_agent():
    clocks = Clocks({}, 3)
    ordering = Ordering(clocks, 1)
    for warp in (0, 1):
        ordering.note("read", np.array([0]), *ordering.warps(one(warp)))
    clocks.meet(warps(1, 2))
    assert ordering.unknown_reads(one(2), False).tolist() == [[True, False, False]]
    assert ordering.held("reader", one(2), True)[1] == "warp 0"


def test_an_mbarrier_completes_a_phase_when_nothing_is_missing():
    clocks = Clocks({}, 3)
    barrier = MBarriers({}, clocks)
    n = barrier.place(64, 1)
    barrier.init(n, np.array([True]), np.array([2]))
    barrier.expect(n, np.array([16]))
    for missing in ("1 of 2 arrivals and 16 bytes", "16 bytes"):
        barrier.arrive(n, np.array([1]), clocks.released(warps(0)))
        barrier.complete(n)
        assert barrier.missing(64, 0) == f"the mbarrier at 64 is in phase 0, which lacks {missing}"
    barrier.expect(n, np.array([-16]))
    barrier.complete(n)
    assert (barrier.phase[0, n], barrier.pending[0, n]) == (1, 2)
    assert barrier.ready.known[0, n, 0] == 2


def test_a_wgmma_is_the_first_warps_of_its_four():
    assert [proxy.leader("wgmma", warp) for warp in (0, 3, 4, 7)] == [0, 0, 4, 4]
    assert proxy.leader("bulk", 7) == 7


def test_every_instruction_on_an_mbarrier_has_its_own_place():
    assert {name.split(".")[0] for name in instructions.FAMILIES} <= {"mbarrier", "cp"}
    assert barriers.latest(np.array([[1, 5]]), np.array([[3, 2, 9]])).tolist() == [[3, 5, 9]]
