"""Random ragged requests, joined in random batches, pages and chunks, have the bits of their lone runs."""

import numpy as np
import pytest
import torch

from kvproof.gpt2 import load

from ._requests import hashes, run, threads


def soak(requests: int, dtype: str = "float32"):
    """Raise AssertionError unless so many requests have, in batches of 1 to 16, the bits that each has alone."""
    tiny, rng, done = load("tiny", dtype=dtype, impl="numba"), np.random.default_rng(requests), 0
    n_vocab = tiny.config.n_vocab
    while done < requests:
        batch, steps = int(rng.integers(1, 17)), int(rng.integers(1, 6))
        prompts = [rng.integers(n_vocab, size=rng.integers(1, 61)).tolist() for _ in range(batch)]
        forced = torch.from_numpy(rng.integers(n_vocab, size=(batch, steps)))
        page, chunk = (None if n < 2 else int(n) for n in rng.integers(0, 40, 2))
        count = int(rng.integers(1, 3))
        with threads(count):
            together = hashes(run(tiny, prompts, forced, page, chunk))
        with threads(1):
            alone = [hashes(run(tiny, [prompts[row]], forced[row : row + 1]))[0] for row in range(batch)]
        how = f"batch {batch}, page {page}, chunk {chunk}, {count} threads, requests {done} on"
        assert together == alone, f"{how}: sequences {[i for i in range(batch) if together[i] != alone[i]]} differ"
        done += batch


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sixty_ragged_requests_equal_their_lone_runs(dtype):
    soak(60, dtype)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_two_thousand_ragged_requests_equal_their_lone_runs(dtype):
    soak(2000, dtype)
