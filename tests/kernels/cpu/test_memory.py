"""kernels/cpu/memory.py and pointers.py: what is loaded and stored, to the bit, and what is never touched."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kvproof.kernels.cpu import memory, pointers
from kvproof.kernels.cpu.job import LANES

from ._compiled import DTYPES, address, compiled, guarded, sums

M: Any = memory  # what is called below is no Python function
P: Any = pointers
load, load_rows, load_some, store, store_some = M.load, M.load_rows, M.load_some, M.store, M.store_some
pointer, read, write = P.pointer, P.read, P.write
STORED = ("float64", "float32", "bfloat16", "float16", "int8")


def mover(source, target, memory, pointer):
    wide = sums(source)
    load, load_some = memory.load, memory.load_some
    store, store_some = memory.store, memory.store_some

    def run(src, dst, count, live):
        a, b = pointer(source, wide, src), pointer(target, wide, dst)
        for i in range(0, count, LANES):
            store(b + i, load(1, a + i, 0))
        if live:
            store_some(b + count, load_some(1, a + count, 0, live), live)
        return 0

    return run


def moved(x: np.ndarray, source: str, target: str, memory=M, pointers=P) -> np.ndarray:
    out = np.zeros(len(x), DTYPES[target])
    whole = len(x) - len(x) % LANES
    compiled(mover(source, target, memory, pointers.pointer))(address(x), address(out), whole, len(x) - whole)
    return out


def every_pattern(dtype: str) -> np.ndarray:
    return np.arange(2 ** (8 * P.SIZE[dtype]), dtype=f"u{P.SIZE[dtype]}").view(DTYPES[dtype])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_every_narrow_number_is_loaded_exactly(dtype):
    x = every_pattern(dtype)
    assert np.array_equal(moved(x, dtype, "float32"), x.astype(np.float32), equal_nan=True)


def awkward() -> np.ndarray:
    """float32 with every upper half, denormals, infinities and NaN too, and lower halves around the ties."""
    upper = np.arange(2**16, dtype=np.uint32) << 16
    return np.concatenate([upper | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).view(np.float32)


def check_bfloat16(memory, pointers):
    """Raise AssertionError unless float32 is stored as the nearest bfloat16, of two the even one, and NaN as NaN."""
    x = awkward()
    nan, out = np.isnan(x), moved(x, "float32", "bfloat16", memory, pointers)
    want = np.where(nan, 0, x).astype(ml_dtypes.bfloat16)
    wrong = (out.view(np.uint16) != want.view(np.uint16)) & ~nan
    assert not wrong.any(), f"{wrong.sum()} numbers are rounded otherwise, such as {x[wrong][0]!r}"
    assert np.isnan(out[nan].astype(np.float32)).all(), "NaN became a number"


def test_bfloat16_is_rounded_to_nearest_even_and_nan_stays_nan():
    check_bfloat16(M, P)
    x = awkward()
    nan, out = np.isnan(x), moved(x, "float32", "bfloat16")
    assert np.any(out[~nan].astype(np.float32) != x[~nan])


def test_float16_is_rounded_to_nearest_even_and_nan_stays_nan():
    bits = every_pattern("float16").astype(np.float32).view(np.uint32)
    ties = [(bits + shift).astype(np.uint32) for shift in (0, 0x0FFF, 0x1000, 0x1001, 1)]
    x = np.concatenate([awkward(), *(tie.view(np.float32) for tie in ties)])
    with np.errstate(over="ignore", invalid="ignore"):
        out, want = moved(x, "float32", "float16"), x.astype(np.float16)
    nan = np.isnan(x)
    assert np.array_equal(out.view(np.uint16)[~nan], want.view(np.uint16)[~nan])
    assert np.isnan(out[nan]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_numbers_are_copied(dtype):
    x = np.random.default_rng(0).integers(0, 255, 37 * P.SIZE[dtype], np.uint8).view(dtype)
    assert moved(x, dtype, dtype).tobytes() == x.tobytes()


def test_whole_numbers_are_stored_in_8_bits():
    x = np.arange(-128, 128).astype(np.float32)
    assert np.array_equal(moved(x, "float32", "int8"), x.astype(np.int8))


def around(dtype: str):
    """Some lanes of vectors, a vector by rows, one number: src (3, n), each read at its end alone."""
    wide = sums(dtype)

    def run(src, dst, n, live, rows):
        a, b = pointer(dtype, wide, src), pointer(wide, wide, dst)
        store(b, load_some(2, a + (n - live), n, live))
        store(b + 32, load_rows(2, a + (n - live), pointer("int64", wide, rows), n, live))
        write(b, 64, read(a, 3 * n - 1))
        store_some(b + 65, load_some(1, a + (3 * n - live), 0, live), live)
        P.prefetch(a + 3 * n, 64)
        return 0

    return run


@pytest.mark.parametrize("dtype", STORED)
def test_nothing_is_read_or_written_past_the_lanes_asked_for(dtype):
    """What lies past the end is a page that ends the process: then it is this test that fails."""
    rng, run = np.random.default_rng(0), compiled(around(dtype))
    wide = np.float64 if dtype == "float64" else np.float32
    for live in range(1, LANES + 1):
        n = 19
        x = guarded((rng.standard_normal((3, n)) * 20).astype(DTYPES[dtype]))
        rows = guarded(np.array([2, 0]))
        out = guarded(np.full(65 + live, np.nan, wide))
        run(address(x), address(out), n, live, address(rows))
        v, lanes = x.astype(wide), np.zeros((4, LANES), wide)
        for place, row in enumerate((0, 1, 2, 0)):
            lanes[place, :live] = v[row, n - live :]
        assert np.array_equal(out[:64], lanes.ravel())
        assert out[64] == v[2, -1]
        assert np.array_equal(out[65:], v[2, n - live :])


def test_whole_numbers_are_read_and_written():
    def run(narrow, wide, out):
        total = read(pointer("int32", "float32", narrow), 1) + read(pointer("int64", "float32", wide), 1)
        write(pointer("int64", "float32", out), 0, total)
        return 0

    out = np.zeros(1, np.int64)
    narrow, wide = np.array([5, -7], np.int32), np.array([1, 2**40])
    compiled(run)(address(narrow), address(wide), address(out))
    assert out[0] == 2**40 - 7


def tiles(dtype, rows, columns):
    def run(src, dst, stride):
        v = M.load_tile(rows, columns, pointer(dtype, "float32", src), stride)
        M.store_tile(rows, columns, pointer("float32", "float32", dst), stride, v)
        return 0

    return run


@pytest.mark.parametrize(("rows", "columns"), [(1, 16), (2, 8), (4, 4), (8, 2), (8, 1), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tile_is_read_and_written_where_it_is_and_nowhere_else(rows, columns, dtype):
    stride, rng = columns + 3, np.random.default_rng(0)
    x = guarded(rng.standard_normal((rows - 1) * stride + columns).astype(DTYPES[dtype]))
    out = guarded(np.full(len(x), np.nan, np.float32))
    compiled(tiles(dtype, rows, columns))(address(x), address(out), stride)
    inside = np.arange(len(x)) % stride < columns
    assert np.array_equal(out, np.where(inside, x.astype(np.float32), np.nan), equal_nan=True)
