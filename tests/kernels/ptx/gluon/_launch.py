"""A launch with tensor descriptors, whose results appear in the arrays below them."""

from typing import Any, NamedTuple

import numpy as np
import torch
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kvproof.kernels import ptx


class Launch(NamedTuple):
    kernel: Any
    arguments: dict[str, Any]
    results: list[tuple[np.ndarray, Any, float]]  # array, what it should be, and the largest error
    grid: tuple[int, ...] = (1,)


def described(array: np.ndarray, block: list[int], layout: Any) -> TensorDescriptor:
    """Gluon's descriptor of a contiguous array; it wants a tensor of torch."""
    strides = [stride // array.itemsize for stride in array.strides]
    return TensorDescriptor(torch.from_numpy(array), list(array.shape), strides, block, layout)


def run(launch: Launch, **settings: Any) -> None:
    """Run it on the machine; raise AssertionError if a result is wrong."""
    ptx.run(launch.kernel, launch.grid, **launch.arguments, **settings)
    for array, truth, bound in launch.results:
        error = np.abs(array.astype(np.float64) - np.asarray(truth, np.float64))
        assert np.all(error <= bound), f"wrong by {np.max(error):.3g}, {np.sum(~(error <= bound))} elements"
