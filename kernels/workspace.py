"""The memory in which the splits of a long context wait to be combined."""

from typing import NamedTuple

import torch
from torch import Tensor


class Workspace(NamedTuple):
    """What the splits of every (b, h) leave for `combine_splits`; its contents mean nothing between calls."""

    m: Tensor  # (B, H, S) running max, a power of two
    l: Tensor  # (B, H, S) running sum of weights
    acc: Tensor  # (B, H, S, D) running sum of weighted values


def max_splits(T: int) -> int:
    """The most splits that `split_size` cuts any length up to T into."""
    return max(1, min(-(-T // 128), 64), -(-T // 4096))


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums over a cache of `dtype` are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def workspace(B: int, H: int, T: int, D: int, dtype: torch.dtype, device: torch.device | str) -> Workspace:
    """Memory for the splits of B sequences and H heads over a cache of T slots, head_dim D and `dtype`.

    A cache makes it once and passes it to every call, so that decode allocates nothing that grows with T. Calls that
    may run at the same time need one each. It takes 4 * B * H * S * (D + 2) bytes, twice that for float64, with
    S <= 64 splits up to T = 262144.
    """
    S = max_splits(T)
    shapes = (B, H, S), (B, H, S), (B, H, S, D)
    return Workspace(*(torch.empty(shape, dtype=accumulator(dtype), device=device) for shape in shapes))


def fitting_workspace(parts: Workspace | None, k: Tensor) -> Workspace:
    """`parts` if it was made for k's shape, or a fresh one if it is None; ValueError otherwise."""
    B, H, T, D = k.shape
    if parts is None:
        return workspace(B, H, T, D, k.dtype, k.device)
    S = max_splits(T)
    fits = tuple(x.shape for x in parts) == ((B, H, S), (B, H, S), (B, H, S, D))
    if not fits or parts.acc.dtype != accumulator(k.dtype) or parts.acc.device != k.device:
        raise ValueError(
            f"the workspace holds {list(parts.acc.shape)} {parts.acc.dtype} on {parts.acc.device}; k needs "
            f"{[B, H, S, D]} {accumulator(k.dtype)} on {k.device}; make it with workspace{(B, H, T, D)} and k's dtype"
        )
    return parts
