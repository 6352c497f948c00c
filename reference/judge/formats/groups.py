"""Which numbers share a scale: rows, blocks of a row, groups of tokens of a channel, heads, whole tensors."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

GROUPS = ("row", "block", "channel", "head", "tensor", "flat", "flat-channel")


class Split(NamedTuple):
    """An array cut into groups.

    g      (G, S): one group per row, the ragged rest of a last one filled with 0
    live   (G, S) bool: False in that rest
    join   (G, S) -> the array's own shape
    """

    g: np.ndarray
    live: np.ndarray
    join: Callable[[np.ndarray], np.ndarray]


def split(x: np.ndarray, group: str, size: int = 0) -> Split:
    """Cut x (..., T, D) into groups, each of which has a scale.

    group  "row": the D numbers of one token and head; "block": `size` consecutive ones of a row; "channel": one of the
           D numbers over `size` consecutive tokens, 0 for all of them; "head": the (T, D) of one head; "tensor": all;
           "flat": `size` consecutive numbers of memory; "flat-channel": one of the D numbers over `size` rows of memory
    A last group that is not full is a group of its own.  Raises ValueError for another word, and for no size.
    """
    if group not in GROUPS or (group in ("block", "flat", "flat-channel") and size < 1):
        raise ValueError(f"group {group!r} of size {size}; there are {', '.join(GROUPS)}, blocks with a size")
    shaped = {"flat": (1, -1), "tensor": (1, -1), "head": (*x.shape[:-2], -1), "flat-channel": (-1, x.shape[-1])}
    turned = group in ("channel", "flat-channel")
    moved = x.reshape(shaped.get(group, x.shape))
    moved = np.moveaxis(moved, -2, -1) if turned else moved
    n = moved.shape[-1]
    width = size if group in ("block", "channel", "flat", "flat-channel") and size else max(n, 1)
    count = -(-n // width)
    rows = (*moved.shape[:-1], count * width)

    def cut(a):
        whole = np.zeros(rows, a.dtype)
        whole[..., :n] = a
        return whole.reshape(-1, width)

    def join(g):
        whole = g.reshape(rows)[..., :n]
        return (np.moveaxis(whole, -1, -2) if turned else whole).reshape(x.shape)

    return Split(cut(moved), cut(np.ones(moved.shape, bool)), join)
