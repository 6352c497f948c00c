"""Matrix descriptors: where the elements of an operand lie in shared memory.

A matrix is made of units of 16 bytes along its contiguous axis: K, or the other one, M of A and N of B. Swizzled, the
units of a row of 32, 64 or 128 bytes change places by the row's number, which is a part of the address itself.
Source: PTX ISA 8.7, sections 9.7.15.5 (wgmma) and 9.7.16.5 (tcgen05).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

UNIT = 16  # bytes that stay together; addresses and offsets are in as many


class Fields(NamedTuple):
    """The fields of descriptors, in bytes: (P or 1, 1) int64."""

    start: np.ndarray
    leading: np.ndarray
    stride: np.ndarray
    base: np.ndarray  # row of the swizzle's pattern at which the matrix begins
    swizzle: np.ndarray  # the code of the mode


def fields(descriptor: np.ndarray, mode_at: int) -> Fields:
    """Take descriptors (P or 1, 1) uint64 apart; the mode of swizzling is in their bits from `mode_at` on."""
    bits = lambda at, mask: (descriptor >> np.uint64(at) & np.uint64(mask)).astype(np.int64)  # noqa: E731
    start, leading, stride = (UNIT * bits(at, 0x3FFF) for at in (0, 16, 32))
    return Fields(start, leading, stride, bits(49, 7), bits(mode_at, 7))


@lru_cache(maxsize=256)
def terms(rows: int, k: int, size: int, mn_major: bool, swizzle: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each unit of a matrix (rows, k) of elements of `size` bytes: how many bytes, leading offsets and stride
    offsets it lies after the start; each (1, units). The units are in order of the matrix as `matrix` reads them.

    swizzle  bytes of a row of the pattern, 0 for none
    """
    if not mn_major:
        row, unit = np.divmod(np.arange(rows * (k * size // UNIT)), k * size // UNIT)
        if swizzle:
            found = row % 8 * swizzle + unit * UNIT, np.zeros_like(row), row // 8
        else:
            found = row % 8 * UNIT, unit, row // 8
    else:
        row, unit = np.divmod(np.arange(k * (rows * size // UNIT)), rows * size // UNIT)
        if swizzle:
            wide = swizzle // UNIT
            found = row % 8 * swizzle + unit % wide * UNIT, unit // wide, row // 8
        else:
            found = row % 8 * UNIT, row // 8, unit
    return tuple(x[None].astype(np.int64) for x in found)  # pyright: ignore[reportReturnType]


def units(f: Fields, rows: int, k: int, size: int, mn_major: bool, swizzle: int) -> np.ndarray:
    """The address of each unit, (P or 1, units) int64."""
    plain, leading, stride = terms(rows, k, size, mn_major, swizzle)
    at = f.start + plain + leading * f.leading + stride * f.stride
    if not swizzle:
        return at
    return at ^ (((at >> 7) - f.base & swizzle // UNIT - 1) << 4)


def matrix(words: np.ndarray, k: int, kind: np.dtype, mn_major: bool) -> np.ndarray:
    """The elements (P or 1, rows, k) of the bytes (P or 1, units, 16) at `units`."""
    if not mn_major:
        return np.ascontiguousarray(words).view(kind).reshape(len(words), -1, k)
    return np.ascontiguousarray(words).view(kind).reshape(len(words), k, -1).swapaxes(1, 2)
