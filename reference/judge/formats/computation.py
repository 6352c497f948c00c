"""A format computed step by step, as a program does it; every step can be replaced by a wrong one (hypotheses/)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .format import Format
from .grids import FLOATS
from .groups import Split, split
from .packing import pack, unpack
from .scales import Scale, exact_scales, rounded


class Kept(NamedTuple):
    """What is stored beside the codes of each group: scale, min and zero, float64 numbers of their dtype; of two levels
    the tensor's scale, which s contains."""

    s: np.ndarray
    low: np.ndarray
    zero: np.ndarray
    tensor: float = 1.0


def scale_step(f: Format, cut: Split, dtype) -> Scale:
    """1. scale and zero of each group, in the dtype of the computation"""
    exact = exact_scales(f, cut.g, cut.live)
    if f.rule == "two-level":
        return exact
    return exact._replace(s=exact.s.astype(f.dtype_of("compute", dtype)).astype(np.float64))


def store_step(f: Format, scale: Scale, dtype) -> Kept:
    """2. the scale as it is stored"""
    if f.rule == "two-level":
        wanted = np.divide(scale.s, scale.tensor, out=np.zeros_like(scale.s), where=scale.tensor > 0)
        block = np.clip(wanted, 0, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
        return Kept(block * scale.tensor, scale.low, scale.zero, scale.tensor)
    return Kept(rounded(scale.s, f, dtype), rounded(scale.low, f, dtype), scale.zero)


def divide_step(f: Format, cut: Split, scale: Scale, kept: Kept, dtype) -> np.ndarray:
    """3. the quotients (G, S)"""
    compute = f.dtype_of("compute", dtype)
    s, low = (scale.s, scale.low) if f.divisor == "unrounded" else (kept.s, kept.low)
    x = cut.g.astype(compute) - low.astype(compute)[:, None]
    safe = np.where(s != 0, s, 1).astype(compute)[:, None]
    return np.where(s[:, None] != 0, x / safe, 0).astype(np.float64) + kept.zero[:, None]


def round_step(f: Format, q: np.ndarray) -> np.ndarray:
    """4. the nearest code"""
    return f.codes.codes[f.codes.nearest(q, f.ties)]


def carry_step(f: Format, codes: np.ndarray) -> np.ndarray:
    """5. the codes, packed and unpacked"""
    if codes.shape[-1] % (8 // f.codes.bits if f.packing != "bytes" else 1):
        return codes
    return unpack(pack(codes, f.packing), f.packing, bool(f.codes.whole and f.codes.values[0] < 0))


def decode_step(f: Format, codes: np.ndarray, kept: Kept, dtype) -> np.ndarray:
    """6. value * scale + min, in the dtype of the computation"""
    compute = f.dtype_of("compute", dtype)
    v = value_of(f, codes) - kept.zero[:, None]
    return v.astype(compute) * kept.s.astype(compute)[:, None] + kept.low.astype(compute)[:, None]


def value_of(f: Format, codes: np.ndarray) -> np.ndarray:
    """What codes stand for, float64; whole numbers stand for themselves."""
    if f.codes.whole:
        return codes.astype(np.float64)
    bits = (codes & ((1 << f.codes.bits) - 1)).astype(np.uint8)
    return bits.view(FLOATS[f.grid]).astype(np.float64)


class Steps(NamedTuple):
    """The steps of a computation."""

    scale: Callable[..., Scale] = scale_step
    store: Callable[..., Kept] = store_step
    divide: Callable[..., np.ndarray] = divide_step
    round: Callable[..., np.ndarray] = round_step
    carry: Callable[..., np.ndarray] = carry_step
    decode: Callable[..., np.ndarray] = decode_step


RIGHT = Steps()


def run(f: Format, x: np.ndarray, steps: Steps = RIGHT, given: Scale | None = None) -> np.ndarray:
    """Quantise and read back x (..., T, D) at once, without a window: x's shape and dtype."""
    cut = split(x, f.group, f.size)
    with np.errstate(all="ignore"):
        scale = given or steps.scale(f, cut, x.dtype)
        kept = steps.store(f, scale, x.dtype)
        codes = steps.carry(f, steps.round(f, steps.divide(f, cut, scale, kept, x.dtype)))
        return cut.join(steps.decode(f, codes, kept, x.dtype)).astype(x.dtype)


@np.errstate(all="ignore")
def round_trip(f: Format, x: np.ndarray, pieces=None, steps: Steps = RIGHT) -> np.ndarray:
    """What a right cache gives back of x (..., T, D), appended in pieces of so many tokens."""
    pieces = (x.shape[-2],) if pieces is None else pieces
    y, given = x.copy(), None
    for a, b in f.spans(pieces):
        part = x[..., a:b, :]
        y[..., a:b, :] = run(f, part, steps, given)
        if f.growth == "frozen" and given is None:
            given = steps.scale(f, split(part, f.group, f.size), x.dtype)
    return y


def encode(f: Format, x: np.ndarray) -> tuple[np.ndarray, Kept, Split]:
    """The codes of each group (G, S) as the format packs them, scales, min and zero of each group, and the cut."""
    cut = split(x, f.group, f.size)
    scale = scale_step(f, cut, x.dtype)
    kept = store_step(f, scale, x.dtype)
    codes = round_step(f, divide_step(f, cut, scale, kept, x.dtype))
    return pack(codes, f.packing), kept, cut


def decode(f: Format, data: Any, kept: Kept, cut: Split, dtype="float32") -> np.ndarray:
    """What `encode` stored, read back in x's shape."""
    codes = unpack(data, f.packing, bool(f.codes.whole and f.codes.values[0] < 0))
    return cut.join(decode_step(f, codes, kept, np.dtype(dtype))).astype(dtype)
