"""The tensor-core engine: sixteen queries of one KV head per program, those of a group's heads and of the new tokens.

Both products take 16-bit factors and sum in float32: queries, keys and values are that already, the weights are rounded
to it. Scores are scaled after the product, in float32: a query that is scaled first and rounded to 16 bits loses
several times as much. Sources: kernels/attention/mma.py.
"""

import numpy as np

from .combine import finish_tile
from .steps import LOG2E, append_token, load_rows, score, span_of


def scores(qt, k, k_scale, visible, distance, slope, HOW):
    # 3. scores of these slots, as powers of two
    s = qt @ k.T  # (TILE, ROWS)
    s = s * k_scale[None, :]
    s *= HOW.SCALE * LOG2E if HOW.SOFTCAP is None else HOW.SCALE / HOW.SOFTCAP
    s = score(s, distance, slope[:, None], HOW)
    return np.where(visible, s, -np.inf)


def absorb(s, v, v_scale, m, l, acc, HOW):
    # 4. new max of each query; shrink the past
    m_new = np.maximum(m, np.max(s, 1))
    a = np.exp2(m - m_new)
    # 5. add the weights, and the values they weigh
    p = np.exp2(s - m_new[:, None])
    l = l * a + np.sum(p, 1)
    p = p * (v_scale * 64)[None, :] if HOW.INT8 else p  # lest float16 lose small ones: taken off in 6
    acc = p.astype(HOW.DTYPE).astype(acc.dtype) @ v + acc * a[:, None]
    return m_new, l, acc


def attend_block(qt, cache, new, b, h, span, start, slope, position, m, l, acc, HOW):
    """A block of slots; those out of sight or new are not read from the cache, as in the kernel's attend_edge."""
    # 2. the rows of this block
    slot = span.lo + start + np.arange(HOW.ROWS)
    live = (slot < span.hi) & ((slot >= span.first) | (slot < HOW.SINKS))
    k, k_scale = load_rows(cache.k, cache.k_scale, new.k, cache, b, h, slot, live, span.old, qt.dtype)
    v, v_scale = load_rows(cache.v, cache.v_scale, new.v, cache, b, h, slot, live, span.old, qt.dtype)
    visible = live[None, :]
    if HOW.CAUSAL:
        visible = visible & (slot[None, :] <= position[:, None])
    if HOW.WINDOW is not None:
        visible = visible & ((slot[None, :] > position[:, None] - HOW.WINDOW) | (slot < HOW.SINKS)[None, :])
    s = scores(qt, k, k_scale, visible, np.abs(position[:, None] - slot[None, :]), slope, HOW)
    return absorb(s, v, v_scale, m, l, acc, HOW)


def attend_tensor(split, program, b, q, cache, new, lengths, slopes, result, parts, HOW):
    """Program (split, program, b) attends TILE queries of a KV head to their slots lo..hi."""
    _, M, _, D = q.shape
    tiles = -(-M * HOW.G // HOW.TILE)
    h, r = program // tiles, program % tiles * HOW.TILE
    r_end = min(r + HOW.TILE, M * HOW.G)
    # 1. the slots of this split
    span = span_of(lengths, b, split, r // HOW.G, (r_end - 1) // HOW.G + 1, M, HOW)
    if split not in span.splits:
        return

    query = np.arange(r, r_end)
    i, head = query // HOW.G, h * HOW.G + query % HOW.G
    qt = q[b, i, head].astype(np.float32)
    for token in range(-(-r // HOW.G), -(-r_end // HOW.G)):  # whose first query is of this tile
        append_token(cache, new, b, h, token, span)
    m = np.full(len(query), np.finfo(np.float32).min)
    l = np.zeros(len(query), np.float32)
    acc = np.zeros((len(query), D), np.float32)
    for start in range(0, span.hi - span.lo, HOW.ROWS):
        m, l, acc = attend_block(qt, cache, new, b, h, span, start, slopes[b, head], span.old + i, m, l, acc, HOW)
    # 6. take off what lifted the values of int8
    acc = acc / 64 if HOW.INT8 else acc
    # 7. a lone split is the result; the others wait to be combined
    finish_tile(b, i, head, program, split, span.splits, m, l, acc, result, parts, HOW)
