"""NumPy arrays as torch tensors and back, bfloat16 and its like included."""

from typing import Any

import ml_dtypes
import numpy as np
import torch


def to_torch(x: np.ndarray) -> torch.Tensor:
    """A copy of x, bfloat16 too."""
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def to_numpy(x: Any) -> np.ndarray:
    """x on the CPU, in its dtype. Raises ValueError for what is neither a tensor nor an array of floats or integers."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().contiguous()
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()
    array = np.asarray(x)
    if array.dtype.kind not in "fiuV" and array.dtype != ml_dtypes.bfloat16:
        raise ValueError(f"a {type(x).__name__} of {array.dtype} came back; return a tensor or an array of numbers")
    return array
