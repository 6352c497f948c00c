"""The mma engine, on tensor cores: sixteen queries of a KV head per program, of its group and of the new tokens.

Both products take 16-bit factors and sum in float32: queries, keys and values are that already, the weights are rounded
to it. Scores are scaled after the product, in float32: a query that is scaled first and rounded to 16 bits loses
several times as much. Sources: kernels/attention/mma.py.
"""

import numpy as np

from .append import append_token
from .combine import finish_tile
from .steps import LOG2E, load_rows, score, split_slots


def scores(qt, k, k_scale, visible, distance, slope, CFG):
    # 3. scores of these slots, as powers of two
    s = qt @ k.T  # (BLOCK_M, BLOCK_N)
    s = s * k_scale[None, :]
    s *= CFG.SCALE * LOG2E if CFG.SOFTCAP is None else CFG.SCALE / CFG.SOFTCAP
    s = score(s, distance, slope[:, None], CFG)
    return np.where(visible, s, -np.inf)


def absorb(s, v, v_scale, m, l, acc, CFG):
    # 4. new max of each query; shrink the past
    m_new = np.maximum(m, np.max(s, 1))
    a = np.exp2(m - m_new)
    # 5. add the weights, and the values they weigh
    p = np.exp2(s - m_new[:, None])
    l = l * a + np.sum(p, 1)
    p = p * (v_scale * 64)[None, :] if CFG.INT8 else p  # lest float16 lose small ones: taken off in 6
    acc = p.astype(CFG.DTYPE).astype(acc.dtype) @ v + acc * a[:, None]
    return m_new, l, acc


def attend_block(qt, cache, new, b, h, slots, start, slope, position, m, l, acc, CFG):
    """A block of slots; those out of sight or new are not read from the cache, as in the kernel's attend_edge."""
    # 2. the rows of this block
    slot = slots.lo + start + np.arange(CFG.BLOCK_N)
    live = (slot < slots.hi) & ((slot >= slots.window) | (slot < CFG.SINKS))
    k, k_scale = load_rows(cache.k, cache.k_scale, new.k, cache, b, h, slot, live, slots.new, qt.dtype)
    v, v_scale = load_rows(cache.v, cache.v_scale, new.v, cache, b, h, slot, live, slots.new, qt.dtype)
    visible = live[None, :]
    if CFG.CAUSAL:
        visible = visible & (slot[None, :] <= position[:, None])
    if CFG.WINDOW is not None:
        visible = visible & ((slot[None, :] > position[:, None] - CFG.WINDOW) | (slot < CFG.SINKS)[None, :])
    s = scores(qt, k, k_scale, visible, np.abs(position[:, None] - slot[None, :]), slope, CFG)
    return absorb(s, v, v_scale, m, l, acc, CFG)


def attend_mma(split, program, b, q, cache, new, lengths, slopes, result, partials, CFG):
    """Program (split, program, b) attends BLOCK_M queries of a KV head to their slots lo..hi."""
    _, M, _, D = q.shape
    tiles = -(-M * CFG.G // CFG.BLOCK_M)
    h, r = program // tiles, program % tiles * CFG.BLOCK_M
    r_end = min(r + CFG.BLOCK_M, M * CFG.G)
    # 1. the slots of this split
    slots = split_slots(lengths, b, split, r // CFG.G, (r_end - 1) // CFG.G + 1, M, CFG)
    if split not in slots.splits:
        return

    query = np.arange(r, r_end)
    i, head = query // CFG.G, h * CFG.G + query % CFG.G
    qt = q[b, i, head].astype(np.float32)
    for token in range(-(-r // CFG.G), -(-r_end // CFG.G)):  # whose first query is of this tile
        append_token(cache, new, b, h, token, slots)
    m = np.full(len(query), np.finfo(np.float32).min)
    l = np.zeros(len(query), np.float32)
    acc = np.zeros((len(query), D), np.float32)
    for start in range(0, slots.hi - slots.lo, CFG.BLOCK_N):
        m, l, acc = attend_block(qt, cache, new, b, h, slots, start, slopes[b, head], slots.new + i, m, l, acc, CFG)
    # 6. take off what lifted the values of int8
    acc = acc / 64 if CFG.INT8 else acc
    # 7. a lone split is the result; the others wait to be combined
    finish_tile(b, i, head, program, split, slots.splits, m, l, acc, result, partials, CFG)
