"""The museum: each bug of a public Triton kernel is red as it was, in the way its exhibit says, and green as mended."""

import inspect
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kvproof.kernels import ptx

from . import _attention, _kv_cache, _layouts, _locks, _quantisation, _softmax  # noqa: F401
from ._exhibit import EXHIBITS, Exhibit, Launch, Named, Unwritten, Wrong

names = pytest.mark.parametrize("name", EXHIBITS)


class Different(AssertionError):
    """A result that is not what it should be."""


class Incomplete(AssertionError):
    """A result of which something was never written."""


def compare(launch: Launch) -> None:
    """Raise Different if a result is further from the truth than it may be; NaN is far from everything else."""
    for name, (truth, bound) in launch.truth.items():
        got, truth = (np.asarray(x, np.float64) for x in (launch.arguments[name], truth))
        fine = (np.isnan(got) & np.isnan(truth)) | (got == truth) | (np.abs(got - truth) <= bound)
        if not fine.all():
            raise Different(f"{name}: {np.count_nonzero(~fine)} of {fine.size} elements are wrong")


def run(exhibit: Exhibit, FIXED: bool, checks) -> None:
    """Launch it, by ptx.run or ptx.check, and hold the results to the truth; raises Different or Incomplete."""
    for launch in exhibit.launches(FIXED):
        reports = checks(launch.kernel, launch.grid, readable=launch.readable, **launch.arguments)
        if isinstance(exhibit.red, Unwritten) and launch.truth:
            for report in reports if isinstance(reports, list) else [reports]:
                if left := report.unwritten[exhibit.red.result]:
                    raise Incomplete(f"{exhibit.red.result}: {left} elements were not written")
        compare(launch)


@names
@pytest.mark.parametrize("seed", [None, 0])
def test_as_it_was_it_is_red_as_declared(name, seed):
    exhibit = EXHIBITS[name]
    red, once = exhibit.red, partial(ptx.run, target=exhibit.targets[-1], seed=seed)
    if not isinstance(red, Named):
        with pytest.raises(Different if isinstance(red, Wrong) else Incomplete, match=rf"^{red.result}: "):
            run(exhibit, False, once)
        return
    with pytest.raises(red.kind) as caught:
        run(exhibit, False, once)
    assert caught.type is red.kind
    if red.line:
        kernel = exhibit.launches(False)[-1].kernel.fn
        lines, first = inspect.getsourcelines(kernel)
        at = [first + n for n, line in enumerate(lines) if red.line in line]
        assert isinstance(caught.value, ptx.PtxError)
        assert caught.value.where[0] in [(Path(inspect.getfile(kernel)).name, n) for n in at]


@names
def test_as_mended_it_is_green(name):
    run(EXHIBITS[name], True, partial(ptx.check, targets=EXHIBITS[name].targets, seeds=(0,)))


def test_the_museum_has_twenty_exhibits_of_at_most_forty_lines_each_with_its_own_thread():
    assert len(EXHIBITS) >= 20
    threads = [exhibit.thread for exhibit in EXHIBITS.values()]
    assert len(set(threads)) == len(threads)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#[1-9]\d*", thread) for thread in threads)
    assert {name: exhibit.lines() for name, exhibit in EXHIBITS.items() if exhibit.lines() > 40} == {}
    assert all(re.fullmatch(r"[A-Z].{20,118}\.", exhibit.what) for exhibit in EXHIBITS.values())
