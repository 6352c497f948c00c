"""Differences weighed by hand-made logits, noise measured where it is known."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
import torch

from kvproof.reference.judge.difference import as_array, compare, noise, ulp
from kvproof.reference.judge.ladder import HALF_SHIFT, ORDER, SHIFT
from kvproof.reference.judge.parity import LOGIT_BARS, logit_error

from ..._refused import refused

B = np.array([[[0.0, 1.0, 3.0], [2.0, 1.5, -1.0]]])  # (1, 2, 3): leads of 2 and 0.5


def moved(position, token, by):
    a = B.copy()
    a[0, position, token] += by
    return a


def test_equal_logits_differ_by_nothing_and_can_flip_nothing():
    found = compare(B, B, "float32", rounding=1e-6)
    assert (found.largest, found.relative, found.ulps, found.rounding) == (0, 0, 0, 0)
    assert (found.kl_mean, found.kl_max, found.agree, found.of) == (0, 0, 2, 2)
    assert (found.margin, found.can_flip, found.flips) == (0.5, False, ())


def test_the_largest_difference_is_placed_and_weighed_in_every_unit():
    found = compare(moved(0, 2, 0.125), B, "float16", rounding=0.25)
    assert (found.where, found.largest, found.rounding) == ((0, 0, 2), 0.125, 0.5)
    assert math.isclose(found.relative, 0.125 / math.sqrt((1 + 9 + 4 + 2.25 + 1) / 6))
    assert found.ulps == 0.125 / 2**-9  # float16 numbers near 3 lie 2^-9 apart
    assert compare(moved(0, 0, 2**-20), B, "float32").ulps == 2**-20 / 2**-23  # near zero, at the size of the logits


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_an_ulp_is_the_step_to_the_next_number(dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    for x in (1.0, 1.99, 0.75, 3e-3, 100.0):
        here = kind.type(x)
        assert ulp(float(here), dtype) == float(np.nextafter(here, kind.type(np.inf))) - float(here)


def test_the_divergence_of_two_distributions_is_kullback_and_leibler_s():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    found = compare(np.log([q, p]) + 7, np.log([p, p]) - 3)  # what is added to all logits changes no probability
    assert math.isclose(found.kl_max, 0.5 * math.log(2) + 0.25 * math.log(0.5), rel_tol=1e-12)
    assert math.isclose(found.kl_mean, found.kl_max / 2, rel_tol=1e-12)


def test_a_flip_is_named_with_its_margin_beside_the_error_there():
    found = compare(moved(1, 1, 0.75), B)
    (flip,) = found.flips
    assert (flip.where, flip.tokens, flip.margin, flip.error) == ((0, 1), (1, 0), 0.5, 0.75)
    assert (found.agree, found.of, found.margin, found.can_flip) == (1, 2, 2.0, True)


@pytest.mark.parametrize(("by", "can"), [(0.24, False), (0.26, True)])
def test_a_difference_can_flip_a_token_whose_lead_is_within_twice_the_error(by, can):
    found = compare(moved(1, 2, by), B)
    assert found.agree == 2
    assert found.can_flip is can


def test_nan_or_infinity_in_one_path_alone_is_an_infinite_difference_and_json_has_null():
    for value in (np.nan, np.inf, -np.inf):
        found = compare(moved(1, 2, value), B)
        assert found.largest == np.inf
        assert found.where == (0, 1, 2)
        assert json.loads(json.dumps(found.record(), allow_nan=False))["largest"] is None
    masked = compare(*[moved(0, 0, -np.inf)] * 2)  # a vocabulary masked in both
    assert (masked.largest, masked.kl_max, masked.agree) == (0, 0, 2)


@pytest.mark.parametrize(
    "given",
    [
        [[1.5, -2.0]],
        np.array([[1.5, -2.0]], ml_dtypes.bfloat16),
        torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
        torch.tensor([[1.5, -2.0]], dtype=torch.float16, requires_grad=True),
        torch.tensor([[1.5, -2.0]], dtype=torch.float64),
    ],
)
def test_whatever_holds_numbers_is_read_exactly(given):
    array = as_array(given)
    assert array.dtype == np.float64
    assert array.tolist() == [[1.5, -2.0]]


def test_what_holds_no_numbers_or_lies_elsewhere_is_refused_with_advice():
    refused(ValueError, "a is str, which holds no plain numbers", compare, "logits", B)
    refused(ValueError, r"a lives on meta; .* hand in a.cpu\(\)", compare, torch.empty(1, 2, 3, device="meta"), B)
    refused(ValueError, r"a is \(1, 1, 3\) and b is \(1, 2, 3\); compare the same positions", compare, B[:, :1], B)
    refused(ValueError, "at least one position", compare, np.zeros((1, 0, 3)), np.zeros((1, 0, 3)))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_noise_of_a_known_size_is_found_to_a_few_per_cent(order):
    rng = np.random.default_rng(0)
    f = [5 + 1e-3 * rng.standard_normal(20000) for _ in range(order + 1)]
    assert math.isclose(noise(*f), 1e-3, rel_tol=0.03)


def curved(x):
    """Steeper than a model: exp(8 x) and its like, whose third derivatives are 512 times its size."""
    return np.stack([np.exp(8 * x), np.sin(8 * x + 1), np.tanh(8 * x + 0.5)])


def test_the_shift_is_so_small_that_curvature_stays_below_float64_s_rounding_and_order_two_would_not_do():
    exact = [curved(np.longdouble(i * SHIFT)) for i in range(ORDER + 1)]

    def left(order):
        binomials = [(-1) ** i * math.comb(order, i) for i in range(order + 1)]
        return float(np.abs(sum(c * f for c, f in zip(binomials, exact[: order + 1], strict=True))).max())

    assert left(ORDER) < 64 * 2.0**-53 < left(2)  # 512 * SHIFT^3 is 4e-16; long double itself adds 1e-19


@pytest.mark.parametrize(("inside", "shift"), [("float32", SHIFT), ("float16", HALF_SHIFT), ("bfloat16", HALF_SHIFT)])
def test_the_shift_stirs_the_roundings_of_a_path_that_is_narrower_inside(inside, shift):
    x = np.random.default_rng(0).uniform(1, 2, 20000)
    kind = np.dtype(getattr(ml_dtypes, inside, inside))
    found = noise(*((x * (1 + i * shift)).astype(kind) for i in range(ORDER + 1)))
    uniform = float(ml_dtypes.finfo(inside).eps) / math.sqrt(12)  # the spacing in 1 .. 2, rounded to nearest
    assert 0.7 < found / uniform < 1.4


def test_noise_takes_results_of_one_shape_and_at_least_two():
    refused(ValueError, "2 or more inputs; 1 came", noise, B)
    refused(ValueError, "noise takes them alike", noise, B, B[:, :1])


def test_logit_error_is_relative_to_the_largest_logit_at_least_one_and_nan_passes_no_bar():
    assert logit_error([1.0, -4.0], [1.0, -8.0]) == 0.5
    assert logit_error([0.25, 0.5], [0.5, 0.5]) == 0.25
    assert logit_error(np.array([2], np.float32), [2.0]) == 0
    assert not logit_error([np.nan, 1.0], [1.0, 1.0]) <= max(LOGIT_BARS.values())
    with pytest.raises(ValueError, match=r"logits are \(1, 3\), the oracle's \(2, 3\); compare the same positions"):
        logit_error(np.zeros((1, 3)), np.zeros((2, 3)))
