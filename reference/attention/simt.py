"""The simt engine: one query per program, UNROLL x BLOCK_N slots at a time.

Each of the BLOCK_N rows keeps its own m, l and acc and meets the others once, after the loop: on a GPU a row belongs to
a few lanes of one warp, so nothing in the loop waits for another row. Source: kernels/attention/simt.py.
"""

import numpy as np

from .append import append_token
from .combine import finish_tile
from .steps import LOG2E, load_rows, score, split_slots


def scores(qh, k, k_scale, visible, distance, slope, CFG):
    # 3. scores of these slots, as powers of two
    s = np.sum(k * qh, 2)  # (UNROLL, BLOCK_N)
    s = score(s * k_scale, distance, slope, CFG)
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


def attend_block(qh, cache, new, b, h, slots, start, slope, position, m, l, acc, CFG):
    """A block of slots; those out of sight or new are not read from the cache, as in the kernel's attend_edge."""
    # 2. the rows of this block
    slot = slots.lo + start + np.arange(CFG.UNROLL)[:, None] * CFG.BLOCK_N + np.arange(CFG.BLOCK_N)[None, :]
    visible = (slot < slots.hi) & ((slot >= slots.window) | (slot < CFG.SINKS))
    k, k_scale = load_rows(cache.k, cache.k_scale, new.k, cache, b, h, slot, visible, slots.new, qh.dtype)
    v, v_scale = load_rows(cache.v, cache.v_scale, new.v, cache, b, h, slot, visible, slots.new, qh.dtype)
    s = scores(qh, k, k_scale, visible, np.abs(position - slot), slope, CFG)
    return absorb(s, v, v_scale, m, l, acc)


def attend_simt(split, program, b, q, cache, new, lengths, slopes, result, partials, CFG):
    """Program (split, program, b) attends query program % (M * G) of a KV head to its slots lo..hi."""
    _, M, _, D = q.shape
    h, r = program // (M * CFG.G), program % (M * CFG.G)
    i, head = r // CFG.G, h * CFG.G + r % CFG.G
    ACC = partials.acc.dtype
    # 1. the slots of this split
    slots = split_slots(lengths, b, split, i, i + 1, M, CFG)
    if split not in slots.splits:
        return

    qh = q[b, i, head].astype(ACC)
    qh *= CFG.SCALE * LOG2E if CFG.SOFTCAP is None else CFG.SCALE / CFG.SOFTCAP
    if r % CFG.G == 0:
        append_token(cache, new, b, h, i, slots)
    m = np.full(CFG.BLOCK_N, np.finfo(ACC).min)
    l = np.zeros(CFG.BLOCK_N, ACC)
    acc = np.zeros((CFG.BLOCK_N, D), ACC)
    for start in range(0, slots.hi - slots.lo, CFG.UNROLL * CFG.BLOCK_N):
        m, l, acc = attend_block(qh, cache, new, b, h, slots, start, slopes[b, head], slots.new + i, m, l, acc, CFG)
    # 6. merge the rows
    m_new = np.max(m, 0, keepdims=True)
    a = np.exp2(m - m_new)
    m = m_new
    l = np.sum(l * a, 0, keepdims=True)
    acc = np.sum(acc * a[:, None], 0, keepdims=True)  # (1, D)
    # 7. a lone split is the result; the others wait to be combined
    finish_tile(b, [i], [head], program, split, slots.splits, m, l, acc, result, partials, CFG)
