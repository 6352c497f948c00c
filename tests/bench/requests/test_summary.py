"""Statistics and tables of made-up rounds: pairs within a round, bars, what is red, wrong, refused or leaked."""

import pytest

from kvproof.bench.requests.summary import Bar, bars, best, names, rate, rates, ratio
from kvproof.bench.requests.table import fine, table

from ._rounds import GREEN, RED, WRONG, lived, rounds

RATES = {"engine-32": [30.0, 15.0, 33.0], "generate-8": [20.0, 10.0, 20.0], "generate_batch-8": [25.0, 12.0, 20.0]}


def test_a_rate_is_the_median_of_the_rounds_and_its_interval_lies_within_them():
    found = rate(rounds("throughput", RATES), "engine-32")
    assert found
    assert found["median"] == 30
    assert found["low"] == 15
    assert found["high"] == 33


def test_a_ratio_pairs_the_arms_of_a_round_so_that_a_slow_round_changes_nothing():
    found = ratio(rounds("throughput", RATES), "engine-32", "generate-8")
    assert found
    assert found["median"] == pytest.approx(1.5)
    assert (found["low"], found["high"]) == (pytest.approx(1.5), pytest.approx(1.65))
    slow = {"a": [10.0, 1.0, 10.0], "b": [5.0, 0.5, 5.0]}
    paired = ratio(rounds("throughput", slow), "a", "b")
    assert paired
    assert paired["low"] == paired["high"] == 2


def test_one_round_has_a_median_and_no_interval():
    found = ratio(rounds("throughput", {"a": [3.0], "b": [2.0]}), "a", "b")
    assert found
    assert (found["median"], found["low"], found["high"]) == (1.5, None, None)


def test_names_come_in_the_order_of_the_command_whatever_rounds_are_there():
    found = rounds("throughput", RATES)
    assert found[1]["arms"][0]["arm"] == "generate-8"
    assert names(found) == names(found[1:]) == names(found[2:]) == list(RATES)


def test_a_round_in_which_an_arm_was_not_timed_counts_for_nothing():
    found = rounds("throughput", {"a": [3.0, 4.0], "b": [None, 2.0]})
    assert rates(found, "b") == [2.0]
    paired = ratio(found, "a", "b")
    assert paired
    assert paired["median"] == 2
    assert ratio(rounds("throughput", {"a": [3.0], "b": [None]}), "a", "b") is None


@pytest.mark.parametrize(("median", "least", "met"), [(1.5, 1.5, True), (1.499, 1.5, False)])
def test_a_bar_is_met_from_its_least_on(median, least, met):
    assert Bar("x", least, {"median": median, "low": None, "high": None}).met == met


def test_throughput_is_held_to_today_s_batches_to_the_best_of_them_and_to_the_peer():
    arms = RATES | {"generate-sorted-32": [29.0, 14.0, 29.0]}
    found = {bar.what: (bar.least, bar.met) for bar in bars(rounds("throughput", arms))}
    assert found == {
        "engine-32 / generate-8": (1.5, True),
        "engine-32 / generate-sorted-32": (1.0, True),
        "engine-32 / generate_batch-8": (1.3, False),
    }
    assert best(rounds("throughput", arms), "generate-") == "generate-sorted-32"


@pytest.mark.parametrize(("text", "least"), [("repetitive", 1.5), ("prose", 0.95)])
def test_speculation_must_pay_on_repetitive_text_and_never_cost_much(text, least):
    arms = {"engine-8": [10.0, 10.0], "engine-8-draft-4": [9.6, 9.6], "engine-8-draft-16": [14.0, 14.0]}
    found = {bar.what: bar.least for bar in bars(rounds("speculation", arms, text, 3.0))}
    assert found == {"engine-8-draft-4 / engine-8": 0.95, "engine-8-draft-16 / engine-8": least}


def test_the_table_says_what_is_red_and_what_was_not_timed_and_why():
    arms = {"engine-32": [30.0], "generate_batch-8": [20.0], "hf-generate-8": [None], "generate_batch-16": [None]}
    refused = WRONG | {"refused": "RuntimeError: no memory"}
    parity = {"generate_batch-8": RED, "hf-generate-8": WRONG, "generate_batch-16": refused}
    lines = {line.split()[0]: line for line in table(rounds("throughput", arms, parity=parity)) if line}
    assert lines["generate_batch-8"].endswith("RED: 1 of 4 requests differ")
    assert "RED" not in lines["engine-32"]
    assert lines["hf-generate-8"].endswith("WRONG, not timed")
    assert lines["generate_batch-16"].endswith("REFUSED: RuntimeError: no memory")
    assert GREEN["green"]


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({}, True),
        ({"growth": 0.049}, True),
        ({"growth": 0.051}, False),
        ({"leaked": 1}, False),
        ({"most_blocks": 49}, False),
        ({"differ": 1}, False),
    ],
)
def test_memory_is_fine_only_if_nothing_grew_leaked_or_differed(changed, good):
    record = lived(**changed)
    assert fine(record["memory"]) == good
    assert any("MISSED" in line for line in table([record])) != good
