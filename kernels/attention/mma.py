"""The tensor-core engine: sixteen queries of one KV head per program, products on the tensor cores.

The queries are those of a group's heads and of the new tokens, token by token. A program walks one split of their
context, ROWS slots at a time; keys and values come through shared memory, copied there while the block before is
attended to. The scores are scaled after the product, in float32: a query that is scaled first and rounded to 16 bits
loses several times as much. The numbered steps are those of the twin, reference/attention/mma.py.

Sources: online softmax, Milakov & Gimelshein 2018 (arXiv:1805.02867); FlashAttention-2, Dao 2023 (arXiv:2307.08691).
"""

# Triton calls these with other types than their annotations name, which pyright cannot follow.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from ..requires_triton import tl, triton
from .combine import finish_tile
from .steps import Rows, append_token, at_head, gap, is_live, locate, new_rows, offset, quantise, score, shift, span_of


@triton.jit
def load_block(at, live, AXIS: tl.constexpr, HOW: tl.constexpr):
    """Rows at pointers (ROWS,), along AXIS of a (ROWS, D_POW2) or (D_POW2, ROWS) tile; zero where not live."""
    d = tl.expand_dims(tl.arange(0, HOW.D_POW2), AXIS)
    at = tl.expand_dims(at, 1 - AXIS) + d
    if live is not None:
        return tl.load(at, mask=tl.expand_dims(live, 1 - AXIS) & (d < HOW.D), other=0)
    elif HOW.D == HOW.D_POW2:
        return tl.load(at)
    else:
        return tl.load(at, mask=d < HOW.D, other=0)


@triton.jit
def load_new(x, scale, at, is_new, AXIS: tl.constexpr, HOW: tl.constexpr):
    """A tile of int8 rows and what a whole number in them is worth, with new rows, quantised here, in their places."""
    rows, new_scale = quantise(load_block(at, is_new, AXIS, HOW), 1 - AXIS)
    return tl.where(tl.expand_dims(is_new, 1 - AXIS), rows, x.to(tl.float32)), tl.where(is_new, new_scale, scale)


@triton.jit
def edge_rows(at, slot, live, end, span, new, fresh, HOW: tl.constexpr):
    """Keys and values of some slots, with their scales: of the cache before slot `end`, of the new rows from there."""
    i = slot - span.old  # the new token of a slot
    if HOW.INT8:
        cached = live & (slot < end)
        k, k_scale = load_block(at.k, cached, 1, HOW), tl.load(at.k_scale, mask=cached, other=0.0)
        v, v_scale = load_block(at.v, cached, 0, HOW), tl.load(at.v_scale, mask=cached, other=0.0)
        if new is not None:
            is_new = (i >= 0) & (slot < span.hi)
            k, k_scale = load_new(k, k_scale, fresh.k + offset(i, new.km, fresh.k, HOW), is_new, 1, HOW)
            v, v_scale = load_new(v, v_scale, fresh.v + offset(i, new.vm, fresh.v, HOW), is_new, 0, HOW)
        return Rows(k, v, k_scale, v_scale)
    else:
        k_at, v_at = at.k, at.v
        if new is not None:
            k_at = tl.where(i < 0, k_at, fresh.k + offset(i, new.km, fresh.k, HOW))
            v_at = tl.where(i < 0, v_at, fresh.v + offset(i, new.vm, fresh.v, HOW))
            if HOW.ALIGNED:  # which the compiler loses sight of in the choice
                k_at, v_at = tl.multiple_of(k_at, 16), tl.multiple_of(v_at, 16)
        return Rows(load_block(k_at, live, 1, HOW), load_block(v_at, live, 0, HOW), 0.0, 0.0)


@triton.jit
def scores(qt, k, k_scale, visible, distance, slope, HOW: tl.constexpr):
    # 3. scores of these slots, as powers of two
    s = tl.dot(qt, k.to(qt.dtype))  # (TILE, ROWS)
    s = s * k_scale[None, :] if HOW.INT8 else s
    s *= HOW.SCALE * HOW.LOG2E if HOW.SOFTCAP is None else HOW.SCALE / HOW.SOFTCAP
    s = score(s, distance, slope if slope is None else slope[:, None], HOW)
    return s if visible is None else tl.where(visible, s, float("-inf"))


@triton.jit
def absorb(s, v, v_scale, m, l, acc, DTYPE: tl.constexpr, HOW: tl.constexpr):
    # 4. new max of each query; shrink the past
    m_new = tl.maximum(m, tl.max(s, 1))
    a = tl.exp2(m - m_new)
    # 5. add the weights, and the values they weigh
    p = tl.exp2(s - m_new[:, None])
    l = l * a + tl.sum(p, 1)
    p = p * (v_scale * 64)[None, :] if HOW.INT8 else p  # lifted, lest float16 lose small ones: see 6
    acc = tl.dot(p.to(DTYPE), v.to(DTYPE), acc * a[:, None])
    return m_new, l, acc


@triton.jit
def attend_block(qt, here, span, start, slope, position, m, l, acc, HOW: tl.constexpr):
    """A block of slots that every query sees and that are all in the cache."""
    # 2. the rows of this block
    rows = tl.arange(0, HOW.ROWS)
    if HOW.PAGE is None or HOW.PAGE % HOW.ROWS == 0:  # a block lies in one page
        at = shift(locate(here, span.lo, start, None, HOW), rows, HOW)
    else:
        at = locate(here, span.lo, start + rows, None, HOW)
    k_scale = tl.load(at.k_scale) if HOW.INT8 else 0.0
    v_scale = tl.load(at.v_scale) if HOW.INT8 else 0.0
    distance = tl.abs(position[:, None] - (span.lo + start + rows)[None, :])
    s = scores(qt, load_block(at.k, None, 1, HOW), k_scale, None, distance, slope, HOW)
    return absorb(s, load_block(at.v, None, 0, HOW), v_scale, m, l, acc, qt.dtype, HOW)


@triton.jit
def attend_edge(qt, here, span, start, slope, position, new, fresh, m, l, acc, HOW: tl.constexpr):
    """A block of which some slots may be out of a query's sight, or new: those are not read from the cache."""
    # 2. the rows of this block, where there are any
    slot = span.lo + start + tl.arange(0, HOW.ROWS)
    live = slot < span.hi
    live = live if HOW.WINDOW is None else live & ((slot >= span.first) | (slot < HOW.SINKS))
    end = span.hi if new is None else tl.minimum(span.hi, span.old)
    if HOW.PAGE is None or HOW.PAGE % HOW.ROWS == 0:
        at = shift(locate(here, span.lo, start, span.lo + start < end, HOW), slot - span.lo - start, HOW)
    else:
        at = locate(here, span.lo, slot - span.lo, live & (slot < end), HOW)
    x = edge_rows(at, slot, live, end, span, new, fresh, HOW)
    visible = live[None, :]
    if HOW.CAUSAL:
        visible &= slot[None, :] <= position[:, None]
    if HOW.WINDOW is not None:
        visible &= (slot[None, :] > position[:, None] - HOW.WINDOW) | (slot < HOW.SINKS)[None, :]
    s = scores(qt, x.k, x.k_scale, visible, tl.abs(position[:, None] - slot[None, :]), slope, HOW)
    return absorb(s, x.v, x.v_scale, m, l, acc, qt.dtype, HOW)


@triton.jit(do_not_specialize=["M", "ticket"])
def attend_tensor(q, cache, new, lengths, slopes, slopes_b, result, parts, T, M, ticket, HOW: tl.constexpr):
    """Program (split, tile, b) attends TILE queries of one KV head to their slots lo..hi."""
    split, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    tiles = tl.cdiv(M * HOW.G, HOW.TILE)
    h, r = tl.program_id(1) // tiles, tl.program_id(1) % tiles * HOW.TILE
    r_end = tl.minimum(r + HOW.TILE, M * HOW.G)
    # 1. the slots of this split
    span = span_of(lengths, b, T, split, r // HOW.G, (r_end - 1) // HOW.G + 1, M, HOW)
    if not is_live(split, span.splits):
        return

    here = at_head(cache, b, h, span.lo, HOW)
    d, query = tl.arange(0, HOW.D_POW2)[None, :], r + tl.arange(0, HOW.TILE)
    i, head, is_query = query // HOW.G, h * HOW.G + query % HOW.G, query < r_end
    q_at = q.q + b * q.b + i * q.m + head * q.h
    qt = tl.load(q_at[:, None] + d, mask=is_query[:, None] & (d < HOW.D), other=0.0)
    qt = qt.to(tl.float32) if HOW.UPCAST else qt
    slope = None if slopes is None else tl.load(slopes + b * slopes_b + head, mask=is_query, other=0.0)
    fresh = None if new is None else new_rows(new, b, h, HOW)
    if new is not None:
        for token in range(tl.cdiv(r, HOW.G), tl.cdiv(r_end, HOW.G)):  # whose first query is of this tile
            is_mine = (span.old + token >= span.lo) & (span.old + token < span.hi)
            append_token(here, fresh, new, token, is_mine, span.lo, span.old + token, HOW)
    m = tl.full([HOW.TILE], HOW.LOWEST, tl.float32)
    l = tl.full([HOW.TILE], 0.0, tl.float32)
    acc = tl.full([HOW.TILE, HOW.D_POW2], 0.0, tl.float32)
    N: tl.constexpr = HOW.ROWS
    whole = tl.maximum(tl.minimum(span.hi, span.old) - span.lo, 0) // N * N if HOW.WINDOW is None else 0
    for start in tl.range(0, whole, N, num_stages=HOW.STAGES):
        m, l, acc = attend_block(qt, here, span, start, slope, span.old + i, m, l, acc, HOW)
    kept, skipped = gap(span.lo, HOW.SINKS, tl.minimum(span.first, span.hi), N)
    for start in tl.range(whole, span.hi - span.lo - skipped * N, N, num_stages=HOW.EDGE_STAGES):
        start += tl.where(start < kept * N, 0, skipped * N)
        m, l, acc = attend_edge(qt, here, span, start, slope, span.old + i, new, fresh, m, l, acc, HOW)
    # 6. take off what lifted the values of int8
    acc = acc * 0.015625 if HOW.INT8 else acc
    # 7. a lone split is the result; the others wait to be combined
    l = tl.where(span.valid, l, float("nan"))  # a length outside 0..T is answered, loudly, with NaN
    finish_tile(b, h, r, r_end, split, span.splits, m, l, acc, result, parts, M, ticket, HOW)
