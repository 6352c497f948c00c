"""Numbers that show a wrong quantisation; random ones hide most of them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

from .format import Format

B, H = 2, 3
LEAST = 8  # numbers of a row


class Case(NamedTuple):
    """x (B, H, T, D), and how many tokens come with each append."""

    name: str
    x: np.ndarray
    pieces: tuple[int, ...]


def normal(rng, shape, f, dtype):
    return rng.normal(size=shape)


def offset(rng, shape, f, dtype):
    """far from zero, positive and negative: rows of one sign"""
    return rng.normal(size=shape) + rng.choice([-6.0, 6.0], size=(*shape[:-1], 1))


def negative(rng, shape, f, dtype):
    """the number of largest magnitude is negative everywhere"""
    x = rng.normal(size=shape)
    return np.where(rng.random(shape) < 0.2, -3 - np.abs(x), x * 0.5)


def outlier(rng, shape, f, dtype):
    """one number of each row is a hundred times the others"""
    x = rng.normal(size=shape)
    at = rng.integers(shape[-1], size=shape[:-1])[..., None]
    np.put_along_axis(x, at, 100 * np.sign(np.take_along_axis(x, at, -1)), -1)
    return x


def zeros(rng, shape, f, dtype):
    """rows, channels and blocks of zeros beside others"""
    x = rng.normal(size=shape)
    x[:, :, 1::3], x[..., 5], x[0, 0] = 0, 0, 0
    x[..., 2, : shape[-1] // 2] = 1
    return x


def constant(rng, shape, f, dtype):
    """all numbers of a row, or of a head, are one"""
    x = np.broadcast_to(rng.normal(size=(*shape[:-1], 1)), shape).copy()
    x[0, 1] = 0.75
    return x


def ramp(rng, shape, f, dtype):
    """heads, channels and tokens of very different size: another's scale shows"""
    heads = 4.0 ** np.arange(shape[1])[:, None, None]
    tokens = 1.5 ** (np.arange(shape[2]) % 23 - 11)[:, None]
    channels = 1.3 ** (np.arange(shape[3]) % 17 - 8)
    return rng.normal(size=shape) * heads * tokens * channels


def growing(rng, shape, f, dtype):
    """later tokens are larger than all before: the first scales do not fit them"""
    return rng.normal(size=shape) * 1.15 ** np.arange(shape[2])[:, None]


def steps(rng, shape, f, dtype):
    """the rule's scale is a power of two, and numbers lie on codes, halfway between two and right beside that"""
    values = f.codes.values
    at = rng.integers(len(values) - 1, size=shape)
    x = values[at] + (values[at + 1] - values[at]) * rng.choice([0, 0.5, 0.5, 0.25], size=shape)
    if f.rule == "absmax":
        x[..., 0::8] = f.divides_by  # every group holds the largest: scale 1
    elif f.rule == "two-level":
        x[..., 0::8] = 6.0
        x[0, 0, 0, 0] = 448 * 6
    return x * (1.0 if f.rule in ("fixed", "two-level") else 2.0 ** rng.integers(-3, 3, size=(*shape[:2], 1, 1)))


def ends(rng, shape, f, dtype):
    """just inside and beyond the largest code, for scales that do not follow the numbers"""
    x = rng.normal(size=shape)
    top = f.codes.top * (f.value if f.rule == "fixed" else 1.0)
    beyond = np.array([0.9, 1.0, 1.03, 1.05, 1.3, 3.0, -1.0, -1.05, -2.0]) * top
    x[..., ::2] = rng.choice(beyond, size=x[..., ::2].shape)
    return x


def tiny(rng, shape, f, dtype):
    """rows down to the smallest subnormal numbers, and below what a float16 scale holds"""
    least = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    size = np.exp(rng.uniform(np.log(least), np.log(1e-4), size=(*shape[:-1], 1)))
    return rng.normal(size=shape) * size


def nonfinite(rng, shape, f, dtype):
    """NaN and infinity in one row: no other group may know"""
    x = rng.normal(size=shape)
    x[0, 0, 0, 1], x[-1, -1, -1, 0] = np.nan, np.inf
    return x


KINDS: dict[str, Callable[..., np.ndarray]] = {
    fn.__name__: fn
    for fn in (normal, offset, negative, outlier, zeros, constant, ramp, growing, steps, ends, tiny, nonfinite)
}


def ragged_width(D: int, size: int) -> int:
    """About half of D, in fours, which fill bytes of codes; no multiple of blocks of that size."""
    width = max(4, D * 9 // 64 * 4)
    return width - 4 if size and width > 4 and width % size == 0 else width


def cases(f: Format, dtype, *, D=128, state=False, ragged=True, only=(), seed=0) -> Iterator[Case]:
    """The cases that suit the format, numbers of this dtype.

    D       numbers of a row
    state   the subject is a cache: tokens come in pieces too
    ragged  rows whose last block is not full
    only    names of KINDS; empty: all
    Raises ValueError for a name that is none, and for rows of fewer than 8 numbers.
    """
    unknown = [name for name in only if name not in KINDS]
    if unknown:
        raise ValueError(f"no case {', '.join(map(repr, unknown))}; there are {', '.join(KINDS)}")
    if D < LEAST:
        raise ValueError(f"rows of {D} numbers; they have at least {LEAST}")
    span = max(f.size if f.group == "channel" else 0, f.window, 4)
    T = 2 * span + 4
    whole, split = (T,), (span + 1, 1, 1, 1, *[1] * (T - span - 6), 2)
    for i, (name, make) in enumerate(KINDS.items()):
        if only and name not in only:
            continue
        rng = np.random.default_rng([seed, i])
        with np.errstate(over="ignore", invalid="ignore"):
            x = make(rng, (B, H, T, D), f, dtype).astype(dtype)
        yield Case(name, x, whole)
        if state and name in ("normal", "growing", "ramp", "offset"):
            yield Case(f"{name}, in pieces", x, split)
    if ragged and f.group in ("row", "block", "channel", "head") and not only:
        width = ragged_width(D, f.size)
        x = np.random.default_rng([seed, 99]).normal(size=(B, H, T - 1, width))
        x *= 1.08 ** np.arange(width)
        yield Case("ragged", x.astype(dtype), (T - 1,))
