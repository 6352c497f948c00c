"""float64 throughout: what a model's code asks for in float32 is computed in float64 as well.

Softmax, norms, rotations and recurrences are written for half precision, and so ask for float32 by name, whatever dtype
the model has. Asked for float64 it then rounds at 1e-7 inside, and faults of that size hide, such as a step size that
only one path clamps. While this is open, torch.float32 and Tensor.float mean float64 in the model's Python code; what
stays in float32 are the defaults of functions defined before, and tables of numbers that were made before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def float64_throughout() -> Iterator[None]:
    """float32 asked for by name is float64 while this is open. Not for threads that compute something else beside."""
    kept = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = kept


def widen_buffers(model: Any) -> Callable[[], None]:
    """Turn the model's float32 buffers, such as rotary frequencies, into float64 of the same values.

    Returns what turns them back.
    """
    kept = []
    for module in model.modules():
        for name, value in module._buffers.items():
            if value is not None and value.dtype == torch.float32:
                kept.append((module, name, value))
                module._buffers[name] = value.double()

    def narrow() -> None:
        for module, name, value in kept:
            module._buffers[name] = value

    return narrow
