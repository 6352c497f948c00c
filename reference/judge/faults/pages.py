"""Wrong cached paths: which page a block table names, who else has it, and which scale belongs to which 8-bit row."""

from typing import Any

import numpy as np

from ...cache import Int8Cache, PagedCache
from .base import cache_fault, cached_logits, fault, int8_logits, prompt_length, used

ATTENTION = (0, "attention")
PAGE = 4  # slots of a page


def paged(ids, params, config, make: Any = PagedCache) -> Any:
    """A pool just large enough for ids (B, T), every page of it used before: no slot is NaN."""
    B, T = ids.shape
    cache = make(config, B, T, params["wte"]["weight"].dtype, page=PAGE)
    return used(cache, ids, params, config)


def in_used_pages(ids, params, config, make):
    """Cached logits by a paged cache of the class `make`."""
    return cached_logits(ids, params, config, paged(ids, params, config, make))


@cache_fault("page_size_mismatch", "vllm-project/vllm/pull/47056", run=in_used_pages)
class OtherPageSize(PagedCache):
    """a slot is written by one page size and read by another; invisible within half a page"""

    def read(self, layer, b):
        t = np.arange(int(self.lengths[b]))
        t = t // self.page * self.page + t % (self.page // 2)
        return tuple(a[:, t] for a in super().read(layer, b))


class ElsewhereInThePool(PagedCache):
    """Reads the pages that pages(b, count) names instead of the table's."""

    correct = True  # while the pool is being used for the first time

    def pages(self, b, count):
        raise NotImplementedError

    def read(self, layer, b):
        if self.correct:
            return super().read(layer, b)
        table = self.block_table
        self.block_table = table.copy()
        count = self.pages_of(self.lengths[b])
        self.block_table[b, :count] = self.pages(b, count)
        rows = super().read(layer, b)
        self.block_table = table
        return rows


def reading_elsewhere(ids, params, config, make):
    """Cached logits by a cache of a subclass of ElsewhereInThePool."""
    cache = paged(ids, params, config, make)
    cache.correct = False
    return cached_logits(ids, params, config, cache)


@cache_fault("pages_taken_as_neighbours", "hw-native-sys/pypto/pull/470", run=reading_elsewhere)
class Neighbours(ElsewhereInThePool):
    """only the first page is looked up, the others are taken from behind it; invisible within one page"""

    def pages(self, b, count):
        return (self.block_table[b, 0] + np.arange(count)) % self.k.shape[1]


@cache_fault("page_id_truncated", "ROCm/ATOM/issues/702", run=reading_elsewhere)
class ShortIds(ElsewhereInThePool):
    """the upper bits of a page's number are lost (in miniature: all ids lie in half of the pool); invisible in small
    pools"""

    def pages(self, b, count):
        return self.block_table[b, :count] % max(1, self.k.shape[1] // 2)


@cache_fault("page_table_stuck", "ericcurtin/vllm-vulkan/pull/78", closest=True, run=reading_elsewhere)
class FirstTable(ElsewhereInThePool):
    """the index into the block table does not move on, every page is the first; invisible within one page"""

    def pages(self, b, count):
        pages = self.block_table[b, :count].copy()
        pages[1:] = pages[:1]
        return pages


@cache_fault("block_table_stale", "gittensor-ai-lab/sparkinfer/pull/146", run=reading_elsewhere)
class StaleTable(ElsewhereInThePool):
    """a row of the block table keeps an earlier run's pages past the first; invisible within one page"""

    def reset(self):
        self.stale = self.block_table.copy()
        super().reset()

    def pages(self, b, count):
        return np.concatenate([self.block_table[b, :1], self.stale[b, 1:count]])


@fault("cache", "raullenchai/Rapid-MLX/issues/196", ATTENTION)
def page_reused_while_live(ids, params, config):
    """the prompt's first page is freed too early and another request's rows are written to it"""
    cache, rng = paged(ids, params, config), np.random.default_rng(0)

    def spoil(cache):
        for b in range(len(ids)):
            page = cache.block_table[b, 0]
            cache.k[:, page] = rng.standard_normal(cache.k[:, page].shape)
            cache.v[:, page] = rng.standard_normal(cache.v[:, page].shape)

    return cached_logits(ids, params, config, cache, spoil=spoil)


@fault("cache", "Avarok-Cybersecurity/atlas/issues/1193", ATTENTION)
def page_shared_without_copy(ids, params, config):
    """a page that is still written to belongs to two sequences (of a batch of one: is given twice); invisible until
    the second one writes"""
    cache = paged(ids, params, config)
    last = -1 if len(ids) == 1 else -cache.pages_of(prompt_length(ids))  # of the first sequence's prompt
    cache.free[last - 1] = cache.free[last]
    return cached_logits(ids, params, config, cache)


@cache_fault("scale_of_head_zero", "sgl-project/sgl-kernel-xpu/pull/252", correct=int8_logits)
class ScaleOfHeadZero(Int8Cache):
    """one 8-bit scale is read for all heads; invisible at H = 1"""

    def append(self, layer, k, v):
        super().append(layer, k, v)
        self.true = self.k_scale, self.v_scale

    def read(self, layer, b):
        self.k_scale, self.v_scale = (np.broadcast_to(a[:, :, :1], a.shape) for a in self.true)
        rows = super().read(layer, b)
        self.k_scale, self.v_scale = self.true
        return rows


@cache_fault("scale_of_wrong_row", "ovg-project/kvcached/issues/424", closest=True, correct=int8_logits)
class ScaleOfNextRow(Int8Cache):
    """a row of 8-bit numbers is read with the scale of the row before it"""

    def read(self, layer, b):
        k, v = super().read(layer, b)
        live = (layer, b, slice(None), slice(self.lengths[b]))
        return tuple(
            a * (np.roll(scale[live], 1, axis=1) / scale[live]).astype(self.dtype)[..., None]
            for a, scale in ((k, self.k_scale), (v, self.v_scale))
        )


@cache_fault("scale_ignored", "sgl-project/sglang/pull/20705", correct=int8_logits)
class NoScale(Int8Cache):
    """the scales are not loaded and 1 stands in for them"""

    def append(self, layer, k, v):
        super().append(layer, *(np.clip(np.rint(a), -127, 127) for a in (k, v)))


@cache_fault("newest_row_unquantised", "rajveer43/VeloxQuant-MLX/issues/86", closest=True, correct=int8_logits)
class NewestUnrounded(Int8Cache):
    """new rows are attended to as they are and rounded to 8 bits for later, so that no recomputation can agree"""

    def append(self, layer, k, v):
        super().append(layer, k, v)
        self.new = k, v

    def read(self, layer, b):
        k, v = super().read(layer, b)
        M = self.new[0].shape[2]
        k[:, -M:], v[:, -M:] = self.new[0][b], self.new[1][b]
        return k, v
