"""The splits of one query become its attention: the last steps of both engines.

A program whose query has several splits stores its partial sums in the workspace and counts itself in; the last one to
arrive combines them all, in the order of the splits. The kernel also tags each partial with the ticket of its launch.
"""

import numpy as np

from .steps import LOG2E


def store_result(result, row, m, l, acc):
    """Divide by the weights' sum; a sum of zero means nothing was attended to, and gives zeros."""
    total = 1 if l == 0 else l
    result.out[row] = acc / total
    result.lse[row] = -np.inf if l == 0 else (m + np.log2(total)) / LOG2E


def combine(row, splits, partials, CFG):
    """The partials of one row -> its m, l and acc, CHUNK splits at a time, in their order."""
    m = np.finfo(partials.acc.dtype).min
    l = partials.l.dtype.type(0)
    acc = np.zeros(partials.acc.shape[-1], partials.acc.dtype)
    for chunk in sorted({split // CFG.CHUNK for split in splits}):
        # 8. the splits of this chunk
        split = [split for split in splits if split // CFG.CHUNK == chunk]
        mc = partials.m[row][split]
        lc = partials.l[row][split]
        accc = partials.acc[row][split]
        # 9. new max; shrink the past
        m_new = np.maximum(m, np.max(mc, 0))
        a = np.exp2(m - m_new)
        m = m_new
        # 10. add the splits
        p = np.exp2(mc - m)
        l = l * a + np.sum(p * lc, 0)
        acc = acc * a + np.sum(p[:, None] * accc, 0)
    return m, l, acc


def hand_over(b, i, head, program, splits, result, partials, CFG):
    """This split's partials of some queries are stored: count it in; the last one to arrive combines all."""
    arrived = partials.counters[b, program]
    partials.counters[b, program] += 1
    if arrived == len(splits) - 1:
        for row in zip([b] * len(i), i, head, strict=True):
            store_result(result, row, *combine(row, splits, partials, CFG))
        partials.counters[b, program] = 0


def finish_tile(b, i, head, program, split, splits, m, l, acc, result, partials, CFG):
    """m, l and acc (D,) of queries (b, i, head) over one split: the result if there is no other, else a partial."""
    for j, row in enumerate(zip([b] * len(i), i, head, strict=True)):
        if len(splits) == 1:
            store_result(result, row, m[j], l[j], acc[j])
        else:
            partials.m[row][split], partials.l[row][split], partials.acc[row][split] = m[j], l[j], acc[j]
    if len(splits) > 1:
        hand_over(b, i, head, program, splits, result, partials, CFG)
