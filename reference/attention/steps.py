"""What both engines share: the slots of a program, where they lie, and scores.

Sources: those of kernels/attention/steps.py, which counts the live splits by closed forms where a filter does here.
"""

from types import SimpleNamespace

import numpy as np

from ..cache import quantise

LOG2E = float(np.log2(np.e))
SPLIT_LEN = 128  # slots of a split, at the beginning of the context


def split_start(split, SPLIT_LEN=SPLIT_LEN):
    """First slot of a split: 64 splits of SPLIT_LEN slots, then 32 of twice as many, 32 of 4 times, up to 32 times.

    The boundaries are absolute: a token's splits, hence its bits, depend on no batch and on no token after it.
    """
    e = min(max((split - 32) // 32, 0), 5)
    return (split - 32 * e) * (SPLIT_LEN << e)


def split_slots(lengths, b, split, i, i_end, M, CFG):
    """The slots lo..hi of a split for the new tokens i..i_end of sequence b, and all splits that have visible slots.

    Before slot `window` only sinks are seen; from `new` on, the slot of the first new token, slots are being written.
    """
    n = int(lengths[b])
    stop = max(n - M + i_end, 0) if CFG.CAUSAL else n
    window = 0 if CFG.WINDOW is None else min(max(n - M + i - CFG.WINDOW + 1, 0), stop)
    starts = [split_start(split, CFG.SPLIT_LEN) for split in range(CFG.S + 1)]
    splits = [s for s in range(CFG.S) if starts[s] < max(stop, 1) and (starts[s] < CFG.SINKS or starts[s + 1] > window)]
    return SimpleNamespace(new=n - M, lo=starts[split], hi=min(starts[split + 1], stop), window=window, splits=splits)


def locate(cache, b, h, slot):
    """Where slots of KV head h lie: an index into the cache, through the sequence's table if there is one."""
    PAGE = cache.k.shape[2]
    return (b, h, slot) if cache.table is None else (cache.table[b, slot // PAGE], h, slot % PAGE)


def load_rows(x, scale, new, cache, b, h, slot, live, first_new, ACC):
    """Rows (..., D) of slots (...) and their scales: of the cache before slot `first_new`, of the new rows from there.

    Dead rows are zero. A new row of an 8-bit cache is rounded, as if it were read back.
    """
    cached = live if new is None else live & (slot < first_new)
    rows, scales = np.zeros((*slot.shape, x.shape[-1]), ACC), np.ones(slot.shape, ACC)
    at = locate(cache, b, h, slot[cached])
    rows[cached], scales[cached] = x[at], 1 if scale is None else scale[at]
    if new is not None:
        is_new = live & ~cached
        row = new[b, slot[is_new] - first_new, h]
        rows[is_new], scales[is_new] = (row, 1) if scale is None else quantise(row.astype(np.float32))
    return rows, scales


def score(s, distance, slope, CFG):
    """Products q k^T -> scores, as powers of two: scaled, capped, lowered by the slope for each slot of distance."""
    s = s if CFG.SOFTCAP is None else np.tanh(s) * s.dtype.type(CFG.SOFTCAP * LOG2E)
    return s - distance.astype(s.dtype) * (slope * s.dtype.type(LOG2E))
