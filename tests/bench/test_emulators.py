"""bench/emulators.py: arms that run what they say, the rows, and against which build claims are made."""

import json

import pytest

from kvproof.bench import emulators
from kvproof.bench.builds import process
from kvproof.bench.builds.comparison import Bar, holds
from kvproof.bench.builds.process import HERE, Build, BuildFailed
from kvproof.bench.builds.slowest import SlowTest
from kvproof.bench.emulators import builds, main
from kvproof.bench.measure import environment as measured


def test_each_arm_runs_its_own_engine_and_all_are_right(tmp_path, monkeypatch, capsys):
    results = tmp_path / "found.json"
    monkeypatch.setattr(emulators, "SHAPE", (1, 1, 20, 16))
    monkeypatch.setattr(emulators, "BARS", {"decode": (Bar("interpret", least=0), Bar("old", least=1e9))})
    monkeypatch.setattr(emulators, "DTYPES", ("float16",))
    arms = builds(None)
    del arms["shadow"]  # each takes seconds to start
    monkeypatch.setattr(emulators, "builds", lambda against: arms)
    monkeypatch.setattr(measured, "collect_env", str)  # it takes seconds
    assert main(["--rows", "decode", "--repeats", "1", "--results", str(results)]) == 0
    found = json.loads(results.read_text())
    (record,) = found["found"]
    engines = {"native": ["native"], "numpy": ["numpy (asked for)"], "interpret": ["interpreter"]}
    assert record["engines"] == engines
    assert {*found["arms"]} == {*engines}
    assert all(0 < one["gates"] <= 1 for one in record["parity"].values())
    assert [claim["of"] for claim in record["claims"]] == ["interpret"]
    shown = capsys.readouterr().out
    assert shown.index("commit") < shown.index("rounding") < shown.index("median") < shown.index("holds")


def test_the_suite_is_summed_over_tests_that_launch_alike(monkeypatch):
    tests = [SlowTest(name, None) for name in "abc"]
    took, order = {"a": 4, "b": 2, "c": 100}, []

    def seconds(build, tests, caches):
        order.append(build.title)
        slow = 8 if build.title == "old" else 1
        count = {"a": 5, "b": 5, "c": 5 if build.title == "old" else 4}
        return {name: {"launches": count[name], "seconds": slow * took[name], "native": 1} for name in took}

    monkeypatch.setattr(emulators, "shared", lambda roots, most: tests)
    monkeypatch.setattr(emulators, "launch_seconds", seconds)
    arms = {arm: Build(arm, HERE, {}) for arm in ("native", "numpy", "old")}
    with pytest.raises(BuildFailed, match="of 3 tests 2 launch alike"):
        emulators.suite(arms, lambda: None)
    monkeypatch.setattr(emulators, "LEAST_TESTS", 2)
    order.clear()
    cold, kept = emulators.suite(arms, lambda: None)
    assert order == ["native", "old", "old", "native", "native", "old"]
    assert (cold["tests"], cold["dropped"]) == (kept["tests"], kept["dropped"]) == (["a", "b"], ["c"])
    assert kept["engines"]["native"] == ["native 2 times"]
    assert kept["ms"]["native"]["median"] == 6000
    assert holds(cold)
    assert "3 slowest tests that both builds have; 2 launch alike, 10 times" in kept["title"]


@pytest.mark.parametrize(
    ("argv", "words"), [(["--repeats", "0"], "1 or more"), (["--against", "{}"], "no checkout"), (["--rows", "x"], "x")]
)
def test_what_does_not_fit_is_refused(argv, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        raise SystemExit(main([word.format(tmp_path) for word in argv]))
    assert end.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("about", "arm"),
    [(("364e8edaaaaa", False), "old"), (("364e8edaaaaa", True), "other"), (("d89b708aaaaa", False), "other")],
)
def test_only_the_unchanged_commit_of_the_bars_is_the_old_build(about, arm, tmp_path, monkeypatch):
    (tmp_path / "kernels/ptx").mkdir(parents=True)
    (tmp_path / "kernels/ptx/launch.py").touch()
    monkeypatch.setattr(process, "commit", lambda file: about)
    arms = builds(tmp_path)
    assert {"old", "other"} & {*arms} == {arm}
    assert all(arm in emulators.of(row, arms) for row in ("decode", "batch", "first", "tiny", "suite"))
    assert {*emulators.of("shadow", arms)} == {"native", "numpy", "shadow"}
