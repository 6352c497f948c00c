"""Arrays before and after: kept, put back, and compared bit by bit or by value."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .compile import members

# By dtype: the gap between 1 and the next number.
STEPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
STEPS |= {"float8_e4m3fn": 2.0**-3, "float8_e4m3fnuz": 2.0**-3, "float8_e5m2": 2.0**-2, "float8_e5m2fnuz": 2.0**-2}
SUMS = 64  # steps of a sum's own type that another order may move it by, of the array's largest value


class Difference(NamedTuple):
    """Where two arrays first differ by more than they may."""

    place: str  # out[3, 0]
    one: str  # value and bits
    other: str
    count: str  # "2 of 48 elements differ, by up to 0.1 of the largest value"
    at: tuple  # index
    alone: bool  # whether only one side wrote it


def named_arrays(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays of one parameter, a tuple's as `members` names them; of a tensor descriptor the one it describes."""
    if isinstance(value, tuple):
        for part, item in zip(members(name, value), value, strict=True):
            yield from named_arrays(part, item)
    elif hasattr(value, "block_shape"):  # a tensor descriptor
        yield name, value.base
    elif isinstance(value, np.ndarray) or hasattr(value, "data_ptr"):
        yield name, value


def copied(memory: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in memory.items()}


def put(memory: dict[str, np.ndarray], values: dict[str, np.ndarray]) -> None:
    """Write what differs: an array that kernels only read may be read-only."""
    for name, array in memory.items():
        if not np.array_equal(array, values[name]):
            array[...] = values[name]


def difference(
    name: str, like: Any, one: np.ndarray, other: np.ndarray, allowed: float | None, alone: np.ndarray | bool = False
) -> Difference | None:
    """Where an array's bits, or values by more than `allowed`, differ; None if they do not.

    The largest value sets the scale, since a sum of terms of its size may come out small: what is wrong with an element
    far smaller is not seen.

    one, other  the bits, unsigned
    like        an array of the values' dtype
    allowed     in units of the largest value; None for no difference of bits
    alone       which elements only one side wrote: of these no difference of bits is allowed
    """
    if allowed == math.inf or np.array_equal(one, other):
        return None
    a, b = numbers(one, like), numbers(other, like)
    gap = gaps(a, b)
    bad = one != other if allowed is None else (gap > allowed) | ((one != other) & alone)
    if not bad.any():
        return None
    at = tuple(np.argwhere(bad)[0])
    place = f"{name}[{', '.join(map(str, at))}]" if at else name
    first, second = (f"{values[at]} ({int(bits[at]):#x})" for values, bits in ((a, one), (b, other)))
    count = f"{np.count_nonzero(bad)} of {bad.size} elements differ, by up to {gap.max():.2g} of the largest value"
    return Difference(place, first, second, count, at, bool(np.broadcast_to(alone, bad.shape)[at]))


def rounding(like: Any) -> float | None:
    """How far two orders of the same sums may move an array's values, in units of its largest; None: not a bit.

    Two values of its dtype that one number was rounded to from either side of a middle are one step apart, and a result
    is mostly of a second rounding, as of the weights of an attention. Sums of n terms are in float32, or float64, in
    which orders differ by about sqrt(n) steps of their size.
    """
    step = STEPS.get(str(getattr(like, "dtype", "")).removeprefix("torch."))
    if step is None:
        return None
    return 2 * step + SUMS * min(step, STEPS["float32"])


def numbers(bits: np.ndarray, like: Any) -> np.ndarray:
    """Bits of an array like `like` as float64."""
    if isinstance(like, np.ndarray):
        return bits.view(like.dtype).astype(np.float64)
    import torch

    dtype = getattr(like, "base", like).dtype
    return torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(dtype).double().numpy()


def gaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| in units of the largest finite value of both; infinite where only one is NaN or infinite."""
    sizes = np.abs([a, b])
    with np.errstate(all="ignore"):
        gap = np.abs(a - b) / np.max(sizes, initial=0, where=np.isfinite(sizes))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
