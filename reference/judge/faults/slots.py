"""Wrong cached paths: what is written to which slot of a contiguous cache, what is read, and what is forgotten."""

import ml_dtypes
import numpy as np

from ...cache import ContiguousCache
from .base import cached_logits, fault, fresh, prompt_length, used

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


class LeavesZeros(ContiguousCache):
    """A prompt's last slots stay zero in the last head."""

    def append(self, layer, k, v):
        super().append(layer, k, v)
        M = k.shape[2]
        for b, n in enumerate(self.lengths):
            empty = (layer, b, -1, slice(n - M // 2, n))
            self.k[empty] = self.v[empty] = 0


@fault("cache", "tenstorrent/tt-metal/issues/54413", ATTENTION)
def slots_left_zero(ids, params, config):
    """the prefill's work is cut so that half of one head's slots are written elsewhere"""
    return cached_logits(ids, params, config, fresh(ids, params, config, LeavesZeros))


class OneBuffer(ContiguousCache):
    """V is written where K was."""

    def read(self, layer, b):
        _, v = super().read(layer, b)
        return v, v


@fault("cache", "vllm-project/vllm-ascend/pull/11021", ATTENTION)
def v_overwrites_k(ids, params, config):
    """keys and values resolve to one base address"""
    return cached_logits(ids, params, config, fresh(ids, params, config, OneBuffer))


class ValuesLate(ContiguousCache):
    """Of K and V, the slots of V are one off; the last one comes round to slot 0."""

    def read(self, layer, b):
        k, v = super().read(layer, b)
        return k, np.roll(v, 1, axis=1)


@fault("cache", "LMCache/LMCache/issues/4921", ATTENTION, closest=True)
def values_one_slot_late(ids, params, config):
    """a value goes to the slot of the next token"""
    return cached_logits(ids, params, config, fresh(ids, params, config, ValuesLate))


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

    @classmethod
    def logits(cls, ids, params, config):
        cache = fresh(ids, params, config, cls)
        cache.prompt = prompt_length(ids)
        return cached_logits(ids, params, config, cache)


class Drops(Decodes):
    def rows(self, layer, a):
        return np.delete(a, self.prompt // 2, axis=1)


@fault("cache", "huggingface/transformers/issues/37574", ATTENTION, closest=True)
def dropped_slot(ids, params, config):
    """one live slot is never read again"""
    return Drops.logits(ids, params, config)


class Evicts(Decodes):
    def rows(self, layer, a):
        return a[:, -self.prompt :]


@fault("cache", "huggingface/transformers/issues/37574", ATTENTION, closest=True)
def oldest_evicted(ids, params, config):
    """a buffer of the prompt's size rolls, and with it the oldest slots go; invisible until it is full"""
    return Evicts.logits(ids, params, config)


class Freezes(Decodes):
    def rows(self, layer, a):
        return a[:, : self.prompt + 1]


@fault("cache", "paiml/aprender/pull/2030", ATTENTION)
def length_frozen(ids, params, config):
    """a captured graph replays the length of the first decode step; invisible in that step"""
    return Freezes.logits(ids, params, config)


class Doubles(Decodes):
    def rows(self, layer, a):
        return np.concatenate([a[:, : self.prompt], a], axis=1) if layer == 0 else a


@fault("cache", "pkunlp-icler/FastV/issues/46", ATTENTION)
def layer_caches_twice(ids, params, config):
    """one layer runs twice over the prompt and caches it twice"""
    return Doubles.logits(ids, params, config)


class OneLayer(ContiguousCache):
    """The layer's index is lost: all write to layer 0 and read from it."""

    def append(self, layer, k, v):
        super().append(0, k, v)

    def read(self, layer, b):
        return super().read(0, b)


@fault("cache", "vllm-project/vllm-ascend/pull/11791", ATTENTION)
def layers_share_a_cache(ids, params, config):
    """every layer overwrites one cache; invisible in a model of one layer and in a prompt of one pass"""
    return cached_logits(ids, params, config, fresh(ids, params, config, OneLayer))


class Narrow(ContiguousCache):
    """What is cached is rounded to bfloat16."""

    def append(self, layer, k, v):
        super().append(layer, *(a.astype(ml_dtypes.bfloat16).astype(a.dtype) for a in (k, v)))


@fault("cache", "apple/axlearn/pull/1049", ATTENTION)
def cache_narrowed(ids, params, config):
    """the cache is bfloat16 under a model of a wider dtype; invisible in a bfloat16 model"""
    return cached_logits(ids, params, config, fresh(ids, params, config, Narrow))


class Reinterprets(ContiguousCache):
    """bfloat16 is stored and its bits are read as float16's."""

    def append(self, layer, k, v):
        super().append(layer, *(a.astype(ml_dtypes.bfloat16).view(np.float16).astype(a.dtype) for a in (k, v)))


@fault("cache", "vllm-project/vllm/pull/54338", ATTENTION)
def bits_reinterpreted(ids, params, config):
    """the cache's dtype is not the one its bits were written in"""
    return cached_logits(ids, params, config, fresh(ids, params, config, Reinterprets))
