"""Sampling on the device draws what the NumPy reference draws, from the same uniform numbers."""

import numpy as np
import pytest
import torch

from kvproof.gpt2 import sampling
from kvproof.reference import sampling as reference


def logits(rows=64, n_vocab=300, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=3, size=(rows, n_vocab))
    x[:, 5] = x[:, 9] = x.max(-1)  # ties at the top
    x[::2, 20:40] = x[::2, 20:21]  # and further down
    return x


@pytest.mark.parametrize("k", [1, 2, 3, 25, 300, 1000])
def test_top_k_cuts_what_the_reference_cuts(k):
    x = logits()
    assert np.array_equal(sampling.top_k(torch.from_numpy(x), k).numpy(), reference.top_k(x, k))


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.999, 1])
def test_top_p_cuts_what_the_reference_cuts(p):
    x = logits()
    assert np.array_equal(sampling.top_p(torch.from_numpy(x), p).numpy(), reference.top_p(x, p))


@pytest.mark.parametrize("t", [1e-3, 0.7, 1, 2.5])
def test_draws_are_the_reference_s(t):
    x = logits(rows=500)
    u = np.concatenate([[0.0, np.nextafter(1, 0)], np.random.default_rng(1).random(498)])
    want = reference.pick(reference.top_p(reference.top_k(reference.temperature(x, t), 50), 0.95), u)
    got = sampling.next_ids(torch.from_numpy(x), torch.from_numpy(u), t, 50, 0.95).numpy()
    assert np.array_equal(got, want)


def test_temperature_0_is_greedy():
    x = torch.from_numpy(logits())
    assert torch.equal(sampling.next_ids(x, torch.zeros(64)), x.argmax(-1))


def test_a_cut_token_is_never_drawn():
    x = torch.full((1, 10), -torch.inf, dtype=torch.float64)
    x[0, [3, 7]] = 0.0
    for u in (0.0, 0.25, 0.5, 0.75, np.nextafter(1, 0)):
        assert sampling.pick(x, torch.tensor([u], dtype=torch.float64)).item() == (3 if u < 0.5 else 7)


def test_draws_have_the_frequencies_of_their_probabilities():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    u = sampling.uniforms(0, 1, 20000)[0]
    drawn = sampling.pick(torch.from_numpy(np.log(p)).expand(20000, 4), u).numpy()
    freq = np.bincount(drawn, minlength=4) / 20000
    assert np.all(np.abs(freq - p) < 5 * np.sqrt(p * (1 - p) / 20000))


def test_rows_have_their_own_streams_and_do_not_depend_on_the_batch():
    alone, many = sampling.uniforms(3, 1, 10), sampling.uniforms(3, 4, 10)
    assert torch.equal(alone[0], many[0])
    assert len({tuple(row) for row in many.tolist()}) == 4
    assert np.array_equal(many[2].numpy(), reference.row_stream(3, 2).random(10))


def test_half_precision_logits_are_sampled_in_float64():
    x = torch.from_numpy(logits(8)).bfloat16()
    u = torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sampling.next_ids(x, u, 0.7, 10, 0.9), sampling.next_ids(x.double(), u, 0.7, 10, 0.9))
