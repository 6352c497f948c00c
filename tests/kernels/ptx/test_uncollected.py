"""The collector rests while a program is made, and is as it was then, whatever happens meanwhile."""

import gc

import pytest

from kvproof.kernels.ptx import ParseError
from kvproof.kernels.ptx.assemble import assemble
from kvproof.kernels.ptx.uncollected import uncollected


@pytest.fixture(params=[True, False], autouse=True)
def collector(request):
    was = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if was else gc.disable)()


def test_inside_nothing_is_collected_and_afterwards_it_is_as_it_was(collector):
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() == collector


def test_a_program_that_is_refused_leaves_the_collector_as_it_was(collector):
    with pytest.raises(ParseError):
        assemble("no PTX")
    assert gc.isenabled() == collector


def test_a_program_is_made_without_it(monkeypatch):
    seen = []
    monkeypatch.setattr("kvproof.kernels.ptx.assemble.parse", lambda text: seen.append(gc.isenabled()) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        assemble("a text that is asked for here alone")
    assert seen == [False]
