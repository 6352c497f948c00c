"""A cache with a sliding window in a ring of slots, and the same broken on purpose, each in one way."""

import numpy as np

from kvproof.bench.judge.contract.adapters import NumpyGPT2, small_model
from kvproof.reference.cache import ContiguousCache
from kvproof.reference.judge.faults.base import forward_with
from kvproof.reference.judge.faults.windows import LosesTheWrap, Ring, Rolls, RollsBack, StartsAtZero, in_window

PARAMS, CONFIG = small_model()


class Windowed(NumpyGPT2):
    """The reference under a sliding window, the last `window` tokens in a ring."""

    kind = Ring
    window = slots = 7
    reach = None  # tokens of the window that live() claims, if other than the window's

    def new_cache(self, batch):
        return self.kind(self.config, batch, self.slots, self.dtype)

    def last(self, ids, cache=None):
        cache = cache or ContiguousCache(self.config, len(ids), self.config.n_ctx, self.dtype)
        return forward_with(np.array(ids), self.params, self.config, cache, attend=self.attend)[:, -1]

    def attend(self, q, k, v):
        return in_window(self.window)(q, k, v)

    def crop(self, n):
        if self.cache.lengths.max() > self.slots:
            raise NotImplementedError("the tokens that left the window are gone")
        super().crop(n)

    def places(self, n, slot):
        """The place of the last of n tokens in a slot; negative where there was none."""
        return slot + (n - 1 - slot) // self.slots * self.slots

    def live(self):
        n = self.cache.lengths[:, None, None, None]
        place = self.places(n, np.arange(self.slots)[:, None])  # (B, 1, T, 1)
        return np.where(place < 0, -1, np.where(place > n - (self.reach or self.window), place, -2))


class WindowedByTruth(Windowed):
    def live(self):
        return super().live() >= 0


class Rolled(Windowed):
    """The ring's other kind: in order of age, and all slots move."""

    kind = Rolls

    def places(self, n, slot):
        place = np.maximum(n - self.slots, 0) + slot
        return np.where(place < n, place, -1)


class Wide(Windowed):
    """Two slots more than the window, which the mask leaves out."""

    slots = 9
    more = 0  # tokens that a step sees beyond the window

    def attend(self, q, k, v):
        if q.shape[-2] > 1:
            return super().attend(q, k, v)
        seen = slice(-self.window - self.more, None)
        return in_window()(q, k[:, seen], v[:, seen])


class SeesOneMore(Wide):
    """A step sees a token that has left the window."""

    more = 1


class OneSlotMore(Windowed):
    """A ring of window + 1 slots, read whole; says so of its slots."""

    slots = 8
    reach = 9


class OneSlotLess(Windowed):
    slots = 6


class Misplaced(Windowed):
    """A prompt's last tokens lie from the first slot on."""

    kind = StartsAtZero.cache


class Stale(Windowed):
    """The write that comes back to slot 0 is lost in the first layer: a token that has left the window is read."""

    kind = LosesTheWrap.cache


class Backwards(Rolled):
    """Rolled the wrong way."""

    kind = RollsBack.cache


class Trims(Windowed):
    """crop() counts back, and the slots taken since are read as if they held older tokens."""

    def crop(self, n):
        self.cache.lengths[:] = np.minimum(self.cache.lengths, n)


class KeepsAll(Wide):
    """Nothing is evicted, so that crop() may go back; a step reads the window."""

    slots = 40


class CropsTooLittle(KeepsAll):
    """crop(n) keeps a token more."""

    def crop(self, n):
        super().crop(n + 1)


HONEST = (Windowed, WindowedByTruth, Rolled, Wide, KeepsAll)
BREAKS = {
    SeesOneMore: {"dead slots", "chunks", "growing"},
    OneSlotMore: {"chunks", "growing"},
    OneSlotLess: {"chunks", "growing"},
    Misplaced: {"chunks", "growing"},
    Stale: {"dead slots", "chunks", "growing"},
    Backwards: {"dead slots", "chunks", "growing"},
    Trims: {"crop"},
    CropsTooLittle: {"crop"},
}
