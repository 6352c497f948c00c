"""A quantised cache layer of transformers as a cache of append and read: its keys, or its values.

Their layers hand back the tokens of the first update as they came and quantise them for later; what is read here is
what the next step would read. Each layer also keeps the newest tokens unquantised until there are `residual_length` of
them, then quantises all, the older ones from what they are read back as.
"""

from collections.abc import Callable
from typing import Any

import torch

from ....reference.judge.formats.format import Format

OTHER = 3.0  # the other side, times what is judged: a scale taken from it shows


class LayerSide:
    """One side of a layer.

    make  an empty layer of transformers: update(keys, values), _dequantize, _quantized_keys, _quantized_values
    side  "keys" or "values"
    """

    def __init__(self, make: Callable[[], Any], side: str = "keys"):
        self.layer, self.side = make(), side

    def append(self, x: torch.Tensor):
        """x (B, H, M, D)"""
        other = x * OTHER
        self.layer.update(*((x, other) if self.side == "keys" else (other, x)))

    def read(self) -> torch.Tensor:
        """(B, H, T, D)"""
        quantised, newest = getattr(self.layer, f"_quantized_{self.side}"), getattr(self.layer, self.side)
        old = self.layer._dequantize(quantised)
        return torch.cat([old, newest], dim=-2) if newest.dim() == 4 and newest.numel() else old


def fp8_layer() -> Any:
    """transformers' FP8 layer, which needs no other package."""
    from transformers.cache_utils import Fp8QuantizedLayer

    return Fp8QuantizedLayer()


def quanto_layer(bits: int = 4, group: int = 64, residual: int = 128) -> Any:
    """Its layer on optimum-quanto, groups of consecutive numbers in memory."""
    from transformers.cache_utils import QuantoQuantizedLayer

    return QuantoQuantizedLayer(nbits=bits, q_group_size=group, residual_length=residual)


def quanto_format(bits: int = 4, group: int = 64, residual: int = 128) -> Format:
    """What quanto_layer's numbers must be."""
    return Format(f"quanto-{bits}-bit", f"uint{bits}", group="flat", size=group, rule="minmax", scale_dtype="input",
        compute="input", window=residual, window_kind="flush")  # fmt: skip


def fp8_format() -> Format:
    """What fp8_layer's numbers must be."""
    return Format("transformers-fp8", "e4m3fn", group="tensor", growth="frozen", floor=2.0**-126)
