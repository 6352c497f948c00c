"""Sampling on the device, the twin of reference/sampling.py: transforms on logits (..., V), cut tokens at -inf.

The only randomness is noise on each token's logit, a hash of (seed, row, step, token) made on the device: the same
logits and seed give the same tokens alone, in a batch, on any device and in NumPy, and nothing is read back. Sums of
probabilities and the noise are float64.
"""

import math
import secrets

import numpy as np
import torch

from ..reference import sampling as reference
from ..reference.sampling import GAMMA, MIX
from .arguments import real, refuse, whole

SIGNED = [c - 2**64 if c >> 63 else c for c in (GAMMA, *MIX)]  # torch multiplies int64, which wraps to the same bits


def check(t: float, k: int | None, p: float | None) -> tuple[float, int | None, float | None]:
    """Temperature t, top-k k and top-p p as Python numbers.  Raises ValueError for one out of range."""
    fits = "a finite number from 0 (greedy) up"
    number = real("temperature", t, fits)
    if not (math.isfinite(number) and number >= 0):
        raise refuse("temperature", t, fits)
    if k is not None:
        k = whole("top_k", k, "1 or more, a whole number, or None to keep all", 1)
    if p is not None:
        fits = "above 0 and at most 1, or None to keep all"
        share = real("top_p", p, fits)
        if not 0 < share <= 1:
            raise refuse("top_p", p, fits)
        p = share
    return number, k, p


def temperature(logits, t: float):
    """Logits divided by t > 0, after their maximum is moved to 0, so that a tiny t cannot overflow."""
    return (logits - logits.amax(-1, keepdim=True)) / t


def top_k(logits, k: int):
    """Keep every logit >= the k-th largest, so ties with it all stay."""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.where(logits >= kth, -math.inf)


def top_p(logits, p: float):
    """Keep the most probable tokens until together they reach p: those before which less than p has been kept."""
    if p == 1:
        return logits
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    w = weights(ranked)
    total = w.cumsum(-1)
    before = torch.cat([torch.zeros_like(total[..., :1]), total[..., :-1]], -1)  # exact, where total - w rounds
    keep = torch.empty_like(logits, dtype=torch.bool).scatter_(-1, order, before < p * total[..., -1:])
    return logits.where(keep, -math.inf)


def gumbel(key, n_vocab: int):
    """Gumbel noise of every token, the reference's up to the logarithm: (B,) int64 -> (B, n_vocab) float64"""
    gamma, first, second = SIGNED
    z = key[:, None] + torch.arange(1, n_vocab + 1, device=key.device) * gamma
    for shift, factor in ((30, first), (27, second)):
        z = (z ^ shifted(z, shift)) * factor
    u = (shifted(z ^ shifted(z, 31), 12).double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(u))


def shifted(z, bits: int):
    """The int64 z as 64 bits without a sign, shifted right."""
    return (z >> bits) & ((1 << 64 - bits) - 1)


def weights(logits):
    """Unnormalised probabilities, float64, the largest 1."""
    return torch.exp(logits.double() - logits.amax(-1, keepdim=True).double())


def greedy(logits):
    """The most probable token of each row, the smallest id of equals, a NaN before all: (B, V) -> (B,) int64

    On a CPU by NumPy. Torch wakes its threads for it, and they go on spinning for a while on cores that the compiled
    engine's threads need: a step of 8 sequences (124M shape, int8 weights, two cores) then took 14.8 ms, not 12.
    """
    if logits.device.type != "cpu" or logits.dtype not in (torch.float32, torch.float64):
        return logits.argmax(-1)
    return torch.from_numpy(logits.detach().numpy().argmax(-1))


def drawn(logits, key, t: float, k: int | None, p: float | None):
    """`next_ids` of a t above 0 on a CPU, by the reference: torch's threads would spin on, as in `greedy`.

    A request of the 124M model that is sampled by torch gets 31 tokens/s, one that is greedy 50 (two cores).
    """
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).numpy().astype(np.float64)
    ids, finite = np.full(len(wide), -1), np.isfinite(wide.max(-1))
    rows = reference.temperature(wide[finite], t)
    if k is not None:
        rows = reference.top_k(rows, k)
    if p is not None:
        rows = reference.top_p(rows, p)
    noise = reference.gumbel(key.numpy().view(np.uint64)[finite], wide.shape[-1])
    ids[finite] = reference.pick(rows, noise)
    return ids


def next_ids(logits, key, t: float = 0.0, k: int | None = None, p: float | None = None):
    """The next token of each row, from settings that passed `check`.

    logits   (B, V) any float dtype
    key      (B,) int64, a column of `keys`; unused where t is 0
    returns  (B,) int64; the most probable token if t is 0; -1 if the largest logit is NaN or inf, since raising
             would make the host wait for the device
    """
    if t == 0:
        ids = greedy(logits)
        return ids.where(logits.gather(-1, ids[:, None])[:, 0].isfinite(), -1)
    if key.device.type == "cpu":
        return torch.from_numpy(drawn(logits, key, t, k, p))
    finite = logits.amax(-1).isfinite()
    logits = temperature(logits.double(), t)
    if k is not None:
        logits = top_k(logits, k)
    if p is not None:
        logits = top_p(logits, p)
    return (logits + gumbel(key, logits.shape[-1])).argmax(-1).where(finite, -1)


def keys(seed: int | None, batch: int, steps: int, first_row: int = 0) -> torch.Tensor:
    """(B, steps) int64: row i is the stream (seed, first_row + i). Without a seed, a random one.

    Raises ValueError for a seed outside 0 ... 2**64 - 1, or a negative first_row.
    """
    first_row = whole("first_row", first_row, "a whole number, 0 or more", 0)
    if seed is None:
        seed = secrets.randbits(64)
    seed = whole("seed", seed, "a whole number from 0 to 2**64 - 1, or None for another each time", 0, 2**64 - 1)
    rows = range(first_row, first_row + batch)
    return torch.from_numpy(np.stack([reference.keys(seed, row, steps) for row in rows]).view(np.int64))
