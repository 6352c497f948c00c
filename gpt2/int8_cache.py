"""The KV cache in 8 bits, static and paged: the torch twins of the reference's Int8Cache."""

import torch

from .cache import Cache, StaticCache, layers
from .int8_weights import quantise
from .paged import PagedCache


class Int8Rows(Cache):
    """Rows of K and V as whole numbers, with one float32 scale per row: of its largest number / 127.

    k, v              per layer, int8, in memory of the other base's shape
    k_scale, v_scale  per layer, float32, of the same shape without head_dim: (B, H, T) or (P, H, page)

    The newest rows are read back as the cache holds them, like all others. `read` widens copies to the dtype that the
    model computes in. The decode kernel reads the whole numbers where they lie; it quantises new rows in float32, a
    float64 model's too, so that a scale's last bit may differ from what `write` gives.
    """

    k_scale: tuple[torch.Tensor, ...]
    v_scale: tuple[torch.Tensor, ...]
    rounds = True

    def allocate(self, count: int, shape: tuple[int, int, int, int], device: torch.device):
        self.k, self.v = layers(count, shape, torch.int8, device), layers(count, shape, torch.int8, device)
        scales = shape[:3]
        self.k_scale = layers(count, scales, torch.float32, device)
        self.v_scale = layers(count, scales, torch.float32, device)

    def parts(self, layer: int):
        """The numbers and the scales of K, then of V."""
        return (self.k[layer], self.k_scale[layer]), (self.v[layer], self.v_scale[layer])

    def write(self, layer: int, slots, k, v):
        for held, rows in zip(self.parts(layer), (k, v), strict=True):
            for array, x in zip(held, quantise(rows), strict=True):
                self.put(array, slots, x)

    def write_span(self, layer: int, start: int, k, v):
        self.make_room(start + k.shape[2])
        for held, rows in zip(self.parts(layer), (k, v), strict=True):
            for array, x in zip(held, quantise(rows), strict=True):
                self.put_span(array, start, x)

    def read(self, layer: int, n: int):
        wide = torch.promote_types(self.dtype, torch.float32)
        k, v = ((self.get(a, n).to(wide), self.get(scale, n).to(wide)) for a, scale in self.parts(layer))
        return (k[0] * k[1][..., None]).to(self.dtype), (v[0] * v[1][..., None]).to(self.dtype)


class Int8StaticCache(Int8Rows, StaticCache):
    """Int8Rows of B sequences with room for T tokens each."""


class Int8PagedCache(Int8Rows, PagedCache):
    """Int8Rows in pages, shared by all sequences; pages, their table and their order as in PagedCache."""
