"""The int8 cache in torch: it holds and reads what the reference's does, static and in pages, in every impl."""

from functools import partial

import numpy as np
import pytest
import torch

from kvproof import reference
from kvproof.bench.judge.contract.adapters import SMALL, TorchGPT2
from kvproof.bench.judge.contract.cache import CHECKS, check_cache
from kvproof.bench.judge.contract.report import HELD
from kvproof.gpt2 import CacheMismatch, StaticCache, generate, int8_cache, load
from kvproof.gpt2.generate import Cached, forced_logits
from kvproof.gpt2.int8_cache import Int8PagedCache, Int8Rows, Int8StaticCache
from kvproof.gpt2.int8_weights import dequantised, quantise
from kvproof.gpt2.weights import as_dtype, build
from kvproof.reference.cache import Int8Cache
from kvproof.reference.synthetic import random_tensors

from .._gpt2_models import random_prompts, torch_model
from .._refused import refused

KINDS = {"static": None, "pages of 4": 4, "pages of 16": 16}
LENGTHS = (11, 1, 6)
NEW = 6


@pytest.fixture(scope="module")
def models():
    return {dtype: torch_model(SMALL, 0, dtype) for dtype in ("float64", "float32", "bfloat16")}


def tokens():
    return np.random.default_rng(1).integers(SMALL.n_vocab, size=(len(LENGTHS), NEW))


def oracle(model, prompts, new) -> np.ndarray:
    """Logits (B, 1 + NEW, V) by the reference with its Int8Cache, in float64, sequence by sequence."""
    params, found = dequantised(model), []
    for prompt, row in zip(prompts, new, strict=True):
        cache = Int8Cache(model.config, 1, len(prompt) + len(row))
        steps = [reference.forward([prompt], params, model.config, cache)[0, -1]]
        steps += [reference.forward([[i]], params, model.config, cache)[0, 0] for i in row]
        found.append(np.stack(steps))
    return np.stack(found)


def ours(model, prompts, new, page=None, chunk=None, kv_dtype: str | None = "int8") -> np.ndarray:
    cache = model.new_cache(len(prompts), max(map(len, prompts)) + NEW, page, kv_dtype)
    source = Cached(model, cache, chunk, partial(model.decode, cache=cache))
    return forced_logits(source, prompts, torch.nn.functional.pad(torch.as_tensor(new), (0, 1))).double().numpy()


def error(got, want) -> float:
    return float(np.abs(got - want).max() / max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("page", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_prefill_and_steps_are_the_reference_s_in_float64(models, impl, page):
    prompts, model = random_prompts(SMALL.n_vocab, LENGTHS), models["float64"].with_impl(impl)
    want = oracle(model, prompts, tokens())
    assert error(ours(model, prompts, tokens(), page), want) <= 1e-11
    floats = ours(model, prompts, tokens(), page, kv_dtype=None)
    assert error(floats, want) > 1e-4, "8 bits make a difference"


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("page", KINDS.values(), ids=KINDS)
def test_a_prompt_in_chunks_reads_its_own_rows_back_in_8_bits(models, page, chunk):
    prompts = random_prompts(SMALL.n_vocab, LENGTHS)
    want = oracle(models["float64"], prompts, tokens())
    assert error(ours(models["float64"], prompts, tokens(), page, chunk), want) <= 1e-11


@pytest.mark.parametrize("page", KINDS.values(), ids=KINDS)
def test_the_triton_impl_attends_to_the_whole_numbers_where_they_lie(models, page):
    """Its kernel quantises in float32, whatever the model's dtype: a scale may differ in its last bit."""
    prompts = random_prompts(SMALL.n_vocab, (5, 1, 3))
    want = oracle(models["float64"], prompts, tokens()[:, :3])
    for dtype, bar in {"float32": 5e-5, **({"float64": 1e-6} if page == 4 else {})}.items():
        got = ours(models[dtype].with_impl("triton"), prompts, tokens()[:, :3], page)
        assert error(got, want) <= bar


def test_the_invariant_model_prefills_it_by_its_kernel(models):
    drawn = ((name, torch.from_numpy(array)) for name, array in random_tensors(SMALL, 0))
    model = build(SMALL, drawn, None, torch.float32, torch.device("cpu"), "triton", True)
    prompts = random_prompts(SMALL.n_vocab, (5, 2))
    new = tokens()[:2, :1]
    both = ours(model, prompts, new)
    assert error(both, oracle(models["float64"], prompts, new)) <= 5e-5
    assert np.array_equal(ours(model, prompts[1:], new[1:], 4)[0], both[1])


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("page", KINDS.values(), ids=KINDS)
def test_it_holds_the_reference_s_numbers_and_scales(dtype, page):
    """Ragged rows of any size, written by a prefill and by steps; read widened to the dtype."""
    rng, dtype = np.random.default_rng(0), as_dtype(dtype)
    kind = Int8StaticCache if page is None else partial(Int8PagedCache, page=page)
    cache, want = kind(SMALL, 2, 20, dtype=dtype), Int8Cache(SMALL, 2, 20, np.float32)
    if dtype == torch.float64:
        want = Int8Cache(SMALL, 2, 20)
    rows = torch.from_numpy(
        rng.normal(size=(2, 2, SMALL.n_head, 9, SMALL.head_dim)) * 10.0 ** rng.integers(-3, 3, (2, 2, 1, 9, 1))
    )
    rows = rows.to(dtype)
    rows[0, 0, 0, 3] = 0  # a row without a scale
    wide = rows.to(torch.promote_types(dtype, torch.float32)).numpy()
    cache.write_span(0, 0, *rows[..., :7, :])
    cache.set_lengths([7, 7])
    want.advance(7)
    want.append(0, *wide[..., :7, :])
    for m in (7, 8):
        slots = cache.claim()
        cache.write(0, slots, *rows[..., m, :])
        want.advance(1)
        want.append(0, *wide[..., m : m + 1, :])
    for held, numbers in ((cache.k, want.k), (cache.v, want.v)):
        np.testing.assert_array_equal(cache.get(held[0], 9), numbers[0, :, :, :9])
    for held, scales in ((cache.k_scale, want.k_scale), (cache.v_scale, want.v_scale)):
        np.testing.assert_array_equal(cache.get(held[0], 9), scales[0, :, :, :9])
    for b in range(2):
        for got, read in zip(cache.read(0, 9), want.read(0, b), strict=True):
            assert got.dtype == dtype
            np.testing.assert_array_equal(got[b].double(), torch.from_numpy(read).to(dtype).double())


def test_its_shapes_and_dtypes_are_the_kernel_s(models):
    model = models["float32"]
    shapes = {None: (3, SMALL.n_head, 20), 4: (15, SMALL.n_head, 4)}
    for page, shape in shapes.items():
        cache = model.new_cache(3, 20, page, "int8")
        assert isinstance(cache, Int8StaticCache if page is None else Int8PagedCache)
        for a in (*cache.k, *cache.v):
            assert (a.shape, a.dtype) == ((*shape, SMALL.head_dim), torch.int8)
        for a in (*cache.k_scale, *cache.v_scale):
            assert (a.shape, a.dtype) == (shape, torch.float32)
        assert cache.dtype == torch.float32


def test_generate_takes_one_and_comes_near_the_floats():
    model = load("tiny")
    texts = {}
    for page in (None, 8):
        cache = model.new_cache(2, 40, page, "int8")
        texts[page] = [one.text for one in generate(model, ["ROMEO:", "Once"], max_new_tokens=12, cache=cache)]
        again = generate(model, ["ROMEO:", "Once"], max_new_tokens=12, cache=cache)
        assert [one.text for one in again] == texts[page]
    assert texts[None] == texts[8]


@pytest.mark.parametrize("page", [None, 16])
def test_dead_slots_are_never_read(models, page):
    prompts, model = random_prompts(SMALL.n_vocab, LENGTHS), models["float64"]
    want = ours(model, prompts, tokens(), page)
    cache = model.new_cache(len(prompts), max(LENGTHS) + NEW, page, "int8")
    for a in (*cache.k_scale, *cache.v_scale):
        a.fill_(torch.nan)
    for a in (*cache.k, *cache.v):
        a.fill_(77)
    source = Cached(model, cache, None, partial(model.decode, cache=cache))
    got = forced_logits(source, prompts, torch.nn.functional.pad(torch.as_tensor(tokens()), (0, 1)))
    assert np.array_equal(got.double().numpy(), want)


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_the_contract_holds(models, impl):
    report = check_cache(lambda: TorchGPT2(models["float32"].with_impl(impl), kv_dtype="int8"))
    assert report.green, str(report)
    assert set(CHECKS) - set(report.named(HELD)) == {"pages permuted"}


def test_a_cache_of_another_dtype_is_refused_by_what_it_computes_in(models):
    cache = models["float64"].new_cache(1, 4, kv_dtype="int8")
    words = r"the cache is torch\.float64 on cpu, the model torch\.float32"
    refused(CacheMismatch, words, models["float32"].prefill, [[1]], cache)
    models["float64"].prefill([[1]], cache)


@pytest.mark.parametrize("wrong", ["int4", "float32", True, torch.int8, 8], ids=repr)
def test_other_rows_are_refused(models, wrong):
    refused(
        ValueError, "^kv_dtype is .*; it must be one of int8, or None", models["float32"].new_cache, 1, 4, None, wrong
    )


class NewestUnrounded:
    """The prefill attends to its own rows as they were before they were rounded."""

    @staticmethod
    def plant(patch):
        patch.setattr(Int8Rows, "rounds", False)


class Truncated:
    @staticmethod
    def plant(patch):
        def wrong(x):
            scale = (x.abs().amax(-1) / 127).to(torch.float32)
            return (x / scale.to(x.dtype)[..., None]).trunc().to(torch.int8), scale

        patch.setattr(int8_cache, "quantise", wrong)


class ScaleOfAllHeads:
    """The scale's axis is wrong: one per token, not per token and head."""

    @staticmethod
    def plant(patch):
        def wrong(x):
            scale = (x.abs().amax((1, -1), keepdim=True) / 127).to(torch.float32).expand(*x.shape[:-1], 1)[..., 0]
            return (x / scale.to(x.dtype)[..., None]).round().to(torch.int8), scale

        patch.setattr(int8_cache, "quantise", wrong)


class ScaleForgotten:
    @staticmethod
    def plant(patch):
        patch.setattr(
            Int8Rows,
            "read",
            lambda self, layer, n: tuple(self.get(a[layer], n).to(self.dtype) for a in (self.k, self.v)),
        )


class ScalesSwapped:
    @staticmethod
    def plant(patch):
        parts = Int8Rows.parts

        def wrong(self, layer):
            (k, k_scale), (v, v_scale) = parts(self, layer)
            return (k, v_scale), (v, k_scale)

        reading = Int8Rows.read

        def read(self, layer, n):
            patch.setattr(Int8Rows, "parts", wrong)
            found = reading(self, layer, n)
            patch.setattr(Int8Rows, "parts", parts)
            return found

        patch.setattr(Int8Rows, "read", read)


class ScaleOfThePreviousSlot:
    """A step's scale goes one slot early, over that of the token before."""

    @staticmethod
    def plant(patch):
        put = StaticCache.put

        def wrong(self, a, slots, x):
            put(self, a, slots - 1 if a.ndim == 3 else slots, x)

        patch.setattr(StaticCache, "put", wrong)


class NarrowScale:
    @staticmethod
    def plant(patch):
        def wrong(x):
            numbers, scale = quantise(x)
            return numbers, scale.bfloat16().float()

        patch.setattr(int8_cache, "quantise", wrong)


FAULTS = (
    NewestUnrounded, Truncated, ScaleOfAllHeads, ScaleForgotten, ScalesSwapped, ScaleOfThePreviousSlot, NarrowScale,
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_planted_faults_are_rejected(models, monkeypatch, fault):
    prompts, model = random_prompts(SMALL.n_vocab, LENGTHS), models["float64"]
    want = oracle(model, prompts, tokens())
    fault.plant(monkeypatch)
    got = ours(model, prompts, tokens())
    assert not error(got, want) <= 1e-6
