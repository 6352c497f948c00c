"""The new rows: quantised where the cache is int8, and written to it. Source: kernels/attention/append.py."""

import numpy as np

from ..cache import quantise
from .steps import locate


def append_token(cache, new, b, h, token, slots):
    """Write the keys and values of one new token to the cache, if there are any and they belong to this split."""
    slot = slots.new + token
    if new.k is not None and slots.lo <= slot < slots.hi:
        at, row_at = locate(cache, b, h, slot), (b, token, h)
        for x, scale, row in (cache.k, cache.k_scale, new.k[row_at]), (cache.v, cache.v_scale, new.v[row_at]):
            if scale is None:
                x[at] = row
            else:
                x[at], scale[at] = quantise(row.astype(np.float32))
