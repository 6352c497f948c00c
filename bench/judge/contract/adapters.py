"""Ready-made adapters for the cache contract: the NumPy caches, our GPT2 with its static cache, Hugging Face's caches.

Each is a CacheUnderTest (see cache.py): make_cache=lambda: TorchGPT2(model).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from ....gpt2.model import GPT2
from ....reference.cache import ContiguousCache, Int8Cache, PagedCache
from ....reference.config import Config
from ....reference.model import forward
from ....reference.synthetic import random_tensors
from ....reference.weights import nest
from .huggingface import HuggingFace

__all__ = ["HuggingFace", "Int8NumpyGPT2", "NumpyGPT2", "PagedNumpyGPT2", "TorchGPT2", "small_model"]

SMALL = Config(n_vocab=61, n_ctx=64, n_embd=32, n_head=2, n_layer=2, n_inner=64)


@cache
def small_tensors() -> list[tuple[str, np.ndarray]]:
    return [*random_tensors(SMALL)]


def small_model(dtype: str = "float64", shift: float = 0.0) -> tuple[dict, Config]:
    """params and config of a random GPT-2 of two layers for the reference; wte is multiplied by 1 + shift.

    Raises NotImplementedError for any dtype but float64 and float32: the reference has no other.
    """
    if dtype not in ("float64", "float32"):
        raise NotImplementedError(f"the reference computes in float64 or float32, not in {dtype}")
    params = nest({name: array.astype(dtype) for name, array in small_tensors()})
    params["wte"]["weight"] = params["wte"]["weight"] * np.dtype(dtype).type(1 + shift)
    return params, SMALL


class NumpyGPT2:
    """The reference with its contiguous cache; computes in the dtype of params."""

    kind: Any = ContiguousCache

    def __init__(self, params: dict, config: Config, capacity: int = 32):
        self.params, self.config, self.capacity = params, config, capacity
        self.dtype = params["wte"]["weight"].dtype
        self.cache: Any = None

    def new_cache(self, batch: int):
        return self.kind(self.config, batch, self.capacity, self.dtype)

    def last(self, ids, cache=None):
        """Logits (B, V) of the last of ids (B, M)."""
        return forward(ids, self.params, self.config, cache)[:, -1]

    def prefill(self, ids):
        if self.cache is None:
            self.cache = self.new_cache(len(ids))
        return self.last(ids, self.cache)

    def step(self, ids):
        return self.prefill(ids[:, None])

    def prefill_ragged(self, prompts):
        self.cache = self.new_cache(len(prompts))
        return np.concatenate([self.last([prompt], self.cache.row(b)) for b, prompt in enumerate(prompts)])

    def recompute(self, ids):
        return self.last(ids)

    def reset(self):
        self.cache.reset()

    def crop(self, n: int):
        self.cache.lengths[:] = np.minimum(self.cache.lengths, n)

    def live(self):
        """(B, 1, T, 1): which slots hold a token."""
        return np.arange(self.capacity)[:, None] < self.cache.lengths[:, None, None, None]

    def buffers(self):
        return [] if self.cache is None else [(array, self.live()) for array in (*self.cache.k, *self.cache.v)]

    def reorder_rows(self, order):
        self.cache.lengths[:] = self.cache.lengths[order]
        for array, _ in self.buffers():
            array[:] = array[order]


class Int8NumpyGPT2(NumpyGPT2):
    """The reference with its 8-bit cache, whose recomputation reads 8-bit rows too."""

    kind = Int8Cache

    def recompute(self, ids):
        return self.last(ids, self.new_cache(len(ids)))

    def buffers(self):
        if self.cache is None:
            return []
        scales = (*self.cache.k_scale, *self.cache.v_scale)
        return [*super().buffers(), *((array, self.live()[..., 0]) for array in scales)]


class PagedNumpyGPT2(NumpyGPT2):
    """The reference with its paged cache."""

    kind = PagedCache

    def crop(self, n: int):
        super().crop(n)
        cache = self.cache
        for table, pages in zip(cache.block_table, cache.pages_of(cache.lengths), strict=True):
            cache.free.extend(table[pages:][table[pages:] >= 0].tolist())
            table[pages:] = -1

    def live(self):
        """(P, 1, page, 1): which places in which pages hold a token."""
        cache = self.cache
        live = np.zeros((cache.k.shape[1], 1, cache.page, 1), bool)
        for table, n in zip(cache.block_table, cache.lengths, strict=True):
            slot = np.arange(n)
            live[table[slot // cache.page], 0, slot % cache.page] = True
        return live

    def reorder_rows(self, order):
        self.cache.lengths[:] = self.cache.lengths[order]
        self.cache.block_table[:] = self.cache.block_table[order]

    def permute_pages(self, rng):
        cache = self.cache
        new = rng.permutation(cache.k.shape[1])  # page p goes to new[p]
        for pages in (cache.k, cache.v):
            pages[:, new] = pages.copy()
        cache.free = new[cache.free].tolist()
        cache.block_table[:] = np.where(cache.block_table < 0, -1, new[cache.block_table])


class TorchGPT2:
    """Our torch model with its StaticCache, by its own impl: eager, sdpa or triton.

    kv_dtype  as `new_cache` takes it; in 8 bits the recomputation reads 8-bit rows, too
    """

    def __init__(self, model: GPT2, capacity: int = 32, kv_dtype: str | None = None):
        self.model, self.capacity, self.dtype, self.kv_dtype = model, capacity, model.dtype, kv_dtype
        self.cache: Any = None

    def tensor(self, ids) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(ids)).to(self.model.device)

    def prefill(self, ids):
        return self.prefill_ragged(ids.tolist())

    def prefill_ragged(self, prompts: Sequence[Sequence[int]]):
        if self.cache is None:
            self.cache = self.model.new_cache(len(prompts), self.capacity, kv_dtype=self.kv_dtype)
        return self.model.prefill(prompts, self.cache)

    def step(self, ids):
        return self.model.decode(self.tensor(ids), self.cache)

    @torch.no_grad()
    def recompute(self, ids):
        if self.kv_dtype:
            return self.model.prefill(ids.tolist(), self.model.new_cache(*ids.shape, kv_dtype=self.kv_dtype))
        return self.model(self.tensor(ids))[:, -1]

    def reset(self):
        self.cache.reset()

    def crop(self, n: int):
        self.cache.set_lengths([min(n, have) for have in self.cache.host_lengths])

    def buffers(self):
        if self.cache is None:
            return []
        slots = torch.arange(self.capacity, device=self.model.device)[:, None]
        live = slots < self.cache.lengths[:, None, None, None]  # (B, 1, T, 1)
        scales = (*(self.cache.k_scale or ()), *(self.cache.v_scale or ()))
        return [(a, live) for a in (*self.cache.k, *self.cache.v)] + [(a, live[..., 0]) for a in scales]

    def reorder_rows(self, order):
        for array, _ in self.buffers():
            array.copy_(array[self.tensor(order)])
        self.cache.set_lengths([self.cache.host_lengths[b] for b in order])
