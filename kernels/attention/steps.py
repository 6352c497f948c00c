"""What both engines share, as jitted functions: which slots a program has, where they lie, what a score becomes.

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


class Splits(NamedTuple):
    """The splits with visible slots: 0..far hold sinks (far is -1 without), near..last the window."""

    far: Any
    near: Any
    last: Any


class Span(NamedTuple):
    """The slots lo..hi of one split, of which those below `first` are not seen unless they hold sinks."""

    valid: Any  # whether the length is within the cache
    n: Any  # slots of the sequence
    old: Any  # position of the first new token: from here on slots are being written, and may not be read
    lo: Any
    hi: Any
    first: Any
    splits: Any


class Rows(NamedTuple):
    """Pointers to rows of a cache, and to what a whole number in each is worth: only for int8, k and v else.

    Triton 3.6 returns no None from a function, 3.7 and later do.
    """

    k: Any
    v: Any
    k_scale: Any
    v_scale: Any


@triton.jit
def split_start(split, FIRST: tl.constexpr):
    """First slot of a split: 64 splits of FIRST slots, then 32 of twice as many, 32 of 4 times, up to 32 times.

    The boundaries are absolute: a token's splits, hence its bits, depend on no batch and on no token after it.
    """
    e = tl.minimum(tl.maximum((split - 32) // 32, 0), 5)
    return (split - 32 * e) * (FIRST << e)


@triton.jit
def split_of(slot, FIRST: tl.constexpr):
    """The split that has this slot."""
    split = slot // FIRST
    for e in tl.static_range(1, 6):
        split = tl.where(slot >= FIRST * (32 << e), slot // (FIRST << e) + 32 * e, split)
    return split


@triton.jit
def visible_slots(n, i, i_end, M, HOW: tl.constexpr):
    """Of n slots, the first that any of the new tokens i..i_end sees, sinks apart, and the one after the last."""
    stop = tl.maximum(n - M + i_end, 0) if HOW.CAUSAL else n
    first = 0 if HOW.WINDOW is None else tl.minimum(tl.maximum(n - M + i - HOW.WINDOW + 1, 0), stop)
    return first, stop


@triton.jit
def live_splits(first, stop, HOW: tl.constexpr):
    far = split_of(tl.minimum(HOW.SINKS, stop) - 1, HOW.FIRST) if HOW.SINKS else -1
    return Splits(far, split_of(first, HOW.FIRST), split_of(tl.maximum(stop - 1, 0), HOW.FIRST))


@triton.jit
def is_live(split, splits):
    return (split <= splits.far) | ((split >= splits.near) & (split <= splits.last))


@triton.jit
def span_of(lengths, b, T, split, i, i_end, M, HOW: tl.constexpr):
    """What a split holds for the new tokens i..i_end of sequence b. A length outside 0..T counts as 0."""
    length = tl.load(lengths + b)
    n = tl.where((length < 0) | (length > T), 0, length)
    first, stop = visible_slots(n, i, i_end, M, HOW)
    lo = split_start(split, HOW.FIRST)
    hi = tl.minimum(split_start(split + 1, HOW.FIRST), stop)
    return Span(n == length, n, n - M, lo, hi, first, live_splits(first, stop, HOW))


@triton.jit
def gap(lo, sinks, first, N: tl.constexpr):
    """Blocks of N, counted from lo: so many reach below `sinks`; so many more have nothing from `first` on."""
    kept = tl.cdiv(tl.maximum(sinks - lo, 0), N)
    return kept, tl.maximum((first - lo) // N - kept, 0)


@triton.jit
def offset(i, stride, x, HOW: tl.constexpr):
    """i * stride, with what is known of it: x's rows, if aligned, begin at multiples of 16 bytes.

    The compiler would look at each stride by itself, and for caches of other capacities lay out the rows in another
    way, and sum them in another order.
    """
    n = (i + tl.zeros([], tl.int64)) * stride
    return tl.multiple_of(n, 128 // x.dtype.element_ty.primitive_bitwidth) if HOW.ALIGNED else n


@triton.jit
def at_head(cache, b, h, lo, HOW: tl.constexpr):
    """The cache seen from KV head h; if contiguous, from slot lo of sequence b, so that 32 bits reach every slot."""
    k = cache.k + offset(h, cache.kh, cache.k, HOW)
    v = cache.v + offset(h, cache.vh, cache.v, HOW)
    k_scale, v_scale, table = k, v, k  # where there are none, see Rows
    if HOW.INT8:
        k_scale = cache.k_scale + h.to(tl.int64) * cache.sh
        v_scale = cache.v_scale + h.to(tl.int64) * cache.sh
    if HOW.PAGE is not None:
        table = cache.table + b * cache.tb
    else:
        k += offset(b, cache.kb, k, HOW) + lo.to(tl.int64) * HOW.KT
        v += offset(b, cache.vb, v, HOW) + lo.to(tl.int64) * HOW.VT
        if HOW.INT8:
            k_scale += b * cache.sb + lo.to(tl.int64) * HOW.ST
            v_scale += b * cache.sb + lo.to(tl.int64) * HOW.ST
    return Cache(k, v, k_scale, v_scale, table, cache.kb, cache.kh, cache.vb, cache.vh, cache.sb, cache.sh, cache.tb)


@triton.jit
def locate(cache, lo, start, live, HOW: tl.constexpr):
    """Where slot lo + start lies, its page looked up if live; cache is what `at_head` gives."""
    if HOW.PAGE is None:
        return shift(cache, start, HOW)
    else:
        page = tl.load(cache.table + (lo + start) // HOW.PAGE, mask=live).to(tl.int64)
        k_scale = cache.k_scale + page * cache.sb if HOW.INT8 else cache.k
        v_scale = cache.v_scale + page * cache.sb if HOW.INT8 else cache.v
        k, v = cache.k + offset(page, cache.kb, cache.k, HOW), cache.v + offset(page, cache.vb, cache.v, HOW)
        page = Rows(k, v, k_scale, v_scale)
        return shift(page, (lo + start) % HOW.PAGE, HOW)


@triton.jit
def shift(at, rows, HOW: tl.constexpr):
    """So many rows further on in the same page; rows is a number or a tile."""
    k_scale = at.k_scale + rows * HOW.ST if HOW.INT8 else at.k
    v_scale = at.v_scale + rows * HOW.ST if HOW.INT8 else at.v
    return Rows(at.k + rows * HOW.KT, at.v + rows * HOW.VT, k_scale, v_scale)


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
def score(s, distance, slope, HOW: tl.constexpr):
    """Products q k^T -> scores, as powers of two: scaled, capped, lowered by the slope for each slot of distance."""
    s = s if HOW.SOFTCAP is None else tanh(s) * (HOW.SOFTCAP * HOW.LOG2E)
    return s if slope is None else tl.fma(-distance.to(s.dtype), slope * HOW.LOG2E, s)


@triton.jit
def quantise(x, AXIS: tl.constexpr):
    """Rows x along an axis -> whole numbers -127..127, still float32, and what one of them is worth."""
    x = x.to(tl.float32)
    scale = tl.div_rn(tl.max(tl.abs(x), AXIS), 127.0)
    divisor = tl.expand_dims(tl.where(scale > 0, scale, 1.0), AXIS)
    return (tl.div_rn(x, tl.broadcast_to(divisor, x.shape)) + 12582912.0) - 12582912.0, scale  # 1.5 * 2^23: it rounds


@triton.jit
def new_rows(new, b, h, HOW: tl.constexpr):
    """Where the new rows of KV head h begin."""
    k = new.k + offset(b, new.kb, new.k, HOW) + offset(h, new.kh, new.k, HOW)
    v = new.v + offset(b, new.vb, new.v, HOW) + offset(h, new.vh, new.v, HOW)
    return Rows(k, v, k, v)


@triton.jit
def store_row(at, scale_at, x, is_mine, HOW: tl.constexpr):
    """Copy a new row, at pointer x, to the cache."""
    d = tl.arange(0, HOW.D_POW2)
    row = tl.load(x + d, mask=is_mine & (d < HOW.D), other=0.0)
    if HOW.INT8:
        row, scale = quantise(row, 0)
        row = row.to(tl.int8)
        tl.store(scale_at, scale, mask=is_mine)
    tl.store(at + d, row, mask=is_mine & (d < HOW.D))


@triton.jit
def append_token(here, fresh, new, token, is_mine, lo, slot, HOW: tl.constexpr):
    """Write the keys and values of one new token to its slot, if they are mine; here begins at slot lo."""
    at = locate(here, lo, slot - lo, is_mine, HOW)
    store_row(at.k, at.k_scale, fresh.k + offset(token, new.km, fresh.k, HOW), is_mine, HOW)
    store_row(at.v, at.v_scale, fresh.v + offset(token, new.vm, fresh.v, HOW), is_mine, HOW)
