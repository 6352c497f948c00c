"""Random programs: the machine reports a race in shared memory exactly where reachability finds one."""

import numpy as np
import pytest

from kvproof.kernels.ptx import errors

from .._text import run
from ._orders import CELLS, WARPS, WORDS, draw, race, text


def verdict(events: list[tuple], seed: int | None) -> bool:
    """Whether the machine reports a race; any other error is one of this test's."""
    body, size = text(events)
    arrays = np.zeros(WORDS * CELLS // 4, np.uint32), np.zeros(1 << 16, np.uint32)
    try:
        run(body, *arrays, threads=32 * WARPS, shared=size, seed=seed)
    except errors.Race:
        return True
    return False


@pytest.mark.parametrize("part", range(4))
def test_races_are_those_that_reachability_finds(part):
    rng, found = np.random.default_rng(part), [0, 0]
    for n in range(40):
        events = draw(rng, int(rng.integers(8, 22)), copies=False)
        truth = race(events)
        assert verdict(events, [None, 0, 1][n % 3]) == truth, events
        found[truth] += 1
    assert min(found) > 4


@pytest.mark.parametrize("part", range(4))
def test_races_with_bulk_copies_are_those_that_reachability_finds(part):
    rng, found = np.random.default_rng(10 + part), [0, 0]
    for n in range(25):
        events = draw(rng, int(rng.integers(6, 18)), copies=True)
        truth = race(events)
        assert verdict(events, [None, 0, 1][n % 3]) == truth, events
        found[truth] += 1
    assert min(found) > 4
