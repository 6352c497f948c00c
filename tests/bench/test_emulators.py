"""bench/emulators.py: two workers that run what they say, parity before times, and the bar."""

import json

import pytest

from kvproof.bench import emulators
from kvproof.bench.emulators import Timed, compare, holds, main, texts, workers
from kvproof.bench.measure import environment as measured


class Answers:
    """Stands in for the workers: gives calls from a list for each backend, the last one for ever."""

    def __init__(self, **calls):
        self.calls, self.asked = calls, []

    def __call__(self, backend, dtype):
        self.asked.append(backend)
        calls = self.calls[backend]
        return calls.pop(0) if len(calls) > 1 else calls[0]


def test_each_worker_runs_its_own_backend_and_both_are_right(tmp_path, monkeypatch, capsys):
    # Each worker asserts that it interprets or not, and that the machine took the launch.
    tiny, results = (1, 1, 20, 16), tmp_path / "found.json"
    monkeypatch.setattr(emulators, "workers", lambda: workers(tiny))
    monkeypatch.setattr(emulators, "BAR", float("inf"))
    monkeypatch.setattr(emulators, "DTYPES", ("float16",))
    monkeypatch.setattr(measured, "collect_env", str)  # it takes seconds
    assert main(["--repeats", "1", "--results", str(results)]) == 0
    (record,) = json.loads(results.read_text())["found"]
    assert 0 < record["parity"]["ptx"]["gates"] <= 1
    assert 0 < record["parity"]["interpret"]["gates"] <= 1
    assert record["ratio"]["p20"] <= record["ratio"]["median"] <= record["ratio"]["p80"]
    shown = capsys.readouterr().out
    assert shown.index("commit") < shown.index("rounding") < shown.index("ratio")


def test_parity_red_no_timing():
    ask = Answers(ptx=[Timed(1, 1.5, 0.1)], interpret=[Timed(100, 0.5, 0.01)])
    record = compare(ask, "float32", 5)
    assert ask.asked == ["ptx", "interpret"]
    assert record["ms"] is record["ratio"] is None
    assert not holds(record)
    assert "a wrong computation has no speed" in texts(record)[-1]
    assert "PTX machine  RED 1.5" in texts(record)[1]


def test_a_call_that_goes_wrong_later_is_red_too():
    ask = Answers(
        ptx=[Timed(1, 0.5, 0.1), Timed(1, float("inf"), 0.1), Timed(1, 0.5, 0.1)], interpret=[Timed(100, 0, 0)]
    )
    assert not holds(compare(ask, "float32", 3))


def test_calls_are_interleaved_and_the_first_is_not_in_the_median():
    ask = Answers(ptx=[Timed(5000, 0, 0), Timed(20, 0, 0)], interpret=[Timed(9000, 0, 0), Timed(100, 0, 0)])
    record = compare(ask, "float16", 3)
    assert ask.asked == ["ptx", "interpret"] * 4
    assert record["ms"]["ptx"]["median"] == 20
    assert record["first"] == {"ptx": 5000, "interpret": 9000}
    assert record["ratio"]["median"] == pytest.approx(0.2)
    assert holds(record)
    assert "holds: at most 0.25" in texts(record)[-1]


def test_above_a_quarter_the_claim_fails():
    record = compare(Answers(ptx=[Timed(26, 0, 0)], interpret=[Timed(100, 0, 0)]), "float32", 2)
    assert not holds(record)
    assert "FAILS: at most 0.25" in texts(record)[-1]


def test_no_repeats_are_refused():
    with pytest.raises(SystemExit) as end:
        main(["--repeats", "0"])
    assert end.value.code == 2
