"""Whole kernels on both engines: equal bits, equal reports, equal errors.

Each test runs one of the suite's own under `_both.engines`; the whole suite can be run so, see _both.py.
"""

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
WAITS = ("locked", "relay")  # programs wait for one another: no machine code


def wider(cases, every: int):
    """Of these cases one in `every`; the others are exhaustive."""
    return [pytest.param(c, marks=[pytest.mark.exhaustive] if n % every else []) for n, c in enumerate(cases)]


PAIRS = [(launch, TARGETS[n % 6]) for n, launch in enumerate(test_kernels.LAUNCHES)]


@pytest.mark.parametrize("pair", wider(PAIRS, 2), ids=str)
def test_ordinary_kernels(pair):
    launch, target = pair
    with _both.engines():
        report = run(test_kernels.made(launch), target=target)
    assert (report.engine == "native") == (launch.split()[0] not in WAITS), report.engine_reason


@pytest.mark.parametrize("name", wider(EXHIBITS, 3))
def test_the_museum(name):
    with _both.engines():
        green(name)
        red(name, None)


@pytest.mark.parametrize("name", RUNGS)
def test_the_ladder(name):
    with _both.engines():
        rung(name)


@pytest.mark.parametrize("call", [*SAMPLE, *(pytest.param(c, marks=pytest.mark.exhaustive) for c in GRID)], ids=str)
def test_the_kernel_to_read_and_the_general_op(call):
    with _both.engines():
        compare(call.draw())


@pytest.mark.parametrize("seeds", wider([range(n, n + 8) for n in range(0, 200, 8)], 25), ids=str)
def test_random_kernels(seeds, tmp_path):
    kernels = load_text(tmp_path / "kernels.py", _random.source(seeds), "kernels")
    with _both.engines():
        for seed in seeds:
            k = _random.kernel(seed)
            settings = {"target": TARGETS[seed % 6], "readable": RESULTS}
            assert ptx.run(getattr(kernels, k.name), k.grid, **settings, **k.arguments).engine == "native"
