"""What a token costs, by config.json alone, is what the caches of transformers' own tiny models grow by."""

import json
import warnings
from typing import Any

import pytest

from kvproof.bench.memory.layers import GEMMA4, HYBRID, UNIFORM
from kvproof.bench.memory.sizes import read_shape

TINY = {
    "vocab_size": 97, "hidden_size": 64, "n_embd": 64, "d_model": 64, "intermediate_size": 96,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "ffn_dim": 96, "n_inner": 96,
    "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "num_layers": 4, "num_attention_heads": 4, "n_head": 4,
    "n_heads": 4, "attention_heads": 4, "num_key_value_heads": 2, "num_kv_heads": 2, "head_dim": 16, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_topk": 2, "n_group": 1,
    "topk_group": 1, "n_shared_experts": 1, "max_position_embeddings": 256, "n_positions": 256, "n_ctx": 256,
    "sliding_window": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "rotary_dim": 8, "mamba_d_state": 8,
    "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_num_heads": 4, "mamba_head_dim": 16,
    "ssm_state_size": 8, "n_groups": 1, "mamba_expand": 2, "conv_L_cache": 3, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "block_size": 64,
    "vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8, "max_window_layers": 2,
}  # fmt: skip
ATTENTION, NONE = "full_attention", "linear_attention"
# What the fields that make a family different change: each is a model of its own.
CHANGES = {
    "bamba": [{"attn_layer_indices": [1]}, {"attn_layer_indices": [0, 3]}],
    "falcon": [{"multi_query": False, "num_kv_heads": None}],
    "falcon_h1": [{"mamba_d_ssm": 128}],
    "gemma4_text": [
        {"num_global_key_value_heads": 4},
        {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", ATTENTION] * 2},
        {"global_head_dim": 32},
    ],
    "gpt_bigcode": [{"multi_query": False}],
    "granitemoehybrid": [{"layer_types": ["mamba", "attention", "mamba", "mamba"]}],
    "jamba": [{"attn_layer_period": 2, "attn_layer_offset": 1}, {"attn_layer_period": 3, "attn_layer_offset": 0}],
    "lfm2": [{"layer_types": ["conv", ATTENTION, "conv", "conv"]}],
    "lfm2_moe": [{"layer_types": ["conv", ATTENTION, ATTENTION, "conv"]}],
    "llama": [{"num_key_value_heads": 1, "head_dim": 24}, {"num_hidden_layers": 3}],
    "minimax": [{"layer_types": [NONE, NONE, NONE, ATTENTION]}],
    "qwen3_next": [{"layer_types": [NONE, ATTENTION, NONE, ATTENTION]}],
}
ALONE = {"deci", "nemotron-nas", "openelm"}  # which transformers does not have
MUST_SAY = ("bamba", "falcon_h1", "granitemoehybrid", "jamba", "lfm2_moe")  # which layers have attention
QUICK = [("llama", 1), ("gemma4_text", 0), ("jamba", 0), ("qwen3_next", 0), ("falcon", 0)]


def sample():
    """(model type, changes) of every model; those that are not quick are exhaustive."""
    for kind in sorted((UNIFORM | HYBRID | GEMMA4) - ALONE):
        for i, change in enumerate([{}, *CHANGES.get(kind, [])]):
            if change or kind not in MUST_SAY:
                marks = () if (kind, i) in QUICK else pytest.mark.exhaustive
                yield pytest.param(kind, change, marks=marks, id=f"{kind}-{i}")


def tiny_config(kind: str, change: dict):
    transformers = pytest.importorskip("transformers")
    from transformers import CONFIG_MAPPING

    transformers.logging.set_verbosity_error()
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    known = CONFIG_MAPPING[kind]()
    names = set(known.to_dict()) | set(vars(known))
    fields: dict[str, Any] = {name: value for name, value in TINY.items() if name in names}
    if "layer_types" in change:
        fields["num_hidden_layers"] = len(change["layer_types"])
    return CONFIG_MAPPING[kind](**fields | change)


def growth(config) -> int:
    """Bytes that one token adds to the cache that the model makes, K and V of all layers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        held = []
        for n in (3, 5):
            with torch.no_grad():
                cache = model(torch.arange(3, 3 + n)[None], use_cache=True).past_key_values
            both = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
            held.append(sum(x.nbytes for pair in both for x in pair if isinstance(x, torch.Tensor)))
    return (held[1] - held[0]) // 2


@pytest.mark.parametrize(("kind", "change"), list(sample()))
def test_a_token_costs_what_a_real_cache_grows_by(kind, change, tmp_path):
    config = tiny_config(kind, change)
    config.save_pretrained(tmp_path)
    assert read_shape(str(tmp_path)).token_bytes("float32") == growth(config)


def test_falcon_s_new_architecture_is_counted_as_it_is_and_transformers_repetition_named(tmp_path):
    config = tiny_config("falcon", {"new_decoder_architecture": True})
    config.save_pretrained(tmp_path)
    shape = read_shape(str(tmp_path))
    assert growth(config) == 2 * shape.token_bytes("float32")  # 4 query heads of 2 KV heads
    assert any("transformers repeats" in note for note in shape.notes)


BASE = {
    "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64,
    "max_position_embeddings": 4096, "num_hidden_layers": 6,
}  # fmt: skip


def shape_of(kind, fields, folder):
    (folder / "config.json").write_text(json.dumps(BASE | {"model_type": kind} | fields))
    return read_shape(str(folder))


HYBRIDS = [
    ("jamba", {"attn_layer_period": 3, "attn_layer_offset": 2}, 2),
    ("qwen3_next", {"full_attention_interval": 2}, 3),
    ("nemotron_h", {"hybrid_override_pattern": "M-*M*-"}, 2),
    ("bamba", {"attn_layer_indices": [5]}, 1),
    ("lfm2", {"full_attn_idxs": [0, 1, 4]}, 3),
    ("minimax", {"attn_type_list": [0, 1, 0, 1, 1, 1]}, 4),
    ("granitemoehybrid", {"layer_types": ["mamba"] * 5 + ["attention"]}, 1),
    ("falcon_h1", {}, 6),
]


@pytest.mark.parametrize(("kind", "fields", "layers"), HYBRIDS, ids=[kind for kind, _, _ in HYBRIDS])
def test_layers_that_keep_no_keys_are_not_counted_and_named(kind, fields, layers, tmp_path):
    shape = shape_of(kind, fields, tmp_path)
    assert shape.token_bytes("bfloat16") == 2 * layers * 4 * 64 * 2
    assert shape.token_bytes("int8") == 2 * layers * 4 * (64 + 4)
    assert any(f"{6 - layers} of 6 layers keep no K and V" in note for note in shape.notes) == (layers < 6)


PER_LAYER = [
    ("deci", {"num_key_value_heads": None, "num_key_value_heads_per_layer": [4, 2, 1, None, 8, 16]}, 31),
    ("openelm", {"num_query_heads": [4, 4, 8, 8, 8, 16], "num_key_value_heads": None,
        "num_kv_heads": [1, 1, 2, 2, 2, 4]}, 12),
    ("nemotron-nas", {"num_key_value_heads": None, "block_configs": [
        {"attention": {"n_heads_in_group": 8}}, {"attention": {"n_heads_in_group": 4}}, {"attention": {"no_op": True}},
        {"attention": {"replace_with_linear": True}}, {"attention": {"n_heads_in_group": 16}},
        {"attention": {"n_heads_in_group": 8}}]}, 9),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields", "heads"), PER_LAYER, ids=[kind for kind, _, _ in PER_LAYER])
def test_heads_that_differ_by_layer_are_counted_layer_by_layer(kind, fields, heads, tmp_path):
    assert shape_of(kind, fields, tmp_path).token_bytes("float16") == 2 * heads * 64 * 2


def test_two_widths_of_heads_are_told_apart(tmp_path, capsys):
    from kvproof.bench.memory.__main__ import main

    fields = {"layer_types": ["sliding_attention", "sliding_attention", ATTENTION] * 2, "global_head_dim": 128}
    assert shape_of("gemma4_text", fields, tmp_path).token_bytes("float32") == 2 * 4 * (4 * 64 + 2 * 128) * 4
    assert main(["--model", str(tmp_path), "--context", "128"]) == 0
    said = capsys.readouterr().out
    assert "4 with 4 KV heads of 16, head_dim 64; 2 with 4 KV heads of 16, head_dim 128" in said
