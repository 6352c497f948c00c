"""bench/builds/comparison.py: parity before times, calls in turns, and claims that fail where they must."""

from typing import Any

import pytest

from kvproof.bench.builds.comparison import Row, compare, holds, texts
from kvproof.bench.builds.judge import Parity
from kvproof.bench.emulators import BARS

TITLES = {
    "native": "native",
    "numpy": "NumPy form",
    "interpret": "interpreter",
    "old": "364e8ed",
    "other": "d89b708",
    "shadow": "shadow",
}


def row(judge=lambda out: Parity(0.5, 0.1), warm=True, name="decode", **calls: Any):
    """A row whose arms answer from lists of ms, or of answers, the last for ever; and the arms as they are asked."""
    asked = []

    def answers(arm, given):
        def ask():
            asked.append(arm)
            one = given.pop(0) if len(given) > 1 else given[0]
            found = one if isinstance(one, dict) else {"ms": one, "out": "o"}
            return {"engines": [arm], **found}

        return ask

    ask = {arm: answers(arm, [*given]) for arm, given in calls.items()}
    return Row(name, "it", ask, judge, BARS[name], warm=warm), asked


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


def test_calls_are_in_turns_another_one_first_each_round_and_the_first_is_not_in_the_median():
    one, asked = row(native=[5000, 20], interpret=[9000, 8000])
    record = compare(one, 3)
    assert asked == ["native", "interpret", "interpret", "native"] * 2
    assert record["ms"]["native"]["median"] == 20
    assert record["first"] == {"native": 5000, "interpret": 9000}
    assert record["ratio"]["interpret"]["median"] == pytest.approx(400)
    assert holds(record)
    assert "holds: interpreter / native is 400, at least 300" in texts(record, TITLES)[-1]


def test_a_row_of_first_launches_times_the_first():
    calls = {arm: [{"ms": 10 * ms, "out": "o", "second": ms}] for arm, ms in {"native": 3, "old": 4}.items()}
    one, asked = row(warm=False, name="first", **calls)
    record = compare(one, 2)
    assert asked == ["native", "old", "old", "native"]
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


@pytest.mark.parametrize("arm", ["native", "numpy"])
def test_no_claim_holds_where_one_launch_of_an_arm_ran_on_the_other_engine(arm):
    calls: Any = {name: [{"ms": 1, "out": "o"}] for name in ("native", "numpy", "old")}
    calls["old"][0]["ms"] = 100
    assert holds(compare(row(**calls)[0], 2))
    calls[arm] = [{"ms": 1, "out": "o", "engines": ["native", "numpy (it looks wrong)"]}, {"ms": 1, "out": "o"}]
    record = compare(row(**calls)[0], 2)
    assert [claim["holds"] for claim in record["claims"]] == [False]
    assert not holds(record)
    assert any(line.startswith(f"  FAILS: {TITLES[arm]} ran on n") for line in texts(record, TITLES))


def test_nothing_is_claimed_against_another_build_than_the_bars_are():
    record = compare(row(native=[10], other=[11])[0], 2)
    assert (record["claims"], holds(record)) == ([], True)
    assert "no claim: d89b708" in texts(record, TITLES)[-1]


def test_a_shadow_is_held_to_either_form_without_one():
    record = compare(row(name="shadow", native=[1], numpy=[50], shadow=[100])[0], 1)
    assert [(c["over"], c["found"], c["holds"]) for c in record["claims"]] == [
        ("numpy", 2, True),
        ("native", 100, False),
    ]


def test_tokens_are_shown_per_second():
    assert " 50.0  native" in "".join(texts(compare(row(name="tiny", native=[20])[0], 1), TITLES))


def test_an_arm_that_takes_long_is_asked_once_and_not_to_warm_up():
    one, asked = row(native=[9, 1, 2, 2], interpret=[700])
    record = compare(one._replace(once=("interpret",)), 3)
    assert asked == ["native", "interpret", "native", "native", "native"]
    assert record["ratio"]["interpret"]["median"] == 700
    assert record["ms"]["native"]["median"] == 2
