"""NumPy arrays as torch tensors and back, bfloat16 and its like included."""

from typing import Any

import ml_dtypes
import numpy as np
import torch

BY_BITS = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
WANTED = "return a tensor or an array of floats, or of integers for codes"


def to_torch(x: np.ndarray) -> torch.Tensor:
    """A copy of x, bfloat16 too."""
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def to_numpy(x: Any) -> np.ndarray:
    """x on the CPU, in its dtype, bfloat16 and floats of 8 bits too.

    Raises ValueError for what is neither a tensor nor an array of floats or integers.
    """
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().contiguous()
        name = str(x.dtype).removeprefix("torch.")
        if name in BY_BITS:
            return x.view(torch.int16 if name == "bfloat16" else torch.uint8).numpy().view(getattr(ml_dtypes, name))
        array = None if x.dtype == torch.bool or x.is_complex() else plain(x)
        if array is None:
            raise ValueError(f"a tensor of {name} came back; {WANTED}")
        return array
    array = np.asarray(x)
    if array.dtype.kind not in "fiu" and str(array.dtype) not in BY_BITS:
        raise ValueError(f"a {type(x).__name__} of {array.dtype} came back; {WANTED}")
    return array


def plain(x: torch.Tensor) -> np.ndarray | None:
    """x, where NumPy has its dtype."""
    try:
        return x.numpy()
    except TypeError:
        return None
