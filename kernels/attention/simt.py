"""The simt engine: one query per program, products and sums on the ordinary float units.

A program walks one split of its query's context with the online softmax, a block of UNROLL x BLOCK_N slots at a time.
Each of the BLOCK_N rows keeps its own m, l and acc and meets the others once, after the loop: nothing in the loop waits
for another row. The numbered steps are those of the twin, reference/attention/simt.py.

Source: online softmax, Milakov & Gimelshein 2018 (arXiv:1805.02867).
"""

# Triton calls these with other types than their annotations name, which pyright cannot follow.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from ..requires_triton import tl, triton
from .append import append_token, new_rows, quantise
from .combine import finish
from .steps import at_head, is_live, load_rows, locate, offset, score, shift, skipped_blocks, split_slots


@triton.jit
def with_new(x, scale, new, stride_m, slot, slots, CFG: tl.constexpr):
    """Rows x (BLOCK_N, D_POW2) of slots and their scale, with the new rows in their places."""
    d = tl.arange(0, CFG.D_POW2)[None, :]
    is_new = (slot >= slots.new) & (slot < slots.hi)
    if CFG.ONE_TOKEN:  # the same row for all, loaded once
        rows = tl.load(new + (slot * 0)[:, None] + d, mask=d < CFG.D, other=0.0)
    else:
        at = new + offset(slot - slots.new, stride_m, new, CFG)
        rows = tl.load(at[:, None] + d, mask=is_new[:, None] & (d < CFG.D), other=0.0)
    if CFG.INT8:
        rows, new_scale = quantise(rows, 1)
        scale = tl.where(is_new, new_scale, scale)
    x = x.to(tl.float64) if rows.dtype == tl.float64 else x.to(tl.float32)
    return tl.where(is_new[:, None], rows.to(x.dtype), x), scale


@triton.jit
def values_with_new(v, v_scale, new, stride_m, start, slots, CFG: tl.constexpr):
    """The same for all values of a block, after its scores: so that fewer registers wait."""
    UNROLL: tl.constexpr = CFG.UNROLL
    all_rows, all_scales = (), ()
    for j in tl.static_range(UNROLL):
        slot = slots.lo + start + j * CFG.BLOCK_N + tl.arange(0, CFG.BLOCK_N)
        rows, scale = with_new(v[j], v_scale[j] if CFG.INT8 else 0.0, new, stride_m, slot, slots, CFG)
        all_rows += (rows,)
        all_scales += (scale,) if CFG.INT8 else ()
    return all_rows, all_scales


@triton.jit
def scores(qh, k, k_scale, visible, distance, slope, CFG: tl.constexpr):
    # 3. scores of these slots, as powers of two
    s = tl.sum(k.to(qh.dtype) * qh[None, :], 1)  # (BLOCK_N,)
    s = score(s * k_scale if CFG.INT8 else s, distance, slope, CFG)
    return s if visible is None else tl.where(visible, s, float("-inf"))


@triton.jit
def absorb(s, v, v_scale, m, l, acc, CFG: tl.constexpr):
    # 4. new max of each row; shrink the past
    UNROLL: tl.constexpr = CFG.UNROLL
    m_new = m
    for r in tl.static_range(UNROLL):
        m_new = tl.maximum(m_new, s[r])
    a = tl.exp2(m - m_new)
    l = l * a
    acc = acc * a[:, None]
    # 5. add the weights, and the values they weigh
    for r in tl.static_range(UNROLL):
        p = tl.exp2(s[r] - m_new)
        l += p
        p = p * v_scale[r] if CFG.INT8 else p
        acc = tl.fma(p[:, None], v[r].to(acc.dtype), acc)
    return m_new, l, acc


@triton.jit
def attend_block(qh, kv_ptrs, slots, start, slope, position, m, l, acc, CFG: tl.constexpr):
    """A block of slots that are all visible and all in the cache."""
    UNROLL: tl.constexpr = CFG.UNROLL
    NEAR: tl.constexpr = CFG.PAGE is None or CFG.PAGE % (CFG.UNROLL * CFG.BLOCK_N) == 0  # a block lies in one page
    # 2. the rows of this block
    rows = tl.arange(0, CFG.BLOCK_N)
    block = shift(locate(kv_ptrs, slots.lo, start, None, CFG), rows, CFG) if NEAR else None
    s, v, v_scale = (), (), ()
    for j in tl.static_range(UNROLL):
        row = start + j * CFG.BLOCK_N + rows
        at = shift(block, j * CFG.BLOCK_N, CFG) if NEAR else locate(kv_ptrs, slots.lo, row, None, CFG)
        v += (load_rows(at.v, None, 0, CFG),)
        v_scale += (tl.load(at.v_scale),) if CFG.INT8 else ()
        k_scale = tl.load(at.k_scale) if CFG.INT8 else 0.0
        distance = tl.abs(position - slots.lo - row)
        s += (scores(qh, load_rows(at.k, None, 0, CFG), k_scale, None, distance, slope, CFG),)
    return absorb(s, v, v_scale, m, l, acc, CFG)


@triton.jit
def attend_edge(qh, kv_ptrs, slots, start, slope, position, new, new_ptrs, m, l, acc, CFG: tl.constexpr):
    """A block of which some slots may be out of sight, or may be new: those are not read from the cache."""
    UNROLL: tl.constexpr = CFG.UNROLL
    NEAR: tl.constexpr = CFG.PAGE is None or CFG.PAGE % (CFG.UNROLL * CFG.BLOCK_N) == 0
    # 2. the rows of this block, where there are any
    rows = tl.arange(0, CFG.BLOCK_N)
    end = slots.hi if new is None else tl.minimum(slots.hi, slots.new)
    block = shift(locate(kv_ptrs, slots.lo, start, slots.lo + start < end, CFG), rows, CFG) if NEAR else None
    s, v, v_scale = (), (), ()
    for j in tl.static_range(UNROLL):
        row = start + j * CFG.BLOCK_N + rows
        slot = slots.lo + row
        visible = slot < slots.hi
        visible = visible if CFG.WINDOW is None else visible & ((slot >= slots.window) | (slot < CFG.SINKS))
        live = visible & (slot < end)
        at = shift(block, j * CFG.BLOCK_N, CFG) if NEAR else locate(kv_ptrs, slots.lo, row, live, CFG)
        k, k_scale = load_rows(at.k, live, 0, CFG), tl.load(at.k_scale, mask=live, other=0.0) if CFG.INT8 else 0.0
        v += (load_rows(at.v, live, 0, CFG),)
        v_scale += (tl.load(at.v_scale, mask=live, other=0.0),) if CFG.INT8 else ()
        if new is not None:
            k, k_scale = with_new(k, k_scale, new_ptrs.k, new.km, slot, slots, CFG)
        s += (scores(qh, k, k_scale, visible, tl.abs(position - slot), slope, CFG),)
    if new is not None:
        v, v_scale = values_with_new(v, v_scale, new_ptrs.v, new.vm, start, slots, CFG)
    return absorb(s, v, v_scale, m, l, acc, CFG)


@triton.jit(do_not_specialize=["M", "ticket"])
def attend_simt(q, cache, new, lengths, slopes, slopes_b, result, partials, T, M, ticket, CFG: tl.constexpr):
    """Program (split, r, b) attends query r % (M * G) of KV head r // (M * G) to its slots lo..hi."""
    split, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    h, r = tl.program_id(1) // (M * CFG.G), tl.program_id(1) % (M * CFG.G)
    i, head = r // CFG.G, h * CFG.G + r % CFG.G
    N: tl.constexpr = CFG.UNROLL * CFG.BLOCK_N
    ACC: tl.constexpr = partials.acc.dtype.element_ty
    # 1. the slots of this split
    slots = split_slots(lengths, b, T, split, i, i + 1, M, CFG)
    if not is_live(split, slots.splits):
        return

    kv_ptrs = at_head(cache, b, h, slots.lo, CFG)
    d = tl.arange(0, CFG.D_POW2)
    qh = tl.load(q.q + b * q.b + i * q.m + head * q.h + d, mask=d < CFG.D, other=0.0).to(ACC)
    qh *= CFG.SCALE * CFG.LOG2E if CFG.SOFTCAP is None else CFG.SCALE / CFG.SOFTCAP
    slope = None if slopes is None else tl.load(slopes + b * slopes_b + head).to(ACC)
    new_ptrs = None if new is None else new_rows(new, b, h, CFG)
    if new is not None:
        is_mine = (r % CFG.G == 0) & (slots.new + i >= slots.lo) & (slots.new + i < slots.hi)
        append_token(kv_ptrs, new_ptrs, new, i, is_mine, slots.lo, slots.new + i, CFG)
    m = tl.full([CFG.BLOCK_N], CFG.LOWEST, ACC)
    l = tl.full([CFG.BLOCK_N], 0.0, ACC)
    acc = tl.full([CFG.BLOCK_N, CFG.D_POW2], 0.0, ACC)
    end = slots.hi if new is None else tl.minimum(slots.hi, slots.new)
    whole = tl.maximum(end - slots.lo, 0) // N * N if CFG.WINDOW is None else 0
    for start in range(0, whole, N):
        m, l, acc = attend_block(qh, kv_ptrs, slots, start, slope, slots.new + i, m, l, acc, CFG)
    kept, skipped = skipped_blocks(slots.lo, CFG.SINKS, tl.minimum(slots.window, slots.hi), N)
    for start in range(whole, slots.hi - slots.lo - skipped * N, N):
        start += tl.where(start < kept * N, 0, skipped * N)
        m, l, acc = attend_edge(qh, kv_ptrs, slots, start, slope, slots.new + i, new, new_ptrs, m, l, acc, CFG)
    # 6. merge the rows
    m_new = tl.max(m, 0)
    a = tl.exp2(m - m_new)
    m = m_new
    l = tl.sum(l * a, 0)
    acc = tl.sum(acc * a[:, None], 0)  # (D_POW2,)
    # 7. a lone split is the result; the others wait to be combined
    l = tl.where(slots.valid, l, float("nan"))  # a length outside 0..T is answered, loudly, with NaN
    finish(b, h, r, split, slots.splits, m, l, acc, result, partials, M, ticket, CFG)
