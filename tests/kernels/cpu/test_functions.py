"""kernels/cpu/functions.py: exp2, GELU and LayerNorm against float64, in units of rounding."""

import math
from functools import cache

import numpy as np
import pytest

from kvproof.kernels.cpu import functions as F
from kvproof.reference.model import gelu, layer_norm

from ._compiled import FLOAT, INTEGER, address, compiled, engine_modules, guarded

BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])


def powers(modules, dtype: str):
    """x (n,) -> 2 ** x, by an engine's files."""
    pointer, load, store = modules.pointers.pointer, modules.memory.load, modules.memory.store
    exp2 = modules.functions.exp2

    def run(x, n):
        for i in range(0, n, 16):
            at = pointer(dtype, dtype, x) + i
            store(at, exp2(load(1, at, 0)))
        return 0

    function = compiled(run)

    def apply(x):
        out = np.concatenate([x, np.zeros(-len(x) % 16, x.dtype)])
        function(address(out), len(out))
        return out[: len(x)]

    return apply


def gelus(modules, dtype: str):
    pointer, function = modules.pointers.pointer, modules.functions.gelu

    def run(y, n, exact):
        function(pointer(dtype, dtype, y), n, exact != 0)
        return 0

    return compiled(run)


def norms(modules, dtype: str):
    pointer, function = modules.pointers.pointer, modules.functions.layer_norm

    def run(y, x, weight, bias, n, eps):
        w, b = pointer(dtype, dtype, weight), pointer(dtype, dtype, bias)
        function(pointer(dtype, dtype, y), pointer(dtype, dtype, x), w, b, n, eps)
        return 0

    return compiled(run, *[INTEGER] * 5, FLOAT)


@cache
def exp2_of(dtype: str):
    return powers(engine_modules(), dtype)


@cache
def gelu_of(dtype: str):
    return gelus(engine_modules(), dtype)


@cache
def norm_of(dtype: str):
    return norms(engine_modules(), dtype)


def check_exp2(exp2, dtype: str):
    """Raise AssertionError if exp2 errs by more than a unit in the last place; measured: 0.83 and 0.82 of them."""
    least, most = F.RANGE[dtype]
    x = np.random.default_rng(0).uniform(least, most + 0.49, 1_000_003).astype(dtype)
    exact = np.exp2(x.astype(np.longdouble))
    units = (np.abs(exp2(x) - exact) / np.spacing(exact.astype(dtype)).astype(np.longdouble)).max()
    assert units <= 1, f"exp2 errs by {units:.3g} units in the last place"


def check_gelu(run, dtype: str, kind: str):
    """Raise AssertionError if a GELU errs by more than twice what was measured.

    In roundings of |gelu| + |x| / 4096: 7.1; by erf in those of |x|, since 1 + erf cancels, as in the reference: 1.0.
    """
    x = np.concatenate([np.linspace(-12, 12, 20_003), [0.0, -0.0, 1e-30]]).astype(dtype)
    y, wide = guarded(x), x.astype(np.longdouble)
    run(address(y), len(y), kind == "exact")
    exact = gelu(x.astype(np.float64), kind) if dtype == "float32" else tanh_or_erf(wide, kind)
    size = np.abs(wide) if kind == "exact" else np.abs(exact) + np.abs(wide) / 4096
    error = (np.abs(y - exact) / (size + 1e-300) / np.finfo(dtype).eps).max()
    assert error <= (2 if kind == "exact" else 14), f"gelu errs by {error:.3g} roundings"


def check_norm(run, dtype: str, n: int):
    """Raise AssertionError if a LayerNorm errs by more than twice what was measured, 1.9 roundings of its largest."""
    rng = np.random.default_rng(n)
    x, w, b = (guarded(rng.standard_normal(n).astype(dtype)) for _ in range(3))
    x += 3
    y = guarded(np.full(n, np.nan, dtype))
    run(*map(address, (y, x, w, b)), n, 1e-5)
    wide = [v.astype(np.longdouble) for v in (x, w, b)]
    exact = layer_norm(wide[0], {"weight": wide[1], "bias": wide[2]}, np.longdouble(1e-5))
    error = np.abs(y - exact).max() / np.finfo(dtype).eps / max(1, np.abs(exact).max())
    assert error <= 4, f"layer_norm errs by {error:.3g} roundings"


@BOTH
def test_exp2_errs_by_less_than_a_unit_in_the_last_place(dtype):
    check_exp2(exp2_of(dtype), dtype)


@BOTH
def test_exp2_at_its_ends(dtype):
    least, most = F.RANGE[dtype]
    x = np.array([0, -0.0, 1, -1, 10, least, most, least - 0.01, -1e30, -np.inf, most + 2, 1e30, np.inf, np.nan], dtype)
    out = exp2_of(dtype)(x)
    assert np.array_equal(out[:7], np.ldexp(np.ones(7, dtype), x[:7].astype(int)))
    assert (out[7:10] == 0).all()
    assert (out[10:12] > np.finfo(dtype).max / 4).all()
    assert np.isnan(out[13])


@BOTH
@pytest.mark.parametrize("kind", ["tanh", "exact"])
def test_gelu_loses_little_also_where_it_is_nearly_nothing(dtype, kind):
    check_gelu(gelu_of(dtype), dtype, kind)


@BOTH
@pytest.mark.parametrize("kind", ["tanh", "exact"])
def test_a_number_s_gelu_does_not_depend_on_how_many_there_are(dtype, kind):
    x = np.linspace(-3, 3, 200).astype(dtype)
    y, run = x.copy(), gelu_of(dtype)
    run(address(y), len(y), kind == "exact")
    for n in range(1, 40):
        part = guarded(x[100 : 100 + n])
        run(address(part), n, kind == "exact")
        assert np.array_equal(part, y[100 : 100 + n])


@BOTH
@pytest.mark.parametrize("x", [-1e4, -1e11, -1e30])
def test_the_gelu_of_a_very_negative_number_is_nothing(dtype, x):
    y = np.full(3, x if dtype == "float32" or x > -1e20 else -1e200, dtype)
    gelu_of(dtype)(address(y), 3, False)
    assert (y == 0).all()


def tanh_or_erf(x, kind):
    if kind == "exact":
        return x * np.array([math.erfc(-v / math.sqrt(2)) for v in x.astype(float)]) / 2
    return 0.5 * x * (1 + np.tanh(np.sqrt(np.longdouble(2) / np.longdouble(math.pi)) * (x + 0.044715 * x**3)))


@BOTH
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 48, 65, 768])
def test_layer_norm_is_as_exact_as_its_sums(dtype, n):
    check_norm(norm_of(dtype), dtype, n)


@BOTH
def test_layer_norm_of_equal_numbers_is_its_bias(dtype):
    x, w, b = np.full(20, 2.0, dtype), np.ones(20, dtype), np.arange(20, dtype=dtype)
    y = np.full(20, np.nan, dtype)
    norm_of(dtype)(address(y), address(x), address(w), address(b), 20, 1e-5)
    assert np.array_equal(y, b)
