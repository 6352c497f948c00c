"""The machine's load: what others use is counted, what we use is not, and too much of it is refused."""

import pytest

from kvproof.bench.requests import quiet


@pytest.fixture
def machine(monkeypatch):
    """A machine whose clocks the test sets: seconds, all CPU seconds, ours."""
    clock = {"now": 100.0, "all": 50.0, "own": 7.0}
    tick = quiet.os.sysconf("SC_CLK_TCK")

    def stat(path):
        assert path == "/proc/stat"
        busy = int(clock["all"] * tick)  # in eight columns: user nice system idle iowait irq softirq steal
        return f"cpu  {busy - 6} 1 1 99999 99999 1 1 2 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0"

    monkeypatch.setattr(quiet, "read_text", stat)
    monkeypatch.setattr(quiet, "own", lambda: clock["own"])
    monkeypatch.setattr(quiet.time, "monotonic", lambda: clock["now"])
    return clock


def pass_time(clock, seconds, all_, own):
    clock["now"], clock["all"], clock["own"] = clock["now"] + seconds, clock["all"] + all_, clock["own"] + own


def test_what_others_use_is_all_less_ours_per_second(machine):
    others = quiet.Others()
    pass_time(machine, 2.0, 3.0, 2.0)
    assert others.used() == pytest.approx(0.5, abs=0.02)


def test_our_own_work_is_no_load(machine):
    others = quiet.Others()
    pass_time(machine, 2.0, 4.0, 4.0)
    assert others.used() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("used", "fits"), [([0.0, 0.9, 0.05], True), ([0.2, 0.0, 0.3], False)])
def test_a_loaded_machine_is_refused_by_the_median_of_three_looks(machine, monkeypatch, used, fits):
    left = iter(used)
    monkeypatch.setattr(quiet.time, "sleep", lambda s: pass_time(machine, s, next(left) * s, 0))
    if fits:
        quiet.require()
        return
    with pytest.raises(ValueError, match=r"others use 0\.2.* of \d+ CPUs.*--loaded"):
        quiet.require()


def test_a_system_that_does_not_count_is_no_reason_to_refuse(monkeypatch):
    monkeypatch.setattr(quiet, "read_text", lambda path: "")
    monkeypatch.setattr(quiet.time, "sleep", lambda s: None)
    quiet.require()
    assert quiet.measure() is None
