"""merge_state: attention over two parts of a context becomes attention over both."""

import numpy as np
import pytest
import torch

from kvproof.kernels.attention import decode_attention, merge_state
from kvproof.reference.judge.cases import DTYPES
from kvproof.reference.judge.rounding import attention, gate_around, in_gates, log_sum_exp, lse_error, roundoff

LENGTHS, PREFIX = (3, 140, 0), 150  # of the suffixes; and the prefix that all of them share
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def draw(dtype, device, H=4, H_kv=2, D=16):
    """q (B, H, D), a prefix (1, H_kv, P, D) and a cache (B, H_kv, T, D), keys and values, NumPy and torch."""
    rng = np.random.default_rng(0)
    shapes = [(len(LENGTHS), H, D), *[(1, H_kv, PREFIX, D)] * 2, *[(len(LENGTHS), H_kv, 160, D)] * 2]
    arrays = [rng.standard_normal(shape).astype(DTYPES[dtype]) for shape in shapes]
    tensors = [torch.from_numpy(x.astype(np.float64)).to(device, getattr(torch, dtype)) for x in arrays]
    return arrays, tensors


def parts(tensors):
    """o and lse of the prefix, the sequences as tokens of one; and of each sequence's own suffix."""
    q, prefix_k, prefix_v, k, v = tensors
    n = [torch.tensor(x, dtype=torch.int32, device=q.device) for x in ([PREFIX], LENGTHS)]
    o, lse = decode_attention(q[None], prefix_k, prefix_v, n[0], causal=False, return_lse=True)
    return o[0], lse[0], *decode_attention(q, k, v, n[1], return_lse=True)


def whole(arrays):
    """q, and each sequence's prefix and suffix in one cache, with its length."""
    q, prefix_k, prefix_v, k, v = arrays
    repeated = [np.repeat(x, len(q), 0) for x in (prefix_k, prefix_v)]
    k, v = (np.concatenate([a, b], 2) for a, b in zip(repeated, (k, v), strict=True))
    return q, k, v, np.array(LENGTHS) + PREFIX


def states(device, dtype=torch.float32, shape=(3, 5, 48), seed=0):
    """One part of a context: o and lse of that shape, at random."""
    rng = np.random.default_rng(seed)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    o, lse = rng.standard_normal(shape), 5 * rng.standard_normal(shape[:-1])
    return torch.from_numpy(o).to(device, dtype), torch.from_numpy(np.array(lse)).to(device, kept)


def bits(x):
    return x.cpu().contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_shared_prefix_and_a_suffix_make_attention_over_the_whole(dtype, device):
    arrays, tensors = draw(dtype, device)
    apart = parts(tensors)
    o, lse = merge_state(*apart)
    assert (o.dtype, lse.dtype) == (tensors[0].dtype, apart[1].dtype)
    call, exact = whole(arrays), attention(*whole(arrays))
    o_a, lse_a, o_b, lse_b = (x.double().cpu().numpy() for x in apart)
    o, lse = o.double().cpu().numpy(), lse.cpu().numpy()
    if dtype == "float64":
        np.testing.assert_allclose(o, exact, rtol=0, atol=1e-13)
        np.testing.assert_allclose(lse, log_sum_exp(call[0], call[1], call[3]), rtol=0, atol=1e-13)
        return
    # Each part was rounded once on its way here, and weighs what its log-sum-exp says.
    share = 1 / (1 + np.exp(lse_b - lse_a))[..., None]
    rounded = roundoff(DTYPES[dtype]) * (share * np.abs(o_a) + (1 - share) * np.abs(o_b))
    gate = gate_around(exact, *call, rounded_weights=DTYPES[dtype]) + rounded
    assert in_gates(o, exact, gate) <= 1
    assert lse_error(lse, call[0], call[1], call[3]) <= 1


@each_dtype
def test_the_order_of_the_parts_changes_no_bit(dtype, device):
    a, b = (states(device, getattr(torch, dtype), seed=seed) for seed in (0, 1))
    for x, y in zip(merge_state(*a, *b), merge_state(*b, *a), strict=True):
        assert bits(x) == bits(y)


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 2e-6), (torch.float64, 4e-15)])
def test_three_parts_agree_whichever_two_are_merged_first(dtype, bar, device):
    a, b, c = (states(device, dtype, seed=seed) for seed in range(3))
    for x, y in zip(merge_state(*merge_state(*a, *b), *c), merge_state(*a, *merge_state(*b, *c)), strict=True):
        torch.testing.assert_close(x, y, rtol=bar, atol=bar)


@each_dtype
def test_a_part_that_saw_nothing_leaves_the_bits_of_the_other(dtype, device):
    o, lse = states(device, getattr(torch, dtype))
    nothing = torch.zeros_like(o), torch.full_like(lse, -torch.inf)
    for merged in (merge_state(o, lse, *nothing), merge_state(*nothing, o, lse)):
        assert bits(merged[0]) == bits(o)
        assert bits(merged[1]) == bits(lse)
    both = merge_state(*nothing, *nothing)
    assert bits(both[0]) == bits(nothing[0])
    assert bits(both[1]) == bits(nothing[1])


@pytest.mark.parametrize("seen", ["nothing", "one part", "both"])
@each_dtype
def test_flash_attn_s_plus_infinity_says_nothing_was_seen_too(dtype, seen, device):
    a, b = states(device, getattr(torch, dtype)), states(device, getattr(torch, dtype), seed=1)
    ours, theirs = ([x.clone() for x in (*a, *b)] for _ in range(2))
    for lse in {"nothing": (1, 3), "one part": (3,), "both": ()}[seen]:
        ours[lse][0], theirs[lse][0] = -torch.inf, torch.inf
    for x, y in zip(merge_state(*ours), merge_state(*theirs), strict=True):
        assert bits(x) == bits(y)
        assert not x.isnan().any()


@pytest.mark.parametrize("empty", [torch.inf, -torch.inf])
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1.0])
def test_what_a_part_that_saw_nothing_holds_is_not_read(garbage, empty, device):
    o, lse = states(device)
    nothing = torch.full_like(o, garbage), torch.full_like(lse, empty)
    for merged in (merge_state(o, lse, *nothing), merge_state(*nothing, o, lse)):
        assert bits(merged[0]) == bits(o)
        assert bits(merged[1]) == bits(lse)
    assert not merge_state(*nothing, *nothing)[0].any()


@pytest.mark.parametrize("far", [200.0, 1e30])
def test_a_part_that_weighs_nothing_beside_the_other_leaves_it_as_it_is(far, device):
    a, b = states(device), states(device, seed=1)
    b = b[0], a[1] - far
    for x, y in zip(merge_state(*a, *b), a, strict=True):
        assert bits(x) == bits(y)
    assert bits(merge_state(*b, *a)[0]) == bits(a[0])


@pytest.mark.parametrize("place", range(4))
def test_nan_on_either_side_is_answered_with_nan_in_its_row_alone(place, device):
    call = [*states(device), *states(device, seed=1)]
    clean = merge_state(*call)
    call[place] = call[place].clone()
    call[place][1, 2] = torch.nan
    o, lse = merge_state(*call)
    assert o[1, 2].isnan().all()
    assert lse[1, 2].isnan() == (place % 2 == 1)
    o[1, 2], lse[1, 2] = clean[0][1, 2], clean[1][1, 2]
    assert bits(o) == bits(clean[0])
    assert bits(lse) == bits(clean[1])


def formula(o_a, a, o_b, b):
    """The two parts by their weights, in float64."""
    o_a, a, o_b, b = (x.double() for x in (o_a, a, o_b, b))
    lse = torch.logaddexp(a, b)
    return (a - lse).exp()[..., None] * o_a + (b - lse).exp()[..., None] * o_b, lse


@each_dtype
def test_parts_are_weighed_as_the_formula_says_and_rounded_once(dtype, device):
    a, b = (states(device, getattr(torch, dtype), (40, 48), seed) for seed in (0, 1))
    (o, lse), (want, want_lse) = merge_state(*a, *b), formula(*a, *b)
    kept = roundoff(np.float64 if dtype == "float64" else np.float32)
    inside = 32 * kept * (1 + a[1].double().abs() + b[1].double().abs())  # of a few sums, and of exponents as large
    terms = a[0].double().abs() + b[0].double().abs()
    assert (((lse - want_lse).abs()) <= inside).all()
    assert ((o - want).abs() <= roundoff(DTYPES[dtype]) * want.abs() + inside[:, None] * terms).all()


@pytest.mark.parametrize("shape", [(1,), (7, 1), (2, 3, 4, 17), (130, 256), (0, 3, 16)])
def test_any_shape_merges_as_the_formula_says(shape, device):
    call = *states(device, torch.float64, shape), *states(device, torch.float64, shape, seed=1)
    for x, want in zip(merge_state(*call), formula(*call), strict=True):
        torch.testing.assert_close(x, want, rtol=0, atol=1e-14)


def test_strides_do_not_matter_and_no_input_is_touched_or_aliased(device):
    a, b = states(device), states(device, seed=1)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (*a, *b)]
    before = [bits(x) for x in turned]
    got, want = merge_state(*turned), merge_state(*a, *b)
    assert [bits(x) for x in got] == [bits(x) for x in want]
    assert [bits(x) for x in turned] == before
    pointers = [x.untyped_storage().data_ptr() for x in (*turned, *got)]
    assert len(set(pointers)) == len(pointers)


def test_the_registered_op_keeps_its_promises_to_torch(device):
    call = (*states(device, torch.float16), *states(device, torch.float16, seed=1))
    torch.library.opcheck(torch.ops.kvproof.merge_state.default, call)
    compiled = torch.compile(lambda *x: merge_state(*x)[0] + 1, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*call), merge_state(*call)[0] + 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({0: lambda x: x.int()}, "o_a is torch.int32.*must be .* float64"),
        ({2: lambda x: x[1:]}, r"o_b torch.float32 \[2, 5, 48\].*o_b must be torch.float32 \[3, 5, 48\]"),
        ({2: lambda x: x.half()}, "o_b torch.float16.*must be torch.float32"),
        ({1: lambda x: x.double()}, r"lse_a torch.float64.*must be torch.float32 \[3, 5\]"),
        ({3: lambda x: x.mT.contiguous()}, r"lse_b torch.float32 \[5, 3\].*lse as it was returned"),
        ({3: lambda x: x.to("meta")}, "lse_b .* on meta; lse_b must be .* on cpu"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, says):
    call = [*states("cpu"), *states("cpu", seed=1)]
    for place, change in changes.items():
        call[place] = change(call[place])
    with pytest.raises(ValueError, match=says):
        merge_state(*call)
