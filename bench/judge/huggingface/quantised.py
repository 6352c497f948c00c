"""What a quantised cache of transformers should give back: its numbers, kept by code of ours.

The first call gets what it gave, unrounded. From then on
    fp8          everything is rounded to e4m3 with one scale, the first call's largest number over 448; what is larger
                 saturates, as a number that has no other place must
    quanto, hqq  the first call is rounded in groups; later tokens wait unrounded until there are `residual_length` of
                 them, and then all tokens are rounded again, those that were rounded before included
The rounding in groups is the backend's own, since its groups and scales are the format; which tokens are rounded when,
and the order in which they come back, is what is compared.
"""

from collections.abc import Callable
from typing import Any

import torch

from .caches import KINDS

E4M3_MAX = 448.0


def kept_by_us(kind: str, config: Any, slots: int) -> Any:
    """A DynamicCache whose layers give back what this quantised kind of caches.py should."""
    from transformers import DynamicCache

    cache = DynamicCache()
    make = KINDS[kind].make
    assert make is not None
    for theirs in make(config, slots).layers:
        layer = type_of_layer()()
        keys, values = (rounder(theirs, axis) for axis in ("axis_key", "axis_value"))
        layer.update = given_back(layer, keys, values)
        cache.layers.append(layer)
    return cache


def type_of_layer() -> Any:
    from transformers.cache_utils import DynamicLayer

    return DynamicLayer


def given_back(layer: Any, keys: Callable, values: Callable) -> Callable[..., Any]:
    """The layer's update(), which keeps what it is given and returns it rounded."""
    keep = layer.update

    def update(k: torch.Tensor, v: torch.Tensor, *rest: Any, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
        keep(k, v, *rest, **more)
        return keys(k), values(v)

    return update


def rounder(theirs: Any, axis: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """new (B, H, M, D) -> everything so far, (B, H, T, D), as the cache should give it back."""
    return in_e4m3() if not hasattr(theirs, "residual_length") else in_groups(theirs, getattr(theirs, axis))


def in_e4m3() -> Callable[[torch.Tensor], torch.Tensor]:
    scale: torch.Tensor | None = None
    so_far: list[torch.Tensor] = []

    def give(new: torch.Tensor) -> torch.Tensor:
        nonlocal scale
        first = scale is None
        if scale is None:
            scale = (new.abs().amax().float() / E4M3_MAX).clamp(min=torch.finfo(torch.float32).tiny)
        codes = (new.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
        so_far.append((codes.float() * scale).to(new.dtype))
        return new if first else torch.cat(so_far, 2)

    return give


def in_groups(theirs: Any, axis: int) -> Callable[[torch.Tensor], torch.Tensor]:
    rounded: torch.Tensor | None = None
    waiting: list[torch.Tensor] = []

    def coarse(x: torch.Tensor) -> torch.Tensor:
        theirs.keys = x  # whose dtype and device a backend may ask for
        return theirs._dequantize(theirs._quantize(x.contiguous(), axis=axis)).to(x.dtype)

    def give(new: torch.Tensor) -> torch.Tensor:
        nonlocal rounded, waiting
        if rounded is None:
            rounded = coarse(new)
            return new
        found = torch.cat([rounded, *waiting, new], 2)
        waiting.append(new)
        if sum(x.shape[2] for x in waiting) >= theirs.residual_length:
            rounded, waiting = coarse(found), []
        return found

    return give
