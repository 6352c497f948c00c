"""GPT-2's equations one by one, what the model refuses, and what generate promises."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from kvproof.reference import forward, generate
from kvproof.reference.cache import ContiguousCache
from kvproof.reference.config import Config, ContextFull
from kvproof.reference.model import attention, gelu, layer_norm, nll
from kvproof.reference.synthetic import random_tensors
from kvproof.reference.weights import nest

from .._reference_models import F64_BAR, error, synthetic
from .._refused import refused


def test_exact_gelu_is_x_times_the_normal_distribution_function_and_tanh_gelu_is_near():
    x = np.linspace(-9, 9, 2001)
    want = np.array([a * math.erfc(-a / math.sqrt(2)) / 2 for a in x])  # erfc, so another function of the library
    assert np.abs(gelu(x, "exact") - want).max() < 1e-14  # measured 9e-16
    assert 4e-4 < np.abs(gelu(x, "tanh") - gelu(x, "exact")).max() < 5e-4  # the known gap of the approximation, 4.73e-4


def test_layer_norm_gives_mean_bias_and_deviation_weight():
    x = np.random.default_rng(0).normal(3, 2, (5, 400))
    y = layer_norm(x, {"weight": np.full(400, 1.5), "bias": np.full(400, 0.25)}, 0.0)
    np.testing.assert_allclose(y.mean(-1), 0.25, atol=1e-14)
    np.testing.assert_allclose(y.std(-1), 1.5, atol=1e-14)


def test_attention_of_the_last_queries_is_the_end_of_the_whole():
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 3, 9, 4))
    whole = attention(q, k, v)
    for M in range(1, 10):
        np.testing.assert_allclose(attention(q[..., -M:, :], k, v), whole[..., -M:, :], rtol=0, atol=1e-14)


def test_attention_spelled_out_for_one_query():
    q, k, v = np.random.default_rng(0).normal(size=(3, 5, 4))
    p = [math.exp(sum(q[2, d] * k[t, d] for d in range(4)) / 2) for t in range(3)]  # sees slots 0, 1, 2
    want = [sum(p[t] * v[t, d] for t in range(3)) / sum(p) for d in range(4)]
    np.testing.assert_allclose(attention(q, k, v)[2], want, rtol=0, atol=1e-15)


class Watched(np.ndarray):
    """An array that notes the floating dtypes of everything computed from it."""

    seen: set

    def __array_finalize__(self, parent):
        self.seen = getattr(parent, "seen", set())

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        plain = [a.view(np.ndarray) if isinstance(a, Watched) else a for a in inputs]
        if out is not None:
            kwargs["out"] = tuple(a.view(np.ndarray) if isinstance(a, Watched) else a for a in out)
        result = np.asarray(getattr(ufunc, method)(*plain, **kwargs))
        if result.dtype.kind == "f":
            self.seen.add(result.dtype)
        watched = result.view(Watched)
        watched.seen = self.seen
        return watched


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", ["tanh", "exact"])
@pytest.mark.parametrize("cached", [True, False])
def test_every_intermediate_stays_in_the_chosen_dtype(dtype, kind, cached):
    params, config = synthetic("syn-tiny", dtype)
    config = replace(config, gelu=kind)
    watched = params["wte"]["weight"].view(Watched)
    watched.seen = set()
    cache = ContiguousCache(config, 1, 8, dtype) if cached else None
    trace = []
    logits = forward([[1, 2, 3]], params | {"wte": {"weight": watched}}, config, cache, trace)
    assert {logits.dtype, *(x.dtype for x in trace)} == {np.dtype(dtype)}
    assert watched.seen == {np.dtype(dtype)}


def test_an_untied_head_is_used():
    config = replace(synthetic("syn-tiny")[1], tie_word_embeddings=False)
    params = nest({name: array.astype(np.float64) for name, array in random_tensors(config, 1)})
    trace = []
    logits = forward([[1, 2, 3]], params, config, trace=trace)
    np.testing.assert_array_equal(logits, trace[-1] @ params["lm_head"]["weight"].T)
    tied = forward([[1, 2, 3]], params, replace(config, tie_word_embeddings=True))
    assert error(logits, tied) > 0.1


def test_a_row_in_a_batch_equals_the_row_alone():
    params, config = synthetic("syn-hd32")
    ids = np.random.default_rng(0).integers(0, config.n_vocab, (5, 12))
    batch = forward(ids, params, config)
    for b in range(5):
        assert error(forward(ids[b : b + 1], params, config)[0], batch[b]) <= 1e-12


def test_later_tokens_do_not_change_earlier_logits():
    params, config = synthetic("syn-hd32")
    ids = np.random.default_rng(0).integers(0, config.n_vocab, (1, 12))
    assert error(forward(ids[:, :7], params, config), forward(ids, params, config)[:, :7]) <= F64_BAR


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([[1, 11]], "token id 11 is out of range; this model knows 0..10"),
        ([[-1]], "token id -1 is out of range"),
        ([[]], "at least one token"),
        ([1, 2], r"must be \(B, T\)"),
        ([[1.0]], "token ids are integers"),
    ],
)
def test_ids_that_are_none_are_refused(ids, words):
    params, config = synthetic("syn-tiny")
    for call in (forward, partial(generate, max_new_tokens=1), nll):
        refused(ValueError, words, call, ids, params, config)


def test_a_loss_needs_two_tokens():
    refused(ValueError, "a loss needs 2 or more", nll, [[1]], *synthetic("syn-tiny"))


def test_past_the_context_is_an_error_that_says_how_many_tokens_fit():
    params, config = synthetic("syn-tiny")  # n_ctx 16
    refused(ContextFull, r"17 new tokens after 0 .* 16 fit", forward, [[1] * 17], params, config)
    refused(ContextFull, r"17 new tokens after 0 .* 16 fit", generate, [[1] * 17], params, config, 1)
    refused(ContextFull, r"15 new tokens after 3 .* 14 fit", generate, [[3, 1, 4]], params, config, 15)
    assert generate([[3, 1, 4]], params, config, 14).shape == (1, 17)
    cache = ContiguousCache(config, 1, 20)
    forward([[1] * 15], params, config, cache)
    before = cache.k.copy()
    refused(ContextFull, r"2 new tokens after 15 .* 1 fit", forward, [[1, 2]], params, config, cache)
    refused(ContextFull, r"3 new tokens after 16 .* 1 fit", generate, [[1]], params, config, 3, cache)
    assert cache.lengths[0] == 15
    np.testing.assert_array_equal(cache.k, before)


def test_generate_goes_on_from_what_a_cache_holds():
    params, config = synthetic("syn-tiny")
    cache = ContiguousCache(config, 1, config.n_ctx)
    forward([[3, 1]], params, config, cache)
    rest = generate([[4]], params, config, 5, cache)
    np.testing.assert_array_equal(rest[0, 1:], generate([[3, 1, 4]], params, config, 5)[0, 3:])


def test_generate_treats_each_row_of_a_batch_alone():
    params, config = synthetic("syn-hd32")
    ids = np.random.default_rng(0).integers(0, config.n_vocab, (3, 6))
    together = generate(ids, params, config, 8)
    for b in range(3):
        np.testing.assert_array_equal(together[b : b + 1], generate(ids[b : b + 1], params, config, 8))
    np.testing.assert_array_equal(generate(ids, params, config, 0), ids)
    refused(ValueError, "max_new_tokens is -1", generate, ids, params, config, -1)


def test_equal_logits_give_the_smallest_id():
    config = Config(n_vocab=5, n_ctx=4, n_embd=4, n_head=1, n_layer=1, n_inner=4)
    params = nest({name: 0 * array for name, array in random_tensors(config)})
    assert generate([[3]], params, config, 1)[0, 1] == 0
