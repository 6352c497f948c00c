"""Sampling: each transform cuts what its rule says, and the draws have the distribution of the logits."""

from functools import partial

import numpy as np
import pytest

from kvproof.reference import sampling
from kvproof.reference.sampling import gumbel, keys, pick, temperature, top_k, top_p

from .._refused import refused

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
    assert pick(got, gumbel(keys(0, 0, 1)[0], 3)) == 1


def test_top_k_keeps_ties_with_the_kth():
    logits = np.array([2.0, 5.0, 2.0, 1.0, 3.0])
    np.testing.assert_array_equal(top_k(logits, 1), [CUT, 5, CUT, CUT, CUT])
    np.testing.assert_array_equal(top_k(logits, 3), [2, 5, 2, CUT, 3])  # four stay: the third has an equal
    np.testing.assert_array_equal(top_k(logits, 99), logits)


def test_top_p_keeps_tokens_before_which_less_than_p_is_kept():
    logits = np.log([0.125, 0.5, 0.25, 0.125])
    shares = (1e-9, 0.49, 0.51, 0.74, 0.76, 0.9, 1)
    kept = [np.flatnonzero(np.isfinite(top_p(logits, p))).tolist() for p in shares]
    assert kept == [[1], [1], [1, 2], [1, 2], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3]]  # of equals, the smaller id first
    np.testing.assert_array_equal(top_p(logits, 0.51)[[1, 2]], logits[[1, 2]])


def test_top_p_takes_equals_by_their_id():
    p = np.tile([1.0, 2.0], (2, 256))  # long and mixed enough for an unstable sort to shuffle the equals
    kept = np.isfinite(top_p(np.log(p), 0.4999))  # a half is three quarters of the twos
    np.testing.assert_array_equal(kept, (p == 2) & (np.arange(512) < 384))


def test_pick_takes_where_logits_and_noise_are_largest():
    logits = np.array([[0.0, 1.0, CUT], [0.0, 1.0, 5.0]])
    assert pick(logits, np.array([1.5, 0.0, 99.0])).tolist() == [0, 2]


def test_a_cut_token_is_never_picked():
    for key in keys(0, 0, 300):
        logits = top_k(np.random.default_rng(int(key)).normal(size=60) * 3, 7)
        assert np.isfinite(logits[pick(logits, gumbel(key, 60))])


def test_picked_tokens_have_the_distribution_of_the_logits():
    p = np.array([0.4, 0.3, 0.2, 0.1])
    draws = 20_000
    picked = pick(np.log(p), gumbel(keys(1, 0, draws), 4))
    deviation = np.sqrt(p * (1 - p) / draws)
    assert (np.abs(np.bincount(picked, minlength=4) / draws - p) < 4 * deviation).all()


def test_noise_is_gumbel_s_and_independent_between_steps_and_tokens():
    noise = gumbel(keys(2, 3, 400), 500)
    u = np.sort(np.exp(-np.exp(-noise)).ravel())
    distance = np.abs(u - (np.arange(u.size) + 0.5) / u.size).max()  # Kolmogorov-Smirnov, 1.63 / sqrt(n) at 1 %
    assert distance < 1.63 / np.sqrt(u.size)
    z = (noise - noise.mean()) / noise.std()
    for shifted in (z[:, 1:], z[1:]):
        correlation = np.mean(shifted * z[: shifted.shape[0], : shifted.shape[1]])
        assert abs(correlation) < 4 / np.sqrt(shifted.size)


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_the_least_and_largest_hash_give_finite_noise(monkeypatch, bits):
    monkeypatch.setattr(sampling, "mix", lambda z: np.full_like(z, bits))
    assert np.isfinite(gumbel(0, 1)).all()


def test_noise_that_decides_is_not_moved_by_rounding_of_the_logits():
    rng, changed = np.random.default_rng(0), 0
    for key in keys(0, 0, 200):
        logits = rng.normal(size=50257)  # flat: thousands of tokens are about as likely as the one drawn
        noise = gumbel(key, 50257)
        changed += pick(logits, noise) != pick(logits + rng.normal(size=50257) * 1e-6, noise)
    assert changed == 0


def test_a_rows_stream_depends_on_seed_and_row_alone():
    streams = {tuple(keys(seed, row, 4).tolist()) for seed in (5, 6, 2**64 - 1) for row in range(3)}
    assert len({key for stream in streams for key in stream}) == 36
    assert keys(5, 1, 9)[:4].tolist() == keys(5, 1, 4).tolist()


@pytest.mark.parametrize(
    ("words", "call"),
    [
        *(("temperature is", partial(temperature, np.zeros(3), t)) for t in (-0.1, float("nan"), float("inf"))),
        *(("top_k is", partial(top_k, np.zeros(3), k)) for k in (0, -1)),
        *(("top_p is", partial(top_p, np.zeros(3), p)) for p in (0, -0.5, 1.0001, float("nan"))),
        *(("nothing can be drawn", partial(pick, np.array(x), np.zeros(2))) for x in ([CUT, CUT], [np.nan, 1.0])),
        ("nothing can be drawn", partial(pick, np.array([np.inf, 1.0]), np.zeros(2))),
        *(("seed is", partial(keys, seed, 0, 1)) for seed in (-1, 2**64)),
        ("row is", partial(keys, 0, -1, 1)),
    ],
)
def test_what_nothing_can_be_drawn_by_is_refused(words, call):
    refused(ValueError, words, call)
