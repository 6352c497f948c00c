"""The exact probes: correct attentions of every kind pass, planted faults are named, and doubt is rare."""

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from kvproof.reference.attention.op import decode_attention
from kvproof.reference.judge.cases import Case
from kvproof.reference.judge.faults import FAULTS, decode
from kvproof.reference.judge.probes import BUG, INCONCLUSIVE, ROUNDING, probe
from kvproof.reference.judge.questions import SHAPES, questions
from kvproof.reference.judge.rounding import attention

SIXTEEN_BITS = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
FAULTY = [fault for fault in FAULTS if fault.kind == "attention"]
SMALL = (Case(lengths=(0, 1, 17, 33, 40), T=40),)


def one_by_one(terms):
    return np.add.accumulate(terms, axis=0)[-1]


def pairwise(terms):
    return np.ascontiguousarray(terms.T).sum(-1).T


def backwards(terms):
    return np.add.accumulate(terms[::-1], axis=0)[-1]


def in_blocks(terms):
    return one_by_one(np.stack([terms[i : i + 16].sum(0) for i in range(0, len(terms), 16)]))


SUMS = (one_by_one, pairwise, backwards, in_blocks)


def correct(add, weights, scores="float32", fold=False, divide_last=False):
    """A correct decode attention in float32: how it adds, and to what its weights and scores are rounded in between.

    fold         the scale goes into q, in q's dtype, before the product
    divide_last  the weights are rounded before they are normalised
    """

    def op(q, k, v, lengths):
        o = np.zeros(q.shape, q.dtype)
        narrow = {"own": q.dtype}
        for b, h in np.ndindex(q.shape[:2]):
            if n := int(lengths[b]):
                scale = np.float32(q.shape[-1] ** -0.5)
                row = (q[b, h].astype(np.float32) * scale).astype(q.dtype) if fold else q[b, h]
                products = k[b, h, :n].astype(np.float32) * row.astype(np.float32)
                s = add(products.T) * (1 if fold else scale)
                s = s.astype(narrow.get(scores, np.float32)).astype(np.float32)
                p = np.exp(s - s.max())
                total = add(p)
                p = (p if divide_last else p / total).astype(narrow.get(weights, np.float32)).astype(np.float32)
                o[b, h] = add(p[:, None] * v[b, h, :n].astype(np.float32)) / (total if divide_last else 1)
        return o

    return op


def clean():
    """(name, op) of 100 / 4 correct attentions, every way to add beside every way to round."""
    yield "the plain formula in float64", decode
    for add in SUMS:
        rounded: list[dict[str, Any]] = [
            {"weights": "float32"},
            {"weights": "own"},
            {"weights": "own", "divide_last": True},
            {"weights": "own", "scores": "own"},
            {"weights": "float32", "fold": True},
            {"weights": "float32", "divide_last": True},
        ]
        for words in rounded:
            yield f"{add.__name__}, {words}", correct(add, **words)


def test_there_are_a_hundred_clean_runs():
    assert len(list(clean())) * len(SIXTEEN_BITS) * len(SHAPES) == 100


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
def test_exact_rounded_attentions_pass(dtype):
    ops = [op for i, (_, op) in enumerate(clean()) if i % 5 == 0]
    for op in (*ops, decode_attention):
        found = probe(op, dtype, SMALL)
        assert found.verdict == ROUNDING, found.reason
        assert not found.refused


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
def test_torch_s_own_attention_passes(dtype):
    def sdpa(q, k, v, lengths):
        q, k, v = (torch.from_numpy(x.astype(np.float32)).to(getattr(torch, dtype)) for x in (q, k, v))
        o = torch.zeros_like(q)
        for b, n in enumerate(lengths):
            if n:
                o[b] = torch.nn.functional.scaled_dot_product_attention(q[b, :, None], k[b, :, :n], v[b, :, :n])[:, 0]
        return o

    assert probe(sdpa, dtype).verdict == ROUNDING


@pytest.mark.exhaustive
def test_no_false_alarm_and_no_doubt_on_a_hundred_clean_runs():
    found = {}
    for name, op in clean():
        for dtype in SIXTEEN_BITS:
            for shape in SHAPES:
                found[name, dtype, shape.T] = probe(op, dtype, (shape,))
    worst = max(found, key=lambda key: found[key].worst)
    print(f"\n{len(found)} clean runs; the worst errs by {found[worst].worst:.2f} of its gate: {worst}")
    assert not [key for key, report in found.items() if report.verdict == BUG]
    assert sum(report.verdict == INCONCLUSIVE for report in found.values()) < 0.05 * len(found)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
@pytest.mark.parametrize("fault", FAULTY, ids=lambda fault: fault.name)
def test_every_attention_fault_is_called_from_16_bits(fault, dtype):
    hidden = dtype == "float16" and "as in float16" in fault.imitates
    assert probe(fault.apply, dtype, patience=1).verdict == (ROUNDING if hidden else BUG)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
def test_every_head_sees_a_needle_in_every_slot_of_the_longest_context(dtype):
    for shape in SHAPES:
        longest, seen = max(shape.lengths), set()
        for question in questions(replace(shape, dtype=dtype)):
            if question.name.startswith("needle"):
                for b, h in np.ndindex(question.q.shape[:2]):
                    if n := question.lengths[b]:
                        column = np.flatnonzero(question.q[b, h] == 32)[0]
                        seen.add((h, int(np.argmax(question.k[b, h, :n, column].astype(np.float32)))))
        assert seen == {(h, t) for h in range(shape.H_kv) for t in range(longest)}


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
def test_the_answers_are_the_plain_formula_s(dtype):
    for question in questions(replace(SMALL[0], dtype=dtype)):
        exact = attention(question.q, question.k, question.v, question.lengths)
        slack = np.maximum(question.gate, 1e-12 * np.abs(exact))  # what a saturated float64 softmax may lose: nothing
        assert (np.abs(exact - question.answer) <= slack).all(), question.name


def test_a_sum_of_scores_in_half_precision_is_called():
    def half_scores(q, k, v, lengths):
        q16, k16 = q.astype(np.float16), np.nan_to_num(k.astype(np.float16))
        s = np.add.accumulate(q16[:, :, None] * k16, axis=-1)[..., -1].astype(np.float32)
        o = np.zeros(q.shape, q.dtype)
        for b, h in np.ndindex(q.shape[:2]):
            if n := int(lengths[b]):
                p = np.exp((s[b, h, :n] - s[b, h, :n].max()) * np.float32(q.shape[-1] ** -0.5))
                o[b, h] = p @ v[b, h, :n].astype(np.float32) / p.sum()
        return o

    found = probe(half_scores, "float16", SMALL, patience=50)
    assert found.verdict == BUG
    assert {"needle, cancelling", "needle, beyond float16"} <= {failure.probe for failure in found.failures}


def test_the_sentence_says_what_came_instead():
    fault = next(fault for fault in FAULTY if fault.name == "head_next")
    failures = [f.sentence for f in probe(fault.apply, "float16", SMALL, patience=50).failures if "needle" in f.probe]
    assert any("what came is the value of sequence" in sentence for sentence in failures)


def test_a_callable_that_takes_no_shape_is_inconclusive_and_another_shape_of_output_a_bug():
    def refuses(q, k, v, lengths):
        raise ValueError("head_dim must be 128")

    found = probe(refuses, "float16", SMALL)
    assert (found.verdict, found.asked) == (INCONCLUSIVE, 0)
    assert "head_dim must be 128" in found.reason
    found = probe(lambda q, k, v, lengths: decode(q, k, v, lengths)[:, :1], "float16", SMALL)
    assert found.verdict == BUG
    assert "the answer has shape (5, 1, 16); it must be (5, 2, 16)" in found.reason


def test_an_answer_between_one_gate_and_two_is_inconclusive():
    def nudged(q, k, v, lengths):
        o = decode(q, k, v, lengths).astype(np.float64)
        for question in questions(replace(SMALL[0], dtype="float16")):
            if question.gate.any() and question.k.tobytes() == k.tobytes():
                o = question.answer + 1.5 * question.gate
        return o

    found = probe(nudged, "float16", SMALL)
    assert found.verdict == INCONCLUSIVE
    assert 1.4 < found.worst < 1.6


def test_a_scale_of_its_own_is_honoured():
    shape = replace(SMALL[0], D=12)

    def op(q, k, v, lengths):
        return decode(q, k, v, lengths, scale=0.5)

    assert probe(op, "bfloat16", (shape,), scale=0.5).verdict == ROUNDING
    assert probe(op, "bfloat16", (shape,)).verdict == BUG
