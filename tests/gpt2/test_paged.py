"""The paged cache in torch: it does what the NumPy one does, page by page, and refuses before it changes."""

from functools import partial

import numpy as np
import pytest
import torch

from kvproof.bench.judge.contract.adapters import SMALL, TorchGPT2
from kvproof.bench.judge.contract.cache import CHECKS, check_cache
from kvproof.bench.judge.contract.report import HELD
from kvproof.gpt2 import generate
from kvproof.gpt2.cache import CacheMismatch
from kvproof.gpt2.paged import PagedCache
from kvproof.reference.cache import PagedCache as NumpyPagedCache
from kvproof.reference.config import ContextFull

from .._gpt2_models import random_prompts, torch_model
from .._refused import refused

MAKE = partial(PagedCache, SMALL, dtype=torch.float64)


def rows(rng, batch, tokens):
    """New K and V of every layer, (L, 2, B, H, tokens, D)."""
    return rng.normal(size=(SMALL.n_layer, 2, batch, SMALL.n_head, tokens, SMALL.head_dim))


def append(cache, new):
    """The rows of `new` (L, 2, B, H, M, D) as the model writes them: by a decode step if M is 1, else by a prefill."""
    M = new.shape[4]
    if M == 1:
        slots = cache.claim()
        for layer, (k, v) in enumerate(torch.from_numpy(new[..., 0, :])):
            cache.write(layer, slots, k, v)
        return
    start = cache.check_room(M)
    for layer, (k, v) in enumerate(torch.from_numpy(new)):
        cache.write_span(layer, start, k, v)
    cache.set_lengths([start + M] * cache.batch)


def numpy_append(cache, new):
    cache.advance(new.shape[4])
    for layer, (k, v) in enumerate(new):
        cache.append(layer, k, v)


def refusal(append, cache, new):
    """The words of ContextFull, or None if there was room."""
    try:
        append(cache, new)
    except ContextFull as full:
        return str(full)


def assert_same(cache, oracle):
    assert cache.host_lengths == oracle.lengths.tolist()
    np.testing.assert_array_equal(cache.lengths, oracle.lengths)
    np.testing.assert_array_equal(cache.block_table, oracle.block_table)
    assert cache.free_pages == oracle.free
    n = max(cache.host_lengths)
    for layer in range(SMALL.n_layer):
        k, v = cache.read(layer, n)
        assert k.shape == v.shape == (cache.batch, SMALL.n_head, n, SMALL.head_dim)
        for b, live in enumerate(cache.host_lengths):
            want_k, want_v = oracle.read(layer, b)
            np.testing.assert_array_equal(k[b, :, :live], want_k)
            np.testing.assert_array_equal(v[b, :, :live], want_v)


@pytest.mark.parametrize("page", [1, 3, 16])
def test_any_history_leaves_the_pages_table_and_refusals_of_the_numpy_cache(page):
    seen = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        pages = 2 * -(-24 // page)  # for three sequences of 24: it runs dry
        cache = MAKE(3, 24, page=page, pages=pages, seed=seed)
        oracle = NumpyPagedCache(SMALL, 3, 24, page=page, pages=pages, seed=seed)
        for _ in range(40):
            equal = len(set(cache.host_lengths)) == 1
            doing = rng.choice(["step", "prefill", "free", "reset"], p=[0.7, 0.18, 0.1, 0.02])
            if doing == "free":
                b = int(rng.integers(3))
                cache.free(b)
                oracle.row(b).reset()
            elif doing == "reset":
                cache.reset()
                oracle.reset()
            elif doing == "step" or equal:
                new = rows(rng, 3, 1 if doing == "step" else int(rng.integers(2, 9)))
                full = refusal(append, cache, new)
                assert full == refusal(numpy_append, oracle, new)
                doing = (doing, equal, full and full.split(":")[0].split()[-1])
            seen.add(doing)
            assert_same(cache, oracle)
    assert {("step", True, None), ("step", False, None), ("prefill", True, None), "free"} <= seen
    assert any(event[2] == "pages" for event in seen if isinstance(event, tuple))


def test_prompts_of_different_lengths_give_back_the_pages_they_did_not_fill():
    cache, new = MAKE(3, 20, page=4), rows(np.random.default_rng(0), 3, 9)
    start = cache.check_room(9)
    for layer, (k, v) in enumerate(torch.from_numpy(new)):
        cache.write_span(layer, start, k, v)
    assert [len(table) for table in cache.host_table] == [3, 3, 3]
    kept = [table[:need] for table, need in zip(cache.host_table, (1, 2, 3), strict=True)]
    cache.set_lengths([1, 8, 9])
    assert cache.host_table == kept
    assert (cache.block_table >= 0).sum(1).tolist() == [1, 2, 3]
    for layer in range(SMALL.n_layer):
        k, v = cache.read(layer, 9)
        for b, n in enumerate((1, 8, 9)):
            np.testing.assert_array_equal(k[b, :, :n], new[layer, 0, b, :, :n])
            np.testing.assert_array_equal(v[b, :, :n], new[layer, 1, b, :, :n])


def test_pages_are_given_once_each_in_an_order_that_the_seed_shuffles():
    orders = []
    for seed in (0, 1):
        cache = MAKE(3, 32, page=4, seed=seed)
        cache.set_lengths([32, 32, 32])
        given = cache.block_table.flatten().tolist()
        assert sorted(given) == list(range(24))
        assert given != sorted(given)
        assert cache.free_pages == []
        orders.append(given)
    assert orders[0] != orders[1]


def snapshot(cache):
    return [*cache.host_lengths, *cache.lengths.tolist(), *cache.host_table, *cache.block_table.tolist(),
            list(cache.free_pages), *(a.tolist() for a in (*cache.k, *cache.v))]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda cache: cache.claim(), "1 new tokens after 4 do not fit the 1 free pages: none fits"),
        (lambda cache: cache.check_room(6), "6 new tokens after 4 do not fit the 1 free pages: none fits"),
        (lambda cache: cache.check_room(17), "17 new tokens after 4 do not fit the cache's 20 slots: 16 fit"),
        (lambda cache: cache.set_lengths([9, 9]), "5 new tokens after 4 do not fit the 1 free pages"),
        (lambda cache: cache.write_span(0, 4, *torch.zeros(2, 2, 2, 1, 16)), "do not fit the 1 free pages"),
    ],
    ids=["claim", "check_room by pages", "check_room by slots", "set_lengths", "write_span"],
)
def test_a_pool_that_runs_dry_is_refused_before_anything_changes(call, words):
    cache = MAKE(2, 20, page=4, pages=3)
    for a in (*cache.k, *cache.v):
        a.zero_()
    append(cache, rows(np.random.default_rng(0), 2, 4))
    before = snapshot(cache)
    refused(ContextFull, words, call, cache)
    assert snapshot(cache) == before
    cache.free(1)
    cache.set_lengths([9, 0])  # what was refused to two is there for one


def test_the_table_stays_in_its_place_as_it_grows():
    """A captured CUDA graph reads it where it was."""
    cache = MAKE(2, 20, page=4)
    place, table = cache.block_table.data_ptr(), cache.block_table
    cache.set_lengths([20, 7])
    assert cache.block_table is table
    assert table.data_ptr() == place
    assert table.dtype == torch.int32


def test_sizes_that_hold_nothing_and_calls_that_do_not_fit_are_refused_in_words():
    for wrong in ({"page": 0}, {"pages": 0}, {"batch": 0}, {"capacity": 0}):
        refused(ValueError, "holds nothing; all must be 1 or more", MAKE, **({"batch": 2, "capacity": 8} | wrong))
    refused(ContextFull, "n_ctx 64", MAKE, 2, 65)
    cache = MAKE(2, 20)
    fits = partial(cache.check_fits, device=torch.device("cpu"))
    fits(SMALL, 2, torch.float64)
    refused(CacheMismatch, "3 sequences came for a cache of 2", fits, SMALL, 3, torch.float64)
    refused(CacheMismatch, r"the cache is torch.float64 on cpu, the model torch.float32", fits, SMALL, 2, torch.float32)
    refused(ValueError, r"takes 2 of them, each 0\.\.20", cache.set_lengths, [21, 0])
    cache.set_lengths([3, 4])
    refused(CacheMismatch, r"this cache has \[3, 4\]", cache.check_room, 1)


class PagedGPT2(TorchGPT2):
    """Our torch model with pages."""

    def prefill_ragged(self, prompts):
        if self.cache is None:
            self.cache = self.model.new_cache(len(prompts), self.capacity, page=5)
        return super().prefill_ragged(prompts)

    def buffers(self):
        """One K and one V per layer; live (P, 1, page, 1)."""
        if self.cache is None:
            return []
        cache = self.cache
        live = torch.zeros(len(cache.k[0]), 1, cache.page, 1, dtype=torch.bool)
        for table, n in zip(cache.block_table, cache.host_lengths, strict=True):
            slot = torch.arange(n)
            live[table[slot // cache.page], 0, slot % cache.page] = True
        return [(array, live) for array in (*cache.k, *cache.v)]

    def reorder_rows(self, order):
        cache = self.cache
        cache.host_table = [cache.host_table[b] for b in order]
        cache.block_table.copy_(cache.block_table[self.tensor(order)])
        cache.set_lengths([cache.host_lengths[b] for b in order])

    def permute_pages(self, rng):
        cache = self.cache
        new = rng.permutation(len(cache.k[0])).tolist()  # page p goes to new[p]
        for array in (*cache.k, *cache.v):
            array[new] = array.clone()
        cache.free_pages = [new[p] for p in cache.free_pages]
        cache.host_table = [[new[p] for p in table] for table in cache.host_table]
        for row, table in zip(cache.block_table, cache.host_table, strict=True):
            row[: len(table)] = torch.tensor(table)


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_the_paged_cache_keeps_every_promise(impl):
    model = torch_model(SMALL, 0, "float64", impl)
    report = check_cache(lambda: PagedGPT2(model))
    assert report.green, str(report)
    assert set(report.named(HELD)) == set(CHECKS)


@pytest.mark.parametrize(("impl", "tokens"), [("eager", 12), ("sdpa", 12), ("triton", 3)])
def test_generation_by_pages_is_generation_by_slots(impl, tokens):
    model = torch_model(SMALL, 0, "float64", impl)
    prompts = random_prompts(SMALL.n_vocab, (1, 7, 15))
    cache = model.new_cache(3, 28, page=4)
    assert isinstance(cache, PagedCache)
    static, paged = (generate(model, prompts, max_new_tokens=tokens, temperature=0, cache=c) for c in (None, cache))
    assert [done.ids for done in paged] == [done.ids for done in static]
    assert all(len(done.ids) == tokens for done in paged)
    assert cache.host_lengths == [n + tokens - 1 for n in (1, 7, 15)]


def test_the_kernel_reads_and_writes_pages_where_they_lie(monkeypatch):
    model = torch_model(SMALL, 0, "float64", "triton")
    cache = model.new_cache(2, 12, page=4)
    logits = model.prefill(random_prompts(SMALL.n_vocab, (8, 3)), cache)
    plain = model.with_impl("sdpa").new_cache(2, 12, page=4)
    model.with_impl("sdpa").prefill(random_prompts(SMALL.n_vocab, (8, 3)), plain)
    monkeypatch.setattr(PagedCache, "write", None)
    monkeypatch.setattr(PagedCache, "read", None)
    got = model.decode(logits.argmax(-1), cache)
    monkeypatch.undo()
    want = model.with_impl("sdpa").decode(logits.argmax(-1), plain)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * max(1, want.abs().max().item()))
    for layer in range(SMALL.n_layer):
        for a, z in zip(cache.read(layer, 9), plain.read(layer, 9), strict=True):
            for b, n in enumerate(cache.host_lengths):
                torch.testing.assert_close(a[b, :, :n], z[b, :, :n], rtol=0, atol=1e-11)
