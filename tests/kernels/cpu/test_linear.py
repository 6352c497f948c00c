"""kernels/cpu/linear.py: products of any sizes, and a row's bits, which no other row changes."""

from functools import cache

import numpy as np
import pytest
from numba import njit

from kvproof.kernels.cpu.host import registers

from . import _compiled
from ._compiled import DTYPES, address, compiled, guarded

EXHAUSTIVE = pytest.mark.exhaustive
MOSTLY = pytest.mark.parametrize(
    "dtype", [pytest.param(x, marks=[] if x in ("float32", "int8") else EXHAUSTIVE) for x in DTYPES]
)


def product(modules, dtype: str, bands=None):
    """y = linear(x, w) by an engine's files, compiled for weights of a dtype; or by other bands, up to DEPTH inputs."""
    total, linear = _compiled.sums(dtype), modules.linear.linear
    pointer = modules.pointers.pointer
    if bands is not None:

        @njit(**modules.functions.OPTIONS)
        def linear(y, n_out, x, rows, w, scale, b, n_in, quantised, biased, add, lo, hi):
            bands(y, n_out, x, rows, w, scale, b, n_in, n_in, quantised, biased, add, lo, hi, 0)

    def run(y, n_out, x, rows, w, scale, b, n_in, quantised, biased, add, lo, hi):
        weight, s = pointer(dtype, total, w), pointer("float32", total, scale)
        bias, into = pointer(total, total, b), pointer(total, total, y)
        source = pointer(total, total, x)
        linear(into, n_out, source, rows, weight, s, bias, n_in, quantised != 0, biased != 0, add != 0, lo, hi)
        return 0

    return compiled(run)


ROUNDINGS = 3  # of the sum of |x| |w|, by which a product may err; measured: 1.4 with a scale, 1.1 without


@cache
def usual(dtype: str):
    return product(_compiled.engine_modules(), dtype)


class Layer:
    """Random weights of a linear layer, and rows of inputs; whatever ends there ends where memory does."""

    def __init__(self, dtype: str, n_in: int, n_out: int, rows: int):
        rng, self.dtype = np.random.default_rng(n_in), dtype
        self.total = np.dtype(_compiled.sums(dtype))
        w = rng.standard_normal((n_out, n_in)) * (50 if dtype == "int8" else 1)
        self.w = guarded(w.clip(-127, 127).astype(DTYPES[dtype]))
        self.x = guarded(rng.standard_normal((rows, n_in)).astype(self.total))
        self.b = guarded(rng.standard_normal(n_out).astype(self.total))
        self.scale = guarded(rng.uniform(0.01, 2, n_out).astype(np.float32))

    def exact(self, x, biased: bool):
        """What it should be, in float64 or wider, and how far one rounding of every term moves it."""
        wide = np.longdouble if self.dtype == "float64" else np.float64
        w, x, scale = self.w.astype(wide), x.astype(wide), self.scale.astype(wide) if self.quantised else 1
        b = self.b.astype(wide) * biased
        return x @ w.T * scale + b, (np.abs(x) @ np.abs(w).T) * scale + np.abs(b)

    @property
    def quantised(self) -> bool:
        return self.dtype == "int8"

    def run(self, function, x, biased=True, add=None, lo=0, hi=None):
        n_out, n_in = self.w.shape
        y = guarded(np.full((len(x), n_out), np.nan, self.total) if add is None else add)
        hi = n_out if hi is None else hi
        function(
            address(y), n_out, address(x), len(x), address(self.w), address(self.scale), address(self.b), n_in,
            self.quantised, biased, add is not None, lo, hi,
        )  # fmt: skip
        return y


def check(function, layer: Layer):
    """Raise AssertionError unless a layer is right, and each of its rows has the bits of that row alone."""
    y = layer.run(function, layer.x)
    exact, moves = layer.exact(layer.x, True)
    error = np.abs(y - exact) / moves / np.finfo(layer.total).eps
    assert error.max() <= ROUNDINGS, f"the product errs by {error.max():.3g} roundings of its terms"
    for r in range(len(y)):
        lone = layer.run(function, guarded(layer.x[r : r + 1]))
        assert lone.tobytes() == y[r : r + 1].tobytes(), f"row {r} of {len(y)} has other bits than alone"


def check_parts(function, dtype: str):
    """Raise AssertionError unless shares of channels, sums with what y holds and the lack of a bias are right."""
    layer = Layer(dtype, 70, 37, 5)
    held = np.random.default_rng(1).standard_normal((5, 37)).astype(layer.total)
    exact, moves = layer.exact(layer.x, False)
    room = 4 * np.finfo(layer.total).eps * (moves + np.abs(held))
    assert (np.abs(layer.run(function, layer.x, biased=False) - exact) <= room).all(), "the product without a bias"
    y = layer.run(function, layer.x, biased=False, add=held)
    assert (np.abs(y - (held + exact)) <= room).all(), "the sum with what y holds"
    part = layer.run(function, layer.x, biased=False, add=held, lo=5, hi=22)
    assert np.array_equal(part[:, 5:22], y[:, 5:22]), "a share of channels"
    others = np.r_[0:5, 22:37]
    assert np.array_equal(part[:, others], held[:, others]), "other channels are left alone"


@MOSTLY
def test_a_row_is_right_and_has_its_bits_for_any_number_of_inputs(dtype):
    for n_in in range(1, 131):
        check(usual(dtype), Layer(dtype, n_in, 7, 15))


@MOSTLY
@pytest.mark.parametrize("n_out", [1, 19, 65])
def test_a_row_is_right_and_has_its_bits_among_any_number_of_rows(dtype, n_out):
    for rows in range(1, 34):
        check(usual(dtype), Layer(dtype, 83, n_out, rows))


@MOSTLY
@pytest.mark.parametrize("n_in", [1023, 1024, 1025, 2100, 3072])
def test_a_row_is_right_and_has_its_bits_where_sums_are_long(dtype, n_in):
    check(usual(dtype), Layer(dtype, n_in, 21, 11))


@MOSTLY
def test_shares_sums_and_a_missing_bias(dtype):
    check_parts(usual(dtype), dtype)


@pytest.mark.parametrize(
    "dtype",
    ["float32", *(pytest.param(x, marks=pytest.mark.exhaustive) for x in ("float64", "float16", "bfloat16", "int8"))],
)
def test_the_tiles_for_other_registers_give_the_same_bits(dtype):
    modules = _compiled.engine_modules()
    (tiles,) = (tiles for name, tiles in modules.linear.TILES.items() if name != registers())
    other = product(modules, dtype, modules.linear.bands_of(tiles))
    for n_in, rows in ((1, 7), (9, 15), (64, 4), (137, 13)):
        layer = Layer(dtype, n_in, 19, rows)
        check(other, layer)
        assert np.array_equal(layer.run(other, layer.x), layer.run(usual(dtype), layer.x))


@pytest.mark.parametrize("rows", [2, 7, 8, 33])
def test_nan_in_one_row_stays_there(rows):
    layer = Layer("float32", 50, 9, rows)
    want = layer.run(usual("float32"), layer.x)
    for bad in range(rows):
        x = guarded(layer.x)
        x[bad, 3] = np.nan
        y = layer.run(usual("float32"), x)
        assert np.isnan(y[bad]).all()
        assert np.array_equal(np.delete(y, bad, 0), np.delete(want, bad, 0))


def test_the_order_of_a_sum_is_written_down():
    """16 lanes add every 16th product in order, then the lanes are folded; DEPTH inputs at a time."""
    depth = _compiled.engine_modules().linear.DEPTH
    for n_in in (40, depth + 24):
        layer = Layer("float32", n_in, 3, 1)
        y, want = layer.run(usual("float32"), layer.x, biased=False)[0], np.zeros(3, np.float32)
        for low in range(0, n_in, depth):
            lanes = np.zeros((3, 16), np.float32)
            for k in range(low, min(low + depth, n_in)):
                both = layer.x[0, k] * layer.w[:, k].astype(np.float64) + lanes[:, k % 16]
                lanes[:, k % 16] = both.astype(np.float32)
            while lanes.shape[1] > 1:
                half = lanes.shape[1] // 2
                lanes = lanes[:, :half] + lanes[:, half:]
            want = want + lanes[:, 0]
        assert np.array_equal(y, want)
