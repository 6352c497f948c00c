"""The op as a decode step calls it, against the plain float64 formula: on the GPU, or where there is none on the PTX
machine. What else it can be asked for is in test_features.py, its bits in test_invariance.py."""

import numpy as np
import pytest
import torch

from kvproof.bench.judge.contract.op import to_numpy, to_torch
from kvproof.kernels.attention import SPLIT_LEN, decode_attention, doublings, make_workspace, max_splits
from kvproof.kernels.attention.launch import tuning
from kvproof.reference.attention.steps import split_start
from kvproof.reference.judge.cases import DTYPES, Case, draw_qkv, poison
from kvproof.reference.judge.rounding import attention_error, roundoff, weights

from ..._attention_battery import check_attention


def numpy_op(device, op=decode_attention):
    """`op` as the battery calls it, on NumPy arrays; outputs and the workspace's sums start as NaN."""

    def call(q, k, v, lengths, scale=None):
        q, k, v, lengths = (to_torch(x).to(device) for x in (q, k, v, lengths))
        partials = make_workspace(*k.shape, q.dtype, q.device)
        for x in (partials.m, partials.l, partials.acc):
            x.fill_(torch.nan)
        out = torch.full(q.shape, torch.nan, dtype=q.dtype, device=q.device)
        result = op(q, k, v, lengths, scale=scale, workspace=partials, out=out)
        assert result is out
        return to_numpy(out)

    return call


def check(case: Case, device):
    q, k, v, lengths = draw_qkv(case)
    o = numpy_op(device)(q, k, v, lengths, case.scale)
    assert attention_error(o, q, k, v, lengths, case.scale) <= 1


def test_the_kernel_passes_the_battery(device):
    check_attention(numpy_op(device))


@pytest.mark.parametrize("D", [1, 96, 256])  # the battery has others, the exhaustive tests all
def test_every_head_dim_agrees_with_the_formula(D, device):
    check(Case(list(DTYPES)[D.bit_length() % 4], (130, 45), 140, D, 1), device)


@pytest.mark.parametrize("H", [25])
def test_every_head_count_agrees_with_the_formula(H, device):
    check(Case("float32", (9, 8), 9, 32, H), device)


@pytest.mark.parametrize("B", [1, 3, 8])
def test_ragged_batches_agree_with_the_formula(B, device):
    check(Case("float32", (70, 1, 33, 0, 64, 7, 65, 31)[:B], 70, 32, 2), device)


def test_every_residue_of_the_block_agrees_with_the_formula(device):
    sizes = tuning(64, 2, "simt", True)
    N = sizes.UNROLL * sizes.BLOCK_N
    check(Case("float16", tuple(range(1, N + 2)), N + 2, 64, 1), device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_full_context_of_gpt2_agrees_with_the_formula(dtype, device):
    check(Case(dtype, (1024,), 1024, 64, 2), device)  # compiled in test_compiled.py too


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [1, 3, 4, 16, 32, 64, 80, 96, 128, 256])
def test_every_length_up_to_three_splits_agrees_with_the_formula(D, dtype, device):
    for first in range(0, 390, 30):
        check(Case(dtype, tuple(range(first, first + 30)), 390, D, 1), device)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("H", [1, 12, 16, 20, 25])
def test_every_head_count_and_dtype_agrees_at_full_context(H, dtype, device):
    check(Case(dtype, (1024, 1, 513, 0, 1023, 129, 128, 700), 1024, 64, H), device)


@pytest.mark.parametrize("split_len", [SPLIT_LEN, 1024])
def test_a_cache_has_as_many_splits_as_its_slots_begin(split_len):
    starts = np.array([split_start(split, split_len) for split in range(400)])  # the twin's, tested beside it
    edges = (split_len * 2**e + d for e in range(5, 12) for d in (-1, 0, 1))
    for T in [*range(0, 20000, 37), *edges, split_len * 4000]:
        splits = np.searchsorted(starts, max(T, 1))
        assert max_splits(T, split_len) == splits, T
        assert split_len << doublings(T, split_len) == np.diff(starts)[:splits].max(), T


@pytest.mark.parametrize("dtype", DTYPES)
def test_lse_is_the_natural_log_of_the_sum_of_exponentials(dtype, device):
    q, k, v, lengths = draw_qkv(Case(dtype, (140, 128, 1, 0), 140, 16, 2))
    o, lse = decode_attention(*(to_torch(x).to(device) for x in (q, k, v, lengths)), return_lse=True)
    assert lse.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    exact = np.array([[weights(q[b, h], k[b, h], lengths[b], 0.25)[1] for h in (0, 1)] for b in range(3)])
    assert torch.isneginf(lse[3]).all()
    assert not o[3].any()
    bar = 8 * roundoff(np.float64 if dtype == "float64" else np.float32) * np.abs(exact).max()
    assert np.abs(lse[:3].cpu().numpy() - exact).max() <= bar


def test_dead_slots_change_no_bit_in_any_dtype(device):
    for dtype in DTYPES:
        q, k, v, lengths = draw_qkv(Case(dtype, (149, 128, 33, 0), 150, 80, 1))
        calls = []
        for value in (0.0, np.nan, np.inf, -np.inf, 1e4):
            poison(k, v, lengths, value)
            calls.append((q, k.copy(), v.copy(), lengths))
        o = numpy_op(device)(*(np.concatenate(x) for x in zip(*calls, strict=True)))
        assert len({rows.tobytes() for rows in np.split(o, len(calls))}) == 1


def test_any_strides_on_batch_heads_and_slots_give_the_same_bits(device):
    q, k, v, lengths = draw_qkv(Case("float16", (20, 7), 20, 16, 3))
    op = numpy_op(device)

    def laid_out(x, axes):
        return x.transpose(axes).copy().transpose(np.argsort(axes))

    reversed_heads = np.concatenate([q, q], axis=2)[:, :, :16]  # strided, as a slice of c_attn's output is
    orders = [(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 1, 3), (1, 2, 0, 3)]
    both = zip(orders, orders[1:] + orders[:1], strict=True)  # each order of either's axes once, never the same
    found = [op(reversed_heads, laid_out(k, a), laid_out(v, b), lengths).tobytes() for a, b in both]
    assert {*found} == {op(q, k, v, lengths).tobytes()}


@pytest.mark.parametrize("fused", [True, False])
def test_the_workspace_passes_nothing_from_call_to_call(fused, device):
    q, k, v, lengths = (to_torch(x).to(device) for x in draw_qkv(Case("float32", (300, 150), 300, 16, 1)))
    partials = make_workspace(*k.shape, q.dtype, q.device)
    first = decode_attention(q, k, v, lengths, workspace=partials, fused=fused)
    for value in (torch.nan, torch.inf, -1e30):
        for x in (partials.m, partials.l, partials.acc):
            x.fill_(value)
        for x in (partials.begun, partials.done):
            x.fill_(-7)
        assert torch.equal(decode_attention(q, k, v, lengths, workspace=partials, fused=fused), first)
        partials.check()


def test_scores_below_the_range_of_float16_still_weigh(device):
    q, k, v, lengths = draw_qkv(Case("float64", (4,), 4, 16, 1))
    q[:], k[:] = -1e18, 1e18  # every score is -4e36, every weight a quarter
    assert np.allclose(numpy_op(device)(q, k, v, lengths), v.mean(2), rtol=1e-14)


def test_saturated_needles_return_their_value_bit_for_bit(device):
    for dtype in DTYPES:
        q, k, v, lengths = draw_qkv(Case(dtype, (130,) * 4, 130, 80, 1))
        k[:] = 0
        for b, t in enumerate((0, 63, 127, 129)):
            q[b], k[b, :, t] = 32, 32
        o = numpy_op(device)(q, k, v, lengths)
        assert all(np.array_equal(o[b], v[b, :, t]) for b, t in enumerate((0, 63, 127, 129)))
