"""Sampling: each transform cuts what its rule says, and a uniform number falls on the right token."""

import numpy as np
import pytest

from kvproof.reference.sampling import pick, row_stream, temperature, top_k, top_p

CUT = -np.inf


def test_temperature_divides_up_to_a_shift():
    logits = np.array([[1.0, 3.0, -2.0], [0.0, 0.5, 0.25]])
    got = temperature(logits, 0.5)
    np.testing.assert_allclose(np.diff(got), np.diff(logits) / 0.5, rtol=1e-15)
    assert temperature(logits.astype(np.float32), 0.5).dtype == np.float32


def test_temperature_zero_keeps_the_first_maximum_alone():
    got = temperature(np.array([[1.0, 3.0, 3.0], [5.0, 5.0, 5.0]]), 0)
    np.testing.assert_array_equal(got, [[CUT, 3.0, CUT], [5.0, CUT, CUT]])


def test_a_tiny_temperature_is_greedy_and_not_nan():
    got = temperature(np.array([900.0, 901.0, CUT]), 1e-310)
    assert pick(got, 0.999) == 1


@pytest.mark.parametrize("t", [-0.1, float("nan"), float("inf")])
def test_temperature_refuses(t):
    with pytest.raises(ValueError, match="temperature is"):
        temperature(np.zeros(3), t)


def test_top_k_keeps_ties_with_the_kth():
    logits = np.array([2.0, 5.0, 2.0, 1.0, 3.0])
    np.testing.assert_array_equal(top_k(logits, 1), [CUT, 5, CUT, CUT, CUT])
    np.testing.assert_array_equal(top_k(logits, 3), [2, 5, 2, CUT, 3])  # four stay: the third has an equal
    np.testing.assert_array_equal(top_k(logits, 99), logits)


@pytest.mark.parametrize("k", [0, -1])
def test_top_k_refuses(k):
    with pytest.raises(ValueError, match="top_k is"):
        top_k(np.zeros(3), k)


def test_top_p_keeps_tokens_before_which_less_than_p_is_kept():
    logits = np.log([0.125, 0.5, 0.25, 0.125])
    kept = {p: np.flatnonzero(np.isfinite(top_p(logits, p))).tolist() for p in (1e-9, 0.49, 0.51, 0.74, 0.76, 0.9, 1)}
    assert kept == {
        1e-9: [1],
        0.49: [1],
        0.51: [1, 2],
        0.74: [1, 2],
        0.76: [0, 1, 2],  # of two equals, the smaller id first
        0.9: [0, 1, 2, 3],
        1: [0, 1, 2, 3],
    }
    np.testing.assert_array_equal(top_p(logits, 0.51)[[1, 2]], logits[[1, 2]])


def test_top_p_takes_equals_by_their_id():
    p = np.tile([1.0, 2.0], (2, 256))  # long and mixed enough for an unstable sort to shuffle the equals
    kept = np.isfinite(top_p(np.log(p), 0.4999))  # a half is three quarters of the twos
    np.testing.assert_array_equal(kept, (p == 2) & (np.arange(512) < 384))


@pytest.mark.parametrize("p", [0, -0.5, 1.0001, float("nan")])
def test_top_p_refuses(p):
    with pytest.raises(ValueError, match="top_p is"):
        top_p(np.zeros(3), p)


def test_pick_takes_the_first_token_whose_cumulative_probability_exceeds_u():
    logits = np.log([0.25, 0.5, 0.25])
    us = [0, 0.2499, 0.2501, 0.7499, 0.7501, np.nextafter(1, 0)]
    assert [int(pick(logits, u)) for u in us] == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(pick(np.tile(logits, (6, 1)), us), [0, 0, 1, 1, 2, 2])


def test_pick_never_falls_off_the_end_or_on_a_cut_token():
    rng = np.random.default_rng(0)
    for u in (0.0, np.nextafter(1, 0)):
        for _ in range(300):
            logits = top_k(rng.normal(size=rng.integers(1, 400)) * 3, 7)
            assert np.isfinite(logits[pick(logits, u)])


def test_picked_tokens_have_the_distribution_of_the_logits():
    p = np.array([0.4, 0.3, 0.2, 0.1])
    draws = 20_000
    picked = pick(np.tile(np.log(p), (draws, 1)), np.random.default_rng(0).random(draws))
    deviation = np.sqrt(p * (1 - p) / draws)
    assert (np.abs(np.bincount(picked, minlength=4) / draws - p) < 4 * deviation).all()


@pytest.mark.parametrize("logits", [[CUT, CUT], [np.nan, 1.0], [np.inf, 1.0]])
def test_pick_refuses_logits_it_cannot_draw_from(logits):
    with pytest.raises(ValueError, match="nothing can be drawn"):
        pick(np.array(logits), 0.5)


def test_a_rows_stream_depends_on_seed_and_row_alone():
    rows = [row_stream(5, row).random(4).tolist() for row in range(3)]
    assert row_stream(5, 1).random(4).tolist() == rows[1]
    assert len({tuple(row) for row in rows} | {tuple(row_stream(6, 1).random(4))}) == 4
