"""Correct attentions keep the contract in every dtype; each wrong one fails the checks it should and no other."""

import inspect

import numpy as np
import pytest
import torch

from kvproof.bench.judge.contract.attention import CHECKS, check_attention
from kvproof.bench.judge.contract.op import to_numpy, to_torch
from kvproof.bench.judge.contract.report import BROKEN, HELD, NOT_CHECKED
from kvproof.kernels.attention import decode_attention
from kvproof.reference.judge.cases import Case
from kvproof.reference.judge.faults import FAULTS, OP_FAULTS, decode, masks
from kvproof.reference.judge.probes import probe
from kvproof.reference.judge.questions import GROUPED

from ._broken_caches import sentence

SHORT = (1, 16, 17)
HALF = ("float16", "bfloat16")
DTYPES = ("float64", "float32", *HALF)


def torch_attention(q, k, v, lengths):
    """torch's own, one row at a time."""
    o = torch.zeros_like(q)
    for b, n in enumerate(lengths.tolist()):
        if n:
            live = (x[b : b + 1, :, :n] for x in (k, v))
            row = torch.nn.functional.scaled_dot_product_attention(q[b : b + 1, :, None], *live, enable_gqa=True)
            o[b : b + 1] = row[:, :, 0]
    return o


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fn", [decode, torch_attention])
def test_the_plain_formula_and_torch_s_attention_keep_every_promise(fn, dtype):
    torchs = {"device": "cpu", "inner": dtype if dtype in HALF else None}
    report = check_attention(fn, dtype=dtype, **(torchs if fn is torch_attention else {"batch_invariant": True}))
    assert report.named(HELD) == list(CHECKS), str(report)


def test_our_kernel_keeps_the_promises_that_need_few_runs(device):
    few = ("rising scores", "low scores", "layouts", "dead slots", "one past", "no slot")
    report = check_attention(
        decode_attention, dtype="float16", device=device, lengths=SHORT, heads=1, head_dim=16, only=few
    )
    assert report.named(HELD) == list(few), str(report)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_our_kernel_keeps_every_promise(dtype, device):
    report = check_attention(decode_attention, dtype=dtype, device=device, heads=2, batch_invariant=True)
    assert report.named(HELD) == list(CHECKS), str(report)


def length_long(q, k, v, lengths):
    return decode(q, k, v, np.minimum(lengths + 1, k.shape[2]))


def masked(q, k, v, lengths):
    o = decode(q, k, v, lengths)
    dead = [v[b, :, n:].astype(np.float64).sum(1) for b, n in enumerate(lengths)]
    return (o + 0 * np.stack(dead)).astype(q.dtype)


def last_missed_at_16(q, k, v, lengths):
    return decode(q, k, v, np.where(lengths == 16, 15, lengths))


def same_memory(q, k, v, lengths):
    """V by K's strides, where K lies contiguous; right as long as both are laid out alike."""
    return decode(q, k, v if k.strides == v.strides else v[:, :, ::-1], lengths)


def rows_mixed(q, k, v, lengths):
    return (decode(q, k, v, lengths) + 1e-2 * np.roll(q, 1, 0)).astype(q.dtype)


def head_zero(q, k, v, lengths):
    return decode(q, np.broadcast_to(k[:, :1], k.shape), np.broadcast_to(v[:, :1], v.shape), lengths)


def one_slot_rounded(q, k, v, lengths):
    return np.where((lengths == 1)[:, None, None], np.nextafter(v[:, :, 0], 9), decode(q, k, v, lengths))


def empty_is_nan(q, k, v, lengths):
    return np.where((lengths == 0)[:, None, None], np.float32(np.nan), decode(q, k, v, lengths))


def padded_blocks(q, k, v, lengths):
    """Dead slots get -1e6 before a running maximum that starts at -1e6, as in kernels written after a tutorial."""
    o = np.zeros(q.shape)
    for b, h in np.ndindex(q.shape[:2]):
        n, g = int(lengths[b]), h // (q.shape[1] // k.shape[1])
        s = np.full(k.shape[2], -1e6)
        s[:n] = k[b, g, :n].astype(np.float64) @ q[b, h] * q.shape[-1] ** -0.5
        p = np.exp(s - max(s.max(), -1e6)) * (n > 0)
        p[n:] *= np.isfinite(v[b, g, n:]).all(-1)
        o[b, h] = p @ np.nan_to_num(v[b, g].astype(np.float64), posinf=0, neginf=0) / max(p.sum(), 1e-300)
    return o.astype(q.dtype)


def every_other_head(q, k, v, lengths):
    """Heads dealt out to the KV heads one by one, backwards."""
    order = (k.shape[1] - 1 - np.arange(q.shape[1])) % k.shape[1]
    return decode(q, k[:, order], v[:, order], lengths) if q.shape[1] != k.shape[1] else decode(q, k, v, lengths)


FORMULA = {"random scores", "rising scores", "flat scores"}
BREAKS = {
    length_long: FORMULA | {"low scores", "grouped heads", "dead slots", "one past", "one slot", "no slot"},
    masked: {"dead slots"},
    last_missed_at_16: FORMULA | {"last slot"},
    same_memory: {"layouts"},
    rows_mixed: FORMULA
    | {"low scores", "grouped heads", "last slot", "rows apart", "rows permuted", "one slot", "no slot"},
    head_zero: FORMULA | {"low scores", "grouped heads", "last slot", "heads apart", "one slot"},
    one_slot_rounded: {"low scores", "one slot"},
    empty_is_nan: {"no slot"},
    padded_blocks: {"low scores"},
    every_other_head: {"grouped heads"},
}


@pytest.mark.parametrize("wrong", BREAKS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_attention_fails_the_checks_it_should_and_no_other(wrong):
    report = check_attention(wrong)
    assert set(report.named(BROKEN)) == BREAKS[wrong], str(report)


def test_every_check_is_failed_by_some_wrong_attention():
    assert set().union(*BREAKS.values()) == set(CHECKS)


FINITE = [f for f in FAULTS if inspect.getmodule(f.apply) is masks and "stay above" in f.imitates]
GROUPS = [f for f in OP_FAULTS if "at one query head each" in f.imitates and "ALiBi" not in f.imitates]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FINITE, ids=lambda fault: fault.name)
def test_a_finite_mask_fails_the_low_scores_and_nothing_else(fault, dtype):
    report = check_attention(fault.apply, dtype=dtype)
    hidden = dtype == "float16" and "float16" in fault.imitates
    assert report.named(BROKEN) == ([] if hidden else ["low scores"]), str(report)
    if not hidden:
        assert "at usual scores it is right: dead slots get a finite score" in sentence(report, "low scores")


def least_number(added: bool, own: bool):
    """A correct attention whose dead slots get the least finite number, of q's dtype or of float32."""

    def op(q, k, v, lengths):
        kept = q.dtype if own else torch.float32
        group = q.shape[1] // k.shape[1]
        dead = (torch.arange(k.shape[2]) >= lengths[:, None])[:, None]  # (B, 1, T)
        k, v = (x.masked_fill(dead[..., None], 0).repeat_interleave(group, 1).float() for x in (k, v))
        s = (torch.einsum("bhd,bhtd->bht", q.float(), k) * q.shape[-1] ** -0.5).to(kept)
        least = torch.finfo(kept).min
        s = s + torch.where(dead, least, 0).to(kept) if added else s.masked_fill(dead, least)
        o = torch.einsum("bht,bhtd->bhd", torch.softmax(s.float(), -1), v)
        return torch.where((lengths == 0)[:, None, None], 0, o).to(q.dtype)

    return op


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("added", [False, True], ids=["filled", "added"])
@pytest.mark.parametrize("own", [False, True], ids=["float32 scores", "scores of q's dtype"])
def test_a_mask_of_the_least_number_is_correct(own, added, dtype):
    narrow = dtype if own and dtype != "float32" else None
    report = check_attention(least_number(added, own), dtype=dtype, device="cpu", inner=narrow)
    assert report.named(HELD) == list(CHECKS), str(report)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_that_tensor_cores_round_are_correct_where_heads_are_grouped(dtype):
    def rounded(q, k, v, lengths):
        dead = (torch.arange(k.shape[2]) >= lengths[:, None])[:, None]
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1).float() for x in (k, v))
        s = torch.einsum("bhd,bhtd->bht", q.float(), k) * q.shape[-1] ** -0.5
        p = torch.exp(s.masked_fill(dead, -torch.inf) - s.masked_fill(dead, -torch.inf).amax(-1, keepdim=True))
        return (torch.einsum("bht,bhtd->bhd", p.to(q.dtype).float(), v) / p.sum(-1, keepdim=True)).to(q.dtype)

    report = check_attention(rounded, dtype=dtype, device="cpu", only=["grouped heads"])
    assert report.named(HELD) == ["grouped heads"], str(report)


@pytest.mark.parametrize("fault", GROUPS, ids=lambda fault: fault.name)
def test_a_wrong_kv_head_fails_the_grouped_heads_and_nothing_else(fault):
    report = check_attention(lambda *call: fault.apply(*call)[0], lengths=SHORT)
    assert report.named(BROKEN) == ["grouped heads"], str(report)
    assert ("it reads h % 3" in sentence(report, "grouped heads")) == (fault.name == "heads_in_tiles")
    assert probe(lambda *call: fault.apply(*call)[0], "float16", GROUPED, patience=1).verdict == "BUG"


def test_an_attention_without_groups_says_so_in_its_own_way_and_is_not_accused():
    def refuses(error):
        def op(q, k, v, lengths):
            if q.shape[1] != k.shape[1]:
                raise error
            return decode(q, k, v, lengths)

        return op

    for error in (ValueError("heads differ"), RuntimeError("size mismatch"), IndexError("2"), AssertionError()):
        report = check_attention(refuses(error), only=["one slot", "grouped heads"])
        assert report.green
        assert report.named(NOT_CHECKED) == ["grouped heads"]
        assert "6 heads on 3 KV heads are refused" in sentence(report, "grouped heads")
    found = probe(refuses(IndexError("2")), "float16", (Case(lengths=(1, 20), T=20), *GROUPED))
    assert found.verdict == "ROUNDING"
    assert len(found.refused) == len(GROUPED)
    assert check_attention(every_other_head, grouped=(), only=["grouped heads"]).named(NOT_CHECKED) == ["grouped heads"]


def test_some_groups_may_be_refused_and_the_others_are_held():
    def up_to_four(q, k, v, lengths):
        if q.shape[1] // k.shape[1] > 4:
            raise NotImplementedError("groups of 4 at most")
        return decode(q, k, v, lengths)

    report = check_attention(up_to_four, only=["grouped heads"])
    assert "grouped heads" in report.named(HELD)
    assert "14 heads on 2 KV heads are refused: groups of 4 at most" in sentence(report, "grouped heads")


def test_the_sentence_names_the_length_at_which_a_needle_past_the_end_is_seen():
    words = sentence(check_attention(length_long), "one past")
    assert "the length is long" in words
    assert "in 15 of 15 rows, first where length is 1" in words


def test_a_result_of_another_dtype_or_shape_is_said_to_be_so():
    report = check_attention(lambda q, k, v, n: decode(q, k, v, n).astype(np.float64))
    assert set(report.named(BROKEN)) == set(CHECKS)
    assert "o is (15, 3, 32) float64; q is (15, 3, 32) float32 and o must be alike" in report.checks[0].sentence


def test_a_refusal_of_length_zero_is_not_checked():
    def refuses(q, k, v, lengths):
        if (lengths == 0).any():
            raise ValueError("lengths start at 1")
        return decode(q, k, v, lengths)

    report = check_attention(refuses)
    assert report.named(NOT_CHECKED) == ["no slot"]
    assert report.green
    assert not check_attention(refuses, require=["no slot"]).green


def test_lengths_that_tell_nothing_are_refused():
    with pytest.raises(ValueError, match=r"lengths are \(3,\); give two or more, each 1 or more"):
        check_attention(decode, lengths=(3,))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_gets_the_same_numbers_at_the_same_strides(dtype):
    x = np.arange(24.0).reshape(2, 3, 4).swapaxes(1, 2).astype(dtype)
    y = to_torch(x)
    assert str(y.dtype) == f"torch.{dtype}"
    assert y.stride() == tuple(stride // x.itemsize for stride in x.strides)
    assert np.array_equal(to_numpy(y), x)
