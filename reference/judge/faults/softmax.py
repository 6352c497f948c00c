"""Wrong decode attention: what a softmax in blocks or splits forgets, and in which precision it sums."""

import math

import numpy as np

from .attention import BLOCK, PLACE
from .base import decode, default, fault

SPLIT = 8  # slots of a split


def in_blocks(rescale):
    """An online softmax over blocks of slots; rescale(m, m_new) multiplies what has been summed so far."""

    def attend(q, k, v, scale):
        m, l, acc = -np.inf, 0.0, 0.0
        for t in range(0, k.shape[1], BLOCK):
            s = q @ k[:, t : t + BLOCK].swapaxes(1, 2) * default(scale, q.shape[-1])  # (H, 1, N)
            m_new = np.maximum(m, s.max(-1, keepdims=True))
            p = np.exp(s - m_new)
            l = l * np.exp(m - m_new) + p.sum(-1, keepdims=True)
            acc = acc * rescale(m, m_new) + p @ v[:, t : t + BLOCK]
            m = m_new
        return acc / l

    return attend


@fault("attention", "tile-ai/TileOPs/pull/1511", PLACE, closest=True)
def missing_rescale(q, k, v, lengths, scale=None):
    """online softmax keeps acc, in units of the old maximum, when the maximum moves; invisible within one block"""
    return decode(q, k, v, lengths, scale, in_blocks(lambda m, m_new: 1.0))


@fault("attention", "Dao-AILab/flash-attention/issues/333", PLACE, closest=True)
def rescale_inverted(q, k, v, lengths, scale=None):
    """acc is multiplied by the inverse of the factor that it needs; invisible within one block"""
    return decode(q, k, v, lengths, scale, in_blocks(lambda m, m_new: np.where(m == -np.inf, 0, np.exp(m_new - m))))


@fault("attention", "flashinfer-ai/flashinfer/pull/5029", PLACE)
def accumulator_not_reset(q, k, v, lengths, scale=None):
    """the sum of a sequence starts at what the one before it left; invisible at B = 1"""
    return np.cumsum(decode(q, k, v, lengths, scale).astype(np.float64), axis=0).astype(q.dtype)


@fault("attention", "ikawrakow/ik_llama.cpp/pull/2144", PLACE)
def half_sums(q, k, v, lengths, scale=None):
    """sums over the slots kept in float16"""

    def attend(q, k, v, scale):
        s = q @ k.swapaxes(1, 2) * default(scale, q.shape[-1])  # (H, 1, T)
        p = np.exp(s - s.max(-1, keepdims=True)).astype(np.float16)
        l, acc = np.zeros_like(p[..., :1]), np.zeros_like(q, np.float16)
        for t in range(k.shape[1]):
            l = l + p[..., t : t + 1]
            acc = acc + p[..., t : t + 1] * v[:, t : t + 1].astype(np.float16)
        return acc / l

    return decode(q, k, v, lengths, scale, attend)


@fault("attention", "philipturner/metal-flash-attention/issues/8", PLACE)
def scores_in_half(q, k, v, lengths, scale=None):
    """scores rounded to float16 before they are scaled; infinite from 65520 on"""

    def attend(q, k, v, scale):
        s = np.clip(q @ k.swapaxes(1, 2), -65504, 65504).astype(np.float16).astype(np.float64)  # (H, 1, T)
        s = s * default(scale, q.shape[-1])
        p = np.exp(s - s.max(-1, keepdims=True))
        return p / p.sum(-1, keepdims=True) @ v

    return decode(q, k, v, lengths, scale, attend)


def split(q, k, v, lo, hi, scale):
    """Slots lo .. hi-1 of one sequence on their own: o (H, 1, D) and the scores' natural log-sum-exp (H, 1, 1)."""
    s = q @ k[:, lo:hi].swapaxes(1, 2) * default(scale, q.shape[-1])
    m = s.max(-1, keepdims=True)
    p = np.exp(s - m)
    l = p.sum(-1, keepdims=True)
    return p @ v[:, lo:hi] / l, m + np.log(l)


def merge(parts, base=math.e):
    """Parts (o, lse) as one softmax, taking lse for a logarithm to `base`."""
    o, lse = (np.stack(x) for x in zip(*parts, strict=True))  # (S, H, 1, D), (S, H, 1, 1)
    w = base ** (lse - lse.max(0))
    return (w * o).sum(0) / w.sum(0)


def in_splits(bounds, base=math.e, unit=1.0):
    """Attention merged from the splits (lo, hi) of bounds(n); they return lse * unit, merged as logarithms to base."""

    def attend(q, k, v, scale):
        parts = [split(q, k, v, lo, hi, scale) for lo, hi in bounds(k.shape[1])]
        return merge([(o, lse * unit) for o, lse in parts], base)

    return attend


def even(n):
    """Splits of SPLIT slots each, the last one shorter."""
    return [(lo, min(lo + SPLIT, n)) for lo in range(0, n, SPLIT)]


@fault("attention", "sgl-project/sglang/pull/35045", PLACE)
def lse_in_base_two(q, k, v, lengths, scale=None):
    """splits return their log-sum-exp in base 2 and are merged in base e; invisible within one split"""
    return decode(q, k, v, lengths, scale, in_splits(even, unit=1 / math.log(2)))


@fault("attention", "tile-ai/TileOPs/pull/728", PLACE)
def splits_overlap(q, k, v, lengths, scale=None):
    """a split's length is the sum of all up to it, so that slots count again; invisible within one split"""
    return decode(q, k, v, lengths, scale, in_splits(lambda n: [(lo, min(lo + hi, n)) for lo, hi in even(n)]))


@fault("attention", "flashinfer-ai/flashinfer/pull/50", PLACE)
def uninitialised_split(q, k, v, lengths, scale=None):
    """a split without live slots stores nothing, and the merge reads what memory held (here: V's first row, as heavy
    as all live slots); invisible when every split has a live slot"""
    o = decode(q, k, v, lengths, scale).astype(np.float64)
    idle = (np.asarray(lengths) > 0) & (np.asarray(lengths) <= k.shape[2] - SPLIT)
    return np.where(idle[:, None, None], (o + v[:, :, 0].astype(np.float64)) / 2, o).astype(q.dtype)


@fault("attention", "ROCm/aiter/pull/4420", PLACE)
def empty_split(q, k, v, lengths, scale=None):
    """a split without live slots divides 0 by 0; invisible when every split has a live slot"""
    o = decode(q, k, v, lengths, scale)
    o[np.asarray(lengths) <= k.shape[2] - SPLIT] = np.nan
    return o


@fault("attention", "robertknight/rten/pull/1321", PLACE)
def empty_sequence(q, k, v, lengths, scale=None):
    """a sequence without live slots gets NaN instead of zeros; invisible when none is empty"""
    o = decode(q, k, v, lengths, scale)
    o[np.asarray(lengths) == 0] = np.nan
    return o
