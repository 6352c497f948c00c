"""The museum: each bug of a public Triton kernel is red as it was, in the way its exhibit says, and green as mended."""

import inspect
import re
from functools import partial
from pathlib import Path

import pytest

from kvproof.kernels import ptx

from .._kernels import wrong
from . import _attention, _kv_cache, _layouts, _locks, _quantisation, _softmax  # noqa: F401
from ._exhibit import EXHIBITS, Exhibit, Named, Unwritten, Wrong

names = pytest.mark.parametrize("name", EXHIBITS)


class Different(AssertionError):
    """A result that is not what it should be."""


class Incomplete(AssertionError):
    """A result of which something was never written."""


def run(exhibit: Exhibit, FIXED: bool, checks, **options) -> None:
    """Launch it, by ptx.run or ptx.check, and hold the results to the truth; raises Different or Incomplete."""
    for launch in exhibit.launches(FIXED):
        reports = checks(launch.kernel, launch.grid, readable=launch.readable, **launch.arguments | options)
        if isinstance(exhibit.red, Unwritten) and launch.truth:
            for report in reports if isinstance(reports, list) else [reports]:
                if left := report.unwritten[exhibit.red.result]:
                    raise Incomplete(f"{exhibit.red.result}: {left} elements were not written")
        for what in wrong(launch):
            raise Different(what)


@names
@pytest.mark.parametrize("seed", [None, 0])
def test_as_it_was_it_is_red_as_declared(name, seed):
    exhibit = EXHIBITS[name]
    red, once = exhibit.red, partial(ptx.run, target=exhibit.targets[-1], seed=seed)
    if not isinstance(red, Named):
        text = red.text if isinstance(red, Wrong) else ""
        with pytest.raises(Different if isinstance(red, Wrong) else Incomplete, match=rf"^{red.result}: .*{text}"):
            run(exhibit, False, once)
        return
    with pytest.raises(red.kind, match=red.text or None) as caught:
        run(exhibit, False, once)
    assert caught.type is red.kind
    if red.line:
        kernel = exhibit.launches(False)[-1].kernel.fn
        lines, first = inspect.getsourcelines(kernel)
        at = [first + n for n, line in enumerate(lines) if red.line in line]
        assert vars(caught.value)["where"][0] in [(Path(inspect.getfile(kernel)).name, n) for n in at]


UNCHECKED = {name: x.red.unchecked for name, x in EXHIBITS.items() if isinstance(x.red, Named) and x.red.unchecked}


@pytest.mark.parametrize("name", UNCHECKED)
def test_what_triton_s_overflow_check_reports_is_wrong_without_it(name):
    red = UNCHECKED[name]
    with pytest.raises(Different, match=rf"^{red.result}: .*{red.text}"):
        run(EXHIBITS[name], False, partial(ptx.run, target=EXHIBITS[name].targets[-1]), debug=False)


def test_no_red_is_told_by_its_kind_alone():
    reds = {name: x.red for name, x in EXHIBITS.items() if isinstance(x.red, Named)}
    assert [name for name, red in reds.items() if not (red.line or red.text)] == []
    assert len(UNCHECKED) == 2


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
