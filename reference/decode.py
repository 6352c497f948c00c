"""Attention of one decode step in NumPy: append, attend, combine. kernels/decode.py does the same steps on a GPU.

A decoder such as GPT-2 writes a text token by token. In each layer and head the newest token brings a query q, a key
and a value: vectors of D numbers each (D is called head_dim). Its key and value join those of all earlier tokens in the
KV cache, and its query attends to the cache: softmax(q K^T / sqrt(D)) V, where K and V have one row per token. In
words: the score of a token is the dot product of q and the token's key, over sqrt(D). The token's weight is exp(score).
The result is the sum of weight times value over all tokens, divided by the sum of weights.

Slots and pages. A cache has T slots per sequence and head. The key of token t is stored in slot t of the cache k, its
value in slot t of the cache v; the D numbers in a slot are called a row. The first lengths[b] slots of sequence b are
in use; the last of these belongs to the newest token. A paged cache is cut into pages of PAGE slots, which may lie
anywhere in memory: row b of the block table lists the pages of sequence b, in order.

Online softmax. exp of a large score overflows. So the weight is exp(score - m), where m is the largest score: that
multiplies both sums by exp(-m), and their quotient does not change. But m is known only at the end. So the sums are
kept relative to the largest score so far, the running max. When a larger one comes, m_new, the sums so far are
multiplied by exp(m - m_new); the steps below call this "shrink the past". So one pass over the rows is enough. It keeps
three things: m, the sum of weights l, and the weighted sum of values acc.

Splits. Often B sequences times H heads are too few queries to keep all processors of a GPU busy. So a sequence is cut
into splits of SPLIT_LEN slots, which a GPU attends to at the same time (steps 1 to 7; here, one after another). Each
split leaves its m, l and acc, called partials. Then the partials of a query are combined, with a running max again
(steps 8 to 10).

This file explains, and does not test: an error in the idea would be in both files. Tests compare the kernel with the
plain formula above in float64. Sources: online softmax, Milakov & Gimelshein 2018 (arXiv:1805.02867); splits,
Flash-Decoding, Dao et al. 2023 (crfm.stanford.edu/2023/10/12/flashdecoding.html); pages, PagedAttention, Kwon et al.
2023 (arXiv:2309.06180).
"""

import numpy as np

SPLIT_LEN = 128  # slots of a split: fixed, so a query's bits do not depend on other sequences
CHUNK = 8  # splits combined at a time: on a GPU sizes are fixed, the number of splits is not
LOG2E = float(np.log2(np.e))  # exp(x) = exp2(x * LOG2E); GPU hardware computes exp2 directly
LOWEST = -3.0e38  # initial running max: below usual scores, but finite, since -inf - -inf is NaN


def rows_at(x, b, h, slot, block_table):
    """Index into the cache x of the rows of sequence b, head h, at slot (an integer, or an array of them)."""
    if block_table is None:
        return b, h, slot
    PAGE = x.shape[2]
    return block_table[b, slot // PAGE], h, slot % PAGE


def append(h, b, x, new, lengths, block_table):
    """Write the new row, new[b, h], to the sequence's last slot in use, in the cache x (of keys or of values)."""
    slot = lengths[b] - 1
    if slot >= 0:
        x[rows_at(x, b, h, slot, block_table)] = new[b, h]


def attend(split, h, b, q, k, v, lengths, block_table, part_m, part_l, part_acc, UNROLL, BLOCK_N):
    """Let q[b, h] attend to the slots of one split, a block of UNROLL tiles of BLOCK_N slots at a time.

    There are BLOCK_N running sums: slot n of every tile adds to m[n], l[n] and acc[n], and step 6 merges them. So on a
    GPU the threads that hold different n need not exchange their sums before that.
    """
    ACC, D = part_acc.dtype, q.shape[2]  # ACC: dtype of all sums, float64 if q is float64, else float32
    # 1. the slots of this split
    lo, hi = split * SPLIT_LEN, min((split + 1) * SPLIT_LEN, lengths[b])
    if lo >= hi:
        return
    qh = q[b, h].astype(ACC) * ACC.type(D**-0.5 * LOG2E)  # so its dot product with a key is score * LOG2E
    m, l, acc = np.full(BLOCK_N, LOWEST, ACC), np.zeros(BLOCK_N, ACC), np.zeros((BLOCK_N, D), ACC)
    for start in range(lo, hi, UNROLL * BLOCK_N):
        # 2. the keys and values of this block
        slot = start + np.arange(UNROLL * BLOCK_N).reshape(UNROLL, BLOCK_N)
        live = slot < hi  # only live slots are read: others are not in use, or belong to another split
        kb, vb = np.zeros((UNROLL, BLOCK_N, D), ACC), np.zeros((UNROLL, BLOCK_N, D), ACC)
        kb[live] = k[rows_at(k, b, h, slot[live], block_table)]
        vb[live] = v[rows_at(v, b, h, slot[live], block_table)]
        # 3. scores of this block, as exponents of 2
        s = np.where(live, np.sum(kb * qh, 2), -np.inf)  # (UNROLL, BLOCK_N)
        # 4. new max; shrink the past
        m_new = np.maximum(m, np.max(s, 0))  # (BLOCK_N,): over the tiles
        a, m = np.exp2(m - m_new), m_new  # a is the factor that shrinks the past
        l, acc = l * a, acc * a[:, None]
        # 5. add the weights, and the values they weigh
        for r in range(UNROLL):
            p = np.exp2(s[r] - m)
            l = l + p
            acc = acc + p[:, None] * vb[r]  # a GPU rounds product and sum together
    # 6. merge the BLOCK_N sums
    m_new = np.max(m, 0)
    a, m = np.exp2(m - m_new), m_new
    l, acc = np.sum(l * a, 0), np.sum(acc * a[:, None], 0)  # (), (D,)
    # 7. store this split's sums
    part_m[b, h, split], part_l[b, h, split], part_acc[b, h, split] = m, l, acc


def combine(h, b, part_m, part_l, part_acc, lengths, out):
    """Combine the splits of q[b, h] into its attention, CHUNK of them at a time, in their order."""
    ACC, D = part_acc.dtype, out.shape[2]
    used = -(-lengths[b] // SPLIT_LEN)  # how many splits step 7 stored: they come first
    m, l, acc = ACC.type(LOWEST), ACC.type(0), np.zeros(D, ACC)
    for first in range(0, used, CHUNK):
        # 8. the splits of this chunk
        split = np.arange(first, min(first + CHUNK, used))
        m_chunk, l_chunk, acc_chunk = part_m[b, h, split], part_l[b, h, split], part_acc[b, h, split]
        # 9. new max; shrink the past
        m_new = np.maximum(m, np.max(m_chunk, 0))
        a, m = np.exp2(m - m_new), m_new
        l, acc = l * a, acc * a
        # 10. add the splits
        p = np.exp2(m_chunk - m)
        l = l + np.sum(p * l_chunk, 0)
        acc = acc + np.sum(p[:, None] * acc_chunk, 0)
    out[b, h] = acc / (1 if l == 0 else l)  # a length of 0 gives zeros


def decode_attention(q, k, v, lengths, k_new=None, v_new=None, block_table=None):
    """Append each sequence's new row to the cache, if given, and let its query attend: softmax(q k^T / sqrt(D)) v.

    q             (B, H, D)     queries of B sequences in H heads: float64 | float32 | float16 | bfloat16 of ml_dtypes
    k, v          (B, H, T, D)  the cache, in q's dtype, changed in place if rows are appended; with block_table
                                (P, H, PAGE, D)
    lengths       (B,) signed   slots in use, the new token's included: 0 <= lengths[b] <= T, else ValueError
    k_new, v_new  (B, H, D)     rows to write to slot lengths[b] - 1 of k and v, if that is 0 or more; None: nothing
    block_table   (B, N) int    slot t of sequence b is slot t % PAGE of page block_table[b, t // PAGE]; T = N * PAGE
    returns       (B, H, D)     in q's dtype, zeros for a length of 0; sums are float32, or float64 for float64

    No two sequences may append to the same slot, nor one attend to a slot to which another appends: a GPU appends for
    all of them first, this twin for one after another.
    """
    B, H, D = q.shape
    T = k.shape[2] * (1 if block_table is None else block_table.shape[1])
    if not all(0 <= n <= T for n in lengths):
        raise ValueError(
            f"lengths are {np.asarray(lengths).tolist()}; the cache has {T} slots, so each must be from 0 to {T}"
        )
    splits = max(-(-T // SPLIT_LEN), 1)
    UNROLL, BLOCK_N = 4, 16  # any sizes do here; on a GPU they depend on D and the dtype
    ACC = np.promote_types(q.dtype, np.float32)
    out = np.full_like(q, np.nan)  # NaN, so that a number that is never stored shows
    part_m, part_l = np.full((B, H, splits), np.nan, ACC), np.full((B, H, splits), np.nan, ACC)
    part_acc = np.full((B, H, splits, D), np.nan, ACC)
    for b, h in np.ndindex(B, H):
        if k_new is not None:
            append(h, b, k, k_new, lengths, block_table)
            append(h, b, v, v_new, lengths, block_table)
        for split in range(splits):
            attend(split, h, b, q, k, v, lengths, block_table, part_m, part_l, part_acc, UNROLL, BLOCK_N)
        combine(h, b, part_m, part_l, part_acc, lengths, out)
    return out
