"""The difference of two sets of logits in several units, and the rounding noise of one path."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ml_dtypes
import numpy as np


def as_array(x, name="the array") -> np.ndarray:
    """The numbers of x as a float64 array.

    x  a NumPy array of any float or integer dtype, ml_dtypes' bfloat16 included; a torch tensor on the CPU of any such
       dtype, with or without a gradient; nested lists; anything else that np.asarray makes numbers of

    Raises ValueError where it makes none.
    """
    x = x.detach() if hasattr(x, "detach") else x
    device = getattr(x, "device", "cpu")
    if getattr(device, "type", device) != "cpu":
        raise ValueError(f"{name} lives on {device}; the judge reads the CPU's memory: hand in {name}.cpu()")
    try:
        # NumPy knows no bfloat16 tensor; widening one is exact.
        return np.asarray(x.double() if hasattr(x, "double") else x).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {type(x).__name__}, which holds no plain numbers ({error})") from None


def rms(x) -> float:
    """The root of the mean square of what is finite in x; 0 where nothing is."""
    x = x[np.isfinite(x)]
    return float(np.sqrt(np.mean(x * x))) if x.size else 0.0


def noise(*f) -> float:
    """A path's own rounding noise: the standard deviation of one result, from its results at equally spaced inputs.

    f  results f(0), f(d), f(2d), ..., f(kd) of one shape, k >= 1, all numbers in them being samples of one noise

    A smooth function's k-th difference vanishes like d^k, while independent errors of variance s^2 in its k + 1 terms
    add up to s^2 times the sum of the squared binomials, (2k)! / (k!)^2. What is left at small d is therefore noise,
    and no reference is needed. Only the part of an error that changes from one input to the next is seen.

    Source: Hamming 1971, Introduction to Applied Numerical Analysis; More and Wild 2011, Estimating Computational
    Noise, SIAM J. Sci. Comput. 33(3).
    """
    k = len(f) - 1
    if k < 1:
        raise ValueError(f"noise takes results at 2 or more inputs; {len(f)} came")
    arrays = [as_array(x, f"f({i}d)") for i, x in enumerate(f)]
    if len({x.shape for x in arrays}) > 1:
        raise ValueError(f"the results have shapes {[x.shape for x in arrays]}; noise takes them alike")
    with np.errstate(invalid="ignore"):
        difference = sum((-1) ** i * math.comb(k, i) * x for i, x in enumerate(arrays))
    return rms(np.asarray(difference)) / math.sqrt(math.comb(2 * k, k))


@dataclass(frozen=True)
class Flip:
    """A position where the most probable token differs.

    where   the position's index
    tokens  a's first token and b's
    margin  by how much b prefers its own to a's
    error   the largest difference of logits there; no flip without margin <= 2 * error
    """

    where: tuple[int, ...]
    tokens: tuple[int, int]
    margin: float
    error: float


@dataclass(frozen=True)
class Difference:
    """Logits a against trusted logits b of the same positions.

    largest   largest |a - b|, in logits (nats); infinite where one is NaN or infinite and the other differs
    relative  that, in units of the root mean square of b
    ulps      that, in units in the last place of `dtype` at b there (never smaller than at b's root mean square)
    rounding  that, in multiples of the rounding error, where one was given
    where     the index of the largest: (sequence, position, token) for logits (B, n, V)
    kl_mean, kl_max   KL divergence of a's next-token distribution from b's, in nats, over positions
    agree, of         positions with the same most probable token, of so many
    margin    the smallest lead of b's first token over its second where both agree; None where they nowhere do
    can_flip  some lead is within twice the error at its position: a difference of this size can change a token
    flips     the positions that disagree, smallest margin first, 20 of them at most
    """

    dtype: str
    largest: float
    relative: float
    ulps: float
    rounding: float | None
    where: tuple[int, ...]
    kl_mean: float
    kl_max: float
    agree: int
    of: int
    margin: float | None
    can_flip: bool
    flips: Sequence[Flip]

    def record(self) -> dict:
        """The same for JSON; what is not finite is null."""
        return finite(asdict(self))


def finite(x) -> Any:
    """x with its tuples as lists and NaN and infinities, which JSON lacks, as None."""
    if isinstance(x, dict):
        return {key: finite(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def gaps(a, b) -> np.ndarray:
    """|a - b|; 0 where both are the same infinity or both NaN, infinite where only one is finite."""
    with np.errstate(invalid="ignore"):
        gap = np.where(a == b, 0.0, np.abs(a - b))
    gap[np.isnan(a) & np.isnan(b)] = 0.0
    gap[np.isnan(gap)] = np.inf
    return gap


def ulp(x: float, dtype: str) -> float:
    """The spacing of numbers of `dtype` at x."""
    info = ml_dtypes.finfo(dtype)
    tiny = float(info.smallest_normal)
    return float(info.eps) * 2.0 ** math.floor(math.log2(max(abs(x), tiny)))


def log_softmax(x) -> np.ndarray:
    """Logarithm of the softmax over the last axis."""
    with np.errstate(invalid="ignore"):
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergence(a, b) -> np.ndarray:
    """KL(softmax(b) || softmax(a)) of each position, in nats; rounding below zero is cut off."""
    log_a, log_b = log_softmax(a), log_softmax(b)
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(log_b), 0.0, np.exp(log_b) * (log_b - log_a))
    return np.maximum(terms.sum(-1), 0.0)


def compare(a, b, dtype="float64", rounding: float | None = None) -> Difference:
    """Compare logits a with trusted logits b, (..., V) both, in any form that `as_array` takes.

    dtype   the dtype they were computed in, whose ulps are counted: "float64", "float32", "bfloat16", "float16", ...
    rounding  the root mean square of their rounding, in logits, if it is known

    Raises ValueError where the shapes differ, are empty or hold no numbers.
    """
    a, b = as_array(a, "a"), as_array(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a is {a.shape} and b is {b.shape}; compare the same positions")
    if a.ndim == 0 or a.size == 0:
        raise ValueError(f"a and b are {a.shape}; compare at least one position, with logits along the last axis")
    gap, scale = gaps(a, b), rms(b)
    where = tuple(int(i) for i in np.unravel_index(np.argmax(gap), gap.shape))
    largest = float(gap[where])
    at_b = abs(b[where]) if np.isfinite(b[where]) else 0.0
    kl = divergence(a, b)
    kl = kl[np.isfinite(kl)]
    return Difference(
        dtype,
        largest,
        largest / scale if scale else (math.inf if largest else 0.0),
        largest / ulp(max(at_b, scale), dtype),
        None if rounding is None else largest / rounding if rounding else (math.inf if largest else 0.0),
        where,
        float(kl.mean()) if kl.size else math.nan,
        float(kl.max()) if kl.size else math.nan,
        *decisions(a, b, gap),
    )


def decisions(a, b, gap):
    """agree, of, margin, can_flip and flips of a `Difference`. Positions with NaN decide nothing and agree nowhere."""
    sound = ~(np.isnan(a).any(-1) | np.isnan(b).any(-1))
    first_a, first_b, reach = a.argmax(-1), b.argmax(-1), gap.max(-1)
    same = sound & (first_a == first_b)
    if b.shape[-1] > 1:
        top = np.partition(b, -2, axis=-1)[..., -2:]
        with np.errstate(invalid="ignore"):
            lead = top[..., 1] - top[..., 0]
    else:
        lead = np.full(reach.shape, np.inf)
    flips = []
    for where in map(tuple, np.argwhere(sound & ~same).tolist()):
        tokens = int(first_a[where]), int(first_b[where])
        margin = float(b[where][tokens[1]] - b[where][tokens[0]])
        flips.append(Flip(where, tokens, margin, float(reach[where])))
    flips.sort(key=lambda flip: flip.margin)
    margin = float(lead[same].min()) if same.any() else None
    can_flip = bool(flips) or bool((lead[same] <= 2 * reach[same]).any())
    return int(same.sum()), int(same.size), margin, can_flip, tuple(flips[:20])
