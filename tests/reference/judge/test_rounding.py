"""The attention that judges is judged: its formula by hand, its gate by measurement."""

import ml_dtypes
import numpy as np
import pytest

from kvproof.reference.judge.cases import Case, draw_qkv
from kvproof.reference.judge.features import append, dequantised, seen_slots, unpaged
from kvproof.reference.judge.rounding import (
    SUM_ERROR,
    WEIGHT_ERROR,
    attention,
    attention_error,
    attention_gate,
    exact_rounded_attention,
    log_sum_exp,
    lse_error,
    lse_gate,
    roundoff,
    rows,
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
    q, k, v, lengths = draw_qkv(Case("float64", (9, 4), 9, 16, 2))
    assert np.array_equal(attention(q, k, v, lengths), attention(q, k, v, lengths, scale=0.25))
    assert not np.allclose(attention(q, k, v, lengths), attention(q, k, v, lengths, scale=0.26))


def test_a_zero_query_gets_the_mean_of_the_live_values():
    q, k, v, lengths = draw_qkv(Case("float32", (9, 5, 1), 9, 4, 2))
    o = attention(0 * q, k, v, lengths)
    assert all(np.allclose(o[b], v[b, :, :n].mean(1, dtype=np.float64), rtol=1e-14) for b, n in enumerate(lengths))


def test_length_zero_gives_zeros_and_forgives_nothing_else():
    q, k, v, lengths = draw_qkv(Case("float32", (0,), 3, 4, 1))
    assert attention_error(np.zeros((1, 1, 4)), q, k, v, lengths) == 0
    assert attention_error(np.full((1, 1, 4), 1e-30), q, k, v, lengths) == np.inf


def test_nan_is_an_infinite_error_and_another_shape_is_refused():
    q, k, v, lengths = draw_qkv(Case("float32", (3,), 3, 4, 1))
    o = exact_rounded_attention(q, k, v, lengths)
    o[0, 0, 2] = np.nan
    assert attention_error(o, q, k, v, lengths) == np.inf
    with pytest.raises(ValueError, match=r"o is \(1, 4\); attention of these inputs is \(1, 1, 4\)"):
        attention_error(o[0], q, k, v, lengths)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
def test_one_rounding_passes_in_16_bits_and_two_steps_further_do_not(dtype):
    q, k, v, lengths = draw_qkv(Case(dtype, (200, 65, 7), 200, 64, 3))
    o = exact_rounded_attention(q, k, v, lengths)
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


@pytest.mark.parametrize("draws", [300, pytest.param(20000, marks=pytest.mark.exhaustive)])
def test_the_gate_forgives_what_plain_float32_sums_lose_and_little_more(draws):
    rng = np.random.default_rng(0)
    worst = max(float32_loss(rng) for _ in range(draws))
    assert worst <= SUM_ERROR  # no false alarm
    assert worst > SUM_ERROR / 5  # and no slack that a bug could hide in


def test_a_token_sees_its_past_its_window_and_the_sinks():
    assert [list(seen_slots(p, 5)) for p in (-1, 0, 3, 4)] == [[], [0], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert [list(seen_slots(p, 5, causal=False)) for p in (-1, 0, 4)] == [[0, 1, 2, 3, 4]] * 3
    assert [list(seen_slots(p, 9, window=2)) for p in (0, 1, 8)] == [[0], [0, 1], [7, 8]]
    assert [list(seen_slots(p, 9, window=2, sinks=3)) for p in (1, 4, 8)] == [[0, 1], [0, 1, 2, 3, 4], [0, 1, 2, 7, 8]]


def test_tokens_stand_at_the_end_of_their_sequence_and_heads_share_in_groups():
    q = np.zeros((2, 2, 4, 1))
    k = np.zeros((2, 2, 3, 1))
    v = np.array([[[[1.0], [3.0], [8.0]], [[10.0], [30.0], [80.0]]]] * 2)
    o, lse = attention(q, k, v, [3, 1]), log_sum_exp(q, k, [3, 1])
    assert np.allclose(o[..., 0], [[[2, 2, 20, 20], [4, 4, 40, 40]], [[0] * 4, [1, 1, 10, 10]]], rtol=1e-15)
    assert np.allclose(lse[..., 0], [[np.log(2), np.log(3)], [-np.inf, 0]], rtol=1e-15)


def test_the_cap_bends_the_scaled_score_and_the_bias_counts_from_the_token_itself():
    q, k, v = np.array([[[2.0]]]), np.array([[[[3.0], [1.0]]]]), np.array([[[[1.0], [0.0]]]])
    near, far = 5 * np.tanh(0.5 * 2 / 5), 5 * np.tanh(0.5 * 6 / 5) - 0.25  # one slot back, slope a quarter
    want = 1 / (1 + np.exp(near - far))
    asked = {"scale": 0.5, "softcap": 5.0, "alibi_slopes": np.array([0.25])}
    assert np.allclose(attention(q, k, v, [2], **asked), want, rtol=1e-14)
    assert np.allclose(log_sum_exp(q, k, [2], **asked), np.log(np.exp(near) + np.exp(far)), rtol=1e-14)


def test_pages_and_8_bits_read_as_they_were_written():
    rng = np.random.default_rng(0)
    new, table = rng.standard_normal((2, 5, 1, 4)).astype(np.float32), np.array([[2, 0], [1, 3]])
    k, scale = np.zeros((4, 1, 3, 4), np.int8), np.zeros((4, 1, 3), np.float32)
    append(k, k.copy(), [5, 4], new, new, table, scale, scale.copy())
    plain = dequantised(unpaged(k, table, 5), unpaged(scale, table, 5))[:, 0]  # (B, T, D)
    step = np.abs(new[:, :, 0]).max(-1, keepdims=True) / 127
    assert (np.abs(plain[0] - new[0, :, 0]) <= 0.501 * step[0]).all()
    assert (np.abs(plain[1, :4] - new[1, 1:, 0]) <= 0.501 * step[1, 1:]).all()
    assert not plain[1, 4].any()


def weight_loss(rng, dtype):
    """What rounding a random head's weights loses, in the units of WEIGHT_ERROR and of `weight_rounding`."""
    n = int(rng.choice([2, 7, 64, 500, 1024]))
    q, k, v = (rng.standard_normal(shape) for shape in ((1, 1, 16), *[(1, 1, n, 16)] * 2))
    _, row = next(rows(q * rng.choice([0.1, 1, 4]), k, v + rng.choice([0, 1, 10]), [n]))
    e = row.p / row.p.max()
    lost = np.abs(e.astype(dtype).astype(np.float64) @ row.v / e.sum() - row.p @ row.v)
    pulls = row.p[:, None] * (np.abs(row.v) + np.abs(row.p @ row.v))
    return np.max(lost / np.sqrt((pulls**2).sum(0))) / roundoff(dtype), np.max(lost / row.weight_rounding(dtype))


def test_rounded_weights_are_forgiven_what_they_lose_and_little_more():
    rng = np.random.default_rng(0)
    lost, of_gate = np.array([weight_loss(rng, ml_dtypes.bfloat16) for _ in range(300)]).T
    assert WEIGHT_ERROR / 5 < lost.max() <= WEIGHT_ERROR
    assert of_gate.max() <= 1
    assert np.array([weight_loss(rng, np.float16)[1] for _ in range(300)]).max() <= 1


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
def test_rounding_the_weights_alone_is_forgiven_less_than_rounding_scores_too(dtype):
    q, k, v, lengths = draw_qkv(Case(dtype, (500, 400), 500, 64, 1))
    none, alone, both = (
        attention_gate(q, k, v, lengths, inner=inner, rounded_weights=alone).mean()
        for inner, alone in ((None, None), (None, q.dtype), (q.dtype, None))
    )
    assert none < alone < both / 5


def test_lse_is_held_to_a_few_roundings_and_to_minus_infinity():
    q, k, _, lengths = draw_qkv(Case("float32", (300, 1, 0), 300, 64, 2))
    lse = log_sum_exp(q, k, lengths)
    assert lse_error(lse.astype(np.float32), q, k, lengths) <= 1
    assert lse_error(lse + 2 * lse_gate(q, k, lengths), q, k, lengths) > 1.9
    assert lse_error(np.where(np.isinf(lse), -1e30, lse), q, k, lengths) == np.inf
    assert lse_gate(q, k, lengths).max() < 1e-4
