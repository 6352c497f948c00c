"""Sampling on the device, the twin of reference/sampling.py: transforms on logits (..., V), cut tokens at -inf.

Chance enters once, as uniform numbers made on the host before the loop: from the same logits the same seed then gives
the same tokens alone, in a batch, on any device and in NumPy, up to the last bits of a sum, and nothing is read back.
Probabilities are taken in float64.
"""

import math
import secrets

import numpy as np
import torch

from ..reference.sampling import row_stream


def check(t: float, k: int | None, p: float | None):
    """Raises ValueError unless temperature t, top-k k and top-p p are settings that sampling knows."""
    if not (math.isfinite(t) and t >= 0):
        raise ValueError(f"temperature is {t}; it must be a finite number from 0 (greedy) up")
    if k is not None and k < 1:
        raise ValueError(f"top_k is {k}; it must be 1 or more, or None to keep all")
    if p is not None and not 0 < p <= 1:
        raise ValueError(f"top_p is {p}; it must be above 0 and at most 1, or None to keep all")


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


def pick(logits, u):
    """The token that u falls on: the first whose cumulative probability exceeds it.

    logits (B, V), u (B,) float64 in [0, 1) -> (B,) int64
    """
    total = weights(logits).cumsum(-1)
    return torch.searchsorted(total, u[:, None] * total[:, -1:], right=True)[:, 0]


def weights(logits):
    """Unnormalised probabilities, float64, the largest 1."""
    return torch.exp(logits.double() - logits.amax(-1, keepdim=True).double())


def next_ids(logits, u, t: float = 0.0, k: int | None = None, p: float | None = None):
    """The next token of each row, from settings that passed `check`.

    logits   (B, V) any float dtype
    u        (B,) float64 uniform numbers in [0, 1), one per row; unused where t is 0
    returns  (B,) int64; the likeliest token where t is 0; -1 where the largest logit is NaN or inf, since raising here
             would make the host wait for the device
    """
    finite = logits.amax(-1).isfinite()
    if t == 0:
        return logits.argmax(-1).where(finite, -1)
    logits = temperature(logits.double(), t)
    if k is not None:
        logits = top_k(logits, k)
    if p is not None:
        logits = top_p(logits, p)
    return pick(logits, u).where(finite, -1)


def uniforms(seed: int | None, batch: int, steps: int, first_row: int = 0) -> torch.Tensor:
    """(B, steps) float64 in [0, 1): row i is the stream (seed, first_row + i). Without a seed, fresh entropy."""
    if first_row < 0:
        raise ValueError(f"first_row is {first_row}; rows count from 0")
    if seed is None:
        seed = secrets.randbits(128)
    elif seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")
    rows = range(first_row, first_row + batch)
    return torch.from_numpy(np.stack([row_stream(seed, row).random(steps) for row in rows]))
