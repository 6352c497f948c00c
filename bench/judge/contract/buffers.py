"""What a cache's adapter shows: its logits as float64, the methods it has, and its memory, to be read and changed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from .report import NotChecked


def as_float64(logits, rows: int) -> np.ndarray:
    """Logits (B, V), NumPy or torch of any dtype, as float64; every float of up to 64 bits keeps its value."""
    if hasattr(logits, "detach"):
        logits = logits.detach().double().cpu().numpy()
    logits = np.array(logits, np.float64)
    if logits.ndim != 2 or len(logits) != rows:
        raise ValueError(f"logits are {logits.shape}; give (B, V) with B = {rows}, those after each row's last token")
    return logits


def capability(cache, name: str) -> Callable[..., Any]:
    """The cache's method of that name; raises NotChecked if it has none."""
    method = getattr(cache, name, None)
    if not callable(method):
        raise NotChecked(f"no {name}()")
    return method


class Buffer(NamedTuple):
    """One array of a cache's memory and, for each of its numbers, whose it is; all of array's shape.

    live   bool: a token's that the next step may read
    dead   bool: no token's, so that it may hold anything; what is neither is a token's that is out of reach
    place  int: its token's place in the row, counted from 0; None where buffers() gives live or dead alone
    """

    array: Any
    live: np.ndarray
    dead: np.ndarray
    place: np.ndarray | None

    def newest(self, before: "Buffer") -> tuple[np.ndarray, str]:
        """Where the newest token lies that the next step may read, bool, and why it is nowhere.

        before  the same buffer before that token was written
        """
        if self.place is not None:
            newest = self.live & (self.place == self.place.max(initial=0))
            return newest, "buffers() shows no slot that the next step may read"
        if self.live.shape != before.live.shape:
            return np.zeros_like(self.live), "the buffers grow, and buffers() gives no token's place"
        return self.live & ~before.live, "slots are used again, and buffers() gives no token's place"


def memory(cache) -> list[Buffer]:
    """What buffers() shows of a cache's own memory; NotChecked if it has no such method."""
    found = []
    for array, held in capability(cache, "buffers")():
        held = held.detach().cpu().numpy() if isinstance(held, torch.Tensor) else np.asarray(held)
        held = np.broadcast_to(held, tuple(array.shape))
        if held.dtype.kind in "iu":
            found.append(Buffer(array, held >= 0, held == -1, held))
        else:
            found.append(Buffer(array, held.astype(bool), ~held.astype(bool), None))
    return found


def limits(array) -> torch.finfo | torch.iinfo:
    """The largest and smallest numbers of an array's dtype, bfloat16 included."""
    dtype = array.dtype if isinstance(array, torch.Tensor) else getattr(torch, array.dtype.name)
    return torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)


def mask_of(array, where: np.ndarray) -> Any:
    return torch.from_numpy(where.copy()).to(array.device) if isinstance(array, torch.Tensor) else where


def put(array, where: np.ndarray, value: float):
    """array[where] = value, in place, for NumPy and torch; where the dtype has no such number, its nearest."""
    info = limits(array)
    if isinstance(info, torch.iinfo) or np.isfinite(value):
        value = info.max if np.isnan(value) else min(max(value, info.min), info.max)
    array[mask_of(array, where)] = value


def nudge(array, where: np.ndarray, by: float):
    """Change every number of array[where], in place: floats by `by`, integers by 8 towards zero or to an end."""
    info, mask = limits(array), mask_of(array, where)
    there: Any = array[mask]
    there = there.double().cpu().numpy() if isinstance(there, torch.Tensor) else there.astype(np.float64)
    if isinstance(info, torch.iinfo):
        new = np.where(there > 0, there - 8, there + 8) if by == 1 else np.full_like(there, np.sign(by) * info.max)
    else:
        new = there + np.clip(by, float(info.min) / 4, float(info.max) / 4)
    changed: Any = torch.from_numpy(new).to(array) if isinstance(array, torch.Tensor) else new.astype(array.dtype)
    array[mask] = changed
