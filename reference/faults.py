"""Bugs planted on purpose: a test, a gate or a judge that lets one of these pass is itself broken.

An "attention" fault is a wrong decode op; a "model" fault is a wrong cached path through the whole model. Each is what
somebody has really written, so each looks right at a glance and runs without complaint.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from .cache import ContiguousCache
from .model import attention, forward

BLOCK = 16  # slots that a blocked fault handles at a time


@dataclass(frozen=True)
class Fault:
    """One bug.

    kind      "attention": apply(q, k, v, lengths, scale=None) -> o, wrong where `decode` is right
              "model": apply(ids, params, config) -> logits (B, T, V), wrong where `cached_logits` is right
    imitates  the mistake in words, and where it is invisible
    """

    name: str
    kind: str
    apply: Callable[..., np.ndarray]
    imitates: str


def decode(q, k, v, lengths, scale=None, attend=attention):
    """The honest op: one new token per sequence attends to its live slots, in float64, rounded once.

    q (B, H, D); k, v (B, H, T, D); lengths (B,), 0 gives zeros; returns (B, H, D) in q's dtype.
    """
    o = np.zeros(q.shape)
    for b, n in enumerate(lengths):
        if n:
            live = (a.astype(np.float64) for a in (q[b, :, None], k[b, :, :n], v[b, :, :n]))
            o[b] = attend(*live, scale)[:, 0]
    return o.astype(q.dtype)


def no_scale(q, k, v, lengths, scale=None):
    return decode(q, k, v, lengths, scale=1.0)


def length_short(q, k, v, lengths, scale=None):
    return decode(q, k, v, np.maximum(lengths - 1, 0), scale)


def length_long(q, k, v, lengths, scale=None):
    return decode(q, k, v, np.minimum(lengths + 1, k.shape[2]), scale)


def strides_swapped(q, k, v, lengths, scale=None):
    """Address V's memory by K's strides; past its end the address wraps, where a GPU would read on."""
    owner = v
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    memory = owner.ravel(order="K")
    start = (v.__array_interface__["data"][0] - memory.__array_interface__["data"][0]) // v.itemsize
    address = sum(i * (stride // k.itemsize) for i, stride in zip(np.indices(v.shape), k.strides, strict=True))
    return decode(q, k, memory[(start + address) % memory.size], lengths, scale)


def v_from_k(q, k, v, lengths, scale=None):
    return decode(q, k, k, lengths, scale)


def head_zero(q, k, v, lengths, scale=None):
    return decode(q, np.broadcast_to(k[:, :1], k.shape), np.broadcast_to(v[:, :1], v.shape), lengths, scale)


def head_next(q, k, v, lengths, scale=None):
    return decode(q, np.roll(k, -1, axis=1), np.roll(v, -1, axis=1), lengths, scale)


def tail_dropped(q, k, v, lengths, scale=None):
    return decode(q, k, v, lengths // BLOCK * BLOCK, scale)


def tail_unmasked(q, k, v, lengths, scale=None):
    return decode(q, k, v, np.minimum(-(-lengths // BLOCK) * BLOCK, k.shape[2]), scale)


def missing_rescale(q, k, v, lengths, scale=None):
    def attend(q, k, v, scale):
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        m, l, acc = -np.inf, 0.0, 0.0
        for t in range(0, k.shape[1], BLOCK):
            s = q @ k[:, t : t + BLOCK].swapaxes(1, 2) * scale  # (H, 1, N)
            m_new = np.maximum(m, s.max(-1, keepdims=True))
            p = np.exp(s - m_new)
            l = l * np.exp(m - m_new) + p.sum(-1, keepdims=True)
            acc = acc + p @ v[:, t : t + BLOCK]  # acc is still in units of the old maximum
            m = m_new
        return acc / l

    return decode(q, k, v, lengths, scale, attend)


def half_sums(q, k, v, lengths, scale=None):
    def attend(q, k, v, scale):
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        s = q @ k.swapaxes(1, 2) * scale  # (H, 1, T)
        p = np.exp(s - s.max(-1, keepdims=True)).astype(np.float16)
        l, acc = np.zeros_like(p[..., :1]), np.zeros_like(q, np.float16)
        for t in range(k.shape[1]):
            l = l + p[..., t : t + 1]
            acc = acc + p[..., t : t + 1] * v[:, t : t + 1].astype(np.float16)
        return acc / l

    return decode(q, k, v, lengths, scale, attend)


def cached_logits(ids, params, config, cache=None, decode_params=None):
    """The honest cached path: the first half of ids (B, T) as a prompt, the rest token by token; logits (B, T, V).

    decode_params, if given, replace params once the prompt has been read.
    """
    B, T = ids.shape
    if cache is None:
        cache = ContiguousCache(config, B, config.n_ctx, params["wte"]["weight"].dtype)
    prompt = (T + 1) // 2
    logits = [forward(ids[:, :prompt], params, config, cache)]
    for a, b in pairwise(range(prompt, T + 1)):
        logits.append(forward(ids[:, a:b], decode_params or params, config, cache))
    return np.concatenate(logits, axis=1)


def positions_off_by_one(ids, params, config):
    late = np.roll(params["wpe"]["weight"], -1, axis=0)
    return cached_logits(ids, params, config, decode_params=params | {"wpe": {"weight": late}})


def stale_cache(ids, params, config):
    cache = ContiguousCache(config, len(ids), config.n_ctx, params["wte"]["weight"].dtype)
    forward(ids[:, :1], params, config, cache)  # a warm-up that nobody cleans up after
    return cached_logits(ids, params, config, cache)


class LosesOneAppend(ContiguousCache):
    """In the first layer the append that makes the lengths `lost` is not written; the slot keeps what it had."""

    lost = 0

    def append(self, layer, k, v):
        if layer > 0 or self.lengths[0] != self.lost:
            super().append(layer, k, v)


def stale_slot(ids, params, config):
    cache = LosesOneAppend(config, len(ids), config.n_ctx, params["wte"]["weight"].dtype)
    cached_logits((ids + 1) % config.n_vocab, params, config, cache)  # an earlier run leaves other rows behind
    cache.reset()
    cache.lost = (ids.shape[1] + 1) // 2 + 1
    return cached_logits(ids, params, config, cache)


def c_proj_untransposed(ids, params, config):
    def turned(p):
        return p | {"attn": p["attn"] | {"c_proj": p["attn"]["c_proj"] | {"weight": p["attn"]["c_proj"]["weight"].T}}}

    return cached_logits(ids, params | {"h": [turned(p) for p in params["h"]]}, config)


def other_gelu(ids, params, config):
    return cached_logits(ids, params, replace(config, gelu="exact" if config.gelu == "tanh" else "tanh"))


def other_eps(ids, params, config):
    return cached_logits(ids, params, replace(config, layer_norm_epsilon=config.layer_norm_epsilon / 10))


FAULTS = (
    Fault("no_scale", "attention", no_scale, "scores not divided by √D; invisible at D = 1"),
    Fault("length_short", "attention", length_short, "the new token's own slot is not read"),
    Fault("length_long", "attention", length_long, "one dead slot is read; invisible when the cache is full"),
    Fault("strides_swapped", "attention", strides_swapped, "V read by K's strides; invisible when both share a layout"),
    Fault("v_from_k", "attention", v_from_k, "values loaded through K's pointer"),
    Fault("head_zero", "attention", head_zero, "the head index is lost, every head reads head 0; invisible at H = 1"),
    Fault("head_next", "attention", head_next, "head h reads head h + 1; invisible at H = 1"),
    Fault("tail_dropped", "attention", tail_dropped, "the last, partial block is skipped; invisible at whole blocks"),
    Fault("tail_unmasked", "attention", tail_unmasked, "the last block is read whole; invisible at whole blocks"),
    Fault("missing_rescale", "attention", missing_rescale, "online softmax keeps acc when the maximum moves"),
    Fault("half_sums", "attention", half_sums, "sums over the slots kept in float16"),
    Fault("positions_off_by_one", "model", positions_off_by_one, "a new token takes the length after its append"),
    Fault("stale_cache", "model", stale_cache, "a warm-up run's token is still in the cache"),
    Fault("stale_slot", "model", stale_slot, "one row of one layer is an earlier run's"),
    Fault("c_proj_untransposed", "model", c_proj_untransposed, "a square (out, in) weight loaded as (in, out)"),
    Fault("other_gelu", "model", other_gelu, "the exact GELU for the tanh one; cached and uncached still agree"),
    Fault("other_eps", "model", other_eps, "LayerNorm's eps ten times too small; cached and uncached still agree"),
)
