"""kernels/cpu/vectors.py: each operation to the bit, and the order of its sums."""

import math
from typing import Any

import numpy as np
import pytest

from kvproof.kernels.cpu import memory, pointers, vectors

from ._compiled import DTYPES, address, compiled

V: Any = vectors  # what is called below is no Python function
M: Any = memory
P: Any = pointers
load, pointer, store = M.load, P.pointer, M.store
LANES = V.LANES
BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])
NAN, INF = math.nan, math.inf


def lanewise(dtype):
    """Each operation's vector, one after another, of x, y (16,)."""

    def run(x, y, out):
        a, b, o = load(1, pointer(dtype, dtype, x), 0), load(1, pointer(dtype, dtype, y), 0), pointer(dtype, dtype, out)
        store(o, a + b)
        store(o + 16, a - b)
        store(o + 32, a * b)
        store(o + 48, a / b)
        store(o + 64, a * V.lane(b, 3))
        store(o + 80, V.maximum(a, b))
        store(o + 96, V.nearest(a))
        store(o + 112, V.absolute(a))
        store(o + 128, V.fma(a, b, a))
        return 0

    return run


@BOTH
def test_lane_by_lane_operations_have_numpy_s_bits(dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(LANES).astype(dtype) * 9 for _ in range(2))
    x[:6], y[:4] = [0.5, -1.5, 2.5, -0.0, NAN, INF], [NAN, 0.0, -0.0, INF]
    out = np.full((9, LANES), NAN, dtype)
    compiled(lanewise(dtype))(address(x), address(y), address(out))
    with np.errstate(all="ignore"):
        want = [x + y, x - y, x * y, x / y, x * y[3], np.maximum(x, y), np.rint(x), np.abs(x)]
        assert np.array_equal(out[:8], np.array(want), equal_nan=True)
        exact = (x.astype(np.longdouble) * y + x).astype(dtype)
    assert np.array_equal(out[8], exact, equal_nan=True)


def one(dtype):
    def run(x, live, out):
        v, o = load(1, pointer(dtype, dtype, x), 0), pointer(dtype, dtype, out)
        store(o, V.largest(v))
        store(o + 16, V.first_of(v, live, V.like(V.lane(v, 0), 7)))
        store(o + 32, V.sums(load(1, pointer(dtype, dtype, x), 0)))
        store(o + 48, V.sums(load(8, pointer(dtype, dtype, x), 16)))
        store(o + 64, V.sums(load(16, pointer(dtype, dtype, x), 16)))
        store(
            o + 80,
            V.outer(
                load(4, pointer(dtype, dtype, x), 16),
                load(2, pointer(dtype, dtype, x), 32),
                load(2, pointer(dtype, dtype, x), 16),
            ),
        )
        return 0

    return run


def folded(v):
    """The sum of 16 lanes in the order that the engine documents: 8 apart, then 4, 2 and 1."""
    while len(v) > 1:
        v = v[: len(v) // 2] + v[len(v) // 2 :]
    return v[0]


@BOTH
def test_sums_keep_their_order_whatever_is_summed_beside_them(dtype):
    x = np.random.default_rng(0).standard_normal((16, LANES)).astype(dtype) * 2.0 ** np.arange(16).astype(dtype)
    out, run = np.full((9, LANES), NAN, dtype), compiled(one(dtype))
    run(address(x), 5, address(out))
    want = np.array([folded(v) for v in x])
    assert np.array_equal(out[2], np.repeat(want[0], LANES))
    assert np.array_equal(out[3], np.tile(want[:8], 2))
    assert np.array_equal(out[4], want)
    assert not np.array_equal(want, x.sum(1))  # or the order could be any
    assert np.array_equal(out[0], np.repeat(x[0].max(), LANES))
    assert np.array_equal(out[1], np.where(np.arange(LANES) < 5, x[0], 7))
    products = [(x[2 * r].astype(np.longdouble) * x[c] + x[2 * r + c]).astype(dtype) for r in (0, 1) for c in (0, 1)]
    assert np.array_equal(out[5:9], products)
    for where in (0, 9, 15):
        y = x.copy()
        y[0, where] = NAN
        run(address(y), 0, address(out))
        assert np.isnan(out[0]).all()
        assert (out[1] == 7).all()


@BOTH
def test_fma_rounds_once(dtype):
    tiny = 2.0 ** (-12 if dtype == "float32" else -27)
    x, y = np.full(LANES, 1 + tiny, dtype), np.full(LANES, -(1 + 2 * tiny), dtype)

    def run(a, b, out):
        v = load(1, pointer(dtype, dtype, a), 0)
        store(pointer(dtype, dtype, out), V.fma(v, v, load(1, pointer(dtype, dtype, b), 0)))
        return 0

    out = np.full(LANES, NAN, dtype)
    compiled(run)(address(x), address(y), address(out))
    assert (out == tiny**2).all()
    assert (x * x + y == 0).all()  # rounded twice there is nothing left


def test_a_size_that_is_not_a_constant_is_refused_while_compiling():
    from numba.core.errors import TypingError

    def run(n, x, out):
        store(pointer("float32", "float32", out), load(n, pointer("float32", "float32", x), 0))
        return 0

    with pytest.raises(TypingError, match="must be a constant"):
        compiled(run)


def test_a_vector_is_sixteen_numbers_of_float32_or_float64():
    assert {name: V.Vectors(name, 2).vector.count for name in V.FLOATS} == {"float32": 16, "float64": 16}
    assert set(V.FLOATS) < set(DTYPES)
