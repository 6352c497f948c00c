"""The Triton kernel's twin: the same blocks and numbered steps as kernels/decode_attention.py, slow and plain.

It explains, it does not judge: sharing the kernel's ideas, it would share its mistakes. The judge is the plain formula,
`attention` in honest.py. The kernel's programs are the iterations of the loops in `decode_attention`; its tiles are
arrays here. A block is R rows of ROWS slots; each row keeps its own m, l and acc and meets the others once, after the
loop: on a GPU a row belongs to a few lanes of one warp, so nothing in the loop waits for another warp.

Source: online softmax, Milakov & Gimelshein 2018 (arXiv:1805.02867).
"""

import numpy as np

LOG2E = np.log2(np.e)
CHUNK = 8  # splits merged at a time


def split_size(n):
    """Slots per split, by the request's own length n alone: neighbours in the batch must not change its bits."""
    size = 128
    while size < 4096 and n > 64 * size:
        size = 2 * size
    return size


def store_result(out, lse, m, l, acc):
    """Divide by the weights' sum; a sum of zero means nothing was attended to, and gives zeros."""
    total = 1 if l == 0 else l
    out[:] = acc / total
    lse[...] = -np.inf if l == 0 else (m + np.log2(total)) / LOG2E


def attend_split(qh, k, v, n, split, scale, out, lse, part_m, part_l, part_acc, R, ROWS):
    """Attend qh (D,) to slots lo..hi of k, v (T, D), R * ROWS slots at a time; into out (D,), lse () or the parts."""
    # 1. the slots of this split
    size = split_size(n)
    lo = split * size
    hi = min(lo + size, n)

    k, v = k[lo:hi], v[lo:hi]
    block = np.arange(R)[:, None] * ROWS + np.arange(ROWS)[None, :]
    m = np.full(ROWS, np.finfo(qh.dtype).min)
    l = np.zeros(ROWS, qh.dtype)
    acc = np.zeros((ROWS, qh.size), qh.dtype)
    for start in range(0, hi - lo, R * ROWS):
        # 2. the rows of this block; past the end, the last one again
        row = start + block
        live = row < hi - lo
        row = np.minimum(row, hi - lo - 1)
        kb = k[row].astype(qh.dtype)  # (R, ROWS, D)
        vb = v[row].astype(qh.dtype)
        # 3. scores of this block, as powers of two
        s = np.sum(kb * qh, 2) * qh.dtype.type(scale * LOG2E)  # (R, ROWS)
        s = np.where(live, s, -np.inf)
        # 4. new max of each row; shrink the past
        m_new = np.maximum(m, np.max(s, 0))
        a = np.exp2(m - m_new)
        m = m_new
        # 5. add the weights, and the values they weigh
        p = np.exp2(s - m[None, :])
        l = l * a + np.sum(p, 0)
        acc = acc * a[:, None] + np.sum(p[:, :, None] * vb, 0)
    # 6. merge the rows
    m_new = np.max(m, 0)
    a = np.exp2(m - m_new)
    m = m_new
    l = np.sum(l * a, 0)
    acc = np.sum(acc * a[:, None], 0)  # (D,)
    # 7. a lone split is the result; the others wait to be combined
    if n <= size:
        store_result(out, lse, m, l, acc)
    else:
        part_m[split], part_l[split], part_acc[split] = m, l, acc


def combine_splits(n, out, lse, part_m, part_l, part_acc):
    """Merge the splits' m (S,), l (S,) and acc (S, D) into out (D,) and lse (), CHUNK at a time, in their order."""
    size = split_size(n)
    if n <= size:
        return

    count = -(-n // size)
    m = np.finfo(part_acc.dtype).min
    l = part_acc.dtype.type(0)
    acc = np.zeros(out.size, part_acc.dtype)
    for first in range(0, count, CHUNK):
        # 8. the splits of this chunk; past the end, the last one again
        split = first + np.arange(CHUNK)
        at = np.minimum(split, count - 1)
        mc = np.where(split < count, part_m[at], -np.inf)
        lc = part_l[at]
        accc = part_acc[at]
        # 9. new max; shrink the past
        m_new = np.maximum(m, np.max(mc, 0))
        a = np.exp2(m - m_new)
        m = m_new
        # 10. add the splits
        p = np.exp2(mc - m)
        l = l * a + np.sum(p * lc, 0)
        acc = acc * a + np.sum(p[:, None] * accc, 0)
    store_result(out, lse, m, l, acc)


def decode_attention(q, k, v, lengths, scale=None, return_lse=False, R=4, ROWS=16):
    """Let one new token per sequence attend to everything cached so far: softmax(q k^T * scale) v.

    q        (B, H, D)     float16 | bfloat16 (ml_dtypes) | float32 | float64
    k, v     (B, H, T, D)  same dtype; slots from lengths[b] on are never read
    lengths  (B,)          visible slots, 0 <= lengths[b] <= T; 0 gives zeros and lse = -inf
    returns  (B, H, D) in q's dtype, summed in float32 (float64 for float64), and with return_lse the scores'
             log-sum-exp (B, H)

    Raises ValueError if a length leaves 0..T.
    """
    B, H, T, D = k.shape
    if not all(0 <= n <= T for n in lengths):
        raise ValueError(f"lengths are {list(lengths)}; the cache has {T} slots, so each must be 0..{T}")
    scale = D**-0.5 if scale is None else scale
    sums = np.dtype(np.float64 if q.dtype == np.float64 else np.float32)
    o, lse = np.empty((B, H, D), q.dtype), np.empty((B, H), sums)
    for b, h in np.ndindex(B, H):
        n = int(lengths[b])
        S = max(1, -(-n // split_size(n)))
        parts = np.empty(S, sums), np.empty(S, sums), np.empty((S, D), sums)
        for split in range(S):
            qh = q[b, h].astype(sums)
            attend_split(qh, k[b, h], v[b, h], n, split, scale, o[b, h], lse[b, h, ...], *parts, R, ROWS)
        combine_splits(n, o[b, h], lse[b, h, ...], *parts)
    return (o, lse) if return_lse else o
