"""Wrong cached paths: what is written to which slot of a contiguous cache, what is read, and what is forgotten."""

import ml_dtypes
import numpy as np

from ...cache import ContiguousCache
from .base import cache_fault, cached_logits, fault, fresh, prompt_length, used

ATTENTION = (0, "attention")


class LosesOneAppend(ContiguousCache):
    """In the first layer the append that makes the lengths `lost` is not written; the slot keeps what it had."""

    lost = 0

    def append(self, layer, k, v):
        if layer > 0 or self.lengths[0] != self.lost:
            super().append(layer, k, v)


@fault("cache", "vllm-project/flash-attention/pull/148", ATTENTION, closest=True)
def stale_slot(ids, params, config):
    """one row of one layer is an earlier run's"""
    cache = used(fresh(ids, params, config, LosesOneAppend), ids, params, config)
    cache.lost = prompt_length(ids) + 1
    return cached_logits(ids, params, config, cache)


class ReadsBeforeWrite(ContiguousCache):
    """A decode step's append lands only after its read, once `late` is set."""

    late = False

    def append(self, layer, k, v):
        self.new = k, v

    def read(self, layer, b):
        k, v = (a[b] for a in self.new)  # (H, M, D)
        M, n = k.shape[1], self.lengths[b]
        before = tuple(a.copy() for a in super().read(layer, b))
        self.k[layer, b, :, n - M : n], self.v[layer, b, :, n - M : n] = k, v
        return before if self.late and M == 1 else super().read(layer, b)


@fault("cache", "lablup/mlxcel/issues/831", ATTENTION)
def read_before_write(ids, params, config):
    """a decode step's attention is not ordered after its append and reads an earlier run's row"""
    cache = used(fresh(ids, params, config, ReadsBeforeWrite), ids, params, config)
    cache.late = True
    return cached_logits(ids, params, config, cache)


@cache_fault("slots_left_zero", "tenstorrent/tt-metal/issues/54413")
class LeavesZeros(ContiguousCache):
    """the prefill's work is cut so that half of one head's slots are written elsewhere"""

    def append(self, layer, k, v):
        super().append(layer, k, v)
        M = k.shape[2]
        for b, n in enumerate(self.lengths):
            empty = (layer, b, -1, slice(n - M // 2, n))
            self.k[empty] = self.v[empty] = 0


@cache_fault("v_overwrites_k", "vllm-project/vllm-ascend/pull/11021")
class OneBuffer(ContiguousCache):
    """keys and values resolve to one base address"""

    def read(self, layer, b):
        _, v = super().read(layer, b)
        return v, v


@cache_fault("values_one_slot_late", "LMCache/LMCache/issues/4921", closest=True)
class ValuesLate(ContiguousCache):
    """a value goes to the slot of the next token"""

    def read(self, layer, b):
        k, v = super().read(layer, b)
        return k, np.roll(v, 1, axis=1)


class Decodes(ContiguousCache):
    """A decode step reads what rows(k, v) leaves of the live rows (H, n, D); a prompt's pass reads them all."""

    prompt = 0  # its length

    def append(self, layer, k, v):
        super().append(layer, k, v)
        self.one = k.shape[2] == 1

    def read(self, layer, b):
        k, v = super().read(layer, b)
        return tuple(self.rows(layer, a) for a in (k, v)) if self.one and k.shape[1] > self.prompt else (k, v)

    def rows(self, layer, a):
        raise NotImplementedError


def reading_rows(ids, params, config, make):
    """Cached logits by a cache of a subclass of Decodes."""
    cache = fresh(ids, params, config, make)
    cache.prompt = prompt_length(ids)
    return cached_logits(ids, params, config, cache)


@cache_fault("dropped_slot", "huggingface/transformers/issues/37574", closest=True, run=reading_rows)
class Drops(Decodes):
    """one live slot is never read again"""

    def rows(self, layer, a):
        return np.delete(a, self.prompt // 2, axis=1)


@cache_fault("oldest_evicted", "huggingface/transformers/issues/37574", closest=True, run=reading_rows)
class Evicts(Decodes):
    """a buffer of the prompt's size rolls, and with it the oldest slots go; invisible until it is full"""

    def rows(self, layer, a):
        return a[:, -self.prompt :]


@cache_fault("length_frozen", "paiml/aprender/pull/2030", run=reading_rows)
class Freezes(Decodes):
    """a captured graph replays the length of the first decode step; invisible in that step"""

    def rows(self, layer, a):
        return a[:, : self.prompt + 1]


@cache_fault("layer_caches_twice", "pkunlp-icler/FastV/issues/46", run=reading_rows)
class Doubles(Decodes):
    """one layer runs twice over the prompt and caches it twice"""

    def rows(self, layer, a):
        return np.concatenate([a[:, : self.prompt], a], axis=1) if layer == 0 else a


@cache_fault("layers_share_a_cache", "vllm-project/vllm-ascend/pull/11791")
class OneLayer(ContiguousCache):
    """every layer overwrites one cache; invisible in a model of one layer and in a prompt of one pass"""

    def append(self, layer, k, v):
        super().append(0, k, v)

    def read(self, layer, b):
        return super().read(0, b)


@cache_fault("cache_narrowed", "apple/axlearn/pull/1049")
class Narrow(ContiguousCache):
    """the cache is bfloat16 under a model of a wider dtype; invisible in a bfloat16 model"""

    def append(self, layer, k, v):
        super().append(layer, *(a.astype(ml_dtypes.bfloat16).astype(a.dtype) for a in (k, v)))


@cache_fault("bits_reinterpreted", "vllm-project/vllm/pull/54338")
class Reinterprets(ContiguousCache):
    """the cache's dtype is not the one its bits were written in"""

    def append(self, layer, k, v):
        super().append(layer, *(a.astype(ml_dtypes.bfloat16).view(np.float16).astype(a.dtype) for a in (k, v)))
