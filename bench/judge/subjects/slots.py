"""Which slots of a cache a decode step reads: each is spoilt by itself, and the output either moves or does not."""

from dataclasses import dataclass

import numpy as np
import torch

from ....gpt2 import GPT2
from ....gpt2.attention import DECODE_STEP


@dataclass(frozen=True)
class Slots:
    """A cache slot by slot.

    lengths  (B,) tokens of each sequence; slots from there on are dead
    read     (B, T) whether NaN in the slot moves its sequence's output
    """

    lengths: np.ndarray
    read: np.ndarray

    @property
    def live(self) -> np.ndarray:
        """(B, T) whether the slot is filled."""
        return np.arange(self.read.shape[1]) < self.lengths[:, None]

    @property
    def unread(self) -> int:
        return int((self.live & ~self.read).sum())

    @property
    def trespassed(self) -> int:
        return int((~self.live & self.read).sum())


@torch.no_grad()
def slots_read(model: GPT2, lengths: list[int], capacity: int) -> Slots:
    """Ask the decode step of a model's impl, on random numbers in layer 0, which slots it reads.

    NaN is put into one slot after another, dead ones too: 0 * NaN is NaN, so whatever touches a slot shows it, also by
    a mask that only makes its weight 0. Raises what the decode step raises.
    """
    rng = torch.Generator().manual_seed(0)
    cache = model.new_cache(len(lengths), capacity)
    q = torch.randn(len(lengths), model.config.n_head, model.config.head_dim, generator=rng)
    q = q.to(model.device, model.dtype)
    k, v = cache.k[0], cache.v[0]
    for place in (k, v):
        place.copy_(torch.randn(place.shape, generator=rng))
    cache.set_lengths(lengths)
    step = DECODE_STEP[model.impl]
    assert step is not None, "naive keeps no cache"
    before = step(q, cache, 0).clone()
    read = np.zeros((len(lengths), capacity), bool)
    for slot in range(capacity):
        kept = k[:, :, slot].clone(), v[:, :, slot].clone()
        k[:, :, slot] = v[:, :, slot] = float("nan")
        read[:, slot] = (step(q, cache, 0) != before).flatten(1).any(1).cpu().numpy()
        k[:, :, slot], v[:, :, slot] = kept
    return Slots(np.array(lengths), read)
