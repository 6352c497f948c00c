"""The main job: parity before timing, no timing where parity is red, true figures, and one clear line for a mistake."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gpt2_models import torch_model

from kvproof.bench import contest, gate, timing
from kvproof.bench.decode import main
from kvproof.gpt2 import StaticCache, attention, generate, load
from kvproof.reference.config import Config

ROOT = Path(__file__).parent.parent
QUICK = ["--device", "cpu", "--max-tokens", "4", "--repeats", "1"]


def test_the_report_comes_in_order_and_all_is_green(capsys):
    assert main(["--impl", "all", *QUICK]) == 0
    out = capsys.readouterr().out
    order = ["device", "torch", "commit", "NO GPU", "parity", "wrote:", "Once upon a time", "prefill ms", "Each row is"]
    places = [out.index(word) for word in order]
    assert places == sorted(places)
    for impl in contest.IMPLS:
        assert out.count(f"\n  {impl} ".ljust(11)) == 1, "its parity line"
        assert out[places[-2] :].count(f"\n{impl} ".ljust(9)) == 1, "its row"
    assert out.count("(interpreter)") == 1
    assert "RED" not in out


def test_json_is_one_record_with_figures_that_belong_together(capsys):
    assert main(["--impl", "sdpa", "--batch", "3", "--prompt", "ROMEO:", "--prompt", "Once", "--json", *QUICK]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["timing"]) == set(record["parity"]) == {"naive", "sdpa"}
    row = record["timing"]["sdpa"]
    assert row["tokens_per_s"] == pytest.approx(3 * 4 / row["total_ms"] * 1e3)
    assert row["total_ms"] == pytest.approx(row["prefill_ms"] + 3 * row["mean_ms"])
    assert record["timing"]["naive"]["speedup"] == 1
    assert row["speedup"] == pytest.approx(record["timing"]["naive"]["total_ms"] / row["total_ms"])
    assert record["parity"]["sdpa"]["bar"] == 5e-5
    assert record["parity"]["sdpa"]["tokens"] == 12
    greedy = generate(load("tiny"), ["ROMEO:", "Once", "ROMEO:"], max_new_tokens=4)
    assert record["timing"]["sdpa"]["ids"] == record["timing"]["naive"]["ids"] == [done.ids for done in greedy]


def unscaled(q, cache, layer):
    return attention.eager(q * q.shape[-1] ** 0.5, cache, layer)


def one_head_twice(q, cache, layer):
    o = attention.sdpa(q, cache, layer)
    o[:, 1] = o[:, 0]
    return o


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("fault", [unscaled, one_head_twice])
def test_a_wrong_decode_step_is_red_in_every_dtype_and_is_not_timed(monkeypatch, capsys, fault, dtype):
    monkeypatch.setitem(attention.DECODE_STEP, "eager", fault)
    monkeypatch.setattr(contest, "timed_greedy", None)
    assert main(["--impl", "eager", "--dtype", dtype, *QUICK]) == 1
    out = capsys.readouterr().out
    assert "eager   RED" in out
    assert "naive   ok" in out
    assert "nothing is timed" in out
    assert "tokens/s" not in out


@pytest.mark.parametrize("heads", [1, 2])
def test_the_attention_gate_has_a_needle_for_every_number_of_heads(monkeypatch, heads):
    model = torch_model(
        Config(n_vocab=5, n_ctx=40, n_embd=16 * heads, n_head=heads, n_layer=1, n_inner=8), 0, "bfloat16"
    )
    monkeypatch.setitem(attention.DECODE_STEP, "sdpa", short_by_one)
    assert gate.attention_faults(model, 1, 40)


def short_by_one(q, cache, layer):
    whole = cache.host_lengths
    cache.host_lengths = [max(n - 1, 1) for n in whole]
    o = attention.sdpa(q, cache, layer)
    cache.host_lengths = whole
    return o


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_green_where_float32_and_the_attention_op_are(capsys, dtype):
    assert main(["--impl", "all", "--dtype", dtype, "--device", "cpu", "--max-tokens", "2", "--repeats", "1"]) == 0
    assert "RED" not in capsys.readouterr().out


def test_a_fault_of_half_precision_alone_outside_the_attention_is_red(monkeypatch, capsys):
    write = StaticCache.write

    def spoiled(self, layer, slots, k, v):
        half = k.dtype == torch.bfloat16
        write(self, layer, slots, 0 * k if half else k, -v if half else v)

    monkeypatch.setattr(StaticCache, "write", spoiled)
    assert main(["--impl", "sdpa", "--dtype", "bfloat16", *QUICK]) == 1
    assert "more than rounding explains" in capsys.readouterr().out


def test_a_source_of_noise_is_red_in_half_precision():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, 30))
    top = np.sort(logits, -1)
    truth = gate.Truth(logits.argmax(-1), logits, top[..., -1] - top[..., -2])
    assert gate.judge(logits + 1e-3 * rng.normal(size=logits.shape), truth, 1e-2, half=True).green
    noise = gate.judge(rng.normal(size=logits.shape), truth, 1e-2, half=True)
    assert len(noise.faults) == 2
    assert not gate.judge(logits * np.nan, truth, 1e-2, half=True).green
    flipped = logits.copy()
    flipped[0, 0, truth.ids[0, 0]] -= truth.margin[0, 0] + 1e-9
    assert gate.judge(flipped, truth, np.inf, half=False).faults, "no flip is forgiven where rounding cannot reach"


def test_a_wrong_attention_that_final_logits_in_half_precision_hide_is_found_in_the_op(monkeypatch):
    model = load("tiny", dtype="bfloat16").with_impl("eager")
    assert gate.attention_faults(model, 2, 40) == []
    monkeypatch.setitem(attention.DECODE_STEP, "eager", short_by_one)
    (fault,) = gate.attention_faults(model, 2, 40)
    assert "what honest rounding explains" in fault


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "tinny"], "did you mean 'tiny'?"),
        (["--prompt", ""], "prompt 0 is empty"),
        (["--max-tokens", "2000"], "1019 fit"),
        (["--device", "abacus"], "device 'abacus' is not known here"),
        (["--device", "meta"], "device 'meta' is not known here"),
        (["--prompt", "a", "--prompt", "b", "--batch", "1"], "2 prompts came for a batch of 1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, argv, message):
    assert main(["--impl", "sdpa", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [["--impl", "fast"], ["--max-tokens", "1"], ["--batch", "0"], ["--dtype", "int8"]])
def test_a_wrong_option_is_exit_code_2(capsys, argv):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert argv[0] in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_cuda_without_a_gpu_is_one_line_and_exit_code_2(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench/decode.py", "--device", "cuda"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / "bench" / "decode.py"), run_name="__main__")
    assert exit.value.code == 2
    assert capsys.readouterr().err == (
        "bench/decode.py: device 'cuda' was asked for, but torch finds no CUDA GPU here; use device='cpu'\n"
    )


class FakeSource:
    """A source whose steps cost what they are told to, on a clock of its own."""

    def __init__(self, clock, costs):
        self.clock, self.costs = clock, list(costs)

    def prefill(self, prompts):
        self.clock[0] += self.costs[0]
        self.taken = 1
        return torch.eye(4)[:1]

    def step(self, ids):
        self.clock[0] += self.costs[self.taken]
        self.taken += 1
        return torch.eye(4)[:1]


def test_the_stopwatch_recovers_injected_costs(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    run = timing.timed_greedy(FakeSource(clock, [5.0, 1.0, 2.0, 6.0]), [[1]], 4, torch.device("cpu"))
    assert (run.prefill, run.steps) == (5.0, [1.0, 2.0, 6.0])
    assert (run.total, run.mean_step, run.median_step) == (14.0, 3.0, 2.0)


def test_the_median_run_is_kept_whole():
    runs = [timing.Timing(total, [1.0], []) for total in (9.0, 2.0, 5.0)]
    assert timing.median_run(runs) is runs[2]
