"""The record of a quantisation fault, and the right pieces that faults are made from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

FP8 = ml_dtypes.float8_e4m3fn
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


@dataclass(frozen=True)
class FormatFault:
    """One bug that a real project has had.

    format    that it is meant to be, as catalogue.named takes it
    subject   a function x -> what is read back; or, with state, a cache of append(x) and read()
    named     the names of the hypotheses that are right about it
    imitates  the mistake in words
    link      the thread that reports it; closest: it reports a relative of this mistake
    """

    name: str
    format: str
    subject: Any
    state: bool
    named: tuple[str, ...]
    imitates: str
    link: str
    closest: bool


def fault(format: str, link: str, *named: str, closest=False) -> Callable[[Any], FormatFault]:
    """Turn the function, or the class of a cache, below into a FormatFault of its name.

    link  OWNER/NAME/issues/N or OWNER/NAME/pull/N on GitHub
    """

    def record(subject: Any) -> FormatFault:
        words = " ".join((subject.__doc__ or "").split())
        name = subject.__name__
        if isinstance(subject, type):
            name = "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
        url = f"https://github.com/{link}"
        return FormatFault(name, format, subject, isinstance(subject, type), named, words, url, closest)

    return record


class Appended:
    """A cache that keeps all x (B, H, T, D) it is given, and the count of each append."""

    def __init__(self):
        self.parts: list[np.ndarray] = []

    def append(self, x: np.ndarray):
        self.parts.append(x)

    @property
    def x(self) -> np.ndarray:
        return np.concatenate(self.parts, axis=-2)


def guarded(x, scale):
    """x / scale in float32, 0 where the scale is 0."""
    with np.errstate(all="ignore"):
        return np.where(scale > 0, x.astype(np.float32) / scale, 0).astype(np.float32)


def absmax(x, top: float = 127, axis=-1):
    """The symmetric scale along an axis, float32, kept as an axis."""
    return (np.abs(x.astype(np.float32)).max(axis, keepdims=True) / np.float32(top)).astype(np.float32)


def int8(x, scale):
    """The right codes, as float32."""
    return np.clip(np.rint(guarded(x, scale)), -127, 127)


def blocks(x, size):
    """x (..., D) as blocks (..., D / size, size), the ragged rest filled with zeros."""
    rest = -x.shape[-1] % size
    full = np.concatenate([x, np.zeros((*x.shape[:-1], rest), x.dtype)], -1)
    return full.reshape(*x.shape[:-1], -1, size)


def unblocked(y, x):
    """Blocks put together in x's shape and dtype."""
    with np.errstate(all="ignore"):
        return y.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]].astype(x.dtype)


def refuse_ragged(x, size):
    """ValueError for rows that blocks do not fill, as most of these projects have it."""
    if x.shape[-1] % size:
        raise ValueError(f"rows of {x.shape[-1]} numbers are no whole blocks of {size}")


def to_e2m1(x):
    """x rounded to e2m1's values, ties to even, saturating."""
    size = np.minimum(np.abs(x), 6).astype(np.float64)
    return np.sign(x) * size.astype(ml_dtypes.float4_e2m1fn).astype(np.float64)


def minmax4(x, top=15):
    """min, scale and codes of each row of x (..., S), asymmetric."""
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    scale = ((high - low) / np.float32(top)).astype(np.float32)
    return low, scale, np.clip(np.rint(guarded(x - low, scale)), 0, top)
