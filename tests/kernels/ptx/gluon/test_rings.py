"""Rings between the partitions of a warp-specialised program: right in every schedule; planted faults are found."""

import inspect
from pathlib import Path

import pytest

from kvproof.kernels.ptx import errors
from kvproof.kernels.ptx.compile import compile

from . import _blackwell, _hopper, _rings
from ._launch import run

GPUS = pytest.mark.parametrize("target", ["sm_90", "sm_100"])
PLANTED = [  # ring, fault, error, words of it, a piece of the line that is blamed
    ("two", "no wait for empty", errors.Race, "written here, that warp . read", "ring.index(s).store("),
    ("two", "wrong phase", errors.Deadlock, "in phase 0, which lacks 1 of 1 arrivals", "mbarrier.wait("),
    ("two", "no arrival at full", errors.Deadlock, "in phase 0, which lacks 1 of 1 arrivals", "mbarrier.wait(full"),
    ("two", "no arrival at empty", errors.Deadlock, "in phase 1, which lacks 1 of 1 arrivals", "mbarrier.wait("),
    ("two", "no wait for full", errors.Uninitialised, "that nothing has written", "ring.index(s).load("),
    ("three", "no wait for empty", errors.Race, "written here by the async proxy", "tma.async_load("),
    ("three", "wrong bytes", errors.Deadlock, "in phase 0, which lacks 512 bytes", "mbarrier.wait(full"),
    ("three", "no wait for full", errors.Uninitialised, "that nothing has written", "ring.index(s).load("),
    ("three", "no fence after reading", errors.Race, "read with no fence.proxy.async", "tma.async_load("),
    ("three", "no fence after writing", errors.Race, "wrote with no fence.proxy.async", "tma.async_store("),
    ("three", "no store wait", errors.Race, "no cp.async.bulk.wait_group", "done.index(s).store("),
]
MADE = {"two": _rings.two_partitions_case, "three": _rings.three_partitions_case}


@GPUS
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("partitions", MADE)
def test_a_ring_hands_over_every_row(partitions, seed, target):
    run(MADE[partitions](), target=target, seed=seed)


@pytest.mark.parametrize(("partitions", "fault", "kind", "what", "line"), PLANTED)
def test_a_fault_planted_in_a_ring_is_reported_at_its_line(partitions, fault, kind, what, line):
    for seed, target in ((None, "sm_90"), (1, "sm_100")):
        reported(MADE[partitions](fault=fault), kind, what, line, target=target, seed=seed)


def reported(launch, kind, what, line, **settings):
    """Raise AssertionError unless a run ends in this error, with these words, at a line with this piece of text."""
    with pytest.raises(kind, match=what) as caught:
        run(launch, **settings)
    assert type(caught.value) is kind
    path, number = caught.value.where[0][:2]
    file = Path(inspect.getfile(launch.kernel.fn))
    assert path.endswith(file.name)
    assert line in file.read_text(encoding="utf-8").splitlines()[number - 1]


def test_within_one_partition_triton_puts_the_proxy_fence_itself():
    launch = _hopper.stored_launch("no proxy fence")
    run(launch, target="sm_90")
    assert "fence.proxy.async" in compile(launch.kernel, (), launch.arguments, "sm_90").ptx


def test_a_bulk_copy_into_what_a_wgmma_may_still_read_is_a_race():
    launch = _hopper.multiplied_launch(fault="one wait short")
    what = "written here by the async proxy, that a wgmma that warp 0 began .*wait_group.* read"
    reported(launch, errors.Race, what, "tma.async_load(", target="sm_90")


def test_a_bulk_copy_into_what_a_tcgen05_mma_may_still_read_is_a_race():
    launch = _blackwell.multiplied_launch(fault="no wait")
    what = "written here by the async proxy, that a tcgen05 instruction that warp 0 began .* read"
    reported(launch, errors.Race, what, "tma.async_load(", target="sm_100")
