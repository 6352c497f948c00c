"""Wrong cached paths: a cache that outlives its run, its row order, its last tokens or its prompt."""

import numpy as np

from ...model import forward
from .base import cached_logits, fault, fresh, moved, prompt_length

EMBED, ATTENTION = (None, "embed"), (0, "attention")


@fault("cache", "casper-hansen/AutoAWQ/pull/178", EMBED)
def stale_cache(ids, params, config):
    """a warm-up run's token is still in the cache"""
    cache = fresh(ids, params, config)
    forward(ids[:, :1], params, config, cache)
    return cached_logits(ids, params, config, cache)


@fault("cache", "huggingface/transformers/pull/48809", EMBED)
def reset_keeps_the_length(ids, params, config):
    """reset zeroes what was cached and goes on counting it"""
    cache = fresh(ids, params, config)
    forward(ids[:, :1], params, config, cache)
    cache.k[..., :1, :] = cache.v[..., :1, :] = 0
    return cached_logits(ids, params, config, cache)


@fault("cache", "huggingface/transformers/issues/46612", ATTENTION)
def beams_not_reordered(ids, params, config):
    """the rows are reordered after the prompt and the cache is not; invisible at B = 1"""

    def spoil(cache):
        cache.k, cache.v = cache.k[:, ::-1].copy(), cache.v[:, ::-1].copy()

    return cached_logits(ids, params, config, spoil=spoil)


@fault("cache", "lucidrains/audiolm-pytorch/pull/265", (0, "c_proj"))
def attention_output_lost(ids, params, config):
    """a decode step computes the attention and does not add it"""

    def silent(p):
        none = {key: np.zeros_like(a) for key, a in p["attn"]["c_proj"].items()}
        return p | {"attn": p["attn"] | {"c_proj": none}}

    blocks = [silent(p) for p in params["h"]]
    return cached_logits(ids, params, config, decode_params=params | {"h": blocks})


@fault("cache", "ml-explore/mlx-lm/pull/1109", ATTENTION)
def rejected_draft_kept(ids, params, config):
    """a rejected draft token stays in the cache, though the positions are rewound"""

    def spoil(cache):
        cache.advance(1)
        slot = int(cache.lengths[0]) - 2
        for layer in range(config.n_layer):  # the draft's rows: the last token's, backwards
            cache.append(layer, *(a[layer, :, :, slot : slot + 1, ::-1] for a in (cache.k, cache.v)))

    return cached_logits(ids, params, config, decode_params=moved(params, -1), spoil=spoil)


@fault("cache", "lablup/mlxcel/issues/994", EMBED)
def crop_too_deep(ids, params, config):
    """a rewind trims one slot more than was drafted"""

    def spoil(cache):
        cache.lengths -= 1

    return cached_logits(ids, params, config, spoil=spoil)


@fault("cache", "ggml-org/llama.cpp/pull/12161", ATTENTION, closest=True)
def crop_without_recompute(ids, params, config):
    """the oldest token is cut off and the rows behind it move up, though they saw it and stand one further on"""
    cache, prompt = fresh(ids, params, config), prompt_length(ids)
    older = (ids[:, :1] + 1) % config.n_vocab
    forward(np.concatenate([older, ids[:, :prompt]], axis=1), params, config, cache)
    for a in (cache.k, cache.v):
        a[..., :prompt, :] = a[..., 1 : prompt + 1, :].copy()
    cache.lengths[:] = prompt
    logits = [forward(ids[:, :prompt], params, config)]
    logits += [forward(ids[:, t : t + 1], params, config, cache) for t in range(prompt, ids.shape[1])]
    return np.concatenate(logits, axis=1)


@fault("cache", "openvinotoolkit/openvino.genai/issues/3722", ATTENTION)
def prefix_of_another_prompt(ids, params, config):
    """the prefix cache takes another prompt's rows for this one's, whose hash is the same"""
    cache, reused = fresh(ids, params, config), max(1, prompt_length(ids) // 2)
    forward((ids[:, :reused] + 1) % config.n_vocab, params, config, cache)
    logits = [forward(ids[:, :reused], params, config)]
    logits += [forward(ids[:, t : t + 1], params, config, cache) for t in range(reused, ids.shape[1])]
    return np.concatenate(logits, axis=1)
