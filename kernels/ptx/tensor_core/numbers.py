"""The numbers behind the bits of a matrix, in float64, where every product of two is exact."""

import numpy as np

from ..floats import decode, encode
from ..matrix_forms import INTEGERS


def numbers(bits: np.ndarray, kind: str) -> np.ndarray:
    """Elements as float64; of tf32 the lower 13 bits are ignored. Those of 8 bits as float32: sums of 32 are exact."""
    if kind in INTEGERS:
        return bits.astype(np.float32)
    bits = bits & np.uint32(0xFFFFE000) if kind == "tf32" else bits
    return decode(bits, kind).astype(np.float64)


def added(product: np.ndarray, c: np.ndarray | None, kind: str, satfinite: bool = False) -> np.ndarray:
    """The words of product + c, None for zero, in the type of an accumulator.

    One rounding, to nearest even: PTX leaves open in which order the hardware sums, what it truncates meanwhile, and
    that sums of e4m3 and e5m2 keep fewer bits than f32 has. Integers wrap, or are clamped with .satfinite.
    """
    if kind != "s32":
        return encode(product if c is None else product + decode(c, kind), kind)
    sums = product.astype(np.int64) if c is None else product.astype(np.int64) + c.view(np.int32)
    return (sums.clip(-(2**31), 2**31 - 1) if satfinite else sums).astype(np.int32).view(np.uint32)


def of_four_bits(bytes: np.ndarray) -> np.ndarray:
    """e2m1, two to a byte of (..., n), the first in its lower half: (..., 2 n)."""
    pairs = np.stack([bytes & np.uint8(15), bytes >> np.uint8(4)], axis=-1)
    return decode(pairs, "e2m1").astype(np.float64).reshape(*bytes.shape[:-1], -1)


def of_six_bits(bytes: np.ndarray, kind: str) -> np.ndarray:
    """e2m3 or e3m2, four to three bytes of (..., n), the first in the lowest bits: (..., 4 n // 3)."""
    bits = np.unpackbits(np.ascontiguousarray(bytes), axis=-1, bitorder="little")
    six = bits.reshape(*bytes.shape[:-1], -1, 6)
    return decode((six << np.arange(6, dtype=np.uint8)).sum(-1, dtype=np.uint8), kind).astype(np.float64)


def scales(bits: np.ndarray, kind: str) -> np.ndarray:
    """Scales of blocks: ue8m0, a power of two or, of 255, NaN; or ue4m3, whose sign is not looked at."""
    if kind == "ue8m0":
        return np.where(bits == 255, np.nan, np.ldexp(1.0, bits.astype(np.int64) - 127))
    return decode(bits & np.uint8(0x7F), "e4m3").astype(np.float64)
