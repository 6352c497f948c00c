"""A cache under test: what it can be asked for, and its answers as numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .report import NotChecked


def exact(logits, rows: int) -> np.ndarray:
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
