"""Wrong decode attention: dead slots that are masked, and come back where live scores are low or none is live."""

import numpy as np

from .attention import PLACE
from .base import default, fault


def over_all_slots(q, k, v, lengths, scale, mask, empty=True):
    """Attention over live and dead slots, in float64, rounded once, dead rows finite; returns (B, H, D).

    mask(s (B, H, T), dead (B, 1, T), scale) -> the scores that are weighed; s are not yet scaled
    empty  whether sequences without a live slot are looked after, and get zeros
    """
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(np.nan_to_num(x.astype(np.float64), posinf=0, neginf=0), group, axis=1) for x in (k, v))
    dead = (np.arange(k.shape[2]) >= np.asarray(lengths)[:, None])[:, None]  # (B, 1, T)
    s = mask(np.einsum("bhd,bhtd->bht", q.astype(np.float64), k), dead, default(scale, q.shape[-1]))
    with np.errstate(invalid="ignore"):  # -inf - -inf, where a fault makes it
        p = np.exp(s - s.max(-1, keepdims=True))
    o = np.einsum("bht,bhtd->bhd", p / p.sum(-1, keepdims=True), v)
    return np.where(empty & (np.asarray(lengths) == 0)[:, None, None], 0, o).astype(q.dtype)


def filled_with(value):
    """The mask that puts `value` for dead slots' scores."""
    return lambda s, dead, scale: np.where(dead, value, s * scale)


@fault("attention", "huggingface/transformers/pull/17306", PLACE)
def mask_of_ten_thousand(q, k, v, lengths, scale=None):
    """dead slots get the score -10000, which live ones may lie below; invisible while live scores stay above it"""
    return over_all_slots(q, k, v, lengths, scale, filled_with(-1e4))


@fault("attention", "TransformerLensOrg/TransformerLens/issues/318", PLACE, closest=True)
def mask_of_a_billion(q, k, v, lengths, scale=None):
    """dead slots get the score -1e9; invisible while live scores stay above it, as in float16, where it is -inf"""
    value = -np.inf if q.dtype == np.float16 else -1e9
    return over_all_slots(q, k, v, lengths, scale, filled_with(value))


@fault("attention", None, PLACE)
def mask_before_scale(q, k, v, lengths, scale=None):
    """-10000 is added before the scores are divided by √D, and is divided too; invisible while live scores stay above
    it"""
    return over_all_slots(q, k, v, lengths, scale, lambda s, dead, scale: np.where(dead, -1e4, s) * scale)


@fault("attention", "awslabs/gluonts/pull/1401", PLACE)
def mask_nearly_zero(q, k, v, lengths, scale=None):
    """1e-9 is written for 1e9, and dead slots weigh exp(0); invisible when the cache is full"""
    return over_all_slots(q, k, v, lengths, scale, filled_with(-1e-9))


@fault("attention", "georg-wolflein/good-features/pull/1", PLACE)
def mask_multiplied(q, k, v, lengths, scale=None):
    """scores are multiplied by a mask of ones and zeros, and dead slots weigh exp(0); invisible when the cache is
    full"""
    return over_all_slots(q, k, v, lengths, scale, lambda s, dead, scale: s * scale * ~dead)


@fault("attention", "NVIDIA-NeMo/Automodel/pull/2658", PLACE)
def mask_added_twice(q, k, v, lengths, scale=None):
    """two masks of the least finite number add up to -inf, and where nothing is live the result is NaN; invisible when
    none is empty"""
    return over_all_slots(q, k, v, lengths, scale, filled_with(-np.inf), empty=False)


@fault("attention", "pytorch/pytorch/pull/131060", PLACE, closest=True)
def mask_of_the_least_number(q, k, v, lengths, scale=None):
    """dead slots get the least finite number, and where nothing is live they all weigh alike; invisible when none is
    empty"""
    return over_all_slots(q, k, v, lengths, scale, filled_with(float(np.finfo(np.float32).min)), empty=False)
