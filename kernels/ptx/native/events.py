"""Whose turn it is at atomics that other programs see: that of the NumPy form, which runs all programs in lockstep."""

import numpy as np

from .context import EVENT
from .frames import AT, DEPTH, HEADER, PATH, STATE
from .programs import READY


def following(heads: np.ndarray) -> np.ndarray:
    """The programs with warps that go on next, in order; these are made ready.

    heads  (programs, warps, HEADER // 8) int64: of the warps' frames

    In lockstep the lowest instruction goes first. A warp that has jumped back from a higher one on its way has
    waited there for all the others.
    """
    waits = heads[..., STATE] == EVENT
    if not waits.any():
        return np.empty(0, np.int64)
    here = heads[waits]
    depth = here[:, DEPTH]
    ways = np.where(np.arange(HEADER // 8 - PATH) < depth[:, None], here[:, PATH:], -1)
    at = here[:, AT]
    ways = np.where(ways > at[:, None], ways, -1)
    if (at == at[0]).all() and (ways == ways[0]).all():
        chosen = slice(None)
    elif depth.any():
        keys = np.concatenate([ways, at[:, None]], axis=1)
        keys = np.take_along_axis(keys, np.argsort(keys < 0, axis=1, kind="stable"), 1)
        chosen = (keys == min(map(tuple, np.unique(keys, axis=0).tolist()))).all(1)
    else:
        chosen = at == at.min()
    program, warp = (x[chosen] for x in np.nonzero(waits))
    heads[program, warp, STATE], heads[program, warp, DEPTH] = READY, 0
    return np.unique(program)
