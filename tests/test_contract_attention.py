"""Honest decode attentions keep the contract in every dtype; each wrong one fails the checks it should and no other."""

import numpy as np
import pytest
import torch

from kvproof.gpt2.contract.attention import CHECKS, check_attention
from kvproof.gpt2.contract.op import to_numpy, to_torch
from kvproof.gpt2.contract.report import BROKEN, HELD, NOT_CHECKED
from kvproof.kernels.decode_attention import decode_attention
from kvproof.reference.faults import decode

SHORT = (1, 16, 17)


def torch_attention(q, k, v, lengths):
    """torch's own, one row at a time."""
    o = torch.zeros_like(q)
    for b, n in enumerate(lengths.tolist()):
        if n:
            live = (x[b : b + 1, :, :n] for x in (k, v))
            o[b : b + 1] = torch.nn.functional.scaled_dot_product_attention(q[b : b + 1, :, None], *live)[:, :, 0]
    return o


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_plain_formula_keeps_every_promise(dtype):
    report = check_attention(decode, dtype=dtype, batch_invariant=True)
    assert report.named(HELD) == list(CHECKS), str(report)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_torch_s_attention_keeps_every_promise(dtype):
    inner = dtype if dtype in ("float16", "bfloat16") else None
    report = check_attention(torch_attention, dtype=dtype, device="cpu", inner=inner)
    assert report.named(HELD) == list(CHECKS), str(report)


def test_our_kernel_keeps_the_promises_that_need_few_runs(device):
    few = ("rising scores", "layouts", "dead slots", "one past", "no slot")
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


FORMULA = {"random scores", "rising scores", "flat scores"}
BREAKS = {
    length_long: FORMULA | {"dead slots", "one past", "one slot", "no slot"},
    masked: {"dead slots"},
    last_missed_at_16: FORMULA | {"last slot"},
    same_memory: {"layouts"},
    rows_mixed: FORMULA | {"last slot", "rows apart", "rows permuted", "one slot", "no slot"},
    head_zero: FORMULA | {"last slot", "heads apart", "one slot"},
    one_slot_rounded: {"one slot"},
    empty_is_nan: {"no slot"},
}


@pytest.mark.parametrize("wrong", BREAKS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_attention_fails_the_checks_it_should_and_no_other(wrong):
    report = check_attention(wrong)
    assert set(report.named(BROKEN)) == BREAKS[wrong], str(report)


def test_every_check_is_failed_by_some_wrong_attention():
    assert set().union(*BREAKS.values()) == set(CHECKS)


def test_the_sentence_names_the_length_at_which_a_needle_past_the_end_is_seen():
    report = check_attention(length_long)
    (check,) = [check for check in report.checks if check.name == "one past"]
    assert "the length is long" in check.sentence
    assert "in 15 of 15 rows, first where length is 1" in check.sentence


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
