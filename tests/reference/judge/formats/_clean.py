"""Right quantisers, written apart from the oracle: every format in several orders of arithmetic."""

from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

FP8 = {"e4m3fn": (ml_dtypes.float8_e4m3fn, 448.0), "e5m2": (ml_dtypes.float8_e5m2, 57344.0)}
STEPS_OF_FP4 = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
VALUES_OF_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


class Arithmetic(NamedTuple):
    """In which dtype scales and quotients are computed, and whether by division or by reciprocals."""

    dtype: type
    reciprocal: bool

    def over(self, a, b):
        """a / b, 0 where b is 0, or has no reciprocal."""
        a, b = np.asarray(a).astype(self.dtype), np.asarray(b).astype(self.dtype)
        with np.errstate(all="ignore"):
            inverse = self.dtype(1) / b
            none = ~np.isfinite(inverse) if self.reciprocal else b == 0
            return np.where(none, 0, a * inverse if self.reciprocal else a / b)

    def quotients(self, x, s, largest, top):
        """x / s"""
        return self.over(x, s)


class Products(NamedTuple):
    """Quotients from the largest number itself, its scale aside: the order is a key of ORDERS."""

    dtype: type
    order: str

    def over(self, a, b):
        return Arithmetic(self.dtype, False).over(a, b)

    def quotients(self, x, s, largest, top):
        x, largest, top = (np.asarray(a).astype(self.dtype) for a in (x, largest, top))
        with np.errstate(all="ignore"):
            q = ORDERS[self.order](x, largest, top)
            return np.where(np.isfinite(q) & (s > 0), q, 0)


ORDERS = {
    "x * (1 / max) * top": lambda x, largest, top: x * (top.dtype.type(1) / largest) * top,
    "x / max * top": lambda x, largest, top: x / largest * top,
    "x * (top / max)": lambda x, largest, top: x * (top / largest),
    "x * top / max": lambda x, largest, top: x * top / largest,
}
PRODUCTS = [Products(t, order) for t in (np.float32, np.float64) for order in ORDERS]

ARITHMETIC = [Arithmetic(t, r) for t in (np.float32, np.float64) for r in (False, True)]


def whole(x, s, low, high, a):
    return np.clip(np.rint(a.over(x, s)), low, high)


def symmetric(top):
    def quantise(g, a):
        largest = np.abs(g).max(-1, keepdims=True)
        s = a.over(largest, top).astype(np.float32)
        return np.clip(np.rint(a.quotients(g, s, largest, top)), -top, top).astype(np.float32) * s

    return quantise


def minmax(top):
    def quantise(g, a):
        low, high = g.min(-1, keepdims=True), g.max(-1, keepdims=True)
        s = a.over(high - low, top).astype(np.float32)
        return whole(g - low, s, 0, top, a).astype(np.float32) * s + low

    return quantise


def zero_point(top):
    def quantise(g, a):
        low, high = np.minimum(g.min(-1, keepdims=True), 0), np.maximum(g.max(-1, keepdims=True), 0)
        s = a.over(high - low, top).astype(np.float32)
        zero = np.clip(np.rint(a.over(-low, s)), 0, top)
        return (np.clip(np.rint(a.over(g, s)) + zero, 0, top) - zero).astype(np.float32) * s

    return quantise


def float8(name, scaled=True):
    dtype, top = FP8[name]

    def quantise(g, a):
        largest = np.abs(g).max(-1, keepdims=True)
        s = a.over(largest, top).astype(np.float32) if scaled else np.float32(1)
        q = a.quotients(g, s, largest, top) if scaled else g
        return np.clip(q, -top, top).astype(dtype).astype(np.float32) * s

    return quantise


def fp4(q):
    """Ties to the even code: a value on a step goes down to codes 0, 2, 4, 6 and up to 2, 4, 6."""
    size = np.abs(q).astype(np.float64)
    at = np.searchsorted(STEPS_OF_FP4, size, side="left")
    tied = (at < 7) & (size == STEPS_OF_FP4[np.minimum(at, 6)]) & (at % 2 == 1)
    return np.copysign(VALUES_OF_FP4[at + tied], q)


def microscaled(element, top, up):
    def quantise(g, a):
        largest = np.abs(g).max(-1, keepdims=True).astype(np.float64)
        with np.errstate(all="ignore"):
            e = np.ceil(np.log2(largest / top)) if up else np.floor(np.log2(largest)) - np.floor(np.log2(top))
        s = np.where(largest > 0, np.exp2(np.clip(e, -127, 127)), 1)
        q = g / s
        return (fp4(q) if element is None else np.clip(q, -top, top).astype(element).astype(np.float64)) * s

    return quantise


def nvfp4(g, a):
    total = a.over(np.abs(g).max(), 448 * 6).astype(np.float32)
    wanted = a.over(a.over(np.abs(g).max(-1, keepdims=True), 6), total)
    block = np.clip(wanted, 0, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    s = block * total
    return fp4(np.clip(a.over(g, s), -6, 6)) * s


def q8_0(g, a):
    d = a.over(np.abs(g).max(-1, keepdims=True), 127)
    q = a.over(g, d)
    return np.copysign(np.floor(np.abs(q) + a.dtype(0.5)), q).astype(np.float32) * halved(d)


def q4_0(g, a):
    at = np.abs(g).argmax(-1)[..., None]
    d = a.over(np.take_along_axis(g, at, -1), -8)
    return (np.clip(np.floor(a.over(g, d) + a.dtype(8.5)), 0, 15) - 8).astype(np.float32) * halved(d)


def q4_1(g, a):
    low = g.min(-1, keepdims=True)
    d = a.over(g.max(-1, keepdims=True) - low, 15)
    return np.clip(np.floor(a.over(g - low, d) + a.dtype(0.5)), 0, 15).astype(np.float32) * halved(d) + halved(low)


def halved(x):
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def rows(x):
    return x, lambda y: y


def in_blocks(size):
    def cut(x):
        if x.shape[-1] % size:
            raise ValueError("no whole blocks")
        return x.reshape(*x.shape[:-1], -1, size), lambda y: y.reshape(x.shape)

    return cut


def heads(x):
    return x.reshape(*x.shape[:2], -1), lambda y: y.reshape(x.shape)


def tensor(x):
    return x.reshape(1, -1), lambda y: y.reshape(x.shape)


def channels(x):
    """Groups of 32 tokens of a channel; x has a multiple of 32 tokens."""
    B, H, T, D = x.shape
    g = x.reshape(B, H, T // 32, 32, D).swapaxes(-1, -2)
    return g, lambda y: y.swapaxes(-1, -2).reshape(x.shape)


QUANTISERS: dict[str, tuple[Callable, Callable, Callable | None]] = {
    "int8-row": (symmetric(127), rows, None),
    "int8-row-minmax": (minmax(255), rows, None),
    "int8-row-zero-point": (zero_point(255), rows, None),
    "int8-channel": (symmetric(127), channels, lambda T: T // 32 * 32),
    "int4-block": (symmetric(7), in_blocks(32), None),
    "uint4-block": (minmax(15), in_blocks(32), None),
    "uint4-block-zero-point": (zero_point(15), in_blocks(32), None),
    "uint2-block": (minmax(3), in_blocks(32), None),
    "kivi-keys": (minmax(3), channels, lambda T: T // 32 * 32),
    "kivi-values": (minmax(3), in_blocks(32), lambda T: max(0, T - 32)),
    "fp8-row": (float8("e4m3fn"), rows, None),
    "fp8-head": (float8("e4m3fn"), heads, None),
    "fp8-tensor": (float8("e4m3fn"), tensor, None),
    "int8-tensor": (symmetric(127), tensor, None),
    "fp8-e5m2-row": (float8("e5m2"), rows, None),
    "fp8-unscaled": (float8("e4m3fn", False), rows, None),
    "fp8-e5m2-unscaled": (float8("e5m2", False), rows, None),
    "mxfp8": (microscaled(ml_dtypes.float8_e4m3fn, 448.0, False), in_blocks(32), None),
    "mxfp8-ceil": (microscaled(ml_dtypes.float8_e4m3fn, 448.0, True), in_blocks(32), None),
    "mxfp4": (microscaled(None, 6.0, False), in_blocks(32), None),
    "mxfp4-ceil": (microscaled(None, 6.0, True), in_blocks(32), None),
    "nvfp4": (nvfp4, in_blocks(16), None),
    "q8_0": (q8_0, in_blocks(32), None),
    "q4_0": (q4_0, in_blocks(32), None),
    "q4_1": (q4_1, in_blocks(32), None),
}
BY_MAXIMUM = ("int8-row", "int8-channel", "int8-tensor", "int4-block", "fp8-row", "fp8-head", "fp8-tensor",
    "fp8-e5m2-row")  # fmt: skip
GROWING = ("fp8-head", "fp8-tensor", "int8-tensor")  # their first append's scale is kept: given at once, not in pieces


def round_trip(format: str, arithmetic: Arithmetic | Products) -> Callable[[np.ndarray], np.ndarray]:
    """The function of a format without a window: x -> what is read back."""
    quantise, cut, _ = QUANTISERS[format]

    def run(x):
        g, back = cut(x.astype(np.float32))
        return back(quantise(g, arithmetic)).astype(x.dtype)

    return run


def cache(format: str, arithmetic: Arithmetic | Products) -> Callable[[], "Cache"]:
    """A cache of the format: tokens are quantised once, when they leave its window."""
    return lambda: Cache(round_trip(format, arithmetic), QUANTISERS[format][2])


class Cache:
    def __init__(self, run, quantised):
        self.run, self.quantised = run, quantised or (lambda T: T)
        self.old: list[np.ndarray] = []
        self.new: np.ndarray | None = None
        self.T = self.done = 0

    def append(self, x):
        self.T += x.shape[-2]
        self.new = x if self.new is None else np.concatenate([self.new, x], -2)
        leave = self.quantised(self.T) - self.done
        if leave > 0:
            self.old.append(self.run(self.new[..., :leave, :]))
            self.new = self.new[..., leave:, :]
            self.done += leave

    def read(self):
        assert self.new is not None
        return np.concatenate([*self.old, self.new], -2)
