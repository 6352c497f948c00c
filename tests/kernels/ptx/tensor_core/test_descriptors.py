"""Matrix descriptors against layouts laid out by hand, element by element."""

import itertools

import numpy as np
import pytest

from kvproof.kernels.ptx.tensor_core import descriptors

SWIZZLES = (0, 32, 64, 128)


def by_hand(row: int, column: int, size: int, mn_major: bool, swizzle: int, leading: int, stride: int) -> int:
    """The byte, after a start that is a multiple of 1024, of an element in row (M or N) and column (K).

    Rows of `swizzle` bytes stand eight to a group; in a row the chunk of 16 bytes that belongs at c stands at c XOR the
    row's number: all three bits of it with 128 bytes, the upper two with 64, the upper one with 32.
    """
    long, short = (row, column) if mn_major else (column, row)
    group, line = divmod(short, 8)
    if not swizzle:  # core matrices of 8 lines of 16 bytes
        core, byte = divmod(long * size, 16)
        leads, strides = (group, core) if mn_major else (core, group)
        return leads * leading + strides * stride + line * 16 + byte
    slab, byte = divmod(long * size, swizzle)
    chunk, rest = divmod(byte, 16)
    turned = chunk ^ {128: line, 64: line // 2, 32: line // 4}[swizzle]
    return slab * leading + group * stride + line * swizzle + turned * 16 + rest


def laid_out(rows: int, k: int, dtype: type, mn_major: bool, swizzle: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """A matrix, shared memory that holds it, and the leading and stride offsets."""
    size = np.dtype(dtype).itemsize
    group = 8 * (swizzle or 16)
    leading, stride = (4096, group) if mn_major and swizzle else (128, 2048) if not mn_major else (4096, 128)
    matrix = np.random.default_rng(0).integers(0, 200, (rows, k)).astype(dtype)
    memory = np.full(1 << 16, 0xEE, np.uint8)
    for row, column in itertools.product(range(rows), range(k)):
        at = 1024 + by_hand(row, column, size, mn_major, swizzle, leading, stride)
        memory[at : at + size] = matrix[row, column : column + 1].view(np.uint8)
    return matrix, memory, leading, stride


def encoded(start: int, leading: int, stride: int, swizzle: int, base: int = 0) -> np.ndarray:
    mode = {0: 0, 128: 1, 64: 2, 32: 3}[swizzle]
    return np.array([[start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | base << 49 | mode << 62]], np.uint64)


def read(memory: np.ndarray, descriptor: np.ndarray, rows: int, k: int, dtype: type, mn_major: bool, swizzle: int):
    f = descriptors.fields(descriptor, 62)
    at = descriptors.units(f, rows, k, np.dtype(dtype).itemsize, mn_major, swizzle)
    words = memory.reshape(-1, 16)[at // 16]
    return descriptors.matrix(words, k, np.dtype(dtype), mn_major)


LAYOUTS = [(dtype, False, s) for dtype in (np.uint8, np.uint16, np.uint32) for s in SWIZZLES]
LAYOUTS += [(np.uint16, True, s) for s in SWIZZLES]


@pytest.mark.parametrize(("dtype", "mn_major", "swizzle"), LAYOUTS)
@pytest.mark.parametrize("rows", [64, 128, 256])
def test_a_matrix_is_read_from_where_it_lies(dtype, mn_major, swizzle, rows):
    k = 32 // np.dtype(dtype).itemsize
    matrix, memory, leading, stride = laid_out(rows, k, dtype, mn_major, swizzle)
    descriptor = encoded(1024, leading, stride, swizzle)
    assert np.array_equal(read(memory, descriptor, rows, k, dtype, mn_major, swizzle)[0], matrix)


@pytest.mark.parametrize("swizzle", [64, 128])
def test_a_step_along_k_within_a_swizzled_row_is_32_bytes_of_the_start(swizzle):
    steps = swizzle // 32
    matrix, memory, leading, stride = laid_out(64, 16 * steps, np.uint16, False, swizzle)
    for n in range(steps):
        got = read(memory, encoded(1024 + 32 * n, leading, stride, swizzle), 64, 16, np.uint16, False, swizzle)
        assert np.array_equal(got[0], matrix[:, 16 * n : 16 * (n + 1)])


@pytest.mark.parametrize("base", [1, 3, 7])
def test_a_base_offset_turns_the_pattern(base):
    """A matrix moved by whole rows of 128 bytes, its pattern with it."""
    matrix, memory, leading, stride = laid_out(64, 16, np.uint16, False, 128)
    moved = np.roll(memory, 128 * base)
    descriptor = encoded(1024 + 128 * base, leading, stride, 128, base)
    assert np.array_equal(read(moved, descriptor, 64, 16, np.uint16, False, 128)[0], matrix)
    other = read(moved, encoded(1024 + 128 * base, leading, stride, 128), 64, 16, np.uint16, False, 128)
    assert not np.array_equal(other[0], matrix)


def test_programs_may_have_descriptors_of_their_own():
    matrix, memory, leading, stride = laid_out(64, 16, np.uint16, False, 128)
    both = np.concatenate([memory, np.roll(memory, 2048)]).reshape(2, -1, 16)
    descriptor = np.concatenate([encoded(start, leading, stride, 128) for start in (1024, 3072)])
    at = descriptors.units(descriptors.fields(descriptor, 62), 64, 16, 2, False, 128)
    words = both[np.arange(2)[:, None], at // 16]
    for got in descriptors.matrix(words, 16, np.dtype(np.uint16), False):
        assert np.array_equal(got, matrix)
