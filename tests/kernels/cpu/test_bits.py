"""A sequence's logits have the same bits in any batch, order, pages and prefill chunks, by any number of threads."""

from functools import cache
from itertools import product

import pytest
import torch

from kvproof.gpt2 import load
from kvproof.kernels.cpu.engine import AT_ONCE

from ..._gpt2_models import random_prompts
from ._requests import hashes, run, threads

EXHAUSTIVE = pytest.mark.exhaustive
LENGTHS = [17, 1, 40, 7, 16, 15, 33, 129] + [1 + 3 * i % 50 for i in range(24)]  # of 32 prompts
STEPS = 4
# How the same sequences are run: batch, order reversed, page, chunk, threads.
WAYS = (
    (1, False, None, None, 1), (2, False, 16, None, 1), (8, False, None, 16, 1), (8, True, 64, 7, 2),
    (32, False, None, None, 2), (32, True, 16, 1, 2), (32, True, None, 16, 1), (8, False, 5, 1, 1),
)  # fmt: skip
ALL = tuple(product((1, 2, 8, 32), (False, True), (None, 16, 64), (None, 1, 7, 16), (1, 2)))


@cache
def model(name: str, dtype: str, weights: str | None = None):
    return load(name, dtype=dtype, impl="numba", weights=weights)


def sequences(n_vocab: int):
    prompts = random_prompts(n_vocab, LENGTHS)
    return prompts, torch.tensor(random_prompts(n_vocab, [STEPS] * len(prompts), seed=1))


def check(found, ways, kv_dtype=None):
    """Raise AssertionError unless every way gives each sequence the one hash of its lone run by one thread.

    found     the model
    kv_dtype  of the cache, as `new_cache` takes it
    """
    prompts, forced = sequences(found.config.n_vocab)
    seen = {}
    for batch, backwards, page, chunk, count in ((1, False, None, None, 1), *ways):
        order = list(range(len(prompts)))[:: -1 if backwards else 1]
        with threads(count):
            for low in range(0, len(order), batch):
                rows = order[low : low + batch]
                logits = run(found, [prompts[row] for row in rows], forced[rows], page, chunk, kv_dtype)
                for row, bits in zip(rows, hashes(logits), strict=True):
                    how = f"batch {batch}, reversed {backwards}, page {page}, chunk {chunk}, {count} threads"
                    assert seen.setdefault(row, bits) == bits, f"sequence {row} has other bits with {how}"
    assert len(set(seen.values())) == len(prompts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tiny_has_one_hash_per_sequence(dtype):
    check(model("tiny", dtype), WAYS)


@EXHAUSTIVE
@pytest.mark.parametrize(("dtype", "weights"), [
    *((dtype, None) for dtype in ("float64", "float32", "bfloat16", "float16")), ("float32", "int8"),
])  # fmt: skip
def test_tiny_has_one_hash_per_sequence_in_every_way(dtype, weights):
    check(model("tiny", dtype, weights), ALL)


@EXHAUSTIVE
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tiny_has_one_hash_per_sequence_over_an_8_bit_cache(dtype):
    check(model("tiny", dtype), WAYS, "int8")


@EXHAUSTIVE
@pytest.mark.parametrize(("dtype", "weights"), [
    *((dtype, None) for dtype in ("float32", "bfloat16")), ("float32", "int8"),
])  # fmt: skip
def test_124m_has_one_hash_per_sequence(dtype, weights):
    check(model("random:gpt2", dtype, weights), (*WAYS, (32, False, 64, 7, 1), (8, True, 16, None, 2)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_prefill_of_several_passes_has_the_bits_of_its_steps(dtype):
    """More rows than one pass takes: 3 sequences of 400 tokens."""
    tiny = model("tiny", dtype)
    prompts, nothing = random_prompts(tiny.config.n_vocab, [400] * 3), torch.zeros(3, 0, dtype=torch.long)
    assert 3 * 400 > AT_ONCE
    whole = hashes(run(tiny, prompts, nothing))
    assert hashes(run(tiny, prompts, nothing, page=16, chunk=50)) == whole
    assert [hashes(run(tiny, [prompt], nothing[:1]))[0] for prompt in prompts] == whole


def test_bits_differ_where_tokens_do():
    """Or a hash would say nothing."""
    tiny = model("tiny", "float32")
    prompts, forced = sequences(tiny.config.n_vocab)
    changed = [[*prompts[0][:-2], prompts[0][-2] ^ 1, prompts[0][-1]]]
    assert hashes(run(tiny, prompts[:1], forced[:1])) != hashes(run(tiny, changed, forced[:1]))
