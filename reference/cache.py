"""The KV cache as plain arrays: contiguous, in pages, and in 8 bits.

The three share one interface, in the order `forward` uses it:
    advance(M)           count M more tokens in every sequence, or raise before anything has changed
    append(layer, k, v)  write the rows of these tokens, (B, H, M, D), to slots lengths - M .. lengths - 1
    read(layer, b)       k, v (H, lengths[b], D) of sequence b: live slots only, the new ones included
    row(b)               a cache of batch 1 on the same storage, so that ragged prompts are filled one by one
    reset()              forget everything
`lengths` (B,) int32 counts the visible tokens, as the decode kernel takes it. Slot = position. Dead slots start as NaN,
so that a read of one shows.
"""

import copy

import numpy as np

from .config import Config, ContextFull


class Cache:
    """The base of the three: the number of tokens of each sequence, and room for them."""

    def __init__(self, config: Config, batch: int, capacity: int, dtype):
        self.shape = (config.n_layer, batch, config.n_head, config.head_dim)
        self.dtype = np.dtype(dtype)
        self.capacity = capacity
        self.lengths = np.zeros(batch, np.int32)

    def check_room(self, M):
        """ContextFull if some sequence has no M free slots left."""
        past = int(self.lengths.max())
        if past + M > self.capacity:
            raise ContextFull(past, M, self.capacity - past, f"the cache's {self.capacity} slots")

    def advance(self, M):
        self.check_room(M)
        self.lengths += M

    def row(self, b):
        one = copy.copy(self)
        L, _, H, D = self.shape
        one.shape = (L, 1, H, D)
        one.lengths = self.lengths[b : b + 1]
        return one

    def reset(self):
        self.lengths[:] = 0


class ContiguousCache(Cache):
    """k, v (L, B, H, T, D): every sequence owns T slots."""

    def __init__(self, config: Config, batch: int, capacity: int, dtype=np.float64):
        super().__init__(config, batch, capacity, dtype)
        L, B, H, D = self.shape
        self.k = np.full((L, B, H, capacity, D), np.nan, dtype)
        self.v = self.k.copy()

    def append(self, layer, k, v):
        M = k.shape[2]
        for b, n in enumerate(self.lengths):
            self.k[layer, b, :, n - M : n] = k[b]
            self.v[layer, b, :, n - M : n] = v[b]

    def read(self, layer, b):
        n = self.lengths[b]
        return self.k[layer, b, :, :n], self.v[layer, b, :, :n]

    def row(self, b):
        one = super().row(b)
        one.k, one.v = self.k[:, b : b + 1], self.v[:, b : b + 1]
        return one


class PagedCache(Cache):
    """Pages k, v (L, P, H, page, D), shared by all sequences and allocated on demand.

    block_table (B, max_pages) int32: slot t of sequence b lies in page block_table[b, t // page], at offset
    t % page; -1 where no page is allocated. Free pages are allocated in a shuffled order (by `seed`), so that no code
    comes to rely on adjacent pages. Source: Kwon et al. 2023 (arXiv:2309.06180).
    """

    def __init__(self, config: Config, batch: int, capacity: int, dtype=np.float64, page=16, pages=None, seed=0):
        super().__init__(config, batch, capacity, dtype)
        L, B, H, D = self.shape
        self.page = page
        max_pages = -(-capacity // page)
        pages = B * max_pages if pages is None else pages
        self.block_table = np.full((B, max_pages), -1, np.int32)
        self.free = np.random.default_rng(seed).permutation(pages).tolist()
        self.k = np.full((L, pages, H, page, D), np.nan, dtype)
        self.v = self.k.copy()

    def check_room(self, M):
        super().check_room(M)
        fit, have = M, self.pages_of(self.lengths)
        while (self.pages_of(self.lengths + fit) - have).sum() > len(self.free):
            fit -= 1
        if fit < M:
            raise ContextFull(int(self.lengths.max()), M, fit, f"the {len(self.free)} free pages")

    def advance(self, M):
        have = self.pages_of(self.lengths)
        super().advance(M)
        for b, need in enumerate(self.pages_of(self.lengths)):
            for i in range(have[b], need):
                self.block_table[b, i] = self.free.pop()

    def pages_of(self, lengths):
        """The number of pages that these lengths take."""
        return -(-lengths // self.page)

    def append(self, layer, k, v):
        M = k.shape[2]
        for b, n in enumerate(self.lengths):
            slot = np.arange(n - M, n)
            page, offset = self.block_table[b, slot // self.page], slot % self.page
            self.k[layer, page, :, offset] = k[b].swapaxes(0, 1)  # (M, H, D)
            self.v[layer, page, :, offset] = v[b].swapaxes(0, 1)

    def read(self, layer, b):
        n, (_, _, H, D) = self.lengths[b], self.shape
        pages = self.block_table[b, : self.pages_of(n)]
        k, v = self.k[layer, pages], self.v[layer, pages]  # (pages, H, page, D)
        k, v = k.swapaxes(0, 1).reshape(H, -1, D), v.swapaxes(0, 1).reshape(H, -1, D)
        return k[:, :n], v[:, :n]

    def row(self, b):
        one = super().row(b)
        one.block_table = self.block_table[b : b + 1]
        return one

    def reset(self):
        self.free.extend(self.block_table[self.block_table >= 0].tolist())
        self.block_table[:] = -1
        super().reset()


class Int8Cache(Cache):
    """k, v (L, B, H, T, D) int8 with one float32 scale per token and head, k_scale, v_scale (L, B, H, T).

    A row is stored as rint(row / scale) with scale = max|row| / 127, so each number moves by at most scale / 2. The
    newest row is read back from the cache like all others: attending it unrounded would make a decode step differ
    from the recomputation that later stands in for it. In dead slots the scale is NaN.
    """

    def __init__(self, config: Config, batch: int, capacity: int, dtype=np.float64):
        super().__init__(config, batch, capacity, dtype)
        L, B, H, D = self.shape
        self.k = np.zeros((L, B, H, capacity, D), np.int8)
        self.v = self.k.copy()
        self.k_scale = np.full((L, B, H, capacity), np.nan, np.float32)
        self.v_scale = self.k_scale.copy()

    def append(self, layer, k, v):
        M = k.shape[2]
        for b, n in enumerate(self.lengths):
            new = (layer, b, slice(None), slice(n - M, n))
            self.k[new], self.k_scale[new] = quantise(k[b])
            self.v[new], self.v_scale[new] = quantise(v[b])

    def read(self, layer, b):
        live = (layer, b, slice(None), slice(self.lengths[b]))
        k = self.k[live] * self.k_scale[live].astype(self.dtype)[..., None]
        v = self.v[live] * self.v_scale[live].astype(self.dtype)[..., None]
        return k, v

    def row(self, b):
        one = super().row(b)
        one.k, one.k_scale = self.k[:, b : b + 1], self.k_scale[:, b : b + 1]
        one.v, one.v_scale = self.v[:, b : b + 1], self.v_scale[:, b : b + 1]
        return one


def quantise(x):
    """Rows x (..., D) as int8 (..., D) and their scales (...) float32; a row of zeros has scale 0."""
    scale = (np.abs(x).max(-1) / 127).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1).astype(x.dtype)[..., None]
    return np.clip(np.rint(x / divisor), -127, 127).astype(np.int8), scale
