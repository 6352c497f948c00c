"""Weights in 8 bits: whole numbers with one float32 scale per output channel. Every sum runs in the model's dtype.

A weight counts as scale * number. These values define the model that every impl, and the oracle, computes: see
`dequantised`. LayerNorms, biases and the table of positions stay in the model's dtype.
"""

import math
import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ..reference.config import Config
from ..reference.files import CheckpointError
from ..reference.weights import expected_shapes, nest
from .linear import invariant_linear, linear

CHANNELS = 1024  # quantised, or widened again, at a time: no float copy of the whole head stands in memory


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 of each row: scale = max|row| / 127 and rint(row / scale), so a number moves by at most scale / 2.

    x        (..., n) floats, any strides; narrower ones are widened to float32
    returns  (..., n) int8 in -127..127, (...) float32; a row of zeros, or too small for a float32 scale, has scale 0,
             one with NaN, inf or numbers beyond float32 a scale that is not finite
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    scale = (x.abs().amax(-1) / 127).to(torch.float32)
    divisor = scale.where(scale > 0, 1).to(x.dtype)[..., None]
    return (x / divisor).round_().clamp_(-127, 127).to(torch.int8), scale


class Int8Matrix(nn.Module):
    """C channels of n weights each.

    weight  (C, n) int8, contiguous
    scale   (C,) float32, whatever dtype the model is converted to
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, channels: int, n: int, invariant: bool = False):
        super().__init__()
        self.linear = invariant_linear if invariant else linear
        self.register_buffer("weight", torch.empty(channels, n, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(channels, dtype=torch.float32))

    def _apply(self, fn, recurse=True):
        """What .to, .half, .cuda and the like call. As whole numbers the scales are moved and never rounded."""

        def kept(tensor):
            return fn(tensor.view(torch.int32)).view(torch.float32) if tensor is self.scale else fn(tensor)

        return super()._apply(kept, recurse)

    def blocks(self) -> Iterator[slice]:
        """The channels, CHANNELS at a time."""
        count = len(self.scale)
        return (slice(low, min(low + CHANNELS, count)) for low in range(0, count, CHANNELS))

    @torch.no_grad()
    def fill(self, name: str, w: torch.Tensor):
        """Quantise w (C, n), any strides and float dtype, block by block.

        Raises CheckpointError with the tensor's name if w holds what int8 cannot.
        """
        for rows in self.blocks():
            weight, scale = quantise(w[rows])
            if not scale.isfinite().all():
                raise CheckpointError(
                    f"tensor {name} holds NaN, inf or numbers beyond float32, which int8 has no number for; mend the "
                    'checkpoint, or load it without weights="int8" to see what it does'
                )
            self.weight[rows], self.scale[rows] = weight, scale

    def values(self, rows, dtype: torch.dtype) -> torch.Tensor:
        """scale * number of these channels, a slice or indices (...), in float32 or wider, then rounded to dtype.

        returns  (..., n)
        """
        wide = torch.promote_types(dtype, torch.float32)
        return (self.weight[rows].to(wide) * self.scale[rows].to(wide)[..., None]).to(dtype)

    def product(self, x, bias=None):
        """x values^T + bias, in the dtype of x.  x (..., n) -> (..., C)"""
        if len(self.scale) <= CHANNELS:
            return self.linear(x, self.values(slice(None), x.dtype), bias)
        y = x.new_empty(*x.shape[:-1], len(self.scale))
        for rows in self.blocks():
            y[..., rows] = self.linear(x, self.values(rows, x.dtype), None if bias is None else bias[rows])
        return y


class Int8Linear(Int8Matrix):
    """Conv1D in 8 bits: weight (n_out, n_in), the transpose of the checkpoint's; bias (n_out,) in the model's dtype."""

    def __init__(self, n_in: int, n_out: int, invariant: bool = False):
        super().__init__(n_out, n_in, invariant)
        self.bias = nn.Parameter(torch.empty(n_out))

    def fill(self, name: str, w: torch.Tensor):
        """As in Int8Matrix, of w (n_in, n_out), the checkpoint's layout."""
        super().fill(name, w.mT)

    def forward(self, x):
        return self.product(x, self.bias)


class Int8Table(Int8Matrix):
    """An embedding in 8 bits, one channel per token; `product` makes the head of it."""

    like: torch.Tensor

    def __init__(self, rows: int, width: int, invariant: bool = False):
        super().__init__(rows, width, invariant)
        self.register_buffer("like", torch.empty(0), persistent=False)  # has the model's dtype

    def forward(self, ids):
        """ids (...) -> (..., width) in the model's dtype"""
        return self.values(ids, self.like.dtype)


def dequantised(model: nn.Module, dtype: str = "float64") -> dict:
    """The numbers that a model computes with, as the reference takes them: its params, in float64 or float32.

    model  a GPT2, quantised or not, of any dtype; int8 matrices are widened here by themselves, so that no mistake of
           `values` is repeated in what judges it
    """
    found = {}
    for name, tensor in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        if not isinstance(module, Int8Matrix) or leaf == "bias":
            found[name] = tensor.cpu().to(getattr(torch, dtype)).numpy()
        elif leaf == "weight":
            numbers, scale = tensor.cpu().numpy().astype(dtype), module.scale.cpu().numpy().astype(dtype)
            found[name] = numbers * scale[:, np.newaxis]
            found[name] = found[name].T if isinstance(module, Int8Linear) else found[name]
    return nest(found)


def is_quantised(name: str) -> bool:
    """Whether int8 weights hold this tensor, by its canonical name, as whole numbers."""
    return name.endswith(".weight") and name.split(".")[-2] in ("c_attn", "c_proj", "c_fc", "wte", "lm_head")


def int8_bytes(config: Config, itemsize: int) -> int:
    """Bytes of a model's int8 weights; itemsize is that of the dtype of all that stays unquantised."""
    total = 0
    for name, shape in expected_shapes(config).items():
        channels = shape[-1] if name.startswith("h.") else shape[0]
        total += math.prod(shape) + 4 * channels if is_quantised(name) else itemsize * math.prod(shape)
    return total


def is_out_of_memory(error: Exception) -> bool:
    """Whether NumPy, torch on a CPU, whose allocator raises a plain RuntimeError, or CUDA lacked memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or bool(
        re.search("can't allocate memory|Cannot allocate memory", str(error))
    )


class OutOfMemory(MemoryError):
    """There was no room to quantise a model; what was built of it is gone.

    itemsize  of the dtype of what stays unquantised
    """

    def __init__(self, config: Config, itemsize: int):
        sizes = [math.prod(shape) for shape in expected_shapes(config).values()]
        super().__init__(
            f"out of memory while quantising {sum(sizes) / 1e6:.0f} million weights: in int8 they take "
            f"{int8_bytes(config, itemsize) / 1e6:.0f} MB, and up to {4 * max(sizes) / 1e6:.0f} MB more while they "
            "load; free that much, or load a smaller model"
        )
