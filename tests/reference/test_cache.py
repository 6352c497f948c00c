"""The three caches: they hold what was written, agree with each other, and refuse before they change."""

import math
from functools import partial

import numpy as np
import pytest

from kvproof.reference import forward, generate
from kvproof.reference.cache import ContiguousCache, Int8Cache, PagedCache, quantise
from kvproof.reference.config import ContextFull
from kvproof.reference.judge.faults import cached_logits
from kvproof.reference.model import attention

from .._reference_models import F64_BAR, error, goldens, synthetic
from .._refused import refused

KINDS = {"contiguous": ContiguousCache, "paged": partial(PagedCache, page=3), "int8": Int8Cache}
every_cache = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
ARRAYS = ("k", "v", "k_scale", "v_scale", "block_table", "lengths")


def snapshot(cache):
    return {name: getattr(cache, name).copy() for name in ARRAYS if hasattr(cache, name)}


def assert_unchanged(cache, before):
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(cache, name), array, err_msg=name)


def filled(make, lengths, capacity=20, dtype=np.float64):
    """A cache of syn-hd32's shape, filled row by row with random numbers, and per layer and row the numbers."""
    config = synthetic("syn-hd32")[1]
    cache, rng = make(config, len(lengths), capacity, dtype), np.random.default_rng(0)
    written = {}
    for b, n in enumerate(lengths):
        row = cache.row(b)
        for part in (n // 2, n - n // 2):  # two appends, so that the second does not start at slot 0
            row.advance(part)
            for layer in range(config.n_layer):
                k, v = rng.normal(size=(2, 1, config.n_head, part, config.head_dim)).astype(dtype)
                row.append(layer, k, v)
                written.setdefault((layer, b), []).append(np.stack([k[0], v[0]]))
    return cache, {key: np.concatenate(parts, axis=2) for key, parts in written.items()}  # (2, H, n, D)


@pytest.mark.parametrize("make", [KINDS["contiguous"], KINDS["paged"]], ids=["contiguous", "paged"])
def test_what_was_appended_is_read_back_bit_for_bit(make):
    lengths = [1, 2, 3, 7, 20]
    cache, written = filled(make, lengths)
    np.testing.assert_array_equal(cache.lengths, lengths)
    for (layer, b), want in written.items():
        np.testing.assert_array_equal(np.stack(cache.read(layer, b)), want)


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
def test_int8_moves_no_number_by_more_than_half_a_step(dtype):
    cache, written = filled(Int8Cache, [1, 9, 20], dtype=dtype)
    for (layer, b), want in written.items():
        got = np.stack(cache.read(layer, b))
        assert got.dtype == dtype
        step = np.abs(want).max(-1, keepdims=True) / 127
        # The scale is float32, hence off by 2^-24 of itself, 127 times over at the largest number.
        assert (np.abs(got - want) <= step * (0.5 + 128 * 2.0**-24)).all()
        assert np.abs(got - want).max() > 0.4 * step.min()  # it is 8 bits that were stored


def test_int8_keeps_zeros_and_extremes():
    x = np.array([[0.0, 0.0, 0.0], [-2.0, 2.0, 1e-9], [1e30, -1e30, 3e28]])
    q, scale = quantise(x)
    np.testing.assert_array_equal(q, [[0, 0, 0], [-127, 127, 0], [127, -127, 4]])
    assert scale.dtype == np.float32
    assert scale[0] == 0


def test_attention_over_int8_stays_within_the_derived_bound():
    """|s_t - ŝ_t| <= e = max_t ‖q‖₁·k_scale_t/2/√D, so a weight changes by a factor within exp(±2e), and
    |o - ô| <= v_scale/2 + (exp(2e) - 1)·max|v|.
    """
    rng = np.random.default_rng(0)
    for T in (1, 5, 20):
        cache, written = filled(Int8Cache, [T])
        k, v = written[0, 0]
        q = rng.normal(size=(3, 1, 32))
        half_k, half_v = cache.k_scale[0, 0, :, :T].max(-1) / 2, cache.v_scale[0, 0, :, :T].max(-1) / 2  # (H,)
        e = np.abs(q).sum((1, 2)) * half_k / math.sqrt(32)
        bound = half_v + np.expm1(2 * e) * np.abs(v).max((1, 2))
        moved = np.abs(attention(q, *cache.read(0, 0)) - attention(q, k, v)).max((1, 2))
        assert (moved > 0).all()
        assert (moved <= bound).all()
        assert (bound < 0.2 * np.abs(v).max((1, 2))).all()  # a bound that says something; measured 0.07 to 0.195


@every_cache
def test_prompt_chunks_and_single_tokens_give_the_same_logits(make):
    """For int8 this holds only because the newest row is attended as it was stored."""
    params, config = synthetic("syn-hd32")
    ids = goldens("syn-hd32")["prompt_B"][None, :24]
    whole = forward(ids, params, config, make(config, 1, 24))
    cache, chunks = make(config, 1, 24), []
    for a, b in ((0, 7), (7, 8), (8, 9), (9, 16), (16, 24)):
        chunks.append(forward(ids[:, a:b], params, config, cache))
    assert error(np.concatenate(chunks, axis=1), whole) <= F64_BAR
    assert error(cached_logits(ids, params, config, make(config, 1, 24)), whole) <= F64_BAR


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("page", [1, 3, 16, 64])
def test_paged_and_contiguous_agree_to_the_last_bit(page, dtype):
    params, config = synthetic("syn-hd32", dtype)
    ids = goldens("syn-hd32")["prompt_B"][:96].reshape(2, 48)
    contiguous = cached_logits(ids, params, config, ContiguousCache(config, 2, 48, dtype))
    for seed in (0, 1):
        cache = PagedCache(config, 2, 48, dtype, page=page, seed=seed)
        np.testing.assert_array_equal(cached_logits(ids, params, config, cache), contiguous)


def test_int8_is_near_and_not_equal():
    params, config = synthetic("syn-hd32")
    ids = goldens("syn-hd32")["prompt_B"][None, :48]
    moved = error(cached_logits(ids, params, config, Int8Cache(config, 1, 48)), forward(ids, params, config))
    assert 1e-3 < moved < 3e-2  # measured 1.1e-2; the smallest planted cache fault moves ten times that


@every_cache
def test_ragged_prompts_filled_row_by_row_decode_together(make):
    params, config = synthetic("syn-hd32")
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, config.n_vocab, (1, n)) for n in (1, 9, 2, 16)]
    steps = rng.integers(0, config.n_vocab, (4, 5))
    cache = make(config, 4, 24)
    for b, prompt in enumerate(prompts):
        forward(prompt, params, config, cache.row(b))
    together = np.concatenate([forward(steps[:, i : i + 1], params, config, cache) for i in range(5)], axis=1)
    np.testing.assert_array_equal(cache.lengths, [6, 14, 7, 21])
    for b, prompt in enumerate(prompts):
        alone = make(config, 1, 24)
        ids = np.concatenate([prompt, steps[b : b + 1]], axis=1)
        assert error(together[b], forward(ids, params, config, alone)[0, -5:]) <= 1e-12


@every_cache
def test_dead_slots_are_nan_and_no_logit_is(make):
    params, config = synthetic("syn-hd32")
    cache = make(config, 2, 20)
    assert np.isfinite(forward([[1, 2, 3], [4, 5, 6]], params, config, cache)).all()
    cache.lengths += 1  # a length that counts one slot too many
    if isinstance(cache, PagedCache):
        cache.block_table[:, 1] = cache.free[:2]
    k, v = cache.read(0, 1)
    assert np.isnan(k[:, -1]).all()
    assert np.isnan(v[:, -1]).all()
    assert np.isfinite(k[:, :-1]).all()


@every_cache
def test_reset_then_rerun_equals_a_fresh_cache(make):
    params, config = synthetic("syn-hd32")
    first, second = np.random.default_rng(0).integers(0, config.n_vocab, (2, 2, 12))
    cache = make(config, 2, 20)
    cached_logits(first, params, config, cache)
    cache.reset()
    fresh = cached_logits(second, params, config, make(config, 2, 20))
    np.testing.assert_array_equal(cached_logits(second, params, config, cache), fresh)


@every_cache
def test_too_small_a_cache_is_refused_before_it_changes(make):
    params, config = synthetic("syn-hd32")
    cache = make(config, 2, 6)
    forward([[1, 2, 3], [4, 5, 6]], params, config, cache)
    forward([[7]], params, config, cache.row(1))
    before = snapshot(cache)
    with pytest.raises(ContextFull, match="3 new tokens after 4 do not fit the cache's 6 slots: 2 fit"):
        forward([[1, 2, 3], [4, 5, 6]], params, config, cache)
    refused(ContextFull, "the cache's 6 slots", generate, [[1], [2]], params, config, 3, cache)
    assert_unchanged(cache, before)


def test_a_page_pool_that_runs_dry_is_refused_before_it_changes():
    params, config = synthetic("syn-hd32")
    cache = PagedCache(config, 2, 20, page=4, pages=3)
    forward([[1, 2, 3, 4], [5, 6, 7, 8]], params, config, cache)
    before = snapshot(cache)
    refused(ContextFull, "the 1 free pages", forward, [[9], [9]], params, config, cache)
    assert_unchanged(cache, before)
    assert len(cache.free) == 1
    forward([[9]], params, config, cache.row(0))  # one sequence may still have it
    cache.row(0).reset()
    assert len(cache.free) == 2
    np.testing.assert_array_equal(cache.lengths, [0, 4])


def test_pages_are_handed_out_on_demand_once_each_and_not_in_order():
    config = synthetic("syn-hd32")[1]
    cache = PagedCache(config, 3, 32, page=4)
    cache.advance(1)
    assert (cache.block_table >= 0).sum() == 3
    cache.advance(31)
    given = cache.block_table.ravel()
    np.testing.assert_array_equal(np.sort(given), np.arange(24))
    assert (np.diff(given) != 1).any()


@pytest.mark.parametrize("name", ["syn-tiny", "syn-hd32"])
def test_a_cache_made_for_something_else_is_refused(name):
    params, config = synthetic(name)
    other = synthetic("syn-hd32" if name == "syn-tiny" else "syn-tiny")[1]
    for cache in (ContiguousCache(other, 1, 8), ContiguousCache(config, 2, 8)):
        refused(ValueError, "this call needs", forward, [[1]], params, config, cache)
    with pytest.raises(ValueError, match="float32 and the weights are float64"):
        forward([[1]], params, config, ContiguousCache(config, 1, 8, np.float32))
