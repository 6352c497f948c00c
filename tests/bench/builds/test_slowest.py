"""bench/builds/slowest.py: the list names tests that are there, and what pytest is asked to time is timed."""

from pathlib import Path

import pytest

from kvproof.bench.builds import timed_launches
from kvproof.bench.builds.process import HERE, Build, BuildFailed
from kvproof.bench.builds.slowest import SlowTest, launch_seconds, listed, shared

from ._checkout import checkout

TESTS = """
from kvproof.kernels.ptx import launch

def test_two():
    launch.execute()
    launch.execute()

def test_none():
    pass

def test_red():
    assert not launch.execute
"""


def test_every_test_of_the_list_is_there():
    assert [test.now for test in listed() if not test.in_build(HERE)] == []
    assert len(shared([HERE], 60)) == 60
    assert len([test for test in listed() if test.then]) >= 60


def test_a_test_is_known_by_its_id_then_where_it_has_no_other(tmp_path):
    root = checkout(tmp_path / "it", tests=TESTS)
    here, moved = listed("# why\ntests/test_it.py::test_two[a::b]\na.py::test_x | tests/test_it.py::test_none\n")
    assert here.in_build(root) == here.now
    assert moved == SlowTest("a.py::test_x", "tests/test_it.py::test_none")
    assert moved.in_build(root) == "tests/test_it.py::test_none"
    assert moved.in_build(tmp_path) is None


def test_launches_of_each_test_are_counted_and_timed(tmp_path):
    build = Build("it", checkout(tmp_path / "it", tests=TESTS), {})
    two, none = (
        SlowTest("now.py::test_two", "tests/test_it.py::test_two"),
        SlowTest("tests/test_it.py::test_none", None),
    )
    found = launch_seconds(build, [two, none], tmp_path / "caches")
    assert {name: one["launches"] for name, one in found.items()} == {two.now: 2, none.now: 0}
    assert 0.04 <= found[two.now]["seconds"] <= found[two.now]["whole"]
    assert found[none.now]["seconds"] == 0


def test_a_test_that_does_not_pass_has_no_time(tmp_path):
    build = Build("older", checkout(tmp_path / "it", tests=TESTS), {})
    with pytest.raises(BuildFailed, match="older: its tests do not pass"):
        launch_seconds(build, [SlowTest("tests/test_it.py::test_red", None)], Path(tmp_path / "caches"))


def test_a_launch_that_raises_is_timed_too(monkeypatch):
    monkeypatch.setattr(timed_launches, "seconds", {"launches": 0, "seconds": 0.0, "native": 0})
    with pytest.raises(ZeroDivisionError):
        timed_launches.timed(lambda x: 1 / x)(0)
    assert timed_launches.seconds["launches"] == 1
    assert timed_launches.seconds["seconds"] > 0
