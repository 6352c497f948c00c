"""Attention of one decode step in NumPy: append, attend, combine. kernels/decode.py takes the same steps on a GPU.

A decoder such as GPT-2 writes a text token by token. In each layer and head the newest token brings a query q, a key k
and a value v, D numbers each (D is called head_dim). Key and value join those of all earlier tokens in the KV cache,
and the query attends to the cache: softmax(q k^T / sqrt(D)) v. In words: the score of a token is the dot product of q
and its key, over sqrt(D). Its weight is exp(score). The result is the sum of weight times value over all tokens,
divided by the sum of weights.

Slots and pages. A cache has T slots per sequence and head; token t is in slot t, its row of D numbers. The first
lengths[b] slots of sequence b are in use, the newest token's the last of them. A paged cache is cut into pages, each of
the same number of slots, which lie anywhere; the sequence's line in the block table says which pages are its own.

Online softmax. exp of a large score overflows, so the weight is exp(score - m), m being the largest score; that leaves
the quotient as it is. But m is known only at the end. So the sums are kept for the largest score so far, the running
max, and when a larger one, m_new, comes, they are multiplied by exp(m - m_new): "shrink the past". Hence one pass,
which reads each row once. It keeps m, the sum of weights l, and the weighted sum of values acc.

Splits. A GPU has more processors than there are queries. So a sequence is cut into splits of SPLIT_LEN slots, which
are attended to at the same time (steps 1 to 7; here, in a loop), each leaving its m, l and acc, called partials. Then
the partials of a query are combined, all shrunk to their largest m (steps 8 to 10).

This file explains. It shares the kernel's ideas, hence its mistakes: the kernel is judged by the formula in float64.
Sources: online softmax, Milakov & Gimelshein 2018 (arXiv:1805.02867); splits, Flash-Decoding, Dao et al. 2023
(crfm.stanford.edu/2023/10/12/flashdecoding.html); pages, PagedAttention, Kwon et al. 2023 (arXiv:2309.06180).
"""

import numpy as np

SPLIT_LEN = 128  # slots of a split. It is fixed, so the order of a query's sums, and its bits, depend on no batch
CHUNK = 8  # splits combined at a time
LOG2E = float(np.log2(np.e))  # exp(x) = exp2(x * LOG2E), and a GPU computes powers of two
LOWEST = -3.0e38  # where a maximum starts: below every score, but finite, since -inf - -inf is NaN


def rows_at(x, b, h, slot, block_table):
    """Index into the cache x: the row of head h in a slot of sequence b, or in each of an array of slots."""
    if block_table is None:
        return b, h, slot
    page_len = x.shape[2]
    return block_table[b, slot // page_len], h, slot % page_len


def append(h, b, x, new, lengths, block_table):
    """Write the new row, new[b, h], to the sequence's last slot in the cache x (of keys or values)."""
    slot = lengths[b] - 1
    if slot >= 0:
        x[rows_at(x, b, h, slot, block_table)] = new[b, h]


def attend(split, h, b, q, k, v, lengths, block_table, part_m, part_l, part_acc, UNROLL, BLOCK_N):
    """Let q[b, h] attend to the slots of one split, a block of UNROLL tiles of BLOCK_N slots at a time.

    Row n of every tile adds to sums of its own, m[n], l[n] and acc[n], which step 6 merges. On a GPU different threads
    hold them, which need not exchange anything before that.
    """
    ACC, D = part_acc.dtype, q.shape[2]  # ACC is what sums are kept in: float32, or float64 for float64
    # 1. the slots of this split
    lo, hi = split * SPLIT_LEN, min((split + 1) * SPLIT_LEN, lengths[b])
    if lo >= hi:
        return
    qh = q[b, h].astype(ACC) * ACC.type(D**-0.5 * LOG2E)  # so that q k is the score, times LOG2E for exp2
    m, l, acc = np.full(BLOCK_N, LOWEST, ACC), np.zeros(BLOCK_N, ACC), np.zeros((BLOCK_N, D), ACC)
    for start in range(lo, hi, UNROLL * BLOCK_N):
        # 2. the rows of this block
        slot = start + np.arange(UNROLL * BLOCK_N).reshape(UNROLL, BLOCK_N)
        live = slot < hi
        kb, vb = np.zeros((2, UNROLL, BLOCK_N, D), ACC)
        kb[live] = k[rows_at(k, b, h, slot[live], block_table)]  # no dead slot is read: it may hold anything, NaN too
        vb[live] = v[rows_at(v, b, h, slot[live], block_table)]
        # 3. scores of this block, as powers of two
        s = np.where(live, np.sum(kb * qh, 2), -np.inf)  # (UNROLL, BLOCK_N)
        # 4. new max; shrink the past
        m_new = np.maximum(m, np.max(s, 0))
        a, m = np.exp2(m - m_new), m_new
        l, acc = l * a, acc * a[:, None]
        # 5. add the weights, and the values they weigh
        for r in range(UNROLL):
            p = np.exp2(s[r] - m)
            l = l + p
            acc = acc + p[:, None] * vb[r]  # a GPU rounds product and sum at once
    # 6. merge the rows
    a, m = np.exp2(m - np.max(m, 0)), np.max(m, 0)
    l, acc = np.sum(l * a, 0), np.sum(acc * a[:, None], 0)
    # 7. store this split's sums
    part_m[b, h, split], part_l[b, h, split], part_acc[b, h, split] = m, l, acc


def combine(h, b, part_m, part_l, part_acc, lengths, out):
    """Combine the splits of q[b, h] into its attention, CHUNK of them at a time, in their order."""
    ACC, D = part_acc.dtype, out.shape[2]
    used = -(-lengths[b] // SPLIT_LEN)  # the splits whose sums step 7 stored: the first ones
    m, l, acc = ACC.type(LOWEST), ACC.type(0), np.zeros(D, ACC)
    for first in range(0, used, CHUNK):
        # 8. the splits of this chunk
        split = np.arange(first, min(first + CHUNK, used))
        mc, lc, accc = part_m[b, h, split], part_l[b, h, split], part_acc[b, h, split]
        # 9. new max; shrink the past
        m_new = np.maximum(m, np.max(mc, 0))
        a, m = np.exp2(m - m_new), m_new
        l, acc = l * a, acc * a
        # 10. add the splits
        p = np.exp2(mc - m)
        l = l + np.sum(p * lc, 0)
        acc = acc + np.sum(p[:, None] * accc, 0)
    out[b, h] = acc / (1 if l == 0 else l)  # no slot in use: zeros


def decode_attention(q, k, v, lengths, k_new=None, v_new=None, block_table=None):
    """Append each sequence's new row to the cache, if given, and let its query attend: softmax(q k^T / sqrt(D)) v.

    q             (B, H, D)     queries of B sequences in H heads: float64 | float32 | float16 | bfloat16 (of ml_dtypes)
    k, v          (B, H, T, D)  the cache, T slots per sequence, in q's dtype; with block_table pages (P, H, page, D)
    lengths       (B,) int      slots in use, the new token's included: 0 <= lengths[b] <= T, else ValueError
    k_new, v_new  (B, H, D)     rows to write to slot lengths[b] - 1 of k and v; None if they are there already
    block_table   (B, N) int    slot t of sequence b is row t % page of page block_table[b, t // page]; T = N * page
    returns       (B, H, D)     in q's dtype, zeros for a length of 0; sums are float32, or float64 for float64
    """
    B, H, D = q.shape
    T = k.shape[2] * (1 if block_table is None else block_table.shape[1])
    if not all(0 <= n <= T for n in lengths):
        raise ValueError(f"lengths are {list(lengths)}; the cache has {T} slots, so each must be from 0 to {T}")
    S, UNROLL, BLOCK_N = max(-(-T // SPLIT_LEN), 1), 4, 16  # on a GPU a block's size depends on D and the dtype
    ACC = np.promote_types(q.dtype, np.float32)
    out = np.full_like(q, np.nan)
    part_m, part_l, part_acc = (np.full((B, H, S, *more), np.nan, ACC) for more in ((), (), (D,)))
    for b, h in np.ndindex(B, H):
        if k_new is not None:
            append(h, b, k, k_new, lengths, block_table)
            append(h, b, v, v_new, lengths, block_table)
        for split in range(S):
            attend(split, h, b, q, k, v, lengths, block_table, part_m, part_l, part_acc, UNROLL, BLOCK_N)
        combine(h, b, part_m, part_l, part_acc, lengths, out)
    return out
