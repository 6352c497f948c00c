"""The vector engine: one query per program, R x ROWS slots at a time.

Each of the ROWS keeps its own m, l and acc and meets the others once, after the loop: on a GPU a row belongs to a few
lanes of one warp, so nothing in the loop waits for another row. Source: kernels/attention/simt.py.
"""

import numpy as np

from .combine import finish_tile
from .steps import LOG2E, append_token, load_rows, score, span_of


def scores(qh, k, k_scale, visible, distance, slope, HOW):
    # 3. scores of these slots, as powers of two
    s = np.sum(k * qh, 2)  # (R, ROWS)
    s = score(s * k_scale, distance, slope, HOW)
    return np.where(visible, s, -np.inf)


def absorb(s, v, v_scale, m, l, acc):
    # 4. new max of each row; shrink the past
    m_new = np.maximum(m, np.max(s, 0))
    a = np.exp2(m - m_new)
    l = l * a
    acc = acc * a[:, None]
    # 5. add the weights, and the values they weigh
    for r in range(len(s)):
        p = np.exp2(s[r] - m_new)
        l = l + p
        p = p * v_scale[r]
        acc = acc + p[:, None] * v[r]
    return m_new, l, acc


def attend_block(qh, cache, new, b, h, span, start, slope, position, m, l, acc, HOW):
    """A block of slots; those out of sight or new are not read from the cache, as in the kernel's attend_edge."""
    # 2. the rows of this block
    slot = span.lo + start + np.arange(HOW.R)[:, None] * HOW.ROWS + np.arange(HOW.ROWS)[None, :]
    visible = (slot < span.hi) & ((slot >= span.first) | (slot < HOW.SINKS))
    k, k_scale = load_rows(cache.k, cache.k_scale, new.k, cache, b, h, slot, visible, span.old, qh.dtype)
    v, v_scale = load_rows(cache.v, cache.v_scale, new.v, cache, b, h, slot, visible, span.old, qh.dtype)
    s = scores(qh, k, k_scale, visible, np.abs(position - slot), slope, HOW)
    return absorb(s, v, v_scale, m, l, acc)


def attend_vector(split, program, b, q, cache, new, lengths, slopes, result, parts, HOW):
    """Program (split, program, b) attends query program % (M * G) of a KV head to its slots lo..hi."""
    _, M, _, D = q.shape
    h, r = program // (M * HOW.G), program % (M * HOW.G)
    i, head = r // HOW.G, h * HOW.G + r % HOW.G
    ACC = parts.acc.dtype
    # 1. the slots of this split
    span = span_of(lengths, b, split, i, i + 1, M, HOW)
    if split not in span.splits:
        return

    qh = q[b, i, head].astype(ACC)
    qh *= HOW.SCALE * LOG2E if HOW.SOFTCAP is None else HOW.SCALE / HOW.SOFTCAP
    if r % HOW.G == 0:
        append_token(cache, new, b, h, i, span)
    m = np.full(HOW.ROWS, np.finfo(ACC).min)
    l = np.zeros(HOW.ROWS, ACC)
    acc = np.zeros((HOW.ROWS, D), ACC)
    for start in range(0, span.hi - span.lo, HOW.R * HOW.ROWS):
        m, l, acc = attend_block(qh, cache, new, b, h, span, start, slopes[b, head], span.old + i, m, l, acc, HOW)
    # 6. merge the rows
    m_new = np.max(m, 0, keepdims=True)
    a = np.exp2(m - m_new)
    m = m_new
    l = np.sum(l * a, 0, keepdims=True)
    acc = np.sum(acc * a[:, None], 0, keepdims=True)  # (1, D)
    # 7. a lone split is the result; the others wait to be combined
    finish_tile(b, [i], [head], program, split, span.splits, m, l, acc, result, parts, HOW)
