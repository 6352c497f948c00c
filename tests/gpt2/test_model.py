"""The torch model against the goldens and the oracle: every impl, cached and uncached, alone and in ragged batches."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kvproof.bench.measure.impls import forced_logits, torch_source
from kvproof.gpt2 import CacheMismatch, ContextFull, sampling
from kvproof.gpt2.attention import DECODE_STEP
from kvproof.gpt2.linear import linear
from kvproof.reference import forward

from .._gpt2_models import CACHED, IMPLS, forced, golden_model, random_prompts, small_model, torch_model
from .._reference_models import F32_BAR, F64_BAR, error, goldens
from .._refused import refused

BARS = {"float64": F64_BAR, "float32": F32_BAR}
DTYPES = tuple(BARS)


def oracle_logits(config, params, prompts, tokens):
    """What `forced` must give, by the NumPy oracle in float64 without a cache, each row alone."""
    rows = []
    for prompt, row in zip(prompts, tokens, strict=True):
        ids = np.array([[*prompt, *row]])
        rows.append(forward(ids, params, config)[0, len(prompt) - 1 :])
    return np.stack(rows)


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("shape", [(1, 24), (3, 24), (2, 5, 24)])
def test_a_product_is_the_same_in_either_layout_with_and_without_gradients(shape, layout):
    rng = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=rng) for s in (shape, (40, 24), (40,)))
    if layout == "columns":
        weight = weight.mT.contiguous().mT
    exact = x.double() @ weight.double().mT + bias.double()
    with torch.no_grad():
        assert (linear(x, weight, bias) - exact).abs().max() < 1e-5
        assert (linear(x, weight) - (exact - bias)).abs().max() < 1e-5
    x.requires_grad_()
    y = linear(x, weight, bias)
    assert (y - exact).abs().max() < 1e-5
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient - weight.sum(0)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["syn-tiny", "syn-hd32"])
def test_uncached_logits_are_the_goldens(name, dtype):
    model, golden = golden_model(name, dtype), goldens(name)
    logits = model(torch.as_tensor(golden["prompt_A"])[None])[0]
    assert error(logits.numpy(), golden["logits_A_f64"]) <= BARS[dtype]
    logits = model(torch.as_tensor(golden["prompt_B"])[None])[0].numpy()
    if name == "syn-tiny":
        assert error(logits, golden["logits_B_f64"]) <= BARS[dtype]
    else:
        assert error(logits, golden["logits_B_f32"]) <= F32_BAR
        every = golden["logits_B_f64_every32"]
        matches = [start for start in range(32) if error(logits[start::32], every) <= BARS[dtype]]
        assert len(matches) == 1, "the rows kept are every 32nd, from one start"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("impl", CACHED)
def test_cached_logits_are_the_goldens_from_the_first_token_to_the_full_context(impl, dtype, device):
    model, golden = golden_model("syn-tiny", dtype, device).with_impl(impl), goldens("syn-tiny")
    ids = golden["prompt_B"][None]
    logits = forced(model, ids[:, :1], ids[:, 1:])[0]
    assert error(logits.cpu().numpy(), golden["logits_B_f64"]) <= BARS[dtype]

    model, golden = golden_model("syn-hd32", dtype, device).with_impl(impl), goldens("syn-hd32")
    ids = golden["prompt_B"][None]
    logits = forced(model, ids[:, :1022], ids[:, 1022:])[0, 1:].cpu().numpy()
    assert error(logits, golden["logits_B_f32"][-2:]) <= F32_BAR
    assert error(logits[-1], golden["logits_B_f64_last"]) <= BARS[dtype]


@pytest.mark.parametrize(
    ("n_head", "dtype"), [*((n, "float64") for n in (1, 12, 16, 20, 25)), (12, "float32"), (25, "float32")]
)
def test_any_number_of_heads_agrees_with_the_oracle(n_head, dtype, device):
    check_against_oracle(n_head, 4, dtype, [2, 1], 2, device)


@pytest.mark.parametrize(
    "head_dim", [4, 32, 64, 128, 256, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (16, 80, 96))]
)
def test_any_head_dim_agrees_with_the_oracle(head_dim, device):
    for dtype in DTYPES:
        check_against_oracle(2, head_dim, dtype, [3, 5], 2, device)


@pytest.mark.parametrize("batch", range(1, 9))
def test_ragged_batches_agree_with_the_oracle(batch, device):
    check_against_oracle(2, 16, "float64", [1, 17, 16, 15, 33, 2, 31, 32][:batch], 2, device)


def check_against_oracle(n_head, head_dim, dtype, lengths, steps, device):
    model, params = small_model(n_head, head_dim, dtype, device)
    prompts = random_prompts(61, lengths)
    tokens = np.array(random_prompts(61, [steps] * len(lengths), seed=1))
    want = oracle_logits(model.config, params, prompts, tokens)
    sources = {impl: torch_source(model.with_impl(impl), len(prompts), max(lengths) + steps) for impl in IMPLS}
    for impl, source in sources.items():
        logits = forced_logits(source, prompts, np.pad(tokens, ((0, 0), (0, 1))))  # the last one is not fed
        assert error(logits, want) <= BARS[dtype], impl


@pytest.mark.parametrize("impl", CACHED)
def test_a_row_in_a_batch_equals_the_same_row_alone(impl, device):
    model = small_model(3, 16, "float64", device)[0].with_impl(impl)
    prompts = random_prompts(61, [40, 7, 1, 129])
    tokens = np.array(random_prompts(61, [2] * 4, seed=1))
    together = forced(model, prompts, tokens).cpu().numpy()
    for row, prompt in enumerate(prompts):
        alone = forced(model, [prompt], tokens[row : row + 1]).cpu().numpy()[0]
        assert error(together[row], alone) <= 1e-12


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_prefill_in_chunks_equals_prefill_whole(chunk, device):
    model, _ = small_model(3, 16, "float64", device)
    prompts = random_prompts(61, [40, 7, 1, 32])
    whole, chunked = model.new_cache(4, 40), model.new_cache(4, 40)
    got, want = (model.prefill(prompts, *into).cpu().numpy() for into in ((chunked, chunk), (whole,)))
    assert error(got, want) <= 1e-12
    assert chunked.host_lengths == whole.host_lengths == [40, 7, 1, 32]
    for layer in range(2):
        for b, n in enumerate(whole.host_lengths):
            for a, z in ((chunked.k, whole.k), (chunked.v, whole.v)):
                assert error(a[layer][b, :, :n].cpu().numpy(), z[layer][b, :, :n].cpu().numpy()) <= 1e-12


def test_a_prompt_may_follow_on_what_the_cache_holds():
    model, params = small_model(3, 16)
    ids = np.array(random_prompts(61, [30, 30]))
    cache = model.new_cache(2, 40)
    model.prefill(ids[:, :11], cache)
    logits = model.prefill(ids[:, 11:], cache).numpy()
    assert error(logits, forward(ids, params, model.config)[:, -1]) <= F64_BAR


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e4])
@pytest.mark.parametrize("impl", CACHED)
def test_dead_slots_change_no_bit(impl, poison, device):
    model = small_model(3, 16, "float32", device)[0].with_impl(impl)
    prompts, tokens = random_prompts(61, [5, 1, 20]), np.array(random_prompts(61, [2] * 3, seed=1))
    results = []
    for filling in (0.0, poison):
        cache = model.new_cache(3, 30)
        model.prefill(prompts, cache)
        for layer in (*cache.k, *cache.v):
            for b, n in enumerate(cache.host_lengths):
                layer[b, :, n:] = filling
        results.append([model.decode(torch.as_tensor(t, device=device), cache) for t in tokens.T])
    for clean, poisoned in zip(*results, strict=True):
        assert torch.equal(clean, poisoned)
        assert clean.isfinite().all()


class Watch(TorchDispatchMode):
    """Records every tensor an operator makes anew, and every look the host takes at a tensor's values."""

    LOOKS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")

    def __init__(self, monkeypatch):
        super().__init__()
        self.made, self.looks = [], []
        for name in self.LOOKS:
            monkeypatch.setattr(torch.Tensor, name, self.noting(name, getattr(torch.Tensor, name)))

    def noting(self, name, method):
        def noted(tensor, *args, **kwargs):
            self.looks.append(name)
            return method(tensor, *args, **kwargs)

        return noted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if "_local_scalar_dense" in func.name() or "nonzero" in func.name():
            self.looks.append(func.name())
        before = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in before:
                self.made.append((func.name(), x.untyped_storage().nbytes()))
        return result


@pytest.mark.parametrize("lengths", [[100, 100], [100, 37]], ids=["equal", "ragged"])
@pytest.mark.parametrize("impl", CACHED)
def test_a_decode_step_writes_in_place_copies_no_cache_and_reads_nothing_back(impl, lengths, device, monkeypatch):
    model = small_model(2, 16, "float32", device)[0].with_impl(impl)
    cache = model.new_cache(2, 160)
    storages = [x.data_ptr() for x in (*cache.k, *cache.v)]
    model.prefill(random_prompts(61, lengths), cache)
    ids = torch.tensor([1, 2], device=device)
    watch = Watch(monkeypatch)
    if impl == "triton":
        unwatched(watch, monkeypatch)
    with watch:
        for _ in range(2):
            model.decode(ids, cache)
    made, looks = list(watch.made), list(watch.looks)
    assert [x.data_ptr() for x in (*cache.k, *cache.v)] == storages
    assert made, "the watch saw nothing"
    assert not looks
    if impl != "eager" or lengths[0] == lengths[1]:  # ragged, eager zeroes dead V in a copy
        live = min(lengths) * 2 * 16 * 4  # bytes of K, or of V, of the shorter sequence in one layer
        assert max(size for _, size in made) < live
    assert cache.host_lengths == cache.lengths.tolist() == [n + 2 for n in lengths]


def unwatched(watch, monkeypatch):
    """Leave out what the kernel's launcher does: whatever emulates it looks at CPU tensors, a GPU does not.

    Memory it may take only from the workspace, which the cache made before.
    """
    from kvproof.kernels import attention
    from kvproof.kernels.attention import workspace

    launch = attention.decode_attention

    def quiet(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(workspace, "make_workspace", None)
            made, looks = list(watch.made), list(watch.looks)
            o = launch(*args, **kwargs)
            watch.made, watch.looks = made, looks
            return o

    monkeypatch.setattr(attention, "decode_attention", quiet)


def test_the_watch_sees_copies_and_looks(monkeypatch):
    x = torch.zeros(1000)
    watch = Watch(monkeypatch)
    with watch:
        torch.cat([x, x])
        for look in (x.sum().item, x.tolist, x.cpu, x.numpy, lambda: bool(x.sum()), lambda: int(x.sum())):
            before = len(watch.looks)
            look()
            assert len(watch.looks) > before
    assert ("aten::cat", 8000) in watch.made


def test_the_kernel_refuses_a_cache_without_a_workspace(device):
    model = small_model(2, 16, "float32", device)[0]
    cache = model.new_cache(1, 20)
    model.prefill([[1]], cache)
    with pytest.raises(CacheMismatch, match="has no workspace; make one with"):
        model.with_impl("triton").decode(torch.tensor([1], device=device), cache)


@pytest.mark.parametrize("page", [None, 2])
@pytest.mark.parametrize("work", ["prefill", "decode"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_ends_a_pass_early_leaves_the_cache_as_it_was(error, work, page, monkeypatch):
    model = small_model(2, 16)[0].with_impl("triton")
    cache = model.new_cache(2, 8, page)
    cache.set_lengths([4, 4])

    def end(*args, **kwargs):
        cache.workspace.counters.fill_(1)
        cache.workspace.fault.fill_(1)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(model.blocks[1].mlp, "forward", end)
        patch.setitem(DECODE_STEP, "triton", lambda q, *rest: q)
        with pytest.raises(error):
            model.decode(torch.tensor([1, 2]), cache) if work == "decode" else model.prefill([[1], [2]], cache)
    assert cache.host_lengths == cache.lengths.tolist() == [4, 4]
    assert not any(x.any() for x in (cache.workspace.counters, cache.workspace.fault, cache.workspace.begun))


def test_eager_scales_before_float16_can_overflow():
    model = small_model(2, 64, "float16")[0].with_impl("eager")
    cache = model.new_cache(1, 20)
    cache.set_lengths([12])
    cache.k[0].fill_(36.0)
    cache.v[0].fill_(1.0)
    o = DECODE_STEP["eager"](torch.full((1, 2, 64), 36.0, dtype=torch.float16), cache, 0)
    assert torch.equal(o, torch.ones_like(o))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["syn-tiny", "syn-hd32"])
def test_loss_is_the_goldens(name, dtype):
    golden, model = goldens(name), golden_model(name, dtype)
    ids = torch.as_tensor(golden["loss_ids"])[None]
    assert error(model.loss(ids, "none")[0].numpy(), golden["loss_nll_f64"]) <= BARS[dtype]
    assert model.loss(ids).item() == pytest.approx(golden["loss_nll_f64"].mean(), rel=BARS[dtype])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("impl", CACHED)
def test_half_precision_decodes_in_that_precision(impl, dtype, device):
    model = small_model(3, 16, dtype, device)[0].with_impl(impl)
    prompts, tokens = random_prompts(61, [9, 4]), np.array(random_prompts(61, [2, 2], seed=1))
    logits = forced(model, prompts, tokens)
    assert logits.dtype == model.new_cache(1).k[0].dtype == getattr(torch, dtype)
    # The rounding error is that of the same model recomputing everything in the same dtype, without a cache.
    full = torch.stack(
        [model(torch.tensor([p + list(t)], device=device))[0, -3:] for p, t in zip(prompts, tokens, strict=True)]
    )
    _, params = small_model(3, 16)
    want = oracle_logits(model.config, params, prompts, tokens)
    assert error(logits.double().cpu().numpy(), want) <= 2 * error(full.double().cpu().numpy(), want)


def test_mistakes_are_named_and_leave_the_cache_as_it_was():
    model, _ = small_model(2, 16)
    cache = model.new_cache(2, 8)
    with pytest.raises(ContextFull, match="9 new tokens after 0 do not fit the cache's 8 slots: 8 fit"):
        model.prefill(random_prompts(61, [9, 1]), cache)
    refused(ValueError, r"prompt 1 is empty", model.prefill, [[1], []], cache)
    refused(ValueError, r"prompt 0 holds token id 61; this model's ids are 0\.\.60", model.prefill, [[61], [1]], cache)
    refused(ValueError, r"prompt 1 holds token id -1", model.prefill, [[1], [-1]], cache)
    refused(CacheMismatch, "3 sequences came for a cache of 2", model.prefill, [[1], [1], [1]], cache)
    with pytest.raises(CacheMismatch, match=r"the cache is torch\.float64 on cpu, the model torch\.float32"):
        small_model(2, 16, "float32")[0].prefill([[1], [1]], cache)
    with pytest.raises(CacheMismatch, match="2 layers, 2 heads, head_dim 16; the model has 2, 3, 16"):
        small_model(3, 16)[0].prefill([[1], [1]], cache)
    with pytest.raises(ValueError, match="'naive' keeps no cache"):
        model.with_impl("naive").decode(torch.tensor([1, 1]), cache)
    refused(ValueError, "impl 'fast' is not known; choose one of naive, eager, sdpa, triton", model.with_impl, "fast")
    refused(ValueError, "chunk is 0; it must be 1 or more", model.prefill, [[1], [1]], cache, 0)
    short = dataclasses.replace(model.config, n_ctx=7)
    with pytest.raises(CacheMismatch, match="the cache has 8 slots, the model 7 positions"):
        torch_model(short, 0).prefill([[1], [1]], cache)
    refused(ValueError, r"lengths are \[9, 1\]; this cache takes 2 of them, each 0\.\.8", cache.set_lengths, [9, 1])
    refused(ValueError, r"lengths are \[1\]; this cache takes 2", cache.set_lengths, [1])
    for ids in (torch.tensor([[1], [1]]), torch.tensor([1.0, 1.0]), torch.tensor([1, 1], device="meta")):
        refused(ValueError, r"pass \(B,\) int64 or int32 on cpu", model.decode, ids, cache)
    assert cache.host_lengths == cache.lengths.tolist() == [0, 0]
    model.prefill(random_prompts(61, [8, 3]), cache)
    with pytest.raises(ContextFull, match="1 new tokens after 8 do not fit the cache's 8 slots: none fits"):
        model.decode(torch.tensor([1, 1]), cache)
    with pytest.raises(CacheMismatch, match=r"prefill continues equal lengths; this cache has \[8, 3\]"):
        model.prefill([[1], [1]], cache)
    assert cache.host_lengths == cache.lengths.tolist() == [8, 3]


def test_uncached_mistakes_are_named():
    model, _ = small_model(2, 16)
    with pytest.raises(ContextFull, match="161 new tokens after 0 do not fit n_ctx 160: 160 fit"):
        model(torch.zeros(1, 161, dtype=torch.long))
    refused(ContextFull, "n_ctx 160", model.new_cache, 1, 161)
    refused(ValueError, "a cache for 0 sequences", model.new_cache, 0)
    refused(ValueError, "token id 61 came", model, torch.tensor([[61]]))
    refused(ValueError, r"ids are \(3,\) torch\.int64", model, torch.tensor([1, 2, 3]))
    refused(ValueError, r"torch\.float32", model, torch.zeros(1, 3))
    refused(ValueError, "a loss needs 2 or more", model.loss, torch.tensor([[1]]))
    refused(ValueError, r"ids are \(2,\)", model.loss, torch.tensor([1, 2]))
    refused(ValueError, "token id 99 came", model.loss, torch.tensor([[1, 99]]))
    refused(ValueError, "ids are on meta", model, torch.zeros(1, 3, dtype=torch.long, device="meta"))


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [[10, 10], [10, 3]], ids=["equal", "ragged"])
@pytest.mark.parametrize("impl", CACHED)
def test_decoding_and_sampling_never_wait_for_the_gpu(impl, lengths):
    model = small_model(2, 16, "float32", "cuda")[0].with_impl(impl)
    cache = model.new_cache(2, 160)
    model.prefill(random_prompts(61, lengths), cache)
    keys = sampling.keys(0, 2, 3).cuda()
    # The first step compiles, and may wait for it.
    ids = sampling.next_ids(model.decode(torch.tensor([1, 2], device="cuda"), cache), keys[:, 0], 0.8, 20, 0.9)
    try:
        torch.cuda.set_sync_debug_mode("error")
        ids = sampling.next_ids(model.decode(ids, cache), keys[:, 1], 0.8, 20, 0.9)
        sampling.next_ids(model.decode(ids, cache), keys[:, 2])
    finally:
        torch.cuda.set_sync_debug_mode("default")
