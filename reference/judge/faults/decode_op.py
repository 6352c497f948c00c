"""Wrong decode attention, where it is asked for more than one token, one head per head, and a plain cache.

A fault here is a whole call gone wrong, op(q, k, v, lengths, **keywords) -> (o, lse), in the interface of
kernels.decode_attention; `decode_op` is the correct one. They are no paths of a model, so they have their own list.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..features import append, plain_cache
from ..rounding import attention, log_sum_exp
from .base import Fault

PLAIN = "every feature against the plain formula"


def store(k, v, lengths, k_new, v_new, **cache):
    """Append the new rows, if there are any."""
    if k_new is not None:
        append(k, v, lengths, k_new, v_new, **cache)


def load(k, v, lengths, k_new, v_new, **cache):
    """The cache as contiguous float64 k, v (B, H_kv, T, D)."""
    return plain_cache(k, v, **cache)


def attend(q, k, v, lengths, **asked):
    """o and lse, in float64, of a plain cache."""
    return attention(q, k, v, lengths, **asked), log_sum_exp(q, k, lengths, **asked)


def decode_op(
    q, k, v, lengths, *, k_new=None, v_new=None, block_table=None, k_scale=None, v_scale=None, return_lse=True,
    store=store, load=load, attend=attend, **asked,
):  # fmt: skip
    """The correct op: append in place, attend in float64, round once; with other steps, a fault.

    q (B, H, D) or (B, M, H, D), and all else, as kernels.decode_attention takes them; asked are the formula's scale and
    features. Returns o in q's shape and dtype and lse, float32 or, for float64, float64.
    """
    cache = {"block_table": block_table, "k_scale": k_scale, "v_scale": v_scale}
    store(k, v, lengths, k_new, v_new, **cache)
    o, lse = attend(q, *load(k, v, lengths, k_new, v_new, **cache), lengths, **asked)
    return o.astype(q.dtype), lse.astype(np.float64 if q.dtype == np.float64 else np.float32)


def op_fault(link: str | None = None, *, closest=False):
    """Turn the wrong op below into a Fault; what else is as in `fault`."""

    def record(apply: Callable) -> Fault:
        words = " ".join((apply.__doc__ or "").split())
        url = link and f"https://github.com/{link}"
        right: Callable[..., Any] = decode_op
        return Fault(apply.__name__, "op", apply, right, words, url, closest, None, PLAIN)

    return record


def slots_up_to(view):
    """`attend` token by token, token i of M with the lengths view(lengths, i, M), its own slot the last of them."""

    def attend_each(q, k, v, lengths, **asked):
        M = q.shape[1]
        parts = [attend(q[:, i], k, v, view(lengths, i, M), **asked) for i in range(M)]
        o, lse = zip(*parts, strict=True)
        return np.stack(o, 1), np.stack(lse, 1)

    return lambda q, *cache, **asked: (attend if q.ndim == 3 or q.shape[1] == 1 else attend_each)(q, *cache, **asked)


def kv_heads(order_k, order_v=None):
    """`attend` in which query head h reads the keys of KV head order_k(H, H_kv)[h], and its values or order_v's."""

    def attend_to(q, k, v, lengths, **asked):
        sizes = q.shape[-2], k.shape[1]
        return attend(q, k[:, order_k(*sizes)], v[:, (order_v or order_k)(*sizes)], lengths, **asked)

    return attend_to


def in_order(H, H_kv):
    """The KV head of each query head, as it should be."""
    return np.arange(H) // (H // H_kv)


def in_tiles(H, H_kv):
    """KV heads 0, 1 .. again and again."""
    return np.arange(H) % H_kv


@op_fault("apple/axlearn/pull/842")
def heads_in_tiles(*call, **asked):
    """query head h reads KV head h % H_kv; invisible at one KV head, and at one query head each"""
    return decode_op(*call, **asked, attend=kv_heads(in_tiles))


@op_fault("onnx/onnx/pull/7274", closest=True)
def values_in_tiles(*call, **asked):
    """query head h reads the keys of its KV head and the values of h % H_kv; invisible at one KV head, and at one query
    head each"""
    return decode_op(*call, **asked, attend=kv_heads(in_order, in_tiles))


@op_fault()
def heads_over_the_kv_heads(*call, **asked):
    """query head h reads KV head h // H_kv, as if there were as many groups as heads in each; invisible at one KV head,
    and at one query head each"""

    def over(H, H_kv):
        return in_order(H, H_kv) if H == H_kv else np.minimum(np.arange(H) // H_kv, H_kv - 1)

    return decode_op(*call, **asked, attend=kv_heads(over))


@op_fault()
def heads_shifted(*call, **asked):
    """the KV head is found by a shift, as if every group were a power of two; invisible at one KV head, at one query
    head each, and in groups of a power of two"""
    shift = kv_heads(lambda H, H_kv: np.arange(H) >> (H // H_kv - 1).bit_length())
    return decode_op(*call, **asked, attend=shift)


@op_fault("NVIDIA/cutlass/issues/2336")
def causal_top_left(*call, causal=True, **asked):
    """token i of several sees the slots 0 .. i, as if no others came before them; invisible at one token, and without
    causality"""
    step = slots_up_to(lambda lengths, i, M: np.minimum(lengths, i + 1)) if causal else attend
    return decode_op(*call, causal=causal, **asked, attend=step)


@op_fault("flashinfer-ai/flashinfer/pull/348")
def causal_one_late(*call, causal=True, **asked):
    """a token sees the one after it; invisible at one token, and without causality"""
    step = slots_up_to(lambda lengths, i, M: np.minimum(lengths, np.maximum(lengths - M + i + 2, 0)))
    return decode_op(*call, causal=causal, **asked, attend=step if causal else attend)


@op_fault()
def position_clamped(*call, **asked):
    """a token that has no position sees slot 0; invisible where every token has a position, and at one token"""
    step = slots_up_to(lambda lengths, i, M: np.minimum(lengths, np.maximum(lengths - M + i + 1, 1)))
    return decode_op(*call, **asked, attend=step if asked.get("causal", True) else attend)


@op_fault("huggingface/transformers/issues/39408")
def window_long(*call, window=None, **asked):
    """the window reaches one slot too far back; invisible without a window"""
    return decode_op(*call, window=window and window + 1, **asked)


@op_fault("sgl-project/sglang/pull/32087")
def window_short(*call, window=None, **asked):
    """the window loses its oldest slot; invisible without a window"""
    return decode_op(*call, window=window and max(window - 1, 1), **asked)


@op_fault("sgl-project/sglang/pull/11634", closest=True)
def sinks_ignored(*call, sinks=0, **asked):
    """the first slots leave the window like all others; invisible without sinks"""
    return decode_op(*call, **asked)


@op_fault("gittensor-ai-lab/sparkinfer/pull/605")
def sinks_not_causal(*call, sinks=0, **asked):
    """a token among the sinks sees all of them, those after it too; invisible at one token, and without sinks"""

    def ends(lengths, i, M):
        last = lengths - M + i
        return np.where(last < 0, 0, np.where(last < sinks, np.minimum(sinks, lengths), last + 1))

    return decode_op(*call, sinks=sinks, **asked, attend=slots_up_to(ends) if sinks else attend)


@op_fault("huggingface/trl/pull/5691", closest=True)
def softcap_before_scale(q, *call, softcap=None, scale=None, **asked):
    """the cap bends the unscaled scores and the scale comes after; invisible without softcap"""
    cap = softcap and softcap * (q.shape[-1] ** -0.5 if scale is None else scale)
    return decode_op(q, *call, softcap=cap, scale=scale, **asked)


@op_fault("sgl-project/sgl-kernel-xpu/pull/491")
def softcap_ignored(*call, softcap=None, **asked):
    """the cap is accepted and never applied; invisible without softcap"""
    return decode_op(*call, **asked)


@op_fault("onnx/onnx/pull/7867")
def softcap_after_bias(*call, **asked):
    """the cap bends scores that have their ALiBi bias already; invisible without softcap, and without ALiBi"""

    def biased(q, k, v, lengths, *, scale=None, alibi_slopes=None, **asked):
        if alibi_slopes is None:
            return attend(q, k, v, lengths, scale=scale, **asked)
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        heads = q if q.ndim == 4 else q[:, None]  # (B, M, H, D)
        B, M, H, _ = heads.shape
        p = (np.asarray(lengths)[:, None] - M + np.arange(M))[:, :, None]  # (B, M, 1)
        slopes = np.broadcast_to(alibi_slopes, (B, H))[:, None] / scale  # (B, 1, H)
        bias = np.stack([slopes + 0 * p, -slopes * p], -1).reshape(*q.shape[:-1], 2)
        t = np.broadcast_to(np.arange(k.shape[2])[:, None], (*k.shape[:3], 1))  # slope * t - slope * p, as a product
        k, v = np.concatenate([k, t, np.ones_like(t)], -1), np.concatenate([v, 0 * t, 0 * t], -1)
        o, lse = attend(np.concatenate([q.astype(np.float64), bias], -1), k, v, lengths, scale=scale, **asked)
        return o[..., :-2], lse

    return decode_op(*call, **asked, attend=biased)
