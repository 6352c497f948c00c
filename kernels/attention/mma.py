"""The mma engine: sixteen queries of one KV head per program, products on the tensor cores.

The queries are those of a group's heads and of the new tokens, token by token. A program walks one split of their
context, BLOCK_N slots at a time; keys and values come through shared memory, copied there while the block before is
attended to. The scores are scaled after the product, in float32: a query that is scaled first and rounded to 16 bits
loses several times as much. The numbered steps are those of the twin, reference/attention/mma.py.

Sources: online softmax, Milakov & Gimelshein 2018 (arXiv:1805.02867); FlashAttention-2, Dao 2023 (arXiv:2307.08691).
"""

# Triton calls these with other types than their annotations name, which pyright cannot follow.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from ..requires_triton import tl, triton
from .append import append_token, new_rows, quantise
from .combine import finish_tile
from .steps import Rows, at_head, is_live, load_rows, locate, offset, score, shift, skipped_blocks, split_slots


@triton.jit
def load_new(x, scale, at, is_new, AXIS: tl.constexpr, CFG: tl.constexpr):
    """A tile x of int8 rows and its scales, with the new rows, quantised here, in their places."""
    rows, new_scale = quantise(load_rows(at, is_new, AXIS, CFG), 1 - AXIS)
    return tl.where(tl.expand_dims(is_new, 1 - AXIS), rows, x.to(tl.float32)), tl.where(is_new, new_scale, scale)


@triton.jit
def edge_rows(at, slot, live, end, slots, new, new_ptrs, CFG: tl.constexpr):
    """Keys and values of some slots, with their scales: of the cache before slot `end`, of the new rows from there."""
    i = slot - slots.new  # the new token of a slot
    if CFG.INT8:
        cached = live & (slot < end)
        k, k_scale = load_rows(at.k, cached, 1, CFG), tl.load(at.k_scale, mask=cached, other=0.0)
        v, v_scale = load_rows(at.v, cached, 0, CFG), tl.load(at.v_scale, mask=cached, other=0.0)
        if new is not None:
            is_new = (i >= 0) & (slot < slots.hi)
            k, k_scale = load_new(k, k_scale, new_ptrs.k + offset(i, new.km, new_ptrs.k, CFG), is_new, 1, CFG)
            v, v_scale = load_new(v, v_scale, new_ptrs.v + offset(i, new.vm, new_ptrs.v, CFG), is_new, 0, CFG)
        return Rows(k, v, k_scale, v_scale)
    else:
        k_at, v_at = at.k, at.v
        if new is not None:
            k_at = tl.where(i < 0, k_at, new_ptrs.k + offset(i, new.km, new_ptrs.k, CFG))
            v_at = tl.where(i < 0, v_at, new_ptrs.v + offset(i, new.vm, new_ptrs.v, CFG))
            if CFG.ALIGNED:  # which the compiler loses sight of in the choice
                k_at, v_at = tl.multiple_of(k_at, 16), tl.multiple_of(v_at, 16)
        return Rows(load_rows(k_at, live, 1, CFG), load_rows(v_at, live, 0, CFG), 0.0, 0.0)


@triton.jit
def scores(qt, k, k_scale, visible, distance, slope, CFG: tl.constexpr):
    # 3. scores of these slots, as powers of two
    s = tl.dot(qt, k.to(qt.dtype))  # (BLOCK_M, BLOCK_N)
    s = s * k_scale[None, :] if CFG.INT8 else s
    s *= CFG.SCALE * CFG.LOG2E if CFG.SOFTCAP is None else CFG.SCALE / CFG.SOFTCAP
    s = score(s, distance, slope if slope is None else slope[:, None], CFG)
    return s if visible is None else tl.where(visible, s, float("-inf"))


@triton.jit
def absorb(s, v, v_scale, m, l, acc, DTYPE: tl.constexpr, CFG: tl.constexpr):
    # 4. new max of each query; shrink the past
    m_new = tl.maximum(m, tl.max(s, 1))
    a = tl.exp2(m - m_new)
    # 5. add the weights, and the values they weigh
    p = tl.exp2(s - m_new[:, None])
    l = l * a + tl.sum(p, 1)
    p = p * (v_scale * 64)[None, :] if CFG.INT8 else p  # lifted, lest float16 lose small ones: see 6
    acc = tl.dot(p.to(DTYPE), v.to(DTYPE), acc * a[:, None])
    return m_new, l, acc


@triton.jit
def attend_block(qt, kv_ptrs, slots, start, slope, position, m, l, acc, CFG: tl.constexpr):
    """A block of slots that every query sees and that are all in the cache."""
    # 2. the rows of this block
    rows = tl.arange(0, CFG.BLOCK_N)
    if CFG.PAGE is None or CFG.PAGE % CFG.BLOCK_N == 0:  # a block lies in one page
        at = shift(locate(kv_ptrs, slots.lo, start, None, CFG), rows, CFG)
    else:
        at = locate(kv_ptrs, slots.lo, start + rows, None, CFG)
    k_scale = tl.load(at.k_scale) if CFG.INT8 else 0.0
    v_scale = tl.load(at.v_scale) if CFG.INT8 else 0.0
    distance = tl.abs(position[:, None] - (slots.lo + start + rows)[None, :])
    s = scores(qt, load_rows(at.k, None, 1, CFG), k_scale, None, distance, slope, CFG)
    return absorb(s, load_rows(at.v, None, 0, CFG), v_scale, m, l, acc, qt.dtype, CFG)


@triton.jit
def attend_edge(qt, kv_ptrs, slots, start, slope, position, new, new_ptrs, m, l, acc, CFG: tl.constexpr):
    """A block of which some slots may be out of a query's sight, or new: those are not read from the cache."""
    # 2. the rows of this block, where there are any
    slot = slots.lo + start + tl.arange(0, CFG.BLOCK_N)
    live = slot < slots.hi
    live = live if CFG.WINDOW is None else live & ((slot >= slots.window) | (slot < CFG.SINKS))
    end = slots.hi if new is None else tl.minimum(slots.hi, slots.new)
    if CFG.PAGE is None or CFG.PAGE % CFG.BLOCK_N == 0:
        at = shift(locate(kv_ptrs, slots.lo, start, slots.lo + start < end, CFG), slot - slots.lo - start, CFG)
    else:
        at = locate(kv_ptrs, slots.lo, slot - slots.lo, live & (slot < end), CFG)
    x = edge_rows(at, slot, live, end, slots, new, new_ptrs, CFG)
    visible = live[None, :]
    if CFG.CAUSAL:
        visible &= slot[None, :] <= position[:, None]
    if CFG.WINDOW is not None:
        visible &= (slot[None, :] > position[:, None] - CFG.WINDOW) | (slot < CFG.SINKS)[None, :]
    s = scores(qt, x.k, x.k_scale, visible, tl.abs(position[:, None] - slot[None, :]), slope, CFG)
    return absorb(s, x.v, x.v_scale, m, l, acc, qt.dtype, CFG)


@triton.jit(do_not_specialize=["M", "ticket"])
def attend_mma(q, cache, new, lengths, slopes, slopes_b, result, partials, T, M, ticket, CFG: tl.constexpr):
    """Program (split, tile, b) attends BLOCK_M queries of one KV head to their slots lo..hi."""
    split, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    tiles = tl.cdiv(M * CFG.G, CFG.BLOCK_M)
    h, r = tl.program_id(1) // tiles, tl.program_id(1) % tiles * CFG.BLOCK_M
    r_end = tl.minimum(r + CFG.BLOCK_M, M * CFG.G)
    # 1. the slots of this split
    slots = split_slots(lengths, b, T, split, r // CFG.G, (r_end - 1) // CFG.G + 1, M, CFG)
    if not is_live(split, slots.splits):
        return

    kv_ptrs = at_head(cache, b, h, slots.lo, CFG)
    d, query = tl.arange(0, CFG.D_POW2)[None, :], r + tl.arange(0, CFG.BLOCK_M)
    i, head, is_query = query // CFG.G, h * CFG.G + query % CFG.G, query < r_end
    q_at = q.q + b * q.b + i * q.m + head * q.h
    qt = tl.load(q_at[:, None] + d, mask=is_query[:, None] & (d < CFG.D), other=0.0)
    qt = qt.to(tl.float32) if CFG.UPCAST else qt
    slope = None if slopes is None else tl.load(slopes + b * slopes_b + head, mask=is_query, other=0.0)
    new_ptrs = None if new is None else new_rows(new, b, h, CFG)
    if new is not None:
        for token in range(tl.cdiv(r, CFG.G), tl.cdiv(r_end, CFG.G)):  # whose first query is of this tile
            is_mine = (slots.new + token >= slots.lo) & (slots.new + token < slots.hi)
            append_token(kv_ptrs, new_ptrs, new, token, is_mine, slots.lo, slots.new + token, CFG)
    m = tl.full([CFG.BLOCK_M], CFG.LOWEST, tl.float32)
    l = tl.full([CFG.BLOCK_M], 0.0, tl.float32)
    acc = tl.full([CFG.BLOCK_M, CFG.D_POW2], 0.0, tl.float32)
    N: tl.constexpr = CFG.BLOCK_N
    whole = tl.maximum(tl.minimum(slots.hi, slots.new) - slots.lo, 0) // N * N if CFG.WINDOW is None else 0
    for start in tl.range(0, whole, N, num_stages=CFG.STAGES):
        m, l, acc = attend_block(qt, kv_ptrs, slots, start, slope, slots.new + i, m, l, acc, CFG)
    kept, skipped = skipped_blocks(slots.lo, CFG.SINKS, tl.minimum(slots.window, slots.hi), N)
    for start in tl.range(whole, slots.hi - slots.lo - skipped * N, N, num_stages=CFG.EDGE_STAGES):
        start += tl.where(start < kept * N, 0, skipped * N)
        m, l, acc = attend_edge(qt, kv_ptrs, slots, start, slope, slots.new + i, new, new_ptrs, m, l, acc, CFG)
    # 6. take off what lifted the values of int8
    acc = acc * 0.015625 if CFG.INT8 else acc
    # 7. a lone split is the result; the others wait to be combined
    l = tl.where(slots.valid, l, float("nan"))  # a length outside 0..T is answered, loudly, with NaN
    finish_tile(b, h, r, r_end, split, slots.splits, m, l, acc, result, partials, M, ticket, CFG)
