"""bench/emulators.py: arms that run what they say, parity before times, calls in turns, and the bars."""

import json
from typing import Any

import pytest

from kvproof.bench import emulators
from kvproof.bench.builds.judge import Parity
from kvproof.bench.builds.process import HERE, Build
from kvproof.bench.builds.slowest import SlowTest
from kvproof.bench.emulators import Bar, Row, builds, compare, holds, main, texts
from kvproof.bench.measure import environment as measured

TITLES = {"native": "native", "numpy": "NumPy form", "interpret": "interpreter", "old": "364e8ed"}


def row(judge=lambda out: Parity(0.5, 0.1), warm=True, name="decode", **calls: Any):
    """A row whose arms answer from lists of ms, or of answers, the last for ever; and the arms as they are asked."""
    asked = []

    def answers(arm, given):
        def ask():
            asked.append(arm)
            one = given.pop(0) if len(given) > 1 else given[0]
            return one if isinstance(one, dict) else {"ms": one, "out": "o"}

        return ask

    ask = {arm: answers(arm, [*given]) for arm, given in calls.items()}
    return Row(name, "it", ask, judge, warm), asked


def test_each_arm_runs_its_own_engine_and_all_are_right(tmp_path, monkeypatch, capsys):
    results = tmp_path / "found.json"
    monkeypatch.setattr(emulators, "SHAPE", (1, 1, 20, 16))
    monkeypatch.setattr(emulators, "BARS", {"decode": (Bar("interpret", least=0), Bar("old", least=1e9))})
    monkeypatch.setattr(emulators, "DTYPES", ("float16",))
    arms = {arm: build for arm, build in builds(None).items() if arm != "numpy"}  # each takes seconds to start
    monkeypatch.setattr(emulators, "builds", lambda against: arms)
    monkeypatch.setattr(measured, "collect_env", str)  # it takes seconds
    assert main(["--rows", "decode", "--repeats", "1", "--results", str(results)]) == 0
    found = json.loads(results.read_text())
    (record,) = found["found"]
    assert {*record["engines"]} == {*found["arms"]} == {"native", "interpret"}
    assert record["engines"]["interpret"] == ["interpreter"]
    assert all(0 < one["gates"] <= 1 for one in record["parity"].values())
    assert [claim["of"] for claim in record["claims"]] == ["interpret"]
    shown = capsys.readouterr().out
    assert shown.index("commit") < shown.index("rounding") < shown.index("median") < shown.index("holds")


def test_parity_red_no_timing():
    red = {"ms": 1, "out": "wrong"}
    one, asked = row(lambda out: Parity(1.5 if out == "wrong" else 0.5, 0.1), native=[red], interpret=[100])
    record = compare(one, 5)
    assert asked == ["native", "interpret"]
    assert record["ms"] == record["ratio"] == {}
    assert not holds(record)
    assert "a wrong computation has no speed" in texts(record, TITLES)[-1]
    assert "native       RED 1.5" in texts(record, TITLES)[1]


def test_a_call_that_goes_wrong_later_is_red_too():
    calls = [{"ms": 1, "out": out} for out in ("right", "wrong", "right")]
    one, _ = row(lambda out: Parity(float("inf") if out == "wrong" else 0, 0), native=calls, interpret=[100])
    assert not holds(compare(one, 3))


def test_calls_are_interleaved_and_the_first_is_not_in_the_median():
    one, asked = row(native=[5000, 20], interpret=[9000, 8000])
    record = compare(one, 3)
    assert asked == ["native", "interpret"] * 4
    assert record["ms"]["native"]["median"] == 20
    assert record["first"] == {"native": 5000, "interpret": 9000}
    assert record["ratio"]["interpret"]["median"] == pytest.approx(400)
    assert holds(record)
    assert "holds: interpreter / native is 400, at least 300" in texts(record, TITLES)[-1]


def test_a_row_of_first_launches_times_the_first():
    calls = {arm: [{"ms": 10 * ms, "out": "o", "second": ms}] for arm, ms in {"native": 3, "old": 4}.items()}
    one, asked = row(warm=False, name="first", **calls)
    record = compare(one, 2)
    assert asked == ["native", "old"] * 2
    assert record["ms"]["old"]["median"] == 40
    assert record["second"] == {"native": 3, "old": 4}
    assert holds(record)


def test_each_claim_is_checked_where_its_arm_was_measured():
    calls: Any = {"native": [{"ms": 10, "out": "o", "mb": 301}], "old": [{"ms": 399, "out": "o", "mb": 9}]}
    record = compare(row(name="batch", **calls)[0], 2)
    assert [(claim["of"], claim["holds"]) for claim in record["claims"]] == [("old", False), ("mb", False)]
    assert "FAILS: MB of a native launch is 301, at most 300" in texts(record, TITLES)[-1]
    assert not holds(record)
    calls["native"][0] |= {"mb": 300, "ms": 9.975}
    assert holds(compare(row(name="batch", **calls)[0], 2))
    del calls["old"], calls["native"][0]["mb"]
    assert compare(row(name="batch", **calls)[0], 2)["claims"] == []


def test_two_forms_with_other_bits_fail_though_both_are_right():
    calls = [{"ms": 1, "out": "o"}, {"ms": 1, "out": "other"}]
    record = compare(row(native=[{"ms": 1, "out": "o"}], numpy=calls)[0], 1)
    assert record["green"]
    assert not holds(record)
    assert any("OTHER BITS" in line for line in texts(record, TITLES))


def test_the_suite_is_summed_over_tests_that_launch_alike(monkeypatch):
    tests = [SlowTest(name, None) for name in "abc"]
    took = {"a": 4, "b": 2, "c": 100}

    def seconds(build, tests, caches):
        slow = 8 if build.title == "old" else 1
        count = {"a": 5, "b": 5, "c": 5 if build.title == "old" else 4}
        return {name: {"launches": count[name], "seconds": slow * took[name]} for name in took}

    monkeypatch.setattr(emulators, "shared", lambda roots, most: tests)
    monkeypatch.setattr(emulators, "launch_seconds", seconds)
    cold, kept = emulators.suite({arm: Build(arm, HERE, {}) for arm in ("native", "old")}, lambda: None)
    assert cold["tests"] == kept["tests"] == ["a", "b"]
    assert kept["ms"]["native"]["median"] == 6000
    assert holds(cold)
    assert "10 launches" in kept["title"]


@pytest.mark.parametrize(
    ("argv", "words"), [(["--repeats", "0"], "1 or more"), (["--against", "{}"], "no checkout"), (["--rows", "x"], "x")]
)
def test_what_does_not_fit_is_refused(argv, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        raise SystemExit(main([word.format(tmp_path) for word in argv]))
    assert end.value.code == 2
    assert words in capsys.readouterr().err
