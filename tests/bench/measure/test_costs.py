"""The statistics and the cost model recover what a fake machine was made of."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kvproof.bench.measure import machine
from kvproof.bench.measure.costs import (
    Constants,
    cached_step,
    first_below,
    parameters,
    step_weight_bytes,
    step_weights,
    unpadded_pass,
    whole_pass,
)
from kvproof.bench.measure.explain import Forecast, Route, crossing, median_cumulative, words
from kvproof.bench.measure.stats import summarize
from kvproof.gpt2 import GPT2
from kvproof.reference.config import Config

from ..._engine import ENGINE as NEEDS_ENGINE

SMALL = Config(n_vocab=600, n_ctx=64, n_embd=64, n_head=4, n_layer=3, n_inner=256)
CPU = torch.device("cpu")
MACHINE = Constants(9e-6, 70e9, ((2.0**20, 90e9), (2.0**22, 60e9), (2.0**24, 20e9)))
ENGINE = Constants(200e-6, 110e9, MACHINE.bandwidth)


def test_a_summary_has_the_percentiles_of_all_samples():
    runs = np.random.default_rng(0).lognormal(size=(9, 40))
    got = summarize(runs)
    for name, p in (("median", 50), ("p20", 20), ("p80", 80), ("p95", 95)):
        assert got[name] == pytest.approx(np.percentile(runs, p))


def test_the_interval_of_a_median_holds_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(100):
        # Runs drift as a whole: resampled step by step, the interval would be far too narrow.
        runs = 5 + rng.normal(size=(20, 1)) + 0.1 * rng.normal(size=(20, 15))
        got = summarize(runs)
        hits += got["low"] <= 5 <= got["high"]
    assert 85 <= hits <= 100


def test_a_single_run_has_no_interval():
    got = summarize([[1.0, 2.0, 4.0]])
    assert (got["median"], got["low"], got["high"]) == (2.0, None, None)


def test_the_constants_of_a_machine_are_recovered():
    rng = np.random.default_rng(2)

    def seconds(probe: machine.Probe) -> float:
        return MACHINE.parts(probe.work).total * rng.uniform(0.999, 1.001)

    got, _ = machine.measure(SMALL, torch.float32, CPU, 2**24, seconds)
    assert got.overhead == pytest.approx(MACHINE.overhead, rel=0.02)
    assert got.rate == pytest.approx(MACHINE.rate, rel=0.02)
    for size, speed in MACHINE.bandwidth:
        assert got.speed(size) == pytest.approx(speed, rel=0.02)


@NEEDS_ENGINE
@pytest.mark.parametrize("weights", [None, "int8"])
def test_the_engine_s_constants_are_recovered_beside_the_machine_s_bandwidth(weights):
    def seconds(probe: machine.Probe) -> float:
        probe.call()
        return ENGINE.parts(probe.work).total

    got, _ = machine.measure_engine(SMALL, torch.float32, weights, MACHINE.bandwidth, seconds)
    assert got.overhead == pytest.approx(ENGINE.overhead, rel=0.02)
    assert got.rate == pytest.approx(ENGINE.rate, rel=0.02)
    assert got.bandwidth == MACHINE.bandwidth


@pytest.mark.parametrize("quicker", ["reading", "multiplying"])
def test_the_bandwidth_is_that_of_the_quicker_reader(monkeypatch, quicker):
    for name in ("reading", "multiplying"):
        probe = machine.Probe(machine.Work(1, 9e9 if name == quicker else 3e9, 0), object)
        monkeypatch.setattr(machine, name, lambda nbytes, device, probe=probe: probe)
    monkeypatch.setattr(machine, "time_calls", lambda *_, **__: [1.0, 3.0, 9.0])
    assert machine.read_bandwidth(1, CPU) == [9.0, 3.0, 1.0]


def test_both_readers_read_what_they_say():
    for probe in (machine.reading(2**20, CPU), machine.multiplying(2**20, CPU)):
        assert probe.work.bytes == 2**20
        result = probe.call()
        assert isinstance(result, torch.Tensor)
        assert result.sum() == 2**18  # ones, each of them read


def test_the_real_machine_has_constants_of_a_believable_size():
    got, took = machine.measure(SMALL, torch.float32, CPU, 2**22)
    assert 1e-8 < got.overhead < 1e-2
    assert 1e7 < got.rate < 1e15
    assert all(1e7 < speed < 1e14 for _, speed in got.bandwidth)
    assert took < 60


def test_the_model_counts_what_torch_s_model_holds():
    for config in (SMALL, Config(n_vocab=70, n_ctx=9, n_embd=8, n_head=2, n_layer=1, tie_word_embeddings=False)):
        model = GPT2(config)
        assert parameters(config) == sum(weight.numel() for weight in model.parameters())
        tables = model.wpe.weight.numel() + (0 if config.tie_word_embeddings else model.wte.weight.numel())
        assert step_weights(config) == parameters(config) - tables


def test_flops_of_a_step_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    model = GPT2(SMALL, impl="eager").double()  # torch counts no flops of oneDNN's own products, which are float32's
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    cache = model.new_cache(2, 20)
    model.prefill([[1] * 9, [2] * 9], cache)
    with FlopCounterMode(display=False) as counter:
        model.decode(torch.tensor([3, 4]), cache)
    assert counter.get_total_flops() == cached_step(SMALL, [10, 10], 4, 0).flops


def test_a_prefill_counts_causal_attention_and_one_row_of_logits():
    E, inner, L, V = 64, 256, 3, 600
    products = 2 * 2 * (7 * L * (4 * E * E + 2 * E * inner) + V * E)
    attention = 2 * L * 2 * 2 * E * (7 * 8 // 2)  # per layer: q k^T and p v, each 2 E flops a pair, the past alone
    assert whole_pass(SMALL, [7, 3], 4, 5).flops == products + attention


def test_the_engine_computes_no_padding_and_reads_the_weights_once():
    work = unpadded_pass(SMALL, [7, 3], 4)
    assert work.flops == whole_pass(SMALL, [7], 4, 1).flops + whole_pass(SMALL, [3], 4, 1).flops
    assert (work.launches, work.bytes) == (1, 4 * step_weights(SMALL))
    assert unpadded_pass(SMALL, [7], 4, "int8").bytes == step_weight_bytes(SMALL, 4, "int8")


def test_launches_count_operations_and_not_views():
    x = torch.ones(4, 4)
    assert machine.count_launches(lambda: (x.reshape(2, 8)[:, None] + 1) * 2) == 2


def test_break_even_is_where_the_sums_cross_for_good():
    assert crossing([5, 6, 7, 8], [4, 6.5, 6.9, 9]) == 4
    assert crossing([1, 2, 3], [2, 3, 4]) == 2
    assert crossing([3, 4, 5], [1, 2, 3]) is None
    assert first_below(lambda n: 10, lambda n: n * n, 1, 9) == 4


def forecast(prompts=(8, 5)) -> Forecast:
    return Forecast(SMALL, prompts, 4, MACHINE)


CACHED, NAIVE = Route(True, 70, 66), Route(False, 40, 40)


def test_a_forecast_s_parts_make_its_step_and_its_steps_its_total():
    got = forecast().record(CACHED, 6)
    assert got["step_ms"] == pytest.approx(got["overhead_ms"] + got["bytes_ms"] + got["flops_ms"])
    assert got["total_ms"] == pytest.approx(got["prefill_ms"] + 5 * got["step_ms"])
    assert got["overhead_ms"] == pytest.approx(66 * MACHINE.overhead * 1e3)
    by_hand = MACHINE.parts(cached_step(SMALL, [9, 6], 4, 66)).total
    assert forecast().seconds(CACHED, 1) == pytest.approx(by_hand)


def test_the_predicted_break_even_is_where_simulated_runs_cross():
    known = forecast()
    cached, naive = ([known.seconds(route, step) for step in range(50)] for route in (CACHED, NAIVE))
    n = known.break_even_new_tokens(CACHED, NAIVE)
    assert n is not None
    assert 2 < n < 50, "launches must outweigh the cache at first, or this tests nothing"
    assert sum(cached[:n]) < sum(naive[:n])
    assert sum(cached[: n - 1]) >= sum(naive[: n - 1])
    context = known.break_even_context(CACHED, NAIVE)
    assert context is not None
    step = {
        route: lambda n, route=route: Forecast(SMALL, [n - 1] * 2, 4, MACHINE).seconds(route, 1)
        for route in (CACHED, NAIVE)
    }
    assert step[CACHED](context) < step[NAIVE](context)
    assert step[CACHED](context - 1) >= step[NAIVE](context - 1)


def test_a_route_of_the_engine_is_one_launch_at_its_own_constants():
    known, route = forecast(), Route(True, 1, 1, ENGINE)
    got = known.record(route, 2)
    assert got["overhead_ms"] == pytest.approx(ENGINE.overhead * 1e3)
    assert known.seconds(route, 0) == pytest.approx(ENGINE.parts(unpadded_pass(SMALL, [8, 5], 4)).total)
    assert known.seconds(route, 1) == pytest.approx(ENGINE.parts(cached_step(SMALL, [9, 6], 4, 1)).total)
    assert known.seconds(NAIVE, 1) == pytest.approx(MACHINE.parts(whole_pass(SMALL, [9, 6], 4, 40)).total)
    assert known.break_even_new_tokens(route, NAIVE) == 2
    eighth = Forecast(SMALL, (8, 5), 4, MACHINE, "int8").record(route, 2)
    assert eighth["bytes_ms"] < got["bytes_ms"] / 2


def test_the_median_over_runs_is_taken_step_by_step():
    runs = [{"prefill_s": p, "steps_s": [1.0, s]} for p, s in ((5, 9.0), (6, 2.0), (50, 3.0))]
    assert median_cumulative(runs) == [6, 7, 10]


def row(impl, step_ms, predicted_ms, speedup, launches=66):
    parts = {"overhead_ms": predicted_ms * 0.7, "bytes_ms": predicted_ms * 0.2, "flops_ms": predicted_ms * 0.1}
    predicted = {"prefill_ms": 1.0, "step_ms": predicted_ms, "total_ms": 9.0, **parts}
    step = {"step_ms": {"median": step_ms}, "speedup": {"median": speedup}}
    return {"impl": impl, "launches": launches, "bytes_per_step": 6e6, "predicted": predicted, **step}


def test_the_words_say_whether_the_cache_pays_why_and_where_the_model_errs():
    found = {"cached": "sdpa", "predicted_context": 7, "predicted_new_tokens": 15, "measured_new_tokens": None}
    text = words(12, 6, [row("naive", 1.0, 1.1, 1.0), row("sdpa", 2.0, 1.2, 0.8)], found)
    assert text.startswith("At 12 new tokens after a context of 6 the cache cannot pay here: sdpa takes 1.25 times")
    assert "70% launching 66 operations at 12.7 us" in text
    assert "from 15 new tokens on; measured: it had not within this run" in text
    assert "wrong by more than 30% here: sdpa is 1.7 times slower than predicted." in text
    text = words(12, 6, [row("naive", 3.0, 3.1, 1.0), row("sdpa", 1.0, 1.1, 2.5)], found)
    assert "the cache pays: sdpa is 2.50 times as fast" in text
    assert "wrong" not in text
    text = words(12, 6, [row("naive", 3.0, 3.1, 1.0), row("numba", 1.0, 1.1, 2.5, 1)], found | {"cached": "numba"})
    assert "A step of numba should take 1.10 ms: 70% launching one call at 770.0 us" in text


@pytest.mark.parametrize("tied", [True, False])
def test_int8_weights_take_the_bytes_of_what_a_step_reads(tied):
    config = replace(SMALL, tie_word_embeddings=tied)
    tables = {"wpe.weight"} | ({"wte.weight", "wte.scale"} if not tied else set())
    held = GPT2(config, weights="int8").state_dict()
    read = {array.data_ptr(): array.nbytes for name, array in held.items() if name not in tables}
    assert step_weight_bytes(config, 4, "int8") == sum(read.values())
    assert step_weight_bytes(config, 2) == 2 * step_weights(config)
