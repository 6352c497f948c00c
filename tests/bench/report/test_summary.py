"""The results in words: true to the intervals, red parity and losses first, nothing unbelieved in a comparison."""

import pytest

from kvproof.bench.measure.interleaved import IMPLS
from kvproof.bench.report import summary
from kvproof.bench.report.summary import TIMES as X

from .._records import RED, steady

CELL = "tiny, float32, batch 1, 5 prompt tokens, 10 new"


@pytest.mark.parametrize(("value", "text"), [
    (0, "0.00"), (1.2345, "1.23"), (9.999, "10.0"), (45.67, "45.7"), (12345.6, "12,346"), (0.01234, "0.0123"),
    (4e-7, "4.00e-07"), (None, summary.NONE),
])  # fmt: skip
def test_numbers_have_three_digits_that_count(value, text):
    assert summary.number(value) == text


def test_our_impls_are_those_that_are_timed():
    assert {*summary.OURS, "naive"} == set(IMPLS)


@pytest.mark.parametrize(("naive", "said"), [
    (3.0, f"With the cache, sdpa decodes 10 tokens 2.80{X} (95 % 2.72 … 2.88) as fast as recomputing everything."),
    (0.5, f"The cache does not pay: sdpa decodes 10 tokens 0.550{X} (95 % 0.533 … 0.567) as fast as recomputing."),
    (1.01, f"With the cache, sdpa decodes 10 tokens 1.01{X} (95 % 0.979 … 1.04) as fast: no difference from "
           "recomputing."),
])  # fmt: skip
def test_the_verdict_says_whether_the_cache_pays(naive, said):
    assert summary.speed(steady({"naive": naive, "sdpa": 1.0})) == said


@pytest.mark.parametrize(("measured", "said"), [
    (None, "Where it begins to pay was not measured (the cost model said 12)."),
    (2, "It pays from the second token on (the cost model said 12)."),
    (18, "Below 18 new tokens the cache does not pay here (the cost model said 12)."),
])  # fmt: skip
def test_the_verdict_says_where_the_cache_begins_to_pay(measured, said):
    short, long = steady({"naive": 3, "sdpa": 1}, 4), steady({"naive": 3, "sdpa": 1}, 20)
    long["break_even"]["measured_new_tokens"] = measured
    assert summary.break_even([short, long]) == said
    ((where, text),) = summary.headlines([long, short])
    assert where == "tiny, float32, batch 1, 5 prompt tokens:"
    assert text.startswith("With the cache, sdpa decodes 20 tokens")
    assert text.endswith(said)


def test_where_we_lose_is_said_first_to_last():
    lost, won = (
        steady({"naive": 3, "sdpa": 2, "hf-dynamic": 1}),
        steady({"naive": 1, "sdpa": 2, "hf-static": 3}, batch=8),
    )
    assert summary.losses([lost, won]) == [
        "Of 2 cells with another library, our quickest is faster in 1, as fast in 0, slower in 1.",
        f"The cache does not pay in {CELL.replace('1,', '8,')}: sdpa is 0.526{X} as fast as naive.",
        f"Slower than another library in {CELL}: sdpa 526 tokens/s, hf-dynamic 1,000.",
    ]  # fmt: skip


def test_red_parity_is_named_and_its_times_are_in_no_comparison():
    wrong = steady({"naive": 3, "sdpa": 1}, sdpa={"parity_after": RED})
    assert summary.parity([wrong])[0] == (f"PARITY RED: sdpa in {CELL}: after timing: the logits err by 0.3.")
    assert "1 of 2 timings" in summary.parity([wrong])[1]
    assert summary.speed(wrong).startswith("No impl with a cache")
    assert summary.predictions(wrong)[0][0]["impl"] == "naive"
    assert len(summary.predictions(wrong)) == 1
    fine = steady({"naive": 3, "sdpa": 1}, sdpa={"parity_after": None})
    assert summary.parity([fine])[1] == (f"Not judged both before and after: sdpa in {CELL}.")


@pytest.mark.parametrize(("change", "said"), [
    (lambda r: r["environment"]["cpu"].update(load=1.9), "The machine was busy: a load of up to 0.950 for each core"),
    (lambda r: r["environment"].update(dirty=True), "Files differed from the commit"),
    (lambda r: r["environment"].update(commit=None), "The commit is unknown"),
    (lambda r: r["environment"].update(commit="fedc"), "The cells come from 2 commits: d04c962a, fedc."),
    (lambda r: r["impls"][1].update(emulated="PTX machine"), "ran on the PTX machine: those times are no GPU's."),
    (lambda r: r["impls"][1].update(refused="too fast"), "Refused as too fast to be true: 1 timings, of sdpa"),
])  # fmt: skip
def test_what_a_sceptic_must_know_is_said(change, said):
    calm, changed = steady({"naive": 3, "sdpa": 1}), steady({"naive": 3, "sdpa": 1})
    assert summary.caveats([calm]) == ["No GPU: every time here is a CPU's."]
    change(changed)
    assert said in " ".join(summary.caveats([calm, changed]))


def test_where_the_cost_model_was_wrong_is_said_worst_first():
    first, *wrong = summary.misses([steady({"naive": 3.1, "sdpa": 1.0, "eager": 2.1})])
    assert first == "Within a factor of 1.3 of the measured total: 1 of 3 predictions."
    assert wrong == [
        f"sdpa in {CELL}: predicted 19.0 ms, measured 10.0 ms, 1.90{X} too slow; off in the step (2.00{X}).",
        f"naive in {CELL}: predicted 19.0 ms, measured 28.9 ms, 1.52{X} too fast; off in the step (0.645{X}).",
    ]  # fmt: skip


@pytest.mark.parametrize("change", [{"refused": "64 GB/s is too much"}, {"emulated": "PTX machine"}])
def test_what_is_not_believed_is_in_no_comparison(change):
    cell = steady({"naive": 3, "sdpa": 0.1, "hf-dynamic": 0.2}, sdpa=change)
    assert summary.speed(cell).startswith("No impl with a cache")
    assert summary.losses([cell]) == []
    assert [impl["impl"] for impl, _ in summary.predictions(cell)] == ["naive", "hf-dynamic"]
