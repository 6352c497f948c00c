"""How far logits move with one step of a stored number, where a cache stores more coarsely than it computes.

An 8-bit cache rounds keys and values to steps. Two right ways to the same tokens differ in their last bits, and where
a number lies on the edge of a step, rounding carries it across: logits then differ by far more than float32 rounds, and
by what one step of one number does. That is measured here: a stored number is moved by one step, and the run goes on.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ....reference.judge.rounding import roundoff
from .buffers import as_float64, memory

# Steps that are tried; the largest move counts, each made after half of the prompt and with all that follows from it.
TRIED = 16


def kind(array: Any) -> tuple[bool, int, str]:
    """Of a buffer, NumPy or torch: whether it holds floats, in how many bytes, and the name of its dtype."""
    if isinstance(array, torch.Tensor):
        return array.dtype.is_floating_point, array.element_size(), str(array.dtype).removeprefix("torch.")
    return array.dtype.kind not in "iub", array.dtype.itemsize, array.dtype.name


def coarse(array: Any, dtype: str) -> bool:
    """Whether a buffer's numbers lie further apart than those of `dtype`: 8 or 16-bit integers, or narrower floats."""
    floats, size, name = kind(array)
    return roundoff(name) > roundoff(dtype) if floats else name != "bool" and size <= 2


def step(array: Any, at: tuple[int, ...]):
    """Move the number at that index to its neighbour in its dtype, in place: towards zero, and zero away from it."""
    floats, size, _ = kind(array)
    bits = array
    if floats:
        bits = array.view(getattr(torch, f"int{8 * size}") if isinstance(array, torch.Tensor) else f"int{8 * size}")
    now = int(bits[at])
    magnitude = now & (1 << (8 * size - 1)) - 1 if floats else abs(now)  # a float's bits are its sign and its size
    towards_zero = -1 if floats or now > 0 else 1
    bits[at] = now + (towards_zero if magnitude else 1)


def step_effect(make: Callable[[], Any], ids: np.ndarray, prompt: int, dtype: str) -> float:
    """The largest difference of logits that one step of a stored number makes, in units of max(1, max|logit|).

    0 where the cache shows no buffer that is coarser than that dtype; the arguments are Trial's.
    """
    rng, half = np.random.default_rng(0), prompt // 2

    def stepped(i: int | None) -> np.ndarray:
        cache = make()
        cache.prefill(ids[:, :half])
        if i is not None:
            buffers = stored(cache, dtype)
            array, live = buffers[i % len(buffers)]
            step(array, tuple(rng.choice(np.argwhere(live)).tolist()))
        return np.stack([as_float64(cache.step(new), len(ids)) for new in ids.T[half:]])

    probe = make()
    probe.prefill(ids[:, :half])
    if not stored(probe, dtype):
        return 0.0
    plain = stepped(None)
    return max(float(np.abs(stepped(i) - plain).max()) for i in range(TRIED)) / max(1.0, float(np.abs(plain).max()))


def stored(cache: Any, dtype: str) -> list[tuple]:
    """The buffers whose numbers are coarser than `dtype`, each with its live slots; none where no buffer is shown."""
    try:
        shown = memory(cache)
    except NotImplementedError:
        return []
    return [(x.array, x.live) for x in shown if x.live.any() and coarse(x.array, dtype)]
