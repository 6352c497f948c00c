"""The vector engine: one query per program, products and sums on the ordinary float units.

A program walks one split of its query's context with the online softmax, a block of R x ROWS slots at a time. Each of
the ROWS keeps its own m, l and acc and meets the others once, after the loop: so nothing in the loop waits for another
row. The numbered steps are those of the twin, reference/attention/simt.py.

Source: online softmax, Milakov & Gimelshein 2018 (arXiv:1805.02867).
"""

# Triton calls these with other types than their annotations name, which pyright cannot follow.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from ..requires_triton import tl, triton
from .combine import finish
from .steps import append_token, at_head, gap, is_live, locate, new_rows, offset, quantise, score, shift, span_of


@triton.jit
def load_row(at, live, HOW: tl.constexpr):
    """A row at each of the pointers (ROWS,) -> (ROWS, D_POW2), zero where not live; live is None where all are."""
    d = tl.arange(0, HOW.D_POW2)[None, :]
    at = at[:, None] + d
    if live is not None:
        return tl.load(at, mask=live[:, None] & (d < HOW.D), other=0)
    elif HOW.D == HOW.D_POW2:
        return tl.load(at)
    else:
        return tl.load(at, mask=d < HOW.D, other=0)


@triton.jit
def with_new(x, scale, new, stride_m, slot, span, HOW: tl.constexpr):
    """Rows x (ROWS, D_POW2) of slots, and what a whole number in them is worth, with the new rows in their places."""
    d = tl.arange(0, HOW.D_POW2)[None, :]
    is_new = (slot >= span.old) & (slot < span.hi)
    if HOW.ONE:  # the same row for all, loaded once
        rows = tl.load(new + (slot * 0)[:, None] + d, mask=d < HOW.D, other=0.0)
    else:
        at = new + offset(slot - span.old, stride_m, new, HOW)
        rows = tl.load(at[:, None] + d, mask=is_new[:, None] & (d < HOW.D), other=0.0)
    if HOW.INT8:
        rows, new_scale = quantise(rows, 1)
        scale = tl.where(is_new, new_scale, scale)
    x = x.to(tl.float64) if rows.dtype == tl.float64 else x.to(tl.float32)
    return tl.where(is_new[:, None], rows.to(x.dtype), x), scale


@triton.jit
def values_with_new(v, v_scale, new, stride_m, start, span, HOW: tl.constexpr):
    """The same for all rows of a block's values, after its scores: so that fewer registers wait."""
    R: tl.constexpr = HOW.R
    all_rows, all_scales = (), ()
    for j in tl.static_range(R):
        slot = span.lo + start + j * HOW.ROWS + tl.arange(0, HOW.ROWS)
        rows, scale = with_new(v[j], v_scale[j] if HOW.INT8 else 0.0, new, stride_m, slot, span, HOW)
        all_rows += (rows,)
        all_scales += (scale,) if HOW.INT8 else ()
    return all_rows, all_scales


@triton.jit
def scores(qh, k, k_scale, visible, distance, slope, HOW: tl.constexpr):
    # 3. scores of these slots, as powers of two
    s = tl.sum(k.to(qh.dtype) * qh[None, :], 1)  # (ROWS,)
    s = score(s * k_scale if HOW.INT8 else s, distance, slope, HOW)
    return s if visible is None else tl.where(visible, s, float("-inf"))


@triton.jit
def absorb(s, v, v_scale, m, l, acc, HOW: tl.constexpr):
    # 4. new max of each row; shrink the past
    R: tl.constexpr = HOW.R
    m_new = m
    for r in tl.static_range(R):
        m_new = tl.maximum(m_new, s[r])
    a = tl.exp2(m - m_new)
    l = l * a
    acc = acc * a[:, None]
    # 5. add the weights, and the values they weigh
    for r in tl.static_range(R):
        p = tl.exp2(s[r] - m_new)
        l += p
        p = p * v_scale[r] if HOW.INT8 else p
        acc = tl.fma(p[:, None], v[r].to(acc.dtype), acc)
    return m_new, l, acc


@triton.jit
def attend_block(qh, here, span, start, slope, position, m, l, acc, HOW: tl.constexpr):
    """A block of slots that are all visible and all in the cache."""
    R: tl.constexpr = HOW.R
    NEAR: tl.constexpr = HOW.PAGE is None or HOW.PAGE % (HOW.R * HOW.ROWS) == 0  # a block lies in one page
    # 2. the rows of this block
    rows = tl.arange(0, HOW.ROWS)
    block = shift(locate(here, span.lo, start, None, HOW), rows, HOW) if NEAR else None
    s, v, v_scale = (), (), ()
    for j in tl.static_range(R):
        row = start + j * HOW.ROWS + rows
        at = shift(block, j * HOW.ROWS, HOW) if NEAR else locate(here, span.lo, row, None, HOW)
        v += (load_row(at.v, None, HOW),)
        v_scale += (tl.load(at.v_scale),) if HOW.INT8 else ()
        k_scale = tl.load(at.k_scale) if HOW.INT8 else 0.0
        distance = tl.abs(position - span.lo - row)
        s += (scores(qh, load_row(at.k, None, HOW), k_scale, None, distance, slope, HOW),)
    return absorb(s, v, v_scale, m, l, acc, HOW)


@triton.jit
def attend_edge(qh, here, span, start, slope, position, new, fresh, m, l, acc, HOW: tl.constexpr):
    """A block of which some slots may be out of sight, or may be new: those are not read from the cache."""
    R: tl.constexpr = HOW.R
    NEAR: tl.constexpr = HOW.PAGE is None or HOW.PAGE % (HOW.R * HOW.ROWS) == 0
    # 2. the rows of this block, where there are any
    rows = tl.arange(0, HOW.ROWS)
    end = span.hi if new is None else tl.minimum(span.hi, span.old)
    block = shift(locate(here, span.lo, start, span.lo + start < end, HOW), rows, HOW) if NEAR else None
    s, v, v_scale = (), (), ()
    for j in tl.static_range(R):
        row = start + j * HOW.ROWS + rows
        slot = span.lo + row
        visible = slot < span.hi
        visible = visible if HOW.WINDOW is None else visible & ((slot >= span.first) | (slot < HOW.SINKS))
        live = visible & (slot < end)
        at = shift(block, j * HOW.ROWS, HOW) if NEAR else locate(here, span.lo, row, live, HOW)
        k, k_scale = load_row(at.k, live, HOW), tl.load(at.k_scale, mask=live, other=0.0) if HOW.INT8 else 0.0
        v += (load_row(at.v, live, HOW),)
        v_scale += (tl.load(at.v_scale, mask=live, other=0.0),) if HOW.INT8 else ()
        if new is not None:
            k, k_scale = with_new(k, k_scale, fresh.k, new.km, slot, span, HOW)
        s += (scores(qh, k, k_scale, visible, tl.abs(position - slot), slope, HOW),)
    if new is not None:
        v, v_scale = values_with_new(v, v_scale, fresh.v, new.vm, start, span, HOW)
    return absorb(s, v, v_scale, m, l, acc, HOW)


@triton.jit(do_not_specialize=["M", "ticket"])
def attend_vector(q, cache, new, lengths, slopes, slopes_b, result, parts, T, M, ticket, HOW: tl.constexpr):
    """Program (split, r, b) attends query r % (M * G) of KV head r // (M * G) to its slots lo..hi."""
    split, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    h, r = tl.program_id(1) // (M * HOW.G), tl.program_id(1) % (M * HOW.G)
    i, head = r // HOW.G, h * HOW.G + r % HOW.G
    N: tl.constexpr = HOW.R * HOW.ROWS
    ACC: tl.constexpr = parts.acc.dtype.element_ty
    # 1. the slots of this split
    span = span_of(lengths, b, T, split, i, i + 1, M, HOW)
    if not is_live(split, span.splits):
        return

    here = at_head(cache, b, h, span.lo, HOW)
    d = tl.arange(0, HOW.D_POW2)
    qh = tl.load(q.q + b * q.b + i * q.m + head * q.h + d, mask=d < HOW.D, other=0.0).to(ACC)
    qh *= HOW.SCALE * HOW.LOG2E if HOW.SOFTCAP is None else HOW.SCALE / HOW.SOFTCAP
    slope = None if slopes is None else tl.load(slopes + b * slopes_b + head).to(ACC)
    fresh = None if new is None else new_rows(new, b, h, HOW)
    if new is not None:
        is_mine = (r % HOW.G == 0) & (span.old + i >= span.lo) & (span.old + i < span.hi)
        append_token(here, fresh, new, i, is_mine, span.lo, span.old + i, HOW)
    m = tl.full([HOW.ROWS], HOW.LOWEST, ACC)
    l = tl.full([HOW.ROWS], 0.0, ACC)
    acc = tl.full([HOW.ROWS, HOW.D_POW2], 0.0, ACC)
    end = span.hi if new is None else tl.minimum(span.hi, span.old)
    whole = tl.maximum(end - span.lo, 0) // N * N if HOW.WINDOW is None else 0
    for start in range(0, whole, N):
        m, l, acc = attend_block(qh, here, span, start, slope, span.old + i, m, l, acc, HOW)
    kept, skipped = gap(span.lo, HOW.SINKS, tl.minimum(span.first, span.hi), N)
    for start in range(whole, span.hi - span.lo - skipped * N, N):
        start += tl.where(start < kept * N, 0, skipped * N)
        m, l, acc = attend_edge(qh, here, span, start, slope, span.old + i, new, fresh, m, l, acc, HOW)
    # 6. merge the rows
    m_new = tl.max(m, 0)
    a = tl.exp2(m - m_new)
    m = m_new
    l = tl.sum(l * a, 0)
    acc = tl.sum(acc * a[:, None], 0)  # (D_POW2,)
    # 7. a lone split is the result; the others wait to be combined
    l = tl.where(span.valid, l, float("nan"))  # a length outside 0..T is answered, loudly, with NaN
    finish(b, h, r, split, span.splits, m, l, acc, result, parts, M, ticket, HOW)
