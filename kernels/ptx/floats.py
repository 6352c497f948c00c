"""Floating point as PTX defines it: formats, rounding in every direction, conversion to integers, approximations.

A "value" is a float32 or float64 array that holds its format's numbers exactly.
"""

import zlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

ROUND: dict[str, Callable] = {"rn": np.rint, "rz": np.trunc, "rm": np.floor, "rp": np.ceil}
ROUND["rna"] = lambda x: np.trunc(x + np.copysign(0.5, x))


class Format(NamedTuple):
    """A number format: fraction bits, the smallest normal exponent, the largest number, the NaN of arithmetic."""

    bits: int
    fraction: int
    lowest: int
    largest: float
    nan: int


FORMATS = {
    "f64": Format(64, 52, -1022, float(np.finfo(np.float64).max), 0x7FF8000000000000),
    "f32": Format(32, 23, -126, float(np.finfo(np.float32).max), 0x7FFFFFFF),
    "tf32": Format(32, 10, -126, (2 - 2.0**-10) * 2.0**127, 0x7FFFFFFF),
    "bf16": Format(16, 7, -126, (2 - 2.0**-7) * 2.0**127, 0x7FFF),
    "f16": Format(16, 10, -14, 65504.0, 0x7FFF),
    "e5m2": Format(8, 2, -14, 57344.0, 0x7F),
    "e4m3": Format(8, 3, -6, 448.0, 0x7F),
    # without infinities and NaNs, in the low bits of a byte: a NaN becomes the largest number
    "e2m3": Format(8, 3, 0, 7.5, 0x1F),
    "e3m2": Format(8, 2, -2, 28.0, 0x1F),
    "e2m1": Format(8, 1, 0, 6.0, 0x7),
}
SMALL = {kind: (2 if kind[1] == "2" else 3, int(kind[3])) for kind in ("e2m3", "e3m2", "e2m1")}  # exponent, fraction
HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)  # NumPy's own cast takes twice as long


def decode(bits: np.ndarray, kind: str) -> np.ndarray:
    """The numbers behind bit patterns of a format: float64 for f64, float32 for every other; same shape."""
    if kind in ("f32", "tf32", "f64"):
        return bits.view(np.float64 if kind == "f64" else np.float32)
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return HALVES.take(bits) if kind == "f16" else table(kind).take(bits)


@cache
def table(kind: str) -> np.ndarray:
    """The numbers of all 256 patterns of a byte, of which formats of fewer bits take the lowest."""
    E, F = int(kind[1]), int(kind[3])
    size = np.arange(256) & (1 << E + F) - 1
    exponent, fraction = np.divmod(size, 1 << F)
    value = (fraction + (exponent > 0) * (1 << F)) * 2.0 ** (np.maximum(exponent, 1) - 1 + FORMATS[kind].lowest - F)
    value = np.where(value <= FORMATS[kind].largest, value, np.where(fraction == 0, np.inf, np.nan))
    return np.where(np.arange(256) >> E + F & 1, -value, value).astype(np.float32)


def encode(x: np.ndarray, kind: str, mode: str = "rn") -> np.ndarray:
    """Round numbers to a format, once, and give their bit patterns.

    x        float32 or float64; to be rounded to f64 it must be float64 already and stays as it is
    mode     "rn" | "rz" | "rm" | "rp" | "rna" (ties away from zero)
    returns  unsigned integers of the format's width; NaN as the format's canonical one (f64: as it came)

    What is too large for a format of 8 bits, infinities included, becomes its largest number: .satfinite.
    """
    form = FORMATS[kind]
    if kind == "f64":
        return x.astype(np.float64, copy=False).view(np.uint64)
    if kind == "f32" and mode == "rn":
        bits = x.astype(np.float32, copy=False).view(np.uint32)
    elif kind == "bf16" and mode == "rn" and x.dtype == np.float32:
        wide = x.view(np.uint32)
        bits = ((wide + np.uint32(0x7FFF) + (wide >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    elif kind == "f16" and mode == "rn":
        bits = x.astype(np.float16).view(np.uint16)
    else:
        bits = _pack(_rounded(x.astype(np.float64, copy=False), form, mode), kind)
    nan = x != x
    return np.where(nan, bits.dtype.type(form.nan), bits) if np.count_nonzero(nan) else bits


def _rounded(x: np.ndarray, form: Format, mode: str) -> np.ndarray:
    """The float64 numbers x rounded to a format, as float64: in units of its last place every format is an integer."""
    power = np.maximum((x.view(np.uint64) & np.uint64(0x7FF << 52)).view(np.float64), 2.0**form.lowest)
    unit = power * 2.0**-form.fraction
    value = np.where(np.isinf(x), x, ROUND[mode](x / unit) * unit)
    over = np.abs(value) > form.largest
    if form.bits == 8 or not over.any():
        return np.where(over, np.copysign(form.largest, x), value)
    down = {"rz": True, "rm": x > 0, "rp": x < 0}.get(mode, False) & np.isfinite(x)
    return np.where(over, np.copysign(np.where(down, form.largest, np.inf), x), value)


def _pack(value: np.ndarray, kind: str) -> np.ndarray:
    """Bit patterns of float64 numbers that a format holds exactly."""
    if kind == "f16":
        return value.astype(np.float16).view(np.uint16)
    if FORMATS[kind].bits == 8:
        top = int(kind[1]) + int(kind[3])
        size = np.searchsorted(table(kind)[: 1 << top], np.abs(value))
        return (size | np.signbit(value) << top).astype(np.uint8)
    bits = value.astype(np.float32).view(np.uint32)
    return (bits >> np.uint32(16)).astype(np.uint16) if kind == "bf16" else bits


def flush(x: np.ndarray) -> np.ndarray:
    """.ftz: subnormal numbers of float32, or of float64, become zeros of their sign."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)


def to_integer(x: np.ndarray, mode: str, dtype: type[np.integer], nan: int) -> np.ndarray:
    """Numbers rounded to integers of a NumPy type, clamped to its range; NaN becomes `nan`."""
    whole = ROUND[mode](x.astype(np.float64, copy=False))
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    inside = (whole >= float(low)) & (whole < float(high) + (float(high) == high))  # 2**63 is no int64
    clamped = np.where(whole > 0, dtype(high), np.where(np.isnan(x), dtype(nan), dtype(low)))
    return np.where(inside, np.where(inside, whole, 0).astype(dtype), clamped)


class Approximation:
    """Moves what hardware only approximates by up to `ulps` last places, the same input always by as many."""

    def __init__(self, seed: int, ulps: int = 2):
        self.seed, self.ulps = seed, ulps

    def move(self, opcode: str, bits: np.ndarray, *inputs: np.ndarray, unit: int = 1) -> np.ndarray:
        """Neighbours of the results `bits` (uint32 | uint64); zeros and what is not finite stay.

        unit    one last place, in units of the pattern

        A result of a zero operand stays, too: PTX promises ex2(0) = 1 and cos(0) = 1.
        """
        key = np.uint64((zlib.crc32(opcode.encode()) << 32 ^ self.seed) & 0xFFFFFFFFFFFFFFFF)
        for x in inputs:
            key = (x.astype(np.uint64) ^ key) * np.uint64(0x9E3779B97F4A7C15)
            key = (key ^ key >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)
        step = (key >> np.uint64(32)) % np.uint64(2 * self.ulps + 1)
        width = bits.dtype.itemsize * 8
        infinity = {32: 0x7F800000, 64: 0x7FF0000000000000}[width]
        mask = bits.dtype.type((1 << width - 1) - 1)
        size = (bits & mask).astype(np.int64)
        moved = size + (step.astype(np.int64) - self.ulps) * unit
        fixed = (size == 0) | (size >= infinity) | (moved < 1) | (moved >= infinity)
        for x in inputs:
            fixed = fixed | ((x & mask) == 0)
        return np.where(fixed, bits, bits & ~mask | moved.astype(bits.dtype))
