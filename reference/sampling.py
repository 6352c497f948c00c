"""Sampling as pure functions on logits (..., V): each returns logits with -inf where a token is cut.

They compose: pick(top_p(top_k(temperature(logits, 0.8), 50), 0.95), gumbel(key, V)). Chance enters once, as noise on
each token's logit that is a hash of (seed, row, step, token): NumPy, torch, a batch and a lone prompt all draw the same
token from the same logits. Nothing is summed over the vocabulary, so logits that differ in their last bits still give
the same token, unless it was a tie but for them.
"""

import math

import numpy as np

GAMMA = 0x9E3779B97F4A7C15  # 2⁶⁴ over the golden ratio
MIX = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(z):
    """SplitMix64's hash of uint64 numbers (any shape), in place: output i of state s is mix(s + (i + 1)·GAMMA).

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    z ^= z >> np.uint64(30)
    z *= np.uint64(MIX[0])
    z ^= z >> np.uint64(27)
    z *= np.uint64(MIX[1])
    z ^= z >> np.uint64(31)
    return z


def temperature(logits, t):
    """Logits divided by t >= 0, after their maximum is moved to 0. t = 0 is the limit: only the first maximum stays.

    Raises ValueError unless t is a finite number >= 0.
    """
    if not (math.isfinite(t) and t >= 0):
        raise ValueError(f"temperature is {t}; it must be a finite number from 0 (greedy) up")
    if t == 0:
        first = logits.argmax(-1)[..., None]
        return np.where(np.arange(logits.shape[-1]) == first, logits, -np.inf)
    # With the maximum at 0 a tiny t can only drive the others to -inf, which is the limit meant.
    with np.errstate(over="ignore"):
        return (logits - logits.max(-1, keepdims=True)) / t


def top_k(logits, k):
    """Keep every logit >= the k-th largest, so ties with it all stay. Raises ValueError if k < 1."""
    if k < 1:
        raise ValueError(f"top_k is {k}; it must be 1 or more")
    k = min(k, logits.shape[-1])
    kth = np.partition(logits, -k, axis=-1)[..., -k, None]
    return np.where(logits >= kth, logits, -np.inf)


def top_p(logits, p):
    """Keep the most probable tokens until together they reach p: those before which less than p has been kept.

    Ties go by token id; the first token always stays. Raises ValueError unless 0 < p <= 1.
    Source: Holtzman et al. 2020 (arXiv:1904.09751).
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p is {p}; it must be above 0 and at most 1")
    if p == 1:
        return logits  # a rounded sum may pass 1 before the last token; by the rule nothing is cut
    order = np.argsort(-logits, axis=-1, kind="stable")
    w = np.take_along_axis(weights(logits), order, axis=-1)
    total = np.cumsum(w, axis=-1)
    before = np.concatenate([np.zeros_like(total[..., :1]), total[..., :-1]], axis=-1)
    keep = np.empty(logits.shape, bool)
    np.put_along_axis(keep, order, before < p * total[..., -1:], axis=-1)
    return np.where(keep, logits, -np.inf)


def pick(logits, noise):
    """A token drawn with the probabilities softmax(logits): where logits + noise is largest.

    logits   (..., V); a token that was cut is never picked
    noise    (..., V) float64, from gumbel
    returns  (...) token ids

    Raises ValueError where no token can be chosen.
    Source: the Gumbel-max trick, Maddison et al. 2014 (arXiv:1411.0030).
    """
    check_finite(logits)
    return (logits + noise).argmax(-1)


def keys(seed, row, steps):
    """(steps,) uint64: what the draws of one row of a batch hash, step by step; its neighbours play no part in it.

    seed  0 ... 2⁶⁴ - 1
    row   0 ... 2⁶⁴ - 1; a lone prompt is row 0

    Raises ValueError outside of these.
    """
    for name, value in (("seed", seed), ("row", row)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} is {value}; it must be from 0 to 2**64 - 1")
    stream = mix(mix(np.array([seed], np.uint64)) + np.uint64(row))
    return mix(stream + np.arange(1, steps + 1, dtype=np.uint64) * np.uint64(GAMMA))


def gumbel(key, n_vocab):
    """Gumbel noise, -log(-log(u)), of every token: u from the SplitMix64 stream that starts at key.

    key      (...) uint64, from keys
    returns  (..., n_vocab) float64, finite: u is one of the 2⁵² midpoints of equal parts of (0, 1)
    """
    ids = np.arange(1, n_vocab + 1, dtype=np.uint64) * np.uint64(GAMMA)
    z = mix(np.asarray(key, np.uint64)[..., None] + ids)
    u = ((z >> np.uint64(12)) + 0.5) * 2.0**-52
    return -np.log(-np.log(u))


def weights(logits):
    """Probabilities before they are divided by their sum: float64, the largest 1.

    Raises ValueError where no token can be chosen.
    """
    check_finite(logits)
    return np.exp((logits - logits.max(-1, keepdims=True)).astype(np.float64))


def check_finite(logits):
    """Raises ValueError unless the largest logit of every row is a finite number."""
    if not np.isfinite(logits.max(-1)).all():
        raise ValueError("logits hold NaN or inf, or every token has been cut; nothing can be drawn")
