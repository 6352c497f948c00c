"""Batch-invariant linear layers: a row's bits are its own, whatever the number, content and order of the others."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kvproof.gpt2 import linear as module
from kvproof.gpt2.linear import ROWS, Conv1D, invariant_gelu, invariant_linear, keeps_bits, linear

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
SIZES = {"tiny": (128, 2049), "gpt2": (768, 50257), "gpt2-xl": (1600, 50257)}  # n_embd, n_vocab
AVX512_MKL = torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
ROW_COUNTS = (*range(1, 9), 15, 16, 17, 33)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def threads():
    """torch.set_num_threads, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def random(*shape, dtype, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def weights(n_in, n_out, dtype, head=False):
    """weight and bias as the model passes them to `linear`: a Conv1D's, or those of the head over the vocabulary."""
    if head:
        return random(n_out, n_in, dtype=dtype) / n_in**0.5, None
    layer = Conv1D(n_in, n_out).to(dtype)
    layer.weight.copy_(random(n_in, n_out, dtype=dtype) / n_in**0.5)
    layer.bias.copy_(random(n_out, dtype=dtype, seed=1))
    return layer.weight.mT, layer.bias


def in_company(f, x):
    """The number of rows whose bits differ from alone, over batches of ROW_COUNTS rows of x and those in reverse."""
    alone = torch.cat([f(row) for row in x.split(1)])
    forth = sum(int((f(x[:n]) != alone[:n]).any(1).sum()) for n in ROW_COUNTS)
    return forth + sum(int((f(x[:n].flip(0)).flip(0) != alone[:n]).any(1).sum()) for n in ROW_COUNTS)


def check_product(got, x, weight, bias):
    """Hold x weight^T + bias to float64: n_in + 1 numbers are summed, in both, each sum rounded by eps / 2."""
    n_out, n_in = weight.shape
    exact = [a.double() for a in (x, weight.mT, weight.new_zeros(n_out) if bias is None else bias)]
    want = torch.addmm(exact[2], exact[0].reshape(-1, n_in), exact[1])
    bound = torch.addmm(exact[2].abs(), exact[0].reshape(-1, n_in).abs(), exact[1].abs())
    assert got.shape == (*x.shape[:-1], n_out)
    assert ((got - want.view(got.shape)).abs() <= (n_in + 1) * torch.finfo(x.dtype).eps * bound.view(got.shape)).all()


def shapes(E, V):
    return [(E, 3 * E, False), (E, E, False), (E, 4 * E, False), (4 * E, E, False), (E, V, True)]


PRODUCTS = [
    pytest.param(shapes(*SIZES["tiny"]), (1,), id="tiny"),
    pytest.param([(768, 2304, False), (3072, 768, False)], (1,), id="two of gpt2"),
    *(pytest.param(shapes(*SIZES[s]), (1, 2), id=f"{s}, 2 threads", marks=pytest.mark.exhaustive) for s in SIZES),
]


@BOTH
@pytest.mark.parametrize(("products", "counts"), PRODUCTS)
def test_a_row_has_the_same_bits_at_every_place_of_a_product(products, counts, dtype, threads):
    for n_in, n_out, head in products:
        weight, bias = weights(n_in, n_out, dtype, head)
        for count in counts:
            threads(count)
            assert keeps_bits(weight, bias), f"{n_in} -> {n_out}, {count} threads"


@BOTH
@pytest.mark.parametrize(("n_in", "n_out", "head"), [(128, 384, False), (512, 128, False), (96, 61, True)])
def test_a_row_has_the_same_bits_alone_and_in_any_company(n_in, n_out, head, dtype):
    weight, bias = weights(n_in, n_out, dtype, head)
    x = random(max(ROW_COUNTS), n_in, dtype=dtype, seed=2)
    assert in_company(partial(invariant_linear, weight=weight, bias=bias), x) == 0


@BOTH
def test_a_row_keeps_its_bits_with_any_number_of_threads_and_in_float32_from_one_to_two(dtype, threads):
    """MKL's float64 products have other bits with two threads than with one on CPUs with AVX-512."""
    weight, bias = weights(512, 128, dtype)
    x, seen = random(33, 512, dtype=dtype, seed=2), []
    for count in (1, 2):
        threads(count)
        assert in_company(partial(invariant_linear, weight=weight, bias=bias), x) == 0, f"{count} threads"
        seen.append(invariant_linear(x, weight, bias))
        check_product(seen[-1], x, weight, bias)
    if dtype == torch.float32 or not AVX512_MKL:
        assert torch.equal(*seen)


@BOTH
@pytest.mark.parametrize("what", ["product", "GELU"])
def test_the_plain_one_gives_other_bits_in_other_company(what, dtype):
    """Or there would be nothing to cure here."""
    weight, bias = weights(512, 128, dtype)
    x = random(max(ROW_COUNTS), 512, dtype=dtype, seed=2)
    if not (gelu_in_company(F.gelu, 50, dtype) if what == "GELU" else in_company(lambda x: linear(x, weight, bias), x)):
        pytest.skip(f"this machine's {dtype} {what} does not depend on the number of rows")


@BOTH
def test_memory_that_is_not_aligned_changes_no_bit(dtype):
    weight, bias = weights(512, 128, dtype)
    x = random(ROWS, 512, dtype=dtype, seed=2)
    want = invariant_linear(x, weight, bias)
    for elements in (1, 3, 4):
        elsewhere = torch.empty(x.numel() + 64, dtype=dtype)[elements : elements + x.numel()].view(x.shape).copy_(x)
        assert torch.equal(invariant_linear(elsewhere, weight, bias), want)


@BOTH
@pytest.mark.parametrize("shape", [(1,), (7,), (16,), (3, 17), (2, 2, 5), (0,), ()], ids=str)
def test_it_is_the_product(shape, dtype):
    x = random(*shape, 96, dtype=dtype)
    for head in (False, True):
        weight, bias = weights(96, 61, dtype, head)
        got = invariant_linear(x, weight, bias)
        assert got.dtype == dtype
        check_product(got, x, weight, bias)


@pytest.mark.parametrize("where", ["place", "neighbours"])
def test_the_probe_finds_a_product_whose_rows_do_not_keep_their_bits(where, monkeypatch):
    def leaky(x, weight, bias=None):
        y = F.linear(x, weight, bias)
        if where == "place":
            y[3] *= 1 + 1e-15
        else:
            y += 1e-13 * x.nan_to_num(5).sum()
        return y

    weight, bias = weights(96, 61, torch.float64)
    assert keeps_bits(weight, bias)
    monkeypatch.setattr(module, "linear", leaky)
    assert not keeps_bits(weight, bias)


def gelu_in_company(gelu, width, dtype):
    return in_company(partial(gelu, approximate="tanh"), 2 * random(max(ROW_COUNTS), width, dtype=dtype))


@BOTH
def test_gelu_gives_a_row_the_same_bits_in_any_company_and_with_any_number_of_threads(dtype, threads):
    for width in (50, 512, 3072):
        x, seen = 2 * random(33, width, dtype=dtype), []
        for count in (1, 5):
            threads(count)
            assert gelu_in_company(invariant_gelu, width, dtype) == 0, f"{width} wide, {count} threads"
            seen.append(invariant_gelu(x))
        assert all(torch.equal(y, seen[0]) for y in seen)
        assert (seen[0] - F.gelu(x, approximate="tanh")).abs().max() <= 8 * torch.finfo(dtype).eps * x.abs().max()


def test_gelu_keeps_the_shape_and_the_kind():
    x = random(2, 3, 10, dtype=torch.float64)
    assert invariant_gelu(x).shape == x.shape
    assert (invariant_gelu(x, "none") - F.gelu(x)).abs().max() < 1e-15
    assert (invariant_gelu(x, "none") - invariant_gelu(x)).abs().max() > 1e-5
    assert invariant_gelu(x[:0]).shape == (0, 3, 10)


@BOTH
def test_layer_norm_and_sums_need_no_cure(dtype, threads):
    width = 50
    weight, bias = random(2, width, dtype=dtype, seed=1)
    for count in (1, 3):
        threads(count)
        x = random(max(ROW_COUNTS), width, dtype=dtype)
        assert in_company(lambda x: F.layer_norm(x, (width,), weight, bias), x) == 0
        assert in_company(lambda x: x + x.flip(-1), x) == 0


@BOTH
def test_a_block_without_attention_is_the_same_over_batch_order_and_chunks(dtype):
    """LayerNorm, c_fc, GELU, c_proj and the residual, over tokens (B, T) cut in every way that a prefill cuts them."""
    E, (B, T) = 96, (8, 33)
    fc, proj = weights(E, 4 * E, dtype), weights(4 * E, E, dtype)
    head, _ = weights(E, 61, dtype, head=True)

    def block(x):
        h = invariant_gelu(invariant_linear(F.layer_norm(x, (E,)), *fc))
        return invariant_linear(F.layer_norm(x + invariant_linear(h, *proj), (E,)), head)

    x = random(B, T, E, dtype=dtype, seed=3)
    whole = block(x)
    order = np.random.default_rng(0).permutation(B)
    assert torch.equal(block(x[order]), whole[order])
    for batch in range(1, B):
        assert torch.equal(block(x[:batch]), whole[:batch])
    for chunk in (1, 7, 16):
        assert torch.equal(torch.cat([block(part) for part in x.split(chunk, 1)], 1), whole)
    assert torch.equal(torch.stack([block(token) for token in x[0]]), whole[0])
