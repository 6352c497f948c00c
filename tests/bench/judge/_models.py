"""What the tests of the judge's subjects share: a small model in every dtype, and tiny random strangers."""

from unittest.mock import patch

import numpy as np
import pytest
import torch

from kvproof.bench.judge.subjects.ours import OurSubject
from kvproof.bench.measure.interleaved import Models

from ..._gpt2_models import random_prompts, small_model
from ..._reference_models import cast

RAGGED = (21, 30, 5)
STEPS = 6


class SmallModels(Models):
    """small_model as Models: 4 heads of 8, two layers, 61 tokens."""

    def __init__(self):
        super().__init__("small", torch.device("cpu"))

    def torch(self, dtype, impl="sdpa"):
        return small_model(4, 8, dtype)[0].with_impl(impl)

    def numpy(self, dtype):
        model, params = small_model(4, 8)
        return cast(params, dtype), model.config


def subject(a="eager", b="naive", lengths=RAGGED, steps=STEPS, inject=None):
    return OurSubject(SmallModels(), a, b, prompts=random_prompts(61, lengths), steps=steps, inject=inject)


def lengths_moved(by: int, attend):
    """A decode step whose attention reads `by` slots more than are filled, and at least one."""

    def step(q, cache, layer):
        with patch.object(cache, "host_lengths", [max(n + by, 1) for n in cache.host_lengths]):
            return attend(q, cache, layer)

    return step


def relative(a, b):
    """The largest difference of two arrays, relative to the second's rms."""
    return float(np.abs(a - b).max() / np.sqrt(np.mean(np.square(b))))


def stranger(family):
    """A tiny random causal LM of any family of transformers, by its model_type; float32."""
    transformers = pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[hf]'")
    config = transformers.CONFIG_MAPPING[family]()
    sizes = {
        "vocab_size": 61, "hidden_size": 32, "n_embd": 32, "d_model": 32, "embedding_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_attention_heads": 4, "n_head": 4, "n_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 8, "max_position_embeddings": 64, "n_positions": 64,
        "max_seq_len": 64, "initializer_range": 0.3,
    }  # fmt: skip
    heads = {} if family in ("gpt_neox", "roformer", "gptj", "phi") else {"num_key_value_heads": 2, "head_dim": 8}
    given = {key: value for key, value in sizes.items() if key in config.to_dict()} | heads
    given |= {"roformer": {"is_decoder": True}, "llama": {"intermediate_size": 48}}.get(family, {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[family](**given))
    return made.eval().requires_grad_(False)
