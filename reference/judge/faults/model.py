"""Wrong models, with a cache and without: only an oracle sees these, cached and uncached agree."""

from dataclasses import replace
from functools import partial

import numpy as np

from ...model import forward
from .base import cached_logits, fault, forward_with, moved


def with_attention(params, change):
    """params in which block i has the attention weights change(i, attn), a dict of what differs."""
    blocks = [p | {"attn": p["attn"] | change(i, p["attn"])} for i, p in enumerate(params["h"])]
    return params | {"h": blocks}


@fault("model", "AutoGPTQ/AutoGPTQ/pull/139", (0, "c_proj"), closest=True)
def c_proj_untransposed(ids, params, config):
    """a square (out, in) weight loaded as (in, out)"""
    wrong = with_attention(params, lambda i, p: {"c_proj": p["c_proj"] | {"weight": p["c_proj"]["weight"].T}})
    return cached_logits(ids, wrong, config)


@fault("model", "apple/coremltools/pull/2863", (0, "mlp"))
def other_gelu(ids, params, config):
    """the exact GELU for the tanh one, or the other way round"""
    return cached_logits(ids, params, replace(config, gelu="exact" if config.gelu == "tanh" else "tanh"))


@fault("model", "huggingface/candle/pull/271", (0, "ln_1"))
def other_eps(ids, params, config):
    """LayerNorm's eps ten times too small"""
    return cached_logits(ids, params, replace(config, layer_norm_epsilon=config.layer_norm_epsilon / 10))


@fault("model", "BlackSamorez/tensor_parallel/pull/103", (0, "c_attn"))
def qkv_split_across_shards(ids, params, config):
    """the columns of Q, K and V are cut in two as one block, and each half is taken for a Q, K and V of its own"""
    E = config.n_embd
    halves = np.arange(3 * E).reshape(2, 3, E // 2)  # shard, q k v, column
    order = halves.transpose(1, 0, 2).ravel()
    wrong = with_attention(params, lambda i, p: {"c_attn": {key: a[..., order] for key, a in p["c_attn"].items()}})
    return cached_logits(ids, wrong, config)


@fault("model", "sbryngelson/ANEForge/pull/253", (0, "c_attn"))
def qkv_bias_dropped(ids, params, config):
    """the loader knows the projections' weights only"""

    def change(i, p):
        return {"c_attn": p["c_attn"] | {"bias": np.zeros_like(p["c_attn"]["bias"])}}

    return cached_logits(ids, with_attention(params, change), config)


@fault("model", "NVIDIA/Megatron-LM/pull/317", (1, "c_attn"), closest=True)
def scale_by_layer(ids, params, config):
    """scores divided by the layer's number, which this model was not trained with; invisible in the first layer"""
    E = config.n_embd

    def change(i, p):
        share = np.where(np.arange(3 * E) < E, 1 / (i + 1), 1)  # folded into the columns of Q
        return {"c_attn": {key: (a * share).astype(a.dtype) for key, a in p["c_attn"].items()}}

    return cached_logits(ids, with_attention(params, change), config)


def side_by_side_untransposed(o):
    """Heads (B, H, M, D) laid out as they lie in memory: (B, M, E)."""
    B, H, M, D = o.shape
    return o.reshape(B, M, H * D)


@fault("model", "jsbaan/transformer-from-scratch/pull/6", (0, "attention"))
def heads_merged_untransposed(ids, params, config):
    """heads and tokens are not transposed before the heads are put together; invisible in a pass of one token"""
    return cached_logits(ids, params, config, step=partial(forward_with, merge=side_by_side_untransposed))


@fault("model", "EleutherAI/gpt-neox/pull/650", (None, "embed"))
def position_offset(ids, params, config):
    """the position table starts two rows later, as another family's does"""
    return cached_logits(ids, moved(params, 2), config)


@fault("model", "facebookresearch/multimodal/pull/304", (None, "head"))
def ln_f_dropped(ids, params, config):
    """the head reads the last block's output, not the final LayerNorm's"""

    def step(ids, params, config, cache):
        trace = []
        forward(ids, params, config, cache, trace)
        head = params["wte" if config.tie_word_embeddings else "lm_head"]["weight"]
        return trace[-2] @ head.T

    return cached_logits(ids, params, config, step=step)


@fault("model", "vllm-project/vllm/pull/53020", (None, "head"))
def head_not_tied(ids, params, config):
    """the checkpoint has no head of its own and the loader leaves it at its random start (a model whose head is its
    own gets the embeddings instead)"""
    if not config.tie_word_embeddings:
        return cached_logits(ids, params, replace(config, tie_word_embeddings=True))
    wte = params["wte"]["weight"]
    head = (np.random.default_rng(0).standard_normal(wte.shape) * wte.std()).astype(wte.dtype)
    wrong = replace(config, tie_word_embeddings=False)
    return cached_logits(ids, params | {"lm_head": {"weight": head}}, wrong)


@fault("model", "mirage-project/mirage/issues/751", (None, "head"))
def padding_wins(ids, params, config):
    """the vocabulary is padded with rows of zeros, whose logit of 0 is taken for the last token's where that is
    negative"""
    logits = cached_logits(ids, params, config)
    logits[..., -1] = np.maximum(logits[..., -1], 0)
    return logits
