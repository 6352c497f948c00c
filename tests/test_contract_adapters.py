"""Hugging Face's caches under the contract: what holds, and where NaN in StaticCache's unused slots goes."""

import pytest
import torch

from kvproof.gpt2.contract.adapters import HuggingFace, small_model
from kvproof.gpt2.contract.cache import check_cache
from kvproof.gpt2.contract.report import BROKEN, NOT_CHECKED

transformers = pytest.importorskip(
    "transformers", reason="transformers is not here; python -m pip install -e '.[peers]'"
)


def tiny(family: str, dtype=torch.float32, attention="sdpa"):
    """A random model of two layers, unmodified but for its sizes."""
    torch.manual_seed(0)
    if family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=61, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
    else:
        config = transformers.LlamaConfig(
            vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
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
    assert set(report.named(NOT_CHECKED)) == {"pages permuted", "crop"}
    sentence = report.checks[0].sentence
    assert sentence.startswith("nan there changes the logits")
    assert sentence.endswith("dead slots are masked but not skipped, and 0 * NaN is NaN")


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
    with pytest.raises(ValueError, match="cache kind 'paged' is not known; choose dynamic or static"):
        HuggingFace(None, "paged")


def test_the_small_model_has_no_half_precision():
    with pytest.raises(NotImplementedError, match="the reference computes in float64 or float32, not in bfloat16"):
        small_model("bfloat16")
