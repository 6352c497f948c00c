"""bench/builds/worker.py: what a process of a build answers, asked in this one."""

import json
import sys

import pytest

from kvproof.bench.builds import judge, worker


def test_a_call_says_its_time_its_memory_its_engine_and_its_output():
    shape = [1, 2, 24, 16]
    found = worker.decode(shape, "float32")
    assert found["ms"] > 0
    assert found["engine"].startswith(("native", "numpy"))
    assert judge.of_attention((1, 2, 24, 16), "float32", found["out"]).gates <= 1
    json.dumps(found)


def test_tokens_are_right_and_run_on_the_machine():
    found = worker.tokens([1, 2, 3], 3)
    assert judge.of_tokens([1, 2, 3], 3, found["out"]).gates == 0
    assert found["engine"].startswith(("native", "numpy"))
    assert found["ms"] > 0


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
    assert 25 < grown - before < 90, len(kept)
