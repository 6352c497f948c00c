"""The oracle against values that another implementation computed in float64 (tests/data/goldens/README.md)."""

from itertools import pairwise

import numpy as np
import pytest

from kvproof.reference import forward, generate, load
from kvproof.reference.cache import ContiguousCache, PagedCache
from kvproof.reference.judge.faults import cached_logits
from kvproof.reference.model import nll

from .._reference_models import F32_BAR, F64_BAR, cast, error, goldens, synthetic

BARS = {np.float64: F64_BAR, np.float32: F32_BAR}


def paged(ids, params, config):
    cache = PagedCache(config, len(ids), config.n_ctx, params["wte"]["weight"].dtype, page=5)
    return cached_logits(ids, params, config, cache)


paths = pytest.mark.parametrize("path", [forward, cached_logits, paged], ids=lambda path: path.__name__)
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
names = pytest.mark.parametrize("name", ["syn-tiny", "syn-hd32"])


@names
@dtypes
@paths
def test_logits_of_prompt_a(name, dtype, path):
    golden = goldens(name)
    logits = path(golden["prompt_A"][None], *synthetic(name, dtype))
    assert error(logits[0], golden["logits_A_f64"]) <= BARS[dtype]


@dtypes
@paths
def test_logits_of_the_full_context(dtype, path):
    golden = goldens("syn-tiny")
    logits = path(golden["prompt_B"][None], *synthetic("syn-tiny", dtype))
    assert error(logits[0], golden["logits_B_f64"]) <= BARS[dtype]

    golden = goldens("syn-hd32")
    logits = path(golden["prompt_B"][None], *synthetic("syn-hd32", dtype))[0]  # (1024, V)
    assert error(logits, golden["logits_B_f32"]) <= F32_BAR
    assert error(logits[::32], golden["logits_B_f64_every32"]) <= BARS[dtype]
    assert error(logits[-1], golden["logits_B_f64_last"]) <= BARS[dtype]


@names
@dtypes
def test_hidden_states_keys_and_values(name, dtype):
    golden, (params, config) = goldens(name), synthetic(name, dtype)
    cache, trace = ContiguousCache(config, 1, config.n_ctx, dtype), []
    forward(golden["prompt_A"][None], params, config, cache, trace)
    hidden = np.concatenate([*trace[: config.n_layer], trace[-1]])  # the last entry is the one after ln_f
    T = len(golden["prompt_A"])
    assert error(hidden, golden["hidden_A_f64"]) <= BARS[dtype]
    assert error(cache.k[:, 0, :, :T], golden["k_A_f64"]) <= BARS[dtype]
    assert error(cache.v[:, 0, :, :T], golden["v_A_f64"]) <= BARS[dtype]


def assert_greedy(golden, key, ids, logits, cols=slice(None)):
    """ids (T,) end in the golden tokens; logits (steps, V) chose them, with the golden margins."""
    steps = len(logits)
    np.testing.assert_array_equal(ids[-steps:], golden[f"{key}_out"][:steps])
    second, first = np.partition(logits, -2, axis=-1)[:, -2:].T
    bar = F64_BAR * max(1.0, np.abs(logits).max())
    assert np.abs(first - second - golden[f"{key}_margin_f64"][:steps]).max() <= bar
    if steps == len(golden[f"{key}_out"]):
        assert error(logits[-1, cols], golden[f"{key}_last_logits_f64"]) <= F64_BAR


@pytest.mark.parametrize(
    ("name", "key"), [("syn-tiny", "greedy_A"), ("syn-hd32", "greedy_A"), ("syn-hd32", "greedy_fill")]
)
def test_greedy_tokens_and_margins_to_the_end_of_the_context(name, key):
    golden, (params, config) = goldens(name), synthetic(name)
    prompt, steps = golden[f"{key}_prompt"][None], len(golden[f"{key}_out"])
    ids = generate(prompt, params, config, steps)
    logits = forward(ids[:, :-1], params, config)[0, -steps:]
    assert_greedy(golden, key, ids[0], logits)


@dtypes
@pytest.mark.parametrize(
    ("name", "key", "steps"),
    [
        ("syn-tiny", "greedy_A", 14),
        ("syn-hd32", "greedy_A", 24),
        ("syn-hd32", "greedy_fill", 2),
        pytest.param("syn-hd32", "greedy_A", 64, marks=pytest.mark.exhaustive),
        pytest.param("syn-hd32", "greedy_fill", 64, marks=pytest.mark.exhaustive),
    ],
)
def test_greedy_tokens_are_the_same_without_a_cache_and_in_either_dtype(name, key, steps, dtype):
    golden, (params, config) = goldens(name), synthetic(name, dtype)
    prompt = golden[f"{key}_prompt"][None]
    for cache in (True, False):
        ids = generate(prompt, params, config, steps, cache)
        np.testing.assert_array_equal(ids[0, prompt.shape[1] :], golden[f"{key}_out"][:steps])


def test_greedy_tokens_over_a_sliding_window():
    golden, (params, config) = goldens("syn-tiny"), synthetic("syn-tiny")
    ids, margins = list(golden["greedy_A_prompt"]), []
    for _ in golden["greedy_crop_out"]:
        last = forward([ids[-config.n_ctx :]], params, config)[0, -1]
        second, first = np.partition(last, -2)[-2:]
        ids.append(int(last.argmax()))
        margins.append(first - second)
    np.testing.assert_array_equal(ids[-64:], golden["greedy_crop_out"])
    assert error(np.array(margins), golden["greedy_crop_margin_f64"]) <= F64_BAR


@names
@dtypes
def test_loss_of_each_token(name, dtype):
    golden = goldens(name)
    losses = nll(golden["loss_ids"][None], *synthetic(name, dtype))
    assert losses.dtype == dtype
    assert error(losses[0], golden["loss_nll_f64"]) <= BARS[dtype]


@pytest.mark.parametrize("stride", [1024, pytest.param(512, marks=pytest.mark.exhaustive)])
def test_perplexity_over_strided_windows(stride):
    golden, (params, config) = goldens("syn-hd32"), synthetic("syn-hd32")
    ids, total, count, done = golden["ppl_ids"], 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + config.n_ctx, len(ids))
        fresh = nll(ids[None, begin:end], params, config)[0, -(end - done) :]  # tokens no earlier window has scored
        total, count, done = total + fresh.sum(), count + len(fresh), end
        if end == len(ids):
            break
    want_total, want_count = golden[f"ppl_stride{stride}_sum_count"]
    assert count == want_count
    assert abs(total - want_total) <= F64_BAR * want_total


@pytest.fixture(scope="module")
def small():
    """syn-small, which is random:gpt2: the 124M shape, about a gigabyte in float64."""
    return load("random:gpt2")


def last_tokens_cached(ids, params, config):
    """A prompt, then three single tokens: the large model's cached path at a price that every run can pay."""
    T = ids.shape[1]
    cache = ContiguousCache(config, 1, T, params["wte"]["weight"].dtype)
    ends = [0, T - 3, T - 2, T - 1, T]
    chunks = [forward(ids[:, a:b], params, config, cache) for a, b in pairwise(ends)]
    return np.concatenate(chunks, axis=1)


def test_small_logits_of_both_prompts(small):
    golden, (params, config) = goldens("syn-small"), small
    logits = last_tokens_cached(golden["prompt_B"][None], params, config)[0]  # (64, V)
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :8]
    lse = np.log(np.exp(logits - logits.max()).sum(-1)) + logits.max()
    assert error(logits[:, golden["cols"]], golden["logits_B_cols_f32"]) <= F32_BAR
    assert error(logits[-1], golden["logits_B_last_f64"]) <= F64_BAR
    assert error(np.take_along_axis(logits, best, -1), golden["logits_B_top8_f64"]) <= F64_BAR
    assert error(lse, golden["logits_B_lse_f64"]) <= F64_BAR
    np.testing.assert_array_equal(best, golden["logits_B_top8_ids"])
    for path in (forward, last_tokens_cached):
        logits = path(golden["prompt_A"][None], params, config)[0]
        assert error(logits[-1], golden["logits_A_last_f64"]) <= F64_BAR


def test_small_hidden_states_keys_and_values(small):
    golden, (params, config) = goldens("syn-small"), small
    cache, trace = ContiguousCache(config, 1, 10), []
    forward(golden["prompt_A"][None], params, config, cache, trace)
    hidden = np.concatenate([*trace[: config.n_layer], trace[-1]])[:, -1]
    assert error(hidden, golden["hidden_A_last_f32"]) <= F32_BAR
    assert error(cache.k[:, 0], golden["k_A_f32"]) <= F32_BAR
    assert error(cache.v[:, 0], golden["v_A_f32"]) <= F32_BAR


@pytest.mark.parametrize("tokens", [96, pytest.param(256, marks=pytest.mark.exhaustive)])
def test_small_loss_of_each_token(small, tokens):
    golden = goldens("syn-small")
    losses = nll(golden["loss_ids"][None, : tokens + 1], *small)[0]
    assert error(losses, golden["loss_nll_f64"][:tokens]) <= F64_BAR


def test_small_in_float32(small):
    golden, params, config = goldens("syn-small"), cast(small[0], np.float32), small[1]
    for path in (forward, last_tokens_cached):
        logits = path(golden["prompt_A"][None], params, config)[0]
        assert logits.dtype == np.float32
        assert error(logits[-1], golden["logits_A_last_f64"]) <= F32_BAR


@pytest.mark.parametrize("cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("steps", [3, pytest.param(64, marks=pytest.mark.exhaustive)])
def test_small_greedy_tokens(small, steps, cache):
    golden, (params, config) = goldens("syn-small"), small
    prompt = golden["greedy_A_prompt"][None]
    ids = generate(prompt, params, config, steps, cache)
    logits = forward(ids[:, :-1], params, config)[0, -steps:]
    assert_greedy(golden, "greedy_A", ids[0], logits, golden["cols"])
