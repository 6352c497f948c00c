"""The main job: parity before timing, no timing where parity is red, true figures, and one clear line for a mistake."""

import importlib.metadata
import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof.bench.decode import main
from kvproof.bench.measure import gate, interleaved, machine, records, timing
from kvproof.gpt2 import StaticCache, attention, generate, load
from kvproof.gpt2.generate import Cached
from kvproof.kernels.cpu import machine_code
from kvproof.reference.config import Config

from .. import _child
from .._engine import ENGINE
from .._gpt2_models import torch_model
from .judge._models import lengths_moved

ROOT = Path(__file__).parents[2]
QUICK = ["--device", "cpu", "--new-tokens", "4", "--repeats", "1"]


def test_the_report_comes_in_order_and_all_is_green(capsys):
    assert main(["--impl", "all", *QUICK]) == 0
    out = capsys.readouterr().out
    order = ["device", "commit", "versions", "NO GPU", "parity", "wrote:", "prefill", "A cached step reads", "At 4 new"]
    places = [out.index(word) for word in order]
    assert places == sorted(places)
    for impl in interleaved.IMPLS:
        assert out.count(f"\n  {impl} ".ljust(14)) == 1, "its parity line"
        assert out[places[-3] :].count(f"\n{impl} ".ljust(13)) == 1, "its row"
    assert out.count("(PTX machine)") == 1
    assert "RED" not in out


def test_json_is_one_record_with_figures_that_belong_together(capsys):
    assert main(["--impl", "sdpa", "--batch", "3", "--prompt", "ROMEO:", "--prompt", "Once", "--json", *QUICK]) == 0
    record = json.loads(capsys.readouterr().out)
    records.check(record, "the record")
    naive, sdpa = record["impls"]
    assert (naive["impl"], sdpa["impl"]) == ("naive", "sdpa")
    (run,), total = sdpa["runs"], sdpa["total_ms"]["median"]
    assert total == pytest.approx(1e3 * (run["prefill_s"] + sum(run["steps_s"])))
    assert sdpa["tokens_per_s"]["median"] == pytest.approx(3 * 4 / total * 1e3)
    assert naive["speedup"]["median"] == 1
    assert sdpa["speedup"]["median"] == pytest.approx(naive["total_ms"]["median"] / total)
    assert sdpa["gb_per_s"] == pytest.approx(sdpa["bytes_per_step"] / np.median(run["steps_s"]) / 1e9)
    for parity in (sdpa["parity_before"], sdpa["parity_after"]):
        assert (parity["bar"], parity["agree"], parity["of"]) == (5e-5, 12, 12)
    (greedy,) = generate(load("tiny"), "ROMEO:", max_new_tokens=4)
    assert sdpa["text"] == naive["text"] == greedy.text


@ENGINE
@pytest.mark.parametrize("words", [["--dtype", "float32"], ["--dtype", "bfloat16"], ["--weights", "int8"]], ids=str)
def test_the_engine_is_a_row_like_others_and_the_cost_model_knows_it(capsys, words):
    assert main(["--impl", "numba", "--json", *words, *QUICK]) == 0
    record = json.loads(capsys.readouterr().out)
    records.check(record, "the record")
    numba = record["impls"][-1]
    assert (numba["impl"], numba["cached"], numba["dtype"]) == ("numba", True, record["cell"]["dtype"])
    assert numba["version"] == record["environment"]["versions"]["numba"] == importlib.metadata.version("numba")
    assert numba["launches"] == 1
    assert numba["predicted"]["overhead_ms"] == pytest.approx(record["constants"]["engine"]["overhead_us"] / 1e3)
    assert record["constants"]["engine"]["gflops"] > 0


def test_without_the_engine_its_constants_are_absent(capsys):
    assert main(["--impl", "eager", "--json", *QUICK]) == 0
    record = json.loads(capsys.readouterr().out)
    records.check(record, "the record")
    assert record["constants"]["engine"] is None


def test_an_engine_that_cannot_run_is_left_out_of_a_group_and_an_error_alone(capsys, monkeypatch):
    monkeypatch.setattr(machine_code, "available", lambda variant=None: "impl 'numba' needs another CPU")
    assert main(["--impl", "numba", *QUICK]) == 2
    assert capsys.readouterr().err == "bench/decode.py: impl 'numba' needs another CPU\n"
    assert main(["--impl", "numba,eager", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert "numba is left out: impl 'numba' needs another CPU" in err
    assert "\neager " in out


def test_an_engine_that_cannot_be_compiled_is_one_line(capsys, monkeypatch):
    def fail(*_, **__):
        raise machine_code.CompilerFailed(machine_code.Variant(*["float32"] * 4), "LLVM said no")

    monkeypatch.setattr(interleaved, "load", fail)
    assert main(["--impl", "numba", *QUICK]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench/decode.py: ")]
    assert "could not be compiled: LLVM said no; use impl='sdpa'" in line


def test_bytes_of_a_step_are_the_weights_and_the_live_cache(capsys):
    assert main(["--impl", "sdpa", "--batch", "2", "--context", "5", "--json", *QUICK]) == 0
    record = json.loads(capsys.readouterr().out)
    tiny, cell = load("tiny"), record["cell"]
    cache = tiny.new_cache(2, 1)
    assert cell["parameters"] == sum(weight.numel() for weight in tiny.parameters())
    assert cell["weight_bytes"] == sum(weight.nbytes for weight in tiny.parameters()) - tiny.wpe.weight.nbytes
    assert 2 * cell["kv_bytes_per_token"] == sum(x.nbytes for x in (*cache.k, *cache.v))
    assert cell["prompt_tokens"] == [5, 5]
    naive, sdpa = (row["bytes_per_step"] for row in record["impls"])
    assert naive == cell["weight_bytes"]
    assert sdpa == naive + 2 * cell["kv_bytes_per_token"] * np.mean([6, 7, 8])


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
    monkeypatch.setattr(interleaved, "timed_greedy", None)
    assert main(["--impl", "eager", "--dtype", dtype, *QUICK]) == 1
    out = capsys.readouterr().out
    assert "eager       RED" in out
    assert "naive       ok" in out
    assert "nothing is timed" in out
    assert "tokens/s" not in out


def test_an_impl_made_wrong_while_it_is_timed_is_caught_after_it(monkeypatch, capsys):
    timed = interleaved.timed_greedy

    def and_then_spoilt(source, *how):
        if isinstance(source, Cached):  # right when it was judged, wrong from its first timed run on
            monkeypatch.setitem(attention.DECODE_STEP, "sdpa", unscaled)
        return timed(source, *how)

    monkeypatch.setattr(interleaved, "timed_greedy", and_then_spoilt)
    assert main(["--impl", "sdpa", *QUICK]) == 1
    out = capsys.readouterr().out
    assert "sdpa        ok" in out
    assert "after timing: RED" in out
    assert "its timed runs did not write the oracle's tokens" in out
    assert "sdpa         REFUSED: parity was red after timing" in out


def test_a_figure_faster_than_memory_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(machine, "read_bandwidth", lambda nbytes, device: [1e-6, 1e-6])
    assert main(["--impl", "sdpa", *QUICK]) == 1
    assert "GB/s is above 1.1 x 0.0 GB/s (best measured)" in capsys.readouterr().out


@pytest.mark.parametrize("heads", [1, 2])
def test_the_attention_gate_has_a_needle_for_every_number_of_heads(monkeypatch, heads):
    config = Config(n_vocab=5, n_ctx=40, n_embd=16 * heads, n_head=heads, n_layer=1, n_inner=8)
    model = torch_model(config, 0, "bfloat16")
    monkeypatch.setitem(attention.DECODE_STEP, "sdpa", lengths_moved(-1, attention.sdpa))
    assert gate.attention_faults(model, 1, 40)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.exhaustive)])
def test_half_precision_is_green_where_float32_and_the_attention_op_are(capsys, dtype):
    assert main(["--impl", "all", "--dtype", dtype, "--device", "cpu", "--new-tokens", "2", "--repeats", "1"]) == 0
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
    assert gate.compare_logits(logits + 1e-3 * rng.normal(size=logits.shape), truth, 1e-2, half=True).green
    noise = gate.compare_logits(rng.normal(size=logits.shape), truth, 1e-2, half=True)
    assert len(noise.faults) == 2
    assert not gate.compare_logits(logits * np.nan, truth, 1e-2, half=True).green
    flipped = logits.copy()
    flipped[0, 0, truth.ids[0, 0]] -= truth.margin[0, 0] + 1e-9
    assert gate.compare_logits(flipped, truth, np.inf, half=False).faults, (
        "no flip is forgiven where rounding cannot reach"
    )


def test_a_wrong_attention_that_final_logits_in_half_precision_hide_is_found_in_the_op(monkeypatch):
    model = load("tiny", dtype="bfloat16").with_impl("eager")
    assert gate.attention_faults(model, 2, 40) == []
    monkeypatch.setitem(attention.DECODE_STEP, "eager", lengths_moved(-1, attention.sdpa))
    (fault,) = gate.attention_faults(model, 2, 40)
    assert "what rounding explains" in fault


@pytest.mark.parametrize(("argv", "message"), [
    (["--model", "tinny"], "did you mean 'tiny'?"),
    (["--prompt", ""], "prompt 0 is empty"),
    (["--new-tokens", "2000"], "1019 fit"),
    (["--context", "1024"], "1 fit"),
    (["--graph"], "it replays triton's step on CUDA"),
    (["--device", "abacus"], "device 'abacus' is not known here"),
    (["--device", "meta"], "device 'meta' is not known here"),
    (["--prompt", "a", "--prompt", "b", "--batch", "1"], "2 prompts came for a batch of 1"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(capsys, argv, message):
    assert main(["--impl", "sdpa", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [["--impl", "fast"], ["--new-tokens", "1"], ["--batch", "0,8"], ["--dtype", "int8"]])
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
    """A source whose steps cost what a list says, on a clock of its own."""

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
    assert (run.prefill, run.steps, run.total) == (5.0, [1.0, 2.0, 6.0], 14.0)


def test_rounds_are_interleaved_each_in_an_order_of_its_own(monkeypatch):
    order = []
    slow = {"a": 1.0, "b": 1.0, "c": 1.0, "d": interleaved.PATIENCE}

    def timed(source, *_):
        order.append(source)
        return timing.Run(slow[source], [], [])

    monkeypatch.setattr(interleaved, "timed_greedy", timed)
    comparison = object.__new__(interleaved.Comparison)
    comparison.models, comparison.prompts, comparison.steps = interleaved.Models("tiny", torch.device("cpu")), [[1]], 9
    comparison.device, comparison.sources = torch.device("cpu"), {name: name for name in slow}
    runs = comparison.time_interleaved({"a": 2, "b": 3, "c": 1, "d": 9})
    warm, first, second, third = order[:3], order[3:7], order[7:10], order[10:]
    assert warm == ["a", "b", "d"], "c has but one run"
    assert (set(first), set(second), third) == (set("abcd"), set("abd"), ["b"]), "two of d's runs are enough"
    assert [impl for impl in first if impl in second] != second
    assert {impl: len(done) for impl, done in runs.items()} == {"a": 2, "b": 3, "c": 1, "d": 2}


def test_a_sweep_keeps_each_cell_and_a_second_run_does_only_what_is_missing(tmp_path, capsys):
    results = tmp_path / "run.jsonl"
    sweep = ["--impl", "eager", "--device", "cpu", "--repeats", "1", "--results", str(results)]
    assert main([*sweep, "--new-tokens", "2,3"]) == 0
    first = results.read_bytes()
    assert [r["cell"]["new_tokens"] for r in records.read(results)] == [2, 3]
    assert main([*sweep, "--new-tokens", "3,4", "--batch", "1,2"]) == 0
    assert results.read_bytes().startswith(first)
    cells = [(r["cell"]["batch"], r["cell"]["new_tokens"]) for r in records.read(results)]
    assert cells == [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4)]
    assert "holds 1 of 4 cells" in capsys.readouterr().err


def test_a_cell_that_was_red_stays_red_when_the_sweep_goes_on(tmp_path, capsys, monkeypatch):
    results = tmp_path / "run.jsonl"
    with monkeypatch.context() as spoilt:
        spoilt.setitem(attention.DECODE_STEP, "eager", unscaled)
        assert main(["--impl", "eager", *QUICK, "--results", str(results)]) == 1
    (record,) = records.read(results)
    assert not any(row["runs"] for row in record["impls"])
    assert main(["--impl", "eager", *QUICK, "--results", str(results)]) == 1
    assert records.read(results) == [record]


def test_a_results_file_that_is_none_is_refused_and_kept(tmp_path, capsys):
    results = tmp_path / "notes.txt"
    results.write_text("my notes\n")
    assert main(["--impl", "eager", *QUICK, "--results", str(results)]) == 2
    assert "notes.txt:1: no JSON" in capsys.readouterr().err
    assert results.read_text() == "my notes\n"


@pytest.mark.parametrize("delay", [3.5, *(pytest.param(delay, marks=pytest.mark.exhaustive) for delay in (2.0, 5.0))])
def test_a_sweep_killed_at_any_moment_goes_on_where_it_stopped(tmp_path, delay):
    results = tmp_path / "run.jsonl"
    options = ["--impl", "eager", "--device", "cpu", "--repeats", "1", "--new-tokens", "2,3,4,5,6"]
    options += ["--results", str(results)]
    command = [sys.executable, str(ROOT / "bench" / "decode.py"), *options]
    with _child.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 240
        while not results.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(delay / 50)
        run.send_signal(signal.SIGKILL)
    kept = results.read_bytes()
    assert kept.endswith(b"\n")
    assert 1 <= len(records.read(results)) <= 5
    assert main(options) == 0
    assert results.read_bytes().startswith(kept)
    assert [r["cell"]["new_tokens"] for r in records.read(results)] == list(range(2, 7))
