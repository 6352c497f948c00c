"""Caches broken on purpose, each in one way, and the checks of the contract that it must fail, and no other."""

from unittest.mock import patch

import numpy as np

from kvproof.bench.judge.contract.adapters import NumpyGPT2, PagedNumpyGPT2, small_model
from kvproof.reference.cache import ContiguousCache
from kvproof.reference.judge.faults.base import moved

PARAMS, CONFIG = small_model()


def sentence(report, name):
    """What a contract's report says of one check."""
    return next(check.sentence for check in report.checks if check.name == name)


class Zeroed(ContiguousCache):
    """Dead slots start as zeros, as in most caches that people write."""

    extra = 0

    def __init__(self, *args):
        super().__init__(*args)
        self.k[:], self.v[:] = 0, 0


class MaskedCache(Zeroed):
    def read(self, layer, b):
        k, v = super().read(layer, b)
        return k, v + 0 * self.v[layer, b, :, self.lengths[b] :].sum(1, keepdims=True)


class Masked(NumpyGPT2):
    """Dead slots are given weight 0 instead of being left out."""

    kind = MaskedCache


class SteppedCache(Zeroed):
    stepping = False

    def read(self, layer, b):
        k, v = super().read(layer, b)
        return self.wrong(layer, b, k, v) if self.stepping else (k, v)


class Stepped(NumpyGPT2):
    kind = SteppedCache

    def step(self, ids):
        self.cache.wrong, self.cache.stepping = self.wrong, True
        logits = self.prefill(ids[:, None])
        self.cache.stepping = False
        return logits


class Long(Stepped):
    """A step reads one slot too many."""

    def wrong(self, layer, b, k, v):
        n = self.cache.lengths[b] + 1
        return self.cache.k[layer, b, :, :n], self.cache.v[layer, b, :, :n]


class Short(Stepped):
    """A step does not read the slot before its own."""

    def wrong(self, layer, b, k, v):
        keep = np.arange(k.shape[1]) != k.shape[1] - 2
        return k[:, keep], v[:, keep]


class Stale(Stepped):
    """In layer 0 a step reads an older value for the newest."""

    def wrong(self, layer, b, k, v):
        if not layer:
            v = v.copy()
            v[:, -2] = v[:, -3]
        return k, v


class KeepsOne(NumpyGPT2):
    """reset() leaves a token behind."""

    def reset(self):
        self.cache.lengths[:] = 1


class Restarts(NumpyGPT2):
    """Positions restart in each piece of a prompt."""

    def prefill(self, ids):
        with patch.object(self, "params", moved(PARAMS, 0 if self.cache is None else int(self.cache.lengths[0]))):
            return super().prefill(ids)

    def step(self, ids):
        return super().prefill(ids[:, None])


class Late(NumpyGPT2):
    """A step takes the length after its append for its position."""

    def step(self, ids):
        with patch.object(self, "params", moved(PARAMS, -1)):
            return super().step(ids)


class CropsShort(NumpyGPT2):
    """crop(n) keeps n + 1."""

    def crop(self, n):
        super().crop(n + 1)


class SharedScaleCache(ContiguousCache):
    def append(self, layer, k, v):
        s = np.abs(k).max((0, 1, 3), keepdims=True) / 127
        super().append(layer, np.rint(k / s) * s, v)


class SharedScale(NumpyGPT2):
    """Keys are rounded to steps of the largest key of the batch: one row's tokens move the others' rounding."""

    kind = SharedScaleCache
    recompute = None


class PlaceMatters(NumpyGPT2):
    """Each row's logits carry its place in the batch."""

    recompute = None

    def prefill(self, ids):
        return super().prefill(ids) + np.arange(len(ids))[:, None] * np.arange(CONFIG.n_vocab)


class MovesKeys(NumpyGPT2):
    """reorder_rows() moves keys and forgets values."""

    def reorder_rows(self, order):
        self.cache.k[:] = self.cache.k[:, order]


class ForgetsTable(PagedNumpyGPT2):
    """permute_pages() moves the pages and leaves the table as it was."""

    def permute_pages(self, rng):
        self.cache.k[:] = self.cache.k[:, rng.permutation(self.cache.k.shape[1])]


class PadsLeft(NumpyGPT2):
    """Shorter prompts are padded on the left; the padding is attended and counted as positions."""

    def prefill_ragged(self, prompts):
        widest = max(map(len, prompts))
        return self.prefill(np.array([[0] * (widest - len(p)) + p for p in prompts]))


BREAKS = {
    Masked: {"dead slots"},
    # What lies in the slot too many is, after a crop or a reset, a row of another text.
    Long: {"dead slots", "one past", "growing", "crop", "reset"},
    Short: {"last slot", "growing"},
    Stale: {"last slot", "growing"},
    KeepsOne: {"reset"},
    Restarts: {"chunks"},
    Late: {"growing"},
    CropsShort: {"crop"},
    SharedScale: {"rows apart", "ragged"},
    PlaceMatters: {"rows permuted", "rows reordered", "ragged"},
    MovesKeys: {"rows reordered"},
    ForgetsTable: {"pages permuted"},
    PadsLeft: {"ragged"},
}
