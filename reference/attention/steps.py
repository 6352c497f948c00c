"""What both engines share: which slots a program has, where they lie, what a score becomes.

Sources: those of kernels/attention/steps.py, which counts the live splits by closed forms where a filter does here.
"""

from types import SimpleNamespace

import numpy as np

from ..cache import quantise

LOG2E = float(np.log2(np.e))


def split_start(split, FIRST):
    """First slot of a split: 64 splits of FIRST slots, then 32 of twice as many, 32 of 4 times, up to 32 times.

    The boundaries are absolute: a token's splits, hence its bits, depend on no batch and on no token after it.
    """
    e = min(max((split - 32) // 32, 0), 5)
    return (split - 32 * e) * (FIRST << e)


def span_of(lengths, b, split, i, i_end, M, HOW):
    """The slots lo..hi of a split for the new tokens i..i_end of sequence b, and all splits that have visible slots.

    Before slot `first` only sinks are seen; from `old` on, the first new token's position, slots are being written.
    """
    n = int(lengths[b])
    stop = max(n - M + i_end, 0) if HOW.CAUSAL else n
    first = 0 if HOW.WINDOW is None else min(max(n - M + i - HOW.WINDOW + 1, 0), stop)
    starts = [split_start(split, HOW.FIRST) for split in range(HOW.S + 1)]
    splits = [s for s in range(HOW.S) if starts[s] < max(stop, 1) and (starts[s] < HOW.SINKS or starts[s + 1] > first)]
    return SimpleNamespace(old=n - M, lo=starts[split], hi=min(starts[split + 1], stop), first=first, splits=splits)


def locate(cache, b, h, slot):
    """Where slots of KV head h lie: an index into the cache, through the sequence's table if there is one."""
    PAGE = cache.k.shape[2]
    return (b, h, slot) if cache.table is None else (cache.table[b, slot // PAGE], h, slot % PAGE)


def load_rows(x, scale, new, cache, b, h, slot, live, old, ACC):
    """Rows (..., D) of slots (...), and what 1 in each is worth: of the cache before slot `old`, of the new from there.

    Dead rows are zero. A new row of an 8-bit cache is rounded, as if it were read back.
    """
    cached = live if new is None else live & (slot < old)
    rows, worth = np.zeros((*slot.shape, x.shape[-1]), ACC), np.ones(slot.shape, ACC)
    at = locate(cache, b, h, slot[cached])
    rows[cached], worth[cached] = x[at], 1 if scale is None else scale[at]
    if new is not None:
        is_new = live & ~cached
        row = new[b, slot[is_new] - old, h]
        rows[is_new], worth[is_new] = (row, 1) if scale is None else quantise(row.astype(np.float32))
    return rows, worth


def score(s, distance, slope, HOW):
    """Products q k^T -> scores, as powers of two: scaled, capped, lowered by the slope for each slot of distance."""
    s = s if HOW.SOFTCAP is None else np.tanh(s) * s.dtype.type(HOW.SOFTCAP * LOG2E)
    return s - distance.astype(s.dtype) * (slope * s.dtype.type(LOG2E))


def append_token(cache, new, b, h, token, span):
    """Write the keys and values of one new token to the cache, if there are any and they belong to this split."""
    slot = span.old + token
    if new.k is not None and span.lo <= slot < span.hi:
        at, row_at = locate(cache, b, h, slot), (b, token, h)
        for x, scale, row in (cache.k, cache.k_scale, new.k[row_at]), (cache.v, cache.v_scale, new.v[row_at]):
            if scale is None:
                x[at] = row
            else:
                x[at], scale[at] = quantise(row.astype(np.float32))
