"""Sampling as pure functions on logits (..., V): each returns logits with -inf where a token is cut.

They compose: pick(top_p(top_k(temperature(logits, 0.8), 50), 0.95), u). Chance enters once, as the uniform number u,
so NumPy and torch draw the same token from the same u. Probabilities are taken in float64 whatever the logits are.
"""

import math

import numpy as np


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


def pick(logits, u):
    """The token that the uniform number u in [0, 1) falls on: the first whose cumulative probability exceeds u.

    logits   (..., V)
    u        (...)
    returns  (...) token ids; a token that was cut is never picked
    """
    total = np.cumsum(weights(logits), axis=-1)
    # u times the sum as it came out, not as it should be: u < 1 then always falls on a token.
    return (total > np.asarray(u)[..., None] * total[..., -1:]).argmax(-1)


def weights(logits):
    """Probabilities before they are divided by their sum: float64, the largest 1.

    Raises ValueError where no token can be chosen.
    """
    top = logits.max(-1, keepdims=True)
    if not np.isfinite(top).all():
        raise ValueError("logits hold NaN or inf, or every token has been cut; nothing can be drawn")
    return np.exp((logits - top).astype(np.float64))


def row_stream(seed, row):
    """The random stream of one row of a batch, the same whatever its neighbours are. A lone prompt is row 0."""
    return np.random.default_rng([seed, row])
