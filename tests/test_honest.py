"""The attention that judges is judged: its formula by hand, its gate by measurement."""

import ml_dtypes
import numpy as np
import pytest
from attention_battery import Case, draw

from kvproof.reference.honest import (
    SUM_ERROR,
    attention,
    attention_error,
    attention_gate,
    honest_attention,
    roundoff,
    sensitivity,
)

SIXTEEN_BITS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def test_scores_a_factor_of_two_apart_weigh_two_to_one():
    q = np.array([[[np.log(2), 0.0]]])
    k = np.array([[[[1.0, 5.0], [0.0, -3.0], [9.0, 9.0]]]])
    v = np.array([[[[3.0, 0.0], [0.0, 6.0], [np.nan, np.inf]]]])
    o = attention(q, k, v, [2], scale=1.0)
    assert np.allclose(o, [[[2.0, 2.0]]], rtol=1e-15)


def test_the_default_scale_is_one_over_the_root_of_head_dim():
    q, k, v, lengths = draw(Case("scale", "float64", 2, 9, 16, (9, 4)))
    assert np.array_equal(attention(q, k, v, lengths), attention(q, k, v, lengths, scale=0.25))
    assert not np.allclose(attention(q, k, v, lengths), attention(q, k, v, lengths, scale=0.26))


def test_a_zero_query_gets_the_mean_of_the_live_values():
    q, k, v, lengths = draw(Case("mean", "float32", 2, 9, 4, (9, 5, 1)))
    o = attention(0 * q, k, v, lengths)
    assert all(np.allclose(o[b], v[b, :, :n].mean(1, dtype=np.float64), rtol=1e-14) for b, n in enumerate(lengths))


def test_length_zero_gives_zeros_and_forgives_nothing_else():
    q, k, v, lengths = draw(Case("empty", "float32", 1, 3, 4, (0,)))
    assert attention_error(np.zeros((1, 1, 4)), q, k, v, lengths) == 0
    assert attention_error(np.full((1, 1, 4), 1e-30), q, k, v, lengths) == np.inf


def test_nan_is_an_infinite_error_and_another_shape_is_refused():
    q, k, v, lengths = draw(Case("nan", "float32", 1, 3, 4, (3,)))
    o = honest_attention(q, k, v, lengths)
    o[0, 0, 2] = np.nan
    assert attention_error(o, q, k, v, lengths) == np.inf
    with pytest.raises(ValueError, match=r"o is \(1, 4\); attention of these inputs is \(1, 1, 4\)"):
        attention_error(o[0], q, k, v, lengths)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
def test_one_rounding_passes_in_16_bits_and_two_steps_further_do_not(dtype):
    q, k, v, lengths = draw(Case("ulp", dtype, 3, 200, 64, (200, 65, 7)))
    o = honest_attention(q, k, v, lengths)
    assert 0.5 < attention_error(o, q, k, v, lengths) <= 1
    further = np.nextafter(np.nextafter(o, o.dtype.type(np.inf)), o.dtype.type(np.inf))
    assert attention_error(further, q, k, v, lengths) > 1.5


def test_the_gate_shrinks_with_the_output():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(shape).astype(np.float16) for shape in ((1, 1, 64), *[(1, 1, 4096, 64)] * 2))
    short, long = (attention_gate(q, k, v, [n]).mean() for n in (16, 4096))
    assert long < short / 2
    assert long < 1e-4  # where a tolerance of 1e-2 would forgive a third of the output


def float32_loss(rng):
    """A random head, computed in float32 the plain way, once term by term and once pairwise: what its sums lost.

    In the units of SUM_ERROR: sqrt(n) * roundoff * sensitivity, beyond the rounding of the output.
    """
    n, D = int(rng.choice([2, 7, 64, 129, 500, 1024, 4096])), int(rng.choice([4, 16, 64, 80, 256]))
    q = (rng.choice([0.1, 1, 4, 16]) * rng.standard_normal((1, 1, D))).astype(np.float32)
    k, v = (rng.standard_normal((1, 1, n, D)).astype(np.float32) for _ in range(2))
    v += rng.choice([0, 1, 10]).astype(np.float32)
    s = (k[0, 0] @ q[0, 0]) * np.float32(D**-0.5)
    p = np.exp(s - s.max())
    one_by_one = np.add.accumulate(p[:, None] * v[0, 0])[-1] / np.add.accumulate(p)[-1]
    pairwise = (p @ v[0, 0]) / p.sum()
    exact, u = attention(q, k, v, [n])[0, 0], roundoff(np.float32)
    lost = np.abs(np.stack([one_by_one, pairwise]) - exact) - u * np.abs(exact)
    return np.max(lost / sensitivity(q, k, v, [n])) / u / np.sqrt(n)


def check_sum_error(draws):
    rng = np.random.default_rng(0)
    worst = max(float32_loss(rng) for _ in range(draws))
    assert worst <= SUM_ERROR  # no false alarm
    assert worst > SUM_ERROR / 5  # and no slack that a bug could hide in


def test_the_gate_forgives_what_plain_float32_sums_lose_and_little_more():
    check_sum_error(300)


@pytest.mark.exhaustive
def test_the_gate_raises_no_false_alarm_in_twenty_thousand_draws():
    check_sum_error(20000)
