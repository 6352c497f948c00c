"""Wrong cached paths of a sliding window: how far it reaches, and whose slot a token takes."""

from functools import partial

import numpy as np

from ...cache import ContiguousCache
from ...model import attention
from .base import cache_fault, cached_logits, fault, forward_with, fresh, masked

ATTENTION = (0, "attention")
WINDOW = 5  # slots that a token sees, its own among them


def in_window(window=WINDOW):
    """The attention of M new tokens in which each sees `window` slots; a lone token sees all that it is given."""

    def seen(M, n):
        behind = np.arange(n - M, n)[:, None] - np.arange(n)
        return (behind >= 0) & (behind < window)

    several = masked(seen)
    return lambda q, k, v: several(q, k, v) if q.shape[-2] > 1 else attention(q, k, v)


def windowed_logits(ids, params, config):
    """All of ids (B, T) in one pass under a window: what decoding with one must agree with; logits (B, T, V)."""
    if ids.shape[1] == 1:
        return forward_with(ids, params, config, fresh(ids, params, config))
    return forward_with(ids, params, config, fresh(ids, params, config), attend=in_window())


class Ring(ContiguousCache):
    """k, v (L, B, H, W, D): the last W tokens of each sequence, the one at position p in slot p % W.

    A pass of several tokens reads, beside its own, the W - 1 before it: some of their slots are taken by then.
    """

    def check_room(self, M):
        """A token past the end takes the oldest one's slot."""

    def slots(self, position, n):
        """The slots of tokens at these positions, of n tokens."""
        return position % self.capacity

    def append(self, layer, k, v):
        M, W = k.shape[2], self.capacity
        self.passed = {}
        for b, n in enumerate(self.lengths):
            before, last = np.arange(max(0, n - M - W + 1), n - M), np.arange(max(n - M, n - W), n)
            rings = [(ring[layer, b], new[b]) for ring, new in ((self.k, k), (self.v, v))]
            if M > 1:
                self.passed[b] = [np.concatenate([ring[:, self.slots(before, n - M)], new], 1) for ring, new in rings]
            for ring, new in rings:
                self.store(ring, new[:, last - (n - M)], last, M)

    def store(self, ring, rows, positions, M):
        """rows (H, m, D) of the tokens at these positions, the last of M new ones, into ring (H, W, D)."""
        ring[:, self.slots(positions, positions[-1] + 1)] = rows

    def read(self, layer, b):
        if b in self.passed:
            return self.passed[b]
        n = int(self.lengths[b])
        live = self.slots(np.arange(max(0, n - self.capacity), n), n)
        return self.k[layer, b][:, live], self.v[layer, b][:, live]


def ring_logits(ids, params, config, kind=Ring, window=WINDOW, spoil=None):
    """The cached path through a ring: the correct one, for windows of WINDOW, by default."""
    ring = kind(config, len(ids), window, params["wte"]["weight"].dtype)
    return cached_logits(ids, params, config, ring, step=partial(forward_with, attend=in_window()), spoil=spoil)


@fault("cache", "huggingface/transformers/issues/39408", ATTENTION, correct=windowed_logits)
def ring_too_long(ids, params, config):
    """the ring has a slot too many, and a decode step reads it whole; invisible until the window is full"""
    return ring_logits(ids, params, config, window=WINDOW + 1)


@fault("cache", "sgl-project/sglang/pull/32087", ATTENTION, correct=windowed_logits)
def ring_too_short(ids, params, config):
    """the ring has a slot too few; invisible until it is full"""
    return ring_logits(ids, params, config, window=WINDOW - 1)


@fault("cache", "rajveer43/VeloxQuant-MLX/issues/274", ATTENTION, correct=windowed_logits)
def window_never_slides(ids, params, config):
    """nothing is evicted, and a decode step reads all there is; invisible until the window is full"""
    return cached_logits(ids, params, config, step=partial(forward_with, attend=in_window()))


@cache_fault(
    "ring_start_mistaken", "huggingface/transformers/pull/47708", closest=True, correct=windowed_logits, run=ring_logits
)
class StartsAtZero(Ring):
    """the last tokens of a prompt lie from the ring's first slot on, and a decode step takes the slot of its position;
    invisible in a prompt that fits the window or is a multiple of it"""

    def store(self, ring, rows, positions, M):
        super().store(ring, rows, positions if len(positions) == 1 else np.arange(len(positions)), M)


class Rolls(Ring):
    """In order of age, the newest last: a full ring is rolled before new tokens take its last slots."""

    way = -1

    def slots(self, position, n):
        return position - max(0, n - self.capacity)

    def store(self, ring, rows, positions, M):
        n = positions[-1] + 1
        gone = max(0, n - self.capacity) - max(0, n - M - self.capacity)
        ring[:] = np.roll(ring, self.way * gone, axis=1)
        super().store(ring, rows, positions, M)


@cache_fault(
    "ring_rolled_back", "huggingface/transformers/issues/37574", closest=True, correct=windowed_logits, run=ring_logits
)
class RollsBack(Rolls):
    """a full buffer is rolled the wrong way, so that the newest token but one is overwritten; invisible until it is
    full"""

    way = 1


@cache_fault("ring_slot_stale", None, correct=windowed_logits, run=ring_logits)
class LosesTheWrap(Ring):
    """the write that wraps is lost, and the slot is read with a key that has left the window; invisible until then"""

    def store(self, ring, rows, positions, M):
        wraps = len(positions) == 1 and positions[0] and positions[0] % self.capacity == 0
        if not (wraps and np.shares_memory(ring, self.k[0])):
            super().store(ring, rows, positions, M)


@fault("cache", "ml-explore/mlx-swift-lm/pull/584", ATTENTION, correct=windowed_logits)
def ring_trimmed(ids, params, config):
    """rejected drafts are trimmed off a full ring by counting back, and lie where older tokens were; invisible until it
    is full"""

    def spoil(cache):
        drafts = (ids[:, :2] + 1) % config.n_vocab
        for t in range(2):
            forward_with(drafts[:, t : t + 1], params, config, cache)
        cache.lengths -= 2

    return ring_logits(ids, params, config, spoil=spoil)
