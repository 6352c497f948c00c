"""Whole kernels on both engines: equal bits, equal reports, equal errors.

Each test runs one of the suite's own under `_both.engines`; the whole suite can be run so, see _both.py.
"""

from contextlib import contextmanager

import pytest

from kvproof.kernels import ptx
from kvproof.kernels.ladder.__main__ import RUNGS

from ...ladder.test_ladder import test_a_rung_computes_the_formula_and_reads_no_dead_slot as rung
from ...test_decode import GRID, SAMPLE, compare
from .. import _random, test_kernels
from .._kernels import run
from .._planted_text import load_text
from ..museum._exhibit import EXHIBITS
from ..museum.test_museum import test_as_it_was_it_is_red_as_declared as red
from ..museum.test_museum import test_as_mended_it_is_green as green
from ..test_differential import RESULTS
from . import _both

TARGETS = test_kernels.TARGETS
WAITS = ("locked", "relay", "relay of two warps")  # programs wait for one another
# rsqrt.approx.f64; sin in local memory
IN_NUMPY = (*WAITS, "layer_norm float64", "waves float64", "waves of large arguments")


# as mended: arrays with holes, programs that wait for one another, and what looks wrong to machine code but is right
MUSEUM_IN_NUMPY = {
    *("slots_beyond_two_gib", "slots_that_come_round", "lock_without_a_barrier"),
    *("heads_without_groups", "past_the_length", "before_the_window", "queries_start_elsewhere"),
    *("first_block_masked", "scale_grows_with_blocks"),
}


def wider(cases, every: int):
    """Of these cases one in `every`; the others are exhaustive."""
    return [pytest.param(c, marks=[pytest.mark.exhaustive] if n % every else []) for n, c in enumerate(cases)]


PAIRS = [(launch, TARGETS[n % 6]) for n, launch in enumerate(test_kernels.LAUNCHES)]


@pytest.mark.parametrize("pair", wider(PAIRS, 3), ids=str)
def test_ordinary_kernels(pair):
    launch, target = pair
    with _both.engines():
        report = run(test_kernels.made(launch), target=target)
    assert (report.engine == "native") == (launch not in IN_NUMPY), report.engine_reason


@contextmanager
def natively(least=1):
    """Inside, launches run on both engines, and at least so many of them natively to their ends."""
    before = _both.TOOK["native"]
    with _both.engines():
        yield
    assert _both.TOOK["native"] - before >= least, _both.TOOK


@pytest.mark.parametrize("name", wider(EXHIBITS, 4))
def test_the_museum(name):
    with natively(0 if name in MUSEUM_IN_NUMPY else 1):
        green(name)
        red(name, None)


@pytest.mark.parametrize("name", RUNGS)
def test_the_ladder(name):
    with natively():
        rung(name)


@pytest.mark.parametrize("call", [*SAMPLE[:3], *wider([None, *SAMPLE[3:], *GRID], 1000)[1:]], ids=str)
def test_the_kernel_to_read_and_the_general_op(call):
    with natively():
        compare(call.draw())


@pytest.mark.parametrize("seeds", wider([range(n, n + 2) for n in range(0, 200, 2)], 50), ids=str)
def test_random_kernels(seeds, tmp_path):
    kernels = load_text(tmp_path / "kernels.py", _random.source(seeds), "kernels")
    with _both.engines():
        for seed in seeds:
            k = _random.kernel(seed)
            settings = {"target": TARGETS[seed % 6], "readable": RESULTS}
            report = ptx.run(getattr(kernels, k.name), k.grid, **settings, **k.arguments)
            # between warps NumPy alone counts copies that disagree
            assert (report.engine == "native") == (report.disagreeing == 0 or k.arguments["num_warps"] == 1)
