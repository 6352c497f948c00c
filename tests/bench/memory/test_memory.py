"""What a cache costs: the arithmetic is the real caches' own bytes, configs are read or refused, and the peak holds."""

import json
import os
import sys
from dataclasses import asdict
from functools import partial

import ml_dtypes
import numpy as np
import pytest
import torch

from kvproof.bench.memory import peak as memory_peak
from kvproof.bench.memory import picture as memory_picture
from kvproof.bench.memory.__main__ import main
from kvproof.bench.memory.sizes import (
    GPT3,
    cache_bytes,
    largest_batch,
    longest_context,
    of_config,
    of_gpt2,
    read_shape,
    waste,
)
from kvproof.bench.program import write_figure
from kvproof.gpt2 import StaticCache, load
from kvproof.gpt2.int8_cache import Int8PagedCache, Int8StaticCache
from kvproof.gpt2.weights import DTYPES
from kvproof.reference.cache import ContiguousCache, Int8Cache, PagedCache
from kvproof.reference.config import Config
from kvproof.reference.synthetic import SIZES

SMALL = Config(n_vocab=40, n_ctx=300, n_embd=50, n_head=25, n_layer=2, n_inner=200)  # XL's number of heads
CONFIGS = {"25 heads": SMALL, "distilgpt2": SIZES["distilgpt2"]}
ARRAYS = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LLAMA = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
}  # fmt: skip
QWEN2 = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 32768,
}  # fmt: skip
QWEN3 = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}  # fmt: skip


def real_bytes(cache) -> dict[str, int]:
    """The parts of a NumPy cache, each counted by NumPy."""
    arrays = {name: value.nbytes for name, value in vars(cache).items() if isinstance(value, np.ndarray)}
    parts = {"kv": arrays.pop("k") + arrays.pop("v")}
    return parts | {"scales": arrays.pop("k_scale", 0) + arrays.pop("v_scale", 0)} | arrays


@pytest.mark.parametrize("dtype", ARRAYS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_numpy_caches_weigh_what_the_arithmetic_says(config, dtype):
    shape = of_gpt2("", config)
    for batch, capacity in ((1, 1), (3, 130), (8, 17)):
        contiguous = ContiguousCache(config, batch, capacity, ARRAYS[dtype])
        assert cache_bytes(shape, "contiguous", batch, capacity, dtype) == real_bytes(contiguous)
        int8 = Int8Cache(config, batch, capacity, ARRAYS[dtype])
        assert cache_bytes(shape, "int8", batch, capacity, "int8") == real_bytes(int8)
        for page in (1, 16, 64):
            paged = PagedCache(config, batch, capacity, ARRAYS[dtype], page)
            free = sys.getsizeof(paged.free) - sys.getsizeof([])
            want = real_bytes(paged) | {"free_list": free}
            assert cache_bytes(shape, "paged", batch, capacity, dtype, page) == want


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_torch_cache_weighs_what_the_arithmetic_says(config, dtype):
    for impl, kind in (("sdpa", "static"), ("triton", "triton")):
        for batch, capacity in ((1, 1), (3, 130), (8, 257)):
            cache = StaticCache(config, batch, capacity, dtype=DTYPES[dtype], impl=impl)
            parts = {"kv": sum(x.nbytes for x in (*cache.k, *cache.v)), "scales": 0}
            parts |= {"lengths": cache.lengths.nbytes, "rows": cache.rows.nbytes}
            if cache.workspace is not None:
                parts["workspace"] = sum(x.nbytes for x in cache.workspace)
            assert cache_bytes(of_gpt2("", config), kind, batch, capacity, dtype) == parts
            assert ("workspace" in parts) == (impl == "triton")


@pytest.mark.parametrize("page", [None, 16])
def test_the_int8_cache_of_torch_weighs_what_the_arithmetic_says(page):
    kind = Int8StaticCache if page is None else partial(Int8PagedCache, page=page)
    for batch, capacity in ((1, 1), (3, 130)):
        cache = kind(SMALL, batch, capacity)
        parts = cache_bytes(of_gpt2("", SMALL), "static" if page is None else "paged", batch, capacity, "int8", page)
        assert parts["kv"] == sum(x.nbytes for x in (*cache.k, *cache.v))
        assert parts["scales"] == sum(x.nbytes for x in (*cache.k_scale, *cache.v_scale))


def test_a_token_of_the_arithmetic_is_the_slope_of_the_real_cache():
    for dtype in (*ARRAYS, "int8"):
        small, large = (sum(cache_bytes(of_gpt2("", SMALL), "int8", 3, T, dtype).values()) for T in (7, 8))
        assert large - small == 3 * of_gpt2("", SMALL).token_bytes(dtype)


@pytest.mark.parametrize("page", [None, 1, 3, 16, 100])
def test_the_closed_form_of_waste_is_the_pages_that_ragged_sequences_hold(page):
    config = Config(n_vocab=4, n_ctx=64, n_embd=2, n_head=1, n_layer=1, n_inner=2)
    for capacity in (1, 16, 37):
        lost = []
        for n in range(1, capacity + 1):
            if page is None:
                cache = ContiguousCache(config, 1, capacity)
                cache.advance(n)
                held = cache.k.shape[3]
            else:
                cache = PagedCache(config, 1, capacity, page=page)
                cache.advance(n)
                held = page * int((cache.block_table >= 0).sum())
            lost.append(held - n)
        mean, worst = waste(capacity, page)
        assert mean == pytest.approx(np.mean(lost), rel=1e-12)
        assert worst >= max(lost)
        if page is None or capacity >= page:
            assert worst == max(lost)


@pytest.mark.parametrize("name", ["tiny", "random:distilgpt2"])
def test_parameters_are_counted_as_the_model_holds_them(name):
    model = load(name)
    for dtype in ("float32", "bfloat16"):
        assert read_shape(name).weight_bytes(dtype) == sum(p.nbytes for p in model.to(DTYPES[dtype]).parameters())


@pytest.mark.parametrize(("raw", "parameters", "token"), [
    (LLAMA, 8_030_261_248, 131072),  # the sums of the published checkpoints' tensors
    (LLAMA | {"model_type": "mistral", "vocab_size": 32000}, 7_241_732_096, 131072),
    (QWEN2, 494_032_768, 12288),
    (QWEN3, 596_049_920, 114688),
], ids=["Llama-3.1-8B", "Mistral-7B", "Qwen2-0.5B", "Qwen3-0.6B"])  # fmt: skip
def test_grouped_heads_and_parameters_of_published_configs(raw, parameters, token):
    shape = of_config("x", raw)
    assert (shape.parameters, shape.token_bytes("bfloat16")) == (parameters, token)
    assert of_config("x", {"text_config": raw}).token_bytes("bfloat16") == token
    assert not shape.notes


def test_a_window_is_named_and_counted_in_full():
    plain, windowed = of_config("x", LLAMA), of_config("x", LLAMA | {"sliding_window": 4096})
    assert windowed.token_bytes("float32") == plain.token_bytes("float32")
    assert "sliding_window 4096 saves nothing here" in windowed.notes[0]


@pytest.mark.parametrize(("change", "words"), [
    ({"num_key_value_heads": 5}, "32 query heads came with 5 KV heads"),
    ({"num_hidden_layers": None}, "lacks num_hidden_layers"),
    ({"num_hidden_layers": "32"}, "num_hidden_layers is '32'"),
    ({"hidden_size": 4095}, "no multiple of 32 heads"),
    ({"kv_lora_rank": 512}, "kv_lora_rank is 512"),
    ({"layer_types": ["linear_attention", "full_attention"]}, "layer_types has 2 layers; the model has 32"),
    ({"layer_types": ["full_attention"] * 31 + ["spiral"]}, "layer_types has spiral; only attention layers"),
    ({"layer_types": ["full_attention"] * 32, "attn_layer_period": 2}, "name different layers for attention"),
    ({"layer_types": ["conv"] * 32}, "none of its 32 layers keeps K and V"),
    ({"model_type": "brand_new"}, "model_type 'brand_new' is not one whose cache is known"),
    ({"model_type": "mamba"}, "model_type 'mamba' is not one whose cache is known"),
    ({"model_type": "jamba"}, "config.json of a jamba does not say which of its 32 layers have attention"),
    ({"num_kv_shared_layers": 8}, "num_kv_shared_layers is 8: layers share their keys and values"),
    ({"swa_head_dim": 64}, "swa_head_dim is 64: layers with a window have heads of another width"),
    ({"is_encoder_decoder": True}, "an encoder's keys and values are cached too"),
    ({"num_key_value_heads_per_layer": [8] * 31}, "there must be 32, one for each layer"),
    ({"num_key_value_heads_per_layer": [8] * 31 + [5]}, "32 query heads came with 5 KV heads"),
])  # fmt: skip
def test_a_config_whose_cache_is_not_counted_here_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        of_config("x", LLAMA | change)


@pytest.mark.parametrize("page", [None, 16])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_what_fits_fits_and_one_more_does_not(dtype, page):
    shape, room = read_shape("gpt2-xl"), 2 * 10**9
    kind, step = ("contiguous", 1) if page is None else ("paged", page)

    def total(batch, n):
        return sum(cache_bytes(shape, kind, batch, n, dtype, page).values())

    for batch in (1, 7):
        n = longest_context(shape, room, batch, dtype, page)
        assert total(batch, n) <= room < total(batch, n + step)
        most = largest_batch(shape, room, 1000, dtype, page)
        assert total(most, 1000) <= room < total(most + 1, 1000)
    assert longest_context(shape, -1, 1, dtype, page) == largest_batch(shape, -1, 9, dtype, page) == 0


def test_the_two_tables_of_the_seeds_come_without_arguments(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for n in (128, 256, 512, 1024, 2048, 4096, 8192):
        mb = 2 * 12 * 768 * 4 * n
        assert f"1 {n:>8,} {f'{mb / 1e6:,.2f} ({mb / 2**20:,.2f})':>23}" in out
    for n in (1024, 2048, 4096, 8192, 16384, 32768):
        gb = 2 * 96 * 12288 * 2 * n
        assert f"{gb / 1e9:,.2f} ({gb / 2**30:,.2f})" in out
    assert "the model itself stops at n_ctx 1,024" in out
    assert "weights 124,439,808 parameters" in out
    assert of_gpt2("gpt3", GPT3).parameters == pytest.approx(175e9, rel=0.005)


def test_json_has_the_figures_and_what_fits(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    arguments = ["--model", str(tmp_path), "--batch", "2", "--context", "4096", "--page", "16", "--dtype", "bfloat16"]
    assert main([*arguments, "--gpu", "16,24", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert [cell["kv"] for cell in record["caches"]] == [2 * 4096 * 131072] * 2
    assert record["fits"][0]["longest_context"] == {"2": 0}  # the weights leave nothing of 16 GB
    assert record["fits"][2]["longest_context"] == {"2": (24 * 10**9 - 2 * 8_030_261_248 - 8) // (2 * 131072)}
    assert main([*arguments, "--gpu", "16,24"]) == 0
    out = capsys.readouterr().out
    assert "bfloat16: nothing; the weights in bfloat16 take 16.06 GB" in out
    assert "24 GB (10^9 bytes, 22.35 GiB)" in out


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--model", "gpt5"], "no model 'gpt5'"), (["--plot", "x.docx"], "docx")]
)
def test_a_mistake_is_one_line_and_code_2(capsys, arguments, words):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench/memory: ")
    assert words in error
    assert error.count("\n") == 1


def test_parameters_that_a_config_does_not_tell_are_asked_for(capsys, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA | {"model_type": "mixtral"}))
    assert main(["--model", str(path), "--gpu", "80"]) == 2
    assert "pass --parameters" in capsys.readouterr().err
    assert main(["--model", str(path), "--gpu", "80", "--parameters", "46.7e9"]) == 0
    assert "the weights in bfloat16 take 93.40 GB" in capsys.readouterr().out


def test_the_picture_draws_every_byte_on_log_axes(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    seen = []
    panel = memory_picture.panel
    monkeypatch.setattr(memory_picture, "panel", lambda axes, *rest: (panel(axes, *rest), seen.append(axes)))
    figure = memory_picture.draw([read_shape("gpt2")], [[128, 8192]], ["float32", "int8"], 2)
    (axes,) = seen
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    drawn = [line.get_ydata() for line in axes.lines[:2]]
    np.testing.assert_allclose(drawn, [[18.874368, 1207.959552], [5.013504, 320.864256]], rtol=1e-12)
    write_figure(tmp_path / "x.png", figure)
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def peak_of_tensors(work) -> int:
    """The most bytes of tensors alive at once that `work` made, by torch's own account of each."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as trace:
        work()
    assert trace.profiler is not None
    results = trace.profiler.kineto_results
    assert results is not None
    events: list = [e for e in results.events() if e.name() == "[memory]"]
    live = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(live.max())


def test_activations_are_what_torch_has_alive_at_the_worst_moment():
    model = load("tiny", impl="sdpa")
    prompts, ids = [[1] * 64] * 8, torch.zeros(8, dtype=torch.long)
    cache = model.new_cache(8, 100)
    model.prefill(prompts, cache)
    cache.reset()
    counted = memory_peak.activations(model.config, 8, 64, 4)
    made = peak_of_tensors(lambda: model.prefill(prompts, cache))
    assert counted["prefill"] <= made <= counted["prefill"] * 1.005  # the ids make the difference
    logits = [model.decode(ids, cache)]
    made = peak_of_tensors(lambda: logits.append(model.decode(ids, cache)))
    made += logits[0].nbytes  # generate keeps a step's logits until the next has its own
    assert counted["decode"] <= made <= counted["decode"] + 2**19  # the scratch of oneDNN's products


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")


@linux
def test_the_peak_of_generating_is_weights_cache_and_one_pass():
    task = {"model": "tiny", "batch": 8, "prompt": 64, "new": 64, "dtype": "float32", "device": "cpu"}
    alive = memory_peak.run(task, os.environ | memory_peak.RETURNING)
    parts = memory_peak.expected(Config(**alive["config"]), 8, 64, 64, "float32")
    # The baseline keeps up to 1.4 MB of freed small blocks that the model then takes; the weights alone are 0.41.
    assert 0.85 < alive["peak"] / (parts["weights"] + parts["cache"] + parts["activations"]) <= memory_peak.BAR


def test_a_measured_process_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(memory_peak.sys, "executable", "false")
    with pytest.raises(ValueError, match="the measured process failed: no words"):
        memory_peak.measure("tiny", 1, 2, 2, "float32", "cpu")


@pytest.mark.parametrize(("alive", "code"), [(2_000_105, 0), (2_000_106, 1)])
def test_a_peak_above_the_bar_is_red(monkeypatch, capsys, alive, code):
    def run(task, env):
        return {"peak": alive, "config": asdict(SMALL)}

    with monkeypatch.context() as patch:
        patch.setattr(memory_peak, "run", run)
        patch.setattr(memory_peak, "expected", lambda *cell: {"weights": 60, "cache": 30, "activations": 10})
        measured = memory_peak.measure("tiny", 2, 5, 3, "float32", "cpu")
    figures = memory_peak.expected(SMALL, 2, 5, 3, "float32") | measured
    names = ("model", "batch", "prompt", "new", "dtype", "device")
    monkeypatch.setattr(
        "kvproof.bench.memory.__main__.measure", lambda *cell: dict(zip(names, cell, strict=True)) | figures
    )
    assert main(["--measure", "--batch", "2", "--context", "5"]) == code
    assert ("ABOVE 1.05 times and 2 MB" in capsys.readouterr().out) == bool(code)


@linux
@pytest.mark.exhaustive
@pytest.mark.parametrize(("batch", "dtype"), [(1, "float32"), (8, "float32"), (8, "bfloat16")])
def test_the_peak_of_124_million_parameters_holds(batch, dtype):
    result = memory_peak.measure("random:gpt2", batch, 64, 64, dtype, "cpu")
    assert 0.97 < result["ratio"] <= memory_peak.BAR
    assert result["held"] <= memory_peak.BAR * result["sum"]
