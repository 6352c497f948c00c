"""NumPy idioms: values of some programs and of more, masks, repeats, floats nearly alike; and where a tensor is."""

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np


def first_of(mask: np.ndarray | np.bool_) -> tuple[int, int]:
    """Row and thread of the first True in (P, T)."""
    row, thread = np.argwhere(mask)[0].tolist()
    return row, thread


def chosen(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those of some programs, of a value that is (P, ...), or (1, ...) where all programs have one: then a copy."""
    return x[rows] if len(x) > 1 else x.copy()


def merged(a: np.ndarray, P: int, b: np.ndarray, Q: int) -> np.ndarray:
    """A value of P programs and then of Q others; one row where it is the same for all, as in `chosen`."""
    if len(a) == len(b) == 1 and np.array_equal(a, b):
        return a
    rest = a.shape[1:] if a.shape[1:] == b.shape[1:] else np.broadcast_shapes(a.shape[1:], b.shape[1:])
    whole = np.concatenate([np.broadcast_to(x, (n, *rest)) for x, n in ((a, P), (b, Q))])
    return np.ascontiguousarray(whole)  # of repeated rows NumPy makes columns, whose flat view would be a copy


def broadcast(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """np.broadcast_to, which takes 6 us, mostly for what has the shape already. To be read only."""
    return x if x.shape == shape else np.broadcast_to(x, shape)


def turns(values: np.ndarray) -> np.ndarray:
    """How many equal values stand before each of `values`, (N,) int64."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    turn = np.empty(len(values), np.int64)
    turn[order] = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    return turn


def near(a: np.ndarray, b: np.ndarray, widths: int | tuple[int, ...]) -> bool:
    """Whether words agree, or are floats of one of these widths in bits that differ as sums in several orders do.

    The largest sets the scale, since a sum may cancel. Small integers, as floats, are subnormal and differ too much.
    Words of 32 bits may be pairs of 16, too.
    """
    if np.array_equal(a, b):
        return True
    widths = widths if isinstance(widths, tuple) else (widths,)
    return any(near_floats(a, b, width) for width in (*widths, *((16,) if 32 in widths and pairs(a, b) else ())))


def pairs(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether words of 32 bits that differ can be pairs of float16 or bfloat16: an integer has no such upper half."""
    a, b = np.broadcast_arrays(*(np.ascontiguousarray(x)[..., None].view("u4") for x in (a, b)))
    halves = np.stack([a[a != b], b[a != b]])[..., None].view("u2")
    exponents = halves >> 10 & 31  # of bfloat16 these are the lowest bits, which are as seldom all alike
    return bool(((exponents > 0) & (exponents < 31)).all())


def near_floats(a: np.ndarray, b: np.ndarray, width: int) -> bool:
    if width not in (16, 32, 64):
        return False
    a, b = (np.ascontiguousarray(x)[..., None].view(f"f{width // 8}").astype(np.float64) for x in (a, b))
    scale = np.fmax(np.abs(a), np.abs(b)).max() * 2.0 ** {16: -6, 32: -14, 64: -30}[width]
    return bool(((a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= scale)).all())


def true_device(x: Any) -> Any:
    """The device that a torch tensor's memory is on, whatever it says under a pretence; None for what has none."""
    return true_devices([x])[0]


def true_devices(values: Iterable[Any]) -> list[Any]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return [getattr(x, "device", None) for x in values]
    kind, device = torch.Tensor, torch._C.TensorBase.device.__get__
    with torch._C.DisableTorchFunction():  # a mode would be handed torch.Tensor's own attribute
        return [device(x) if isinstance(x, kind) else getattr(x, "device", None) for x in values]
