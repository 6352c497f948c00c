"""Quantisers that take the scale of other numbers."""

import numpy as np

from .base import FP8, absmax, blocks, fault, guarded, int8, refuse_ragged, to_e2m1, unblocked
from .scales import nvfp4_parts


def e4m3_with_power(b):
    """Blocks b (..., S) in mxfp8: e4m3 with 2^(floor(log2 max) - 8)."""
    largest = np.abs(b).max(-1, keepdims=True)
    with np.errstate(all="ignore"):
        scale = np.where(largest > 0, np.clip(np.exp2(np.floor(np.log2(largest)) - 8), 2.0**-127, 2.0**127), 1)
        return np.clip(b / scale, -448, 448).astype(FP8).astype(np.float64) * scale


@fault("mxfp8", "vllm-project/vllm-ascend/pull/9377", "axis")
def values_along_tokens(x):
    """blocks run along the tokens, though those of the keys, and the reader's, run along the head"""
    turned = np.moveaxis(x.astype(np.float64), -2, -1)
    return np.moveaxis(unblocked(e4m3_with_power(blocks(turned, 32)), turned), -1, -2).astype(x.dtype)


@fault("fp8-head", "sgl-project/sgl-kernel-xpu/pull/252", "another head's scale", closest=True)
def one_scalar_for_all_heads(x):
    """the kernel reads one scale per sequence, though there is one for each head"""
    scale = absmax(x.reshape(*x.shape[:2], 1, -1), 448)
    codes = np.clip(guarded(x, scale), -448, 448).astype(FP8).astype(np.float32)
    return (codes * scale[:, :1]).astype(x.dtype)


@fault("nvfp4", "vllm-project/vllm/issues/50084", "scale layout", closest=True)
def scales_swizzled(x):
    """block scales are written in squares of 4 by 4 for another kernel, and read in order"""
    refuse_ragged(x, 16)
    b, tensor, wanted = nvfp4_parts(x)
    kept = wanted.astype(FP8).astype(np.float64)
    with np.errstate(all="ignore"):
        codes = to_e2m1(np.where(kept > 0, b / (kept * tensor), 0))
    B, H, T, N = kept.shape[:4]
    squares = kept.reshape(B, H, T // 4, 4, N // 4, 4).swapaxes(3, 5)
    return unblocked(codes * squares.reshape(kept.shape) * tensor, x)


@fault(
    "int8-row", "sgl-project/sglang/pull/18373", "another sequence's scale", "keys' and values' scales", closest=True
)
def values_take_the_keys_scale(x):
    """one scale is kept for keys, here the first half of the batch, and values, the second: the keys'"""
    scale = absmax(x)
    half = len(x) // 2
    read = np.concatenate([scale[:half], scale[:half]])
    return (int8(x, scale) * read).astype(x.dtype)


@fault("mxfp8", "vllm-project/vllm-ascend/pull/9159", "last group")
def last_group_dropped(x):
    """the count of groups is a floor division: what does not fill one is lost"""
    n = x.shape[-1] // 32 * 32
    y = np.zeros_like(x)
    y[..., :n] = unblocked(e4m3_with_power(blocks(x[..., :n].astype(np.float64), 32)), x[..., :n])
    return y


@fault("uint2-block,group=channel,packing=bytes", "sgl-project/sglang/pull/22777", "axis")
def groups_across_requests(x):
    """tokens of all requests lie one after another, and groups of 32 of them take no notice of where one ends"""
    flat = x.astype(np.float32).reshape(-1, x.shape[-1])
    turned = blocks(flat.T, 32)
    low, high = turned.min(-1, keepdims=True), turned.max(-1, keepdims=True)
    if flat.shape[0] % 32:
        rest = flat.T[:, flat.shape[0] // 32 * 32 :]
        low[:, -1, 0], high[:, -1, 0] = rest.min(-1), rest.max(-1)
    scale = ((high - low) / np.float32(3)).astype(np.float32)
    y = np.clip(np.rint(guarded(turned - low, scale)), 0, 3) * scale + low
    return y.reshape(x.shape[-1], -1)[:, : flat.shape[0]].T.reshape(x.shape).astype(x.dtype)


@fault("int8-row", "vllm-project/vllm/pull/55559", "another token's scale", "stale scale", closest=True)
def scale_of_the_wrong_slot(x):
    """a layer that shares the cache reads it with scales of its own: those of the slot before"""
    scale = absmax(x)
    return (int8(x, scale) * np.roll(scale, 1, axis=2)).astype(x.dtype)
