"""What both engines share, as jitted functions: the slots of a program, where they lie, and scores.

Sources: splits over the context, Flash-Decoding, Dao, Haziza, Massa & Sizov 2023 (crfm.stanford.edu/2023/10/12/
flashdecoding.html); pages, Kwon et al. 2023 (arXiv:2309.06180); sinks, Xiao et al. 2023 (arXiv:2309.17453); ALiBi,
Press et al. 2021 (arXiv:2108.12409).
"""

# Triton calls these with other types than their annotations name, which pyright cannot follow.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from typing import Any, NamedTuple

from ..requires_triton import tl, triton
from .arguments import Cache


class LiveSplits(NamedTuple):
    """The splits with visible slots: 0..sinks hold sinks, window..last the slots of the window."""

    sinks: Any  # -1 without sinks
    window: Any
    last: Any


class SplitSlots(NamedTuple):
    """The slots lo..hi of one split, and what else a program knows of its sequence."""

    valid: Any  # whether the length is within the cache
    n: Any  # slots of the sequence
    new: Any  # slot of the first new token: from there on slots are being written, and may not be read
    lo: Any
    hi: Any
    window: Any  # first slot of the window: those before it are not seen unless they hold sinks
    splits: Any  # LiveSplits


class Rows(NamedTuple):
    """Pointers to rows of a cache and to the scale of each, which stand for nothing (k and v) unless it is int8.

    Triton 3.6 returns no None from a function, 3.7 and later do.
    """

    k: Any
    v: Any
    k_scale: Any
    v_scale: Any


@triton.jit
def split_start(split, SPLIT_LEN: tl.constexpr):
    """First slot of a split: 64 splits of SPLIT_LEN slots, then 32 of twice as many, 32 of 4 times, up to 32 times.

    The boundaries are absolute: a token's splits, hence its bits, depend on no batch and on no token after it.
    """
    e = tl.minimum(tl.maximum((split - 32) // 32, 0), 5)
    return (split - 32 * e) * (SPLIT_LEN << e)


@triton.jit
def split_of(slot, SPLIT_LEN: tl.constexpr):
    """The split that has this slot."""
    split = slot // SPLIT_LEN
    for e in tl.static_range(1, 6):
        split = tl.where(slot >= SPLIT_LEN * (32 << e), slot // (SPLIT_LEN << e) + 32 * e, split)
    return split


@triton.jit
def visible_slots(n, i, i_end, M, CFG: tl.constexpr):
    """Of n slots, the first in the window of the new tokens i..i_end, and the one after the last that they see."""
    stop = tl.maximum(n - M + i_end, 0) if CFG.CAUSAL else n
    window = 0 if CFG.WINDOW is None else tl.minimum(tl.maximum(n - M + i - CFG.WINDOW + 1, 0), stop)
    return window, stop


@triton.jit
def live_splits(window, stop, CFG: tl.constexpr):
    sinks = split_of(tl.minimum(CFG.SINKS, stop) - 1, CFG.SPLIT_LEN) if CFG.SINKS else -1
    return LiveSplits(sinks, split_of(window, CFG.SPLIT_LEN), split_of(tl.maximum(stop - 1, 0), CFG.SPLIT_LEN))


@triton.jit
def is_live(split, splits):
    return (split <= splits.sinks) | ((split >= splits.window) & (split <= splits.last))


@triton.jit
def split_slots(lengths, b, T, split, i, i_end, M, CFG: tl.constexpr):
    """The slots of a split for the new tokens i..i_end of sequence b. A length outside 0..T counts as 0."""
    length = tl.load(lengths + b)
    n = tl.where((length < 0) | (length > T), 0, length)
    window, stop = visible_slots(n, i, i_end, M, CFG)
    lo = split_start(split, CFG.SPLIT_LEN)
    hi = tl.minimum(split_start(split + 1, CFG.SPLIT_LEN), stop)
    return SplitSlots(n == length, n, n - M, lo, hi, window, live_splits(window, stop, CFG))


@triton.jit
def skipped_blocks(lo, sinks, window, N: tl.constexpr):
    """Split the blocks of N from `lo` on: `kept` hold sinks, the next `skipped` lie before the window."""
    kept = tl.cdiv(tl.maximum(sinks - lo, 0), N)
    return kept, tl.maximum((window - lo) // N - kept, 0)


@triton.jit
def offset(i, stride, x, CFG: tl.constexpr):
    """i * stride, marked as a multiple of 16 bytes if the rows of x are aligned.

    Left to judge each stride by itself, the compiler lays out the rows of caches of other capacities in another way,
    and sums them in another order.
    """
    n = (i + tl.zeros([], tl.int64)) * stride
    return tl.multiple_of(n, 128 // x.dtype.element_ty.primitive_bitwidth) if CFG.ALIGNED else n


@triton.jit
def at_head(cache, b, h, lo, CFG: tl.constexpr):
    """The cache from KV head h on; if contiguous, from slot lo of sequence b, so that 32 bits reach every slot."""
    k = cache.k + offset(h, cache.kh, cache.k, CFG)
    v = cache.v + offset(h, cache.vh, cache.v, CFG)
    k_scale, v_scale, table = k, v, k  # where there are none, see Rows
    if CFG.INT8:
        k_scale = cache.k_scale + h.to(tl.int64) * cache.sh
        v_scale = cache.v_scale + h.to(tl.int64) * cache.sh
    if CFG.PAGE is not None:
        table = cache.table + b * cache.tb
    else:
        k += offset(b, cache.kb, k, CFG) + lo.to(tl.int64) * CFG.STRIDE_KT
        v += offset(b, cache.vb, v, CFG) + lo.to(tl.int64) * CFG.STRIDE_VT
        if CFG.INT8:
            k_scale += b * cache.sb + lo.to(tl.int64) * CFG.STRIDE_ST
            v_scale += b * cache.sb + lo.to(tl.int64) * CFG.STRIDE_ST
    return Cache(k, v, k_scale, v_scale, table, cache.kb, cache.kh, cache.vb, cache.vh, cache.sb, cache.sh, cache.tb)


@triton.jit
def locate(cache, lo, start, live, CFG: tl.constexpr):
    """Pointers to slot lo + start, its page looked up if live; cache is what `at_head` gives."""
    if CFG.PAGE is None:
        return shift(cache, start, CFG)
    else:
        page = tl.load(cache.table + (lo + start) // CFG.PAGE, mask=live).to(tl.int64)
        k_scale = cache.k_scale + page * cache.sb if CFG.INT8 else cache.k
        v_scale = cache.v_scale + page * cache.sb if CFG.INT8 else cache.v
        k, v = cache.k + offset(page, cache.kb, cache.k, CFG), cache.v + offset(page, cache.vb, cache.v, CFG)
        page = Rows(k, v, k_scale, v_scale)
        return shift(page, (lo + start) % CFG.PAGE, CFG)


@triton.jit
def shift(at, rows, CFG: tl.constexpr):
    """Pointers so many rows further on in the same page; rows is a number or a tile."""
    k_scale = at.k_scale + rows * CFG.STRIDE_ST if CFG.INT8 else at.k
    v_scale = at.v_scale + rows * CFG.STRIDE_ST if CFG.INT8 else at.v
    return Rows(at.k + rows * CFG.STRIDE_KT, at.v + rows * CFG.STRIDE_VT, k_scale, v_scale)


@triton.jit
def load_rows(at, live, AXIS: tl.constexpr, CFG: tl.constexpr):
    """Rows at pointers (BLOCK_N,) -> (BLOCK_N, D_POW2) for AXIS 0, (D_POW2, BLOCK_N) for 1; zero where not live.

    live  (BLOCK_N,), or None where all are
    """
    d = tl.expand_dims(tl.arange(0, CFG.D_POW2), AXIS)
    at = tl.expand_dims(at, 1 - AXIS) + d
    if live is not None:
        return tl.load(at, mask=tl.expand_dims(live, 1 - AXIS) & (d < CFG.D), other=0)
    elif CFG.D == CFG.D_POW2:
        return tl.load(at)
    else:
        return tl.load(at, mask=d < CFG.D, other=0)


@triton.jit
def tanh(x):
    """By a power of two, and near zero, where that cancels, by its series."""
    e = tl.exp2(tl.abs(x) * 2.8853900817779268)  # 2 / ln 2
    big = 1 - 2 / (e + 1)
    big = tl.where(x < 0, -big, big)
    if x.dtype == tl.float64:
        return big
    else:
        y = x * x
        series = -0.05396825396825397 + y * (0.021869488536155203 - y * 0.008863235529902197)
        small = x + x * y * (-0.3333333333333333 + y * (0.13333333333333333 + y * series))
        return tl.where(y < 0.1225, small, big)


@triton.jit
def score(s, distance, slope, CFG: tl.constexpr):
    """Products q k^T -> scores, as powers of two: scaled, capped, lowered by the slope for each slot of distance."""
    s = s if CFG.SOFTCAP is None else tanh(s) * (CFG.SOFTCAP * CFG.LOG2E)
    return s if slope is None else tl.fma(-distance.to(s.dtype), slope * CFG.LOG2E, s)
