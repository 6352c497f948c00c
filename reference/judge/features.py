"""What a call of decode attention may ask for beyond softmax(q k^T) v, each as a plain function on arrays.

Which slots a token sees, what its scores become, where a new row goes, and how paged and 8-bit caches read as plain
ones. The judge is made of these (rounding.py), so they are written to be checked by eye: no blocks, no splits, loops.
"""

from typing import Any

import numpy as np

from ..cache import quantise


def seen_slots(p: int, n: int, causal=True, window=None, sinks=0):
    """The slots that the token at position p of a sequence of n tokens attends to, in order.

    causal   slots 0 .. p, none for a position below 0; else all n
    window   only the last `window` slots up to p, p itself among them ...
    sinks    ... and the first so many slots always
    """
    t = np.arange(n)
    seen = t <= p if causal else t < n
    if window is not None:
        seen &= (t > p - window) | (t < sinks)
    return np.flatnonzero(seen)


def modified(s, terms, t, p: int, softcap=None, slope=None):
    """Scaled scores s of slots t as softcap and ALiBi leave them, and what one relative rounding error moves each by.

    s -> softcap * tanh(s / softcap), then s -> s - slope * |t - p|, p the token's own position.
    terms  the movement before: sum |q_d k_d| * |scale|. The cap dampens it by its slope, and tanh from an exponential
           and a quotient loses two roundings of 1, that is of softcap; the bias adds its own size
    """
    if softcap is not None:
        bent = np.tanh(s / softcap)
        s, terms = softcap * bent, (1 - bent**2) * terms + 2 * softcap
    if slope is not None:
        bias = -slope * np.abs(t - p)
        s, terms = s + bias, terms + np.abs(bias)
    return s, terms


def unpaged(pages, block_table, T: int | None = None):
    """Pages (P, H, page, ...) in the order of the block table (B, max_pages): (B, H, T, ...), T = all slots if None."""
    B, N = block_table.shape
    _, H, page, *rest = pages.shape
    plain = pages[block_table].swapaxes(1, 2)  # (B, H, N, page, ...)
    return plain.reshape(B, H, N * page, *rest)[:, :, :T]


def dequantised(x, scale):
    """int8 rows x (..., D) with one float32 scale each, (...): x * scale in float64."""
    return x.astype(np.float64) * scale.astype(np.float64)[..., None]


def plain_cache(k, v, block_table=None, k_scale=None, v_scale=None):
    """Any cache of the interface as contiguous float64 k, v (B, H_kv, T, D)."""
    k = k.astype(np.float64) if k_scale is None else dequantised(k, k_scale)
    v = v.astype(np.float64) if v_scale is None else dequantised(v, v_scale)
    return (k, v) if block_table is None else (unpaged(k, block_table), unpaged(v, block_table))


def place(b: int, t: int, k, block_table=None) -> Any:
    """The index of slot t of sequence b, all heads, in a cache shaped like k."""
    if block_table is None:
        return b, slice(None), t
    return block_table[b, t // k.shape[2]], slice(None), t % k.shape[2]


def append(k, v, lengths, k_new, v_new, block_table=None, k_scale=None, v_scale=None):
    """Write the new rows (B, H_kv, D) or (B, M, H_kv, D) in place: row i to slot lengths[b] - M + i, if there is one.

    An 8-bit cache takes each row as `quantise` gives it in float32.
    """
    k_new, v_new = (x[:, None] if x.ndim == 3 else x for x in (k_new, v_new))
    B, M, _, _ = k_new.shape
    for b, i in np.ndindex(B, M):
        if (p := int(lengths[b]) - M + i) < 0:
            continue
        at = place(b, p, k, block_table)
        for cache, scale, row in ((k, k_scale, k_new[b, i]), (v, v_scale, v_new[b, i])):
            if scale is None:
                cache[at] = row
            else:
                cache[at], scale[at] = quantise(row.astype(np.float32))
