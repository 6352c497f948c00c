"""bench/quantisation: its figures are the formulas' on the oracle's logits, and its record says what was measured."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof import reference
from kvproof.bench import quantisation
from kvproof.bench.measure import environment as measured
from kvproof.bench.quantisation import PLAIN, VARIANTS, Tally, compare, cut, main, paths
from kvproof.gpt2 import load
from kvproof.gpt2.int8_weights import dequantised
from kvproof.gpt2.weights import build
from kvproof.reference.cache import ContiguousCache, Int8Cache
from kvproof.reference.config import Config
from kvproof.reference.synthetic import random_tensors

CONFIG = Config(n_vocab=61, n_ctx=32, n_embd=32, n_head=2, n_layer=2, n_inner=64)
WINDOWS = np.random.default_rng(0).integers(CONFIG.n_vocab, size=(3, 9))


def make(weights: str | None):
    drawn = ((name, torch.from_numpy(array)) for name, array in random_tensors(CONFIG, 0))
    return build(CONFIG, drawn, None, torch.float64, torch.device("cpu"), "sdpa", False, weights)


def oracle(model, kind) -> np.ndarray:
    """Logits (B, T, V) after each token of WINDOWS but the last, by the reference with this cache, token by token."""
    params, cache = dequantised(model), kind(CONFIG, len(WINDOWS), WINDOWS.shape[1])
    return np.concatenate([reference.forward(ids[:, None], params, CONFIG, cache) for ids in WINDOWS.T[:-1]], 1)


def log_softmax(x):
    return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)


def perplexity(logits):
    chosen = np.take_along_axis(log_softmax(logits), WINDOWS[:, 1:, None], -1)
    return np.exp(-chosen.mean())


def test_every_figure_is_its_formula_on_the_oracle_s_logits():
    plain, quantised = make(None), make("int8")
    found = compare(paths(plain, quantised, 3, 8), torch.from_numpy(WINDOWS))
    want = oracle(plain, ContiguousCache)
    p = log_softmax(want)
    assert set(found) == set(VARIANTS)
    for name, (weights, kv) in VARIANTS.items():
        got = oracle(quantised if weights else plain, Int8Cache if kv else ContiguousCache)
        q, row = log_softmax(got), found[name].record()
        kl = (np.exp(p) * (p - q)).sum(-1)
        expected = {
            "logit_difference_max": np.abs(got - want).max(),
            "logit_difference_rms": np.sqrt(np.mean((got - want) ** 2)),
            "logits_rms": np.sqrt(np.mean(want**2)),
            "kl_mean": kl.mean(),
            "kl_max": kl.max(),
            "perplexity": perplexity(got),
            "perplexity_unquantised": perplexity(want),
            "top1_agree": (got.argmax(-1) == want.argmax(-1)).sum(),
            "tokens": 24,
        }
        assert row == pytest.approx(expected, rel=1e-7)
        assert row["kl_mean"] > 1e-7
        backwards = (np.exp(q) * (q - p)).sum(-1).mean()
        assert row["kl_mean"] != pytest.approx(backwards, rel=1e-5), "the direction shows"


def test_two_equal_paths_differ_by_nothing():
    tally, logits = Tally(), torch.randn(4, 7, dtype=torch.float64)
    tally.add(logits, logits.clone(), torch.tensor([0, 1, 2, 3]))
    row = tally.record()
    assert row["logit_difference_max"] == row["kl_mean"] == row["kl_max"] == 0
    assert row["perplexity"] == row["perplexity_unquantised"]
    assert row["top1_agree"] == row["tokens"] == 4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_no_figure(bad):
    logits = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="NaN or inf"):
        Tally().add(logits, torch.full((1, 3), bad), torch.tensor([0]))


def test_windows_come_from_each_text_in_turn_and_never_overlap():
    texts = {"a": torch.arange(10), "b": torch.arange(100, 107), "too short": torch.arange(2)}
    assert cut(texts, 4, 2).tolist() == [[0, 1, 2], [100, 101, 102], [3, 4, 5], [103, 104, 105]]
    with pytest.raises(ValueError, match="holds 5 windows of 3 tokens and 6 were asked for"):
        cut(texts, 6, 2)


def test_the_command_prints_the_table_and_keeps_the_record(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measured, "collect_env", str)  # it takes seconds
    text, results = tmp_path / "a.txt", tmp_path / "found.json"
    text.write_text("Once upon a time there was a king who had a daughter, and the daughter had a golden ball. " * 4)
    arguments = ["--text", str(text), "--windows", "2", "--context", "12"]
    assert main([*arguments, "--results", str(results)]) == 0
    shown, record = capsys.readouterr().out, json.loads(results.read_text())
    assert shown.index("commit") < shown.index("KL(p || q), nats") < shown.index(PLAIN) < shown.index("both")
    assert (record["model"], record["dtype"], record["impl"]) == ("tiny", "float32", "sdpa")
    assert record["text"] == {"from": ["a.txt"], "windows": 2, "context": 12}
    assert record["command"].startswith("python -m kvproof.bench.quantisation --text ")
    assert record["command"].endswith("--results found.json")
    assert {"versions", "commit", "device"} <= set(record["environment"])
    for row in record["found"].values():
        assert 0 < row["kl_mean"] <= row["kl_max"] < 0.1
        assert 0 < row["logit_difference_rms"] <= row["logit_difference_max"]
        assert row["tokens"] == 24
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["found"] == record["found"]


def test_without_a_text_it_reads_what_tiny_was_not_trained_on(monkeypatch, tmp_path):
    held_out = quantisation.read_text(load("tiny"), None)
    assert set(held_out) == {"grimms_fairy_tales", "tinyshakespeare"}
    assert all(len(ids) > 4096 for ids in held_out.values())
    monkeypatch.setattr(quantisation, "CORPUS", tmp_path / "none")
    with pytest.raises(ValueError, match="name a text with --text"):
        quantisation.read_text(load("tiny"), None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "gpt5"], "no model 'gpt5'"),
        (["--context", "2000"], "--context is 2000; the model has 1024 positions"),
        (["--text", "nowhere.txt"], "nowhere.txt: No such file"),
        (["--windows", "100000"], "windows of 257 tokens and 100000 were asked for"),
        (["--device", "tpu"], "device 'tpu' is not known"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(capsys, arguments, words):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench/quantisation: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["--windows", "--context"])
def test_nothing_is_refused(name):
    with pytest.raises(SystemExit) as end:
        main([name, "0"])
    assert end.value.code == 2


def test_the_readme_shows_the_committed_record():
    bench = Path(quantisation.__file__).parent
    record = json.loads((bench / "results" / "quantisation-tiny.json").read_text(encoding="utf-8"))
    lines = (bench / "README.md").read_text(encoding="utf-8").splitlines()
    assert (record["model"], record["dtype"], record["environment"]["dirty"]) == ("tiny", "float32", False)
    for name, row in record["found"].items():
        (shown,) = [line.strip("| ").split(" | ") for line in lines if line.startswith(f"| {name.split()[-1]} | ")]
        logits = [f"{row[f'logit_difference_{what}']:.2g}" for what in ("max", "rms")]
        kl = [f"{row[f'kl_{what}']:.1e}" for what in ("mean", "max")]
        share = f"{row['top1_agree'] / row['tokens']:.2%}"
        assert shown[1:] == [*logits, *kl, f"{row['perplexity']:.3f}", share]
        assert f"| nothing | | | | | {row['perplexity_unquantised']:.3f} | |" in lines


@pytest.mark.exhaustive
def test_a_part_of_the_committed_record_comes_out_again():
    """The same machine or another: a twentieth of the text has figures of the same size."""
    record = json.loads((Path(quantisation.__file__).parent / "results" / "quantisation-tiny.json").read_text())
    models = [load("tiny", weights=weights) for weights in (None, "int8")]
    windows = cut(quantisation.read_text(models[0], None), 4, 60)
    found = compare(paths(*models, 4, 60), windows)
    for name, tally in found.items():
        row, kept = tally.record(), record["found"][name]
        for figure in ("logit_difference_rms", "kl_mean", "logits_rms"):
            assert 0.5 < row[figure] / kept[figure] < 2, (name, figure)
