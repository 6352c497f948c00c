"""Sampling on the device draws what the NumPy reference draws, from the same seed."""

import numpy as np
import pytest
import torch

from kvproof.gpt2 import sampling
from kvproof.reference import sampling as reference

SHARES = (1e-9, 0.1, 0.5, 0.9, 0.999, 1)


def logits(rows=64, n_vocab=300, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=3, size=(rows, n_vocab))
    x[:, 5] = x[:, 9] = x.max(-1)  # ties at the top
    x[::2, 20:40] = x[::2, 20:21]  # and further down
    return x


@pytest.mark.parametrize(
    ("cut", "at"), [*(("top_k", k) for k in (1, 2, 3, 25, 300, 1000)), *(("top_p", p) for p in SHARES)]
)
def test_what_is_cut_is_what_the_reference_cuts(cut, at):
    x = logits()
    assert np.array_equal(getattr(sampling, cut)(torch.from_numpy(x), at).numpy(), getattr(reference, cut)(x, at))


@pytest.mark.parametrize("t", [1e-3, 0.7, 1, 2.5])
def test_draws_are_the_reference_s(t):
    x, keys = logits(rows=500), sampling.keys(1, 500, 1)[:, 0]
    cut = reference.top_p(reference.top_k(reference.temperature(x, t), 50), 0.95)
    want = [reference.pick(one, reference.gumbel(reference.keys(1, row, 1)[0], 300)) for row, one in enumerate(cut)]
    assert sampling.next_ids(torch.from_numpy(x), keys, t, 50, 0.95).tolist() == want


def test_noise_is_the_reference_s():
    keys = sampling.keys(2**64 - 1, 3, 5, first_row=7)
    for row in range(3):
        theirs = reference.keys(2**64 - 1, 7 + row, 5)
        assert np.array_equal(keys[row].numpy().view(np.uint64), theirs)
        np.testing.assert_allclose(sampling.gumbel(keys[row], 1000), reference.gumbel(theirs, 1000), rtol=0, atol=1e-14)


def test_temperature_0_is_greedy():
    x = torch.from_numpy(logits())
    assert torch.equal(sampling.next_ids(x, sampling.keys(0, 64, 1)[:, 0]), x.argmax(-1))


def test_a_cut_token_is_never_drawn():
    x = torch.full((200, 10), -torch.inf, dtype=torch.float64)
    x[:, [3, 7]] = 0.0
    assert set(sampling.next_ids(x, sampling.keys(0, 200, 1)[:, 0], 1.0).tolist()) == {3, 7}


def test_draws_have_the_frequencies_of_their_probabilities():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    x = torch.from_numpy(np.log(p)).expand(20000, 4)
    freq = np.bincount(sampling.next_ids(x, sampling.keys(0, 1, 20000)[0], 1.0).numpy(), minlength=4) / 20000
    assert np.all(np.abs(freq - p) < 5 * np.sqrt(p * (1 - p) / 20000))


def test_rows_have_their_own_streams_and_do_not_depend_on_the_batch():
    alone, many = sampling.keys(3, 1, 10), sampling.keys(3, 4, 10)
    assert torch.equal(alone[0], many[0])
    assert len({tuple(row) for row in many.tolist()}) == 4
    assert torch.equal(sampling.keys(3, 2, 10, first_row=2), many[2:])
    with pytest.raises(ValueError, match="first_row is -1"):
        sampling.keys(3, 2, 4, first_row=-1)


def test_half_precision_logits_are_sampled_in_float64():
    x = torch.from_numpy(logits(8)).bfloat16()
    key = sampling.keys(0, 8, 1)[:, 0]
    assert torch.equal(sampling.next_ids(x, key, 0.7, 10, 0.9), sampling.next_ids(x.double(), key, 0.7, 10, 0.9))
