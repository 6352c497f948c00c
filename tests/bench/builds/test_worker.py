"""bench/builds/worker.py: what a process of a build answers, asked in this one."""

import json
import sys

import pytest

from kvproof.bench.builds import judge, worker


def test_a_call_says_its_time_its_memory_its_engine_and_its_output():
    shape = [1, 2, 24, 16]
    found = worker.decode(shape, "float32")
    assert found["ms"] > 0
    assert found["engines"]
    assert all(name.startswith(("native", "numpy")) for name in found["engines"])
    assert judge.of_attention((1, 2, 24, 16), "float32", found["out"]).gates <= 1
    json.dumps(found)


def test_tokens_are_right_and_run_on_the_machine():
    found = worker.tokens([1, 2, 3], 3)
    assert judge.of_tokens([1, 2, 3], 3, found["out"]).gates == 0
    assert all(name.startswith(("native", "numpy")) for name in found["engines"])
    assert found["ms"] > 0


def test_the_engine_of_every_launch_is_told_not_the_last_one_s_alone(monkeypatch):
    told = iter(["native"] + ["numpy (why)"] * 3 + ["native"] * 999)
    monkeypatch.setattr(worker, "engine", lambda report: next(told))
    assert worker.tokens([1, 2, 3], 2)["engines"] == ["native", "numpy (why)"]


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_the_peak_is_of_what_came_since_it_was_forgotten():
    gone = bytearray(b"x" * 100_000_000)
    del gone
    if not worker.forget_peak():
        pytest.skip("this system does not forget a peak")
    before = worker.resident("VmRSS")
    kept = bytearray(b"x" * 30_000_000)
    grown = worker.resident("VmHWM")
    assert before is not None
    assert grown is not None
    # The least is of `kept`, but for pages that were there; the most is less than `gone`, which must not count.
    assert 25 < grown - before < 100, len(kept)


def test_a_shadow_is_asked_of_the_launch(monkeypatch):
    monkeypatch.setattr(worker, "engine", lambda report: "without" if report.shadow is None else "with a shadow")
    found = worker.decode([1, 2, 24, 16], "float32", shadow=True)
    assert found["engines"] == ["with a shadow"]
    assert judge.of_attention((1, 2, 24, 16), "float32", found["out"]).gates <= 1
