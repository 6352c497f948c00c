"""Hugging Face's caches under the contract: what holds, what a window cannot keep, where NaN in unused slots goes."""

from typing import Any

import pytest
import torch

from kvproof.bench.judge.contract.adapters import HuggingFace, small_model
from kvproof.bench.judge.contract.cache import check_cache
from kvproof.bench.judge.contract.report import BROKEN, NOT_CHECKED

from ._broken_caches import sentence

transformers = pytest.importorskip("transformers", reason="transformers is not here; python -m pip install -e '.[hf]'")


def sized(name: str, layers=2, **more):
    """A config of small sizes, by its class's name."""
    return getattr(transformers, name)(
        vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        **more,
    )  # fmt: skip


LAYERS = ["sliding_attention", "full_attention"]
CONFIGS = {
    "llama": lambda w: sized("LlamaConfig"),
    "mistral": lambda w: sized("MistralConfig", sliding_window=w),
    "qwen2": lambda w: sized("Qwen2Config", use_sliding_window=True, sliding_window=w, max_window_layers=1),
    "gemma2": lambda w: sized("Gemma2Config", sliding_window=w, layer_types=LAYERS),
    "gemma3": lambda w: sized("Gemma3TextConfig", sliding_window=w, layer_types=LAYERS),
    "gpt_oss": lambda w: sized("GptOssConfig", sliding_window=w, num_local_experts=4, num_experts_per_tok=2),
    "llama4": lambda w: sized("Llama4TextConfig", 4, attention_chunk_size=w, intermediate_size_mlp=64,
                              num_local_experts=2),
    "lfm2": lambda w: sized("Lfm2Config", full_attn_idxs=[1]),
    "jamba": lambda w: sized("JambaConfig", attn_layer_period=2, attn_layer_offset=1, num_experts=2,
                             use_mamba_kernels=False, mamba_d_state=4, mamba_dt_rank=4),
}  # fmt: skip


def tiny(family: str, dtype=torch.float32, attention="sdpa", window=7):
    """A random model of two layers, unmodified but for its sizes."""
    torch.manual_seed(0)
    if family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=61, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
    else:
        config = CONFIGS[family](window)
    config._attn_implementation = attention
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_dynamic_cache_keeps_every_promise_it_can_be_asked_for(family, dtype):
    model = tiny(family, dtype)
    report = check_cache(lambda: HuggingFace(model))
    assert report.green, str(report)
    assert set(report.named(NOT_CHECKED)) == {"dead slots", "one past", "pages permuted"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_nan_in_unused_slots_of_the_static_cache_poisons_the_logits_and_all_else_holds(family, attention):
    model = tiny(family, attention=attention)
    report = check_cache(lambda: HuggingFace(model, "static"))
    assert report.named(BROKEN) == ["dead slots"], str(report)
    assert set(report.named(NOT_CHECKED)) - {"crop"} == {"pages permuted"}  # before 5.24 StaticCache had no crop()
    words = sentence(report, "dead slots")
    assert words.startswith("nan there changes the logits")
    assert words.endswith("dead slots are masked but not skipped, and 0 * NaN is NaN")


# Windows below the prompt of 11 and above it, of its size, dividing it and not, and reached in the first step.
WINDOWS = (2, 4, 7, 11, 12, 40)
FAMILIES = ("mistral", "qwen2", "gemma2", "gemma3", "gpt_oss", "llama4")
some_windows = [
    pytest.param(family, window, marks=() if window == WINDOWS[i % 6] or window == 4 else pytest.mark.exhaustive)
    for i, family in enumerate(FAMILIES)
    for window in WINDOWS
]


@pytest.mark.parametrize(("family", "window"), some_windows)
def test_a_window_of_the_dynamic_cache_keeps_every_promise(family, window):
    model = tiny(family, attention="eager", window=window)
    report = check_cache(lambda: HuggingFace(model), batch=2, prompt=11)
    assert report.green, str(report)
    assert set(report.named(NOT_CHECKED)) <= {"dead slots", "one past", "pages permuted"}, str(report)
    layers = len(HuggingFace(model).new_cache().layers)
    assert "its slot is read from each of" in sentence(report, "last slot")
    assert f"of {2 * layers} buffers" in sentence(report, "last slot") or "chunk" in str(model.config.layer_types)


@pytest.mark.parametrize(("family", "window"), some_windows)
def test_a_window_of_the_static_cache_is_blamed_for_nan_in_unused_slots_alone(family, window):
    model = tiny(family, attention="eager", window=window)
    report = check_cache(lambda: HuggingFace(model, "static"), batch=2, prompt=11)
    assert set(report.named(BROKEN)) <= {"dead slots"}, str(report)
    assert set(report.named(NOT_CHECKED)) <= {"dead slots", "one past", "pages permuted", "crop"}, str(report)
    if "dead slots" in report.named(BROKEN):
        assert "masked but not skipped" in sentence(report, "dead slots")


def test_what_a_window_cannot_keep_is_not_checked_because():
    model = tiny("mistral", window=7)
    report = check_cache(lambda: HuggingFace(model, "static"), batch=2, prompt=11)
    assert sentence(report, "crop") == "the subject cannot: StaticSlidingWindowLayer keeps nothing to go back to"
    assert "one lies that may still be read" in sentence(report, "one past")
    unrecorded = HuggingFace(model)
    unrecorded.prefill(torch.arange(20)[None].numpy())
    with pytest.raises(NotImplementedError, match="DynamicSlidingWindowLayer keeps nothing to go back to"):
        unrecorded.crop(15)


@pytest.mark.parametrize(("family", "crops"), [("lfm2", True), ("jamba", False)])
def test_a_recurrent_state_is_no_slot(family, crops):
    model = tiny(family, attention="eager")
    report = check_cache(lambda: HuggingFace(model), batch=2, prompt=11)
    assert report.green, str(report)
    assert "read from each of 2 buffers" in sentence(report, "last slot")
    assert ("crop" in report.named("held")) == crops


def test_a_cache_that_rounds_what_it_keeps_is_not_blamed_for_rounding():
    model = tiny("llama")
    report = check_cache(lambda: HuggingFace(model, lambda: transformers.QuantizedCache("fp8", model.config)))
    # One scale for the whole batch: a row's tokens move the rounding of the others'.
    assert report.named(BROKEN) == ["rows apart"]
    assert {"chunks", "growing", "crop"} <= set(report.named(NOT_CHECKED))
    assert "the cache rounds what it keeps" in sentence(report, "growing")


def faulty(kind, *wrong, window=7):
    """A Mistral with a window, whose cache has layers with a fault mixed into their class."""
    model = tiny("mistral", window=window)

    def new_cache():
        cache = HuggingFace(model, kind, 40).new_cache()
        for i, layer in enumerate(cache.layers):
            cache.layers[i] = object.__new__(type("Wrong", (*wrong, type(layer)), {}))
            vars(cache.layers[i]).update(vars(layer))
        return cache

    return check_cache(lambda: HuggingFace(model, new_cache), batch=2, prompt=11)


Layer: Any = object  # what the faults are mixed into


class KeepsOneLess(Layer):
    """The window loses its oldest token."""

    def update(self, *states, **more):
        found = super().update(*states, **more)
        self.keys, self.values = (x[:, :, -self.sliding_window + 2 :] for x in (self.keys, self.values))
        return found

    def get_mask_sizes(self, query_length):
        kept = 0 if self.keys is None else self.keys.shape[-2] if self.keys.dim() == 4 else 0
        return kept + query_length, self.cumulative_length - kept


class RollsBack(Layer):
    """A full buffer is rolled the wrong way."""

    def update(self, key_states, value_states, *args, **more):
        if self.cumulative_length_int >= self.max_cache_len and key_states.shape[2] == 1:
            for x in (self.keys, self.values):
                x.copy_(x.roll(2, dims=2))
        return super().update(key_states, value_states, *args, **more)


class LosesOne(Layer):
    """A step's values are not written once the window is full."""

    def update(self, key_states, value_states, *args, **more):
        if self.cumulative_length_int >= self.max_cache_len and key_states.shape[2] == 1:
            value_states = self.values[:, :, :1]
        return super().update(key_states, value_states, *args, **more)


class CropsTooLittle(Layer):
    """A token too many is kept."""

    def crop(self, tokens_to_remove):
        super().crop(tokens_to_remove + 1)
        self.cumulative_length -= 1


def test_faults_of_a_window_are_called():
    assert {"growing", "chunks"} <= set(faulty("dynamic", KeepsOneLess).named(BROKEN))
    assert {"growing", "chunks"} <= set(faulty("static", RollsBack).named(BROKEN))
    assert {"growing", "dead slots"} <= set(faulty("static", LosesOne).named(BROKEN))
    assert faulty("dynamic", CropsTooLittle).named(BROKEN) == ["crop"]
    assert faulty("dynamic").named(BROKEN) == []


class WithoutPositions:
    """A model that is told where the padding is by the mask alone."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, **words):
        words.pop("position_ids", None)
        return self.model(**words)


def test_left_padding_without_position_ids_breaks_ragged_batches_alone():
    model = WithoutPositions(tiny("gpt2"))
    report = check_cache(lambda: HuggingFace(model))
    assert report.named(BROKEN) == ["ragged"], str(report)


def test_another_kind_of_cache_is_refused_by_name():
    with pytest.raises(ValueError, match="cache kind 'paged' is not known; choose dynamic or static, or give a func"):
        HuggingFace(None, "paged")


def test_the_small_model_has_no_half_precision():
    with pytest.raises(NotImplementedError, match="the reference computes in float64 or float32, not in bfloat16"):
        small_model("bfloat16")
