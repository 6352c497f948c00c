"""An explanation is given where it was held against its rivals, and is then right; place and size are always given."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kvproof.bench.judge.explain.attention_formula import Formula, Query, attend, right
from kvproof.bench.judge.explain.cache_contents import explain_cache, spans
from kvproof.bench.judge.explain.explanation import Candidate, choose, explain
from kvproof.bench.judge.explain.extent import extent
from kvproof.bench.judge.explain.hypotheses import hypotheses
from kvproof.bench.judge.explain.origin import origin
from kvproof.bench.judge.investigation import investigate
from kvproof.reference.judge.verdict import BUG

from ._corpus import CORPUS, SAYS, subject_of
from ._strangers import STRANGERS


def queries(op, how, H_kv=2, H=4, D=8, lengths=(11, 17), prompt=9, steps=3):
    """(those whose outputs are op's and not right, the others) of the last `steps` positions of each sequence."""
    rng = np.random.default_rng(0)
    rows = [(rng.normal(size=(H_kv, n, D)), rng.normal(size=(H_kv, n, D))) for n in lengths]
    wrong, fine = [], []
    for row, back in np.ndindex(len(rows), steps):
        k, v = rows[row]
        others = [(*pair, m - back) for pair, m in zip(rows, lengths, strict=True)]
        q, nothing = rng.normal(size=(H, D)), np.zeros((H, D))
        x = Query(q, k, v, lengths[row] - back, row, steps - back, prompt, nothing, nothing, others)
        x = replace(x, b=right(x, how), a=right(x, how))
        x = replace(x, a=op(x))
        (wrong if np.abs(x.a - x.b).max() > 1e-9 else fine).append(x)
    return wrong, fine


PLAIN = Formula(0.25)
FORMULAS = {"plain": PLAIN, "with everything": Formula(0.25, 1.5, 7, np.array([0.5, -1.0, 2.0, 0.0]))}


@pytest.mark.parametrize("name", FORMULAS)
def test_every_hypothesis_is_found_again_among_all_the_others(name):
    how = FORMULAS[name]
    pilot = queries(lambda x: 0 * x.q + 1, how)[0][0]
    found = 0
    for hypothesis in hypotheses(pilot, how, 17, False):
        wrong, fine = queries(hypothesis.op, how)
        if not wrong or not all(np.isfinite(x.a).all() for x in wrong):
            continue
        explanation = explain(wrong, fine, how)
        if explanation is None:
            continue  # more than three hypotheses give these numbers
        assert any(x.name == hypothesis.name for x in explanation.candidates), (hypothesis.sentence, str(explanation))
        found += 1
    assert found > 25


def test_a_wrong_attention_that_nobody_thought_of_is_not_explained():
    for op in (
        lambda x: 1.5 * right(x, PLAIN) + 0.1,
        lambda x: attend(x.q, x.k[:, ::2], x.v[:, ::2], PLAIN) if x.n < 14 else right(x, PLAIN),
        lambda x: right(x, Formula(0.25, softcap=1.0)) * np.linspace(1, 1.1, 8),
        lambda x: attend(x.q, x.k[:, : x.n] * 1.2, x.v[:, : x.n] + 0.3 * x.k[:, : x.n], PLAIN),
    ):
        wrong, fine = queries(op, PLAIN)
        assert wrong
        assert explain(wrong, fine, PLAIN) is None


def test_what_the_formula_does_not_give_is_not_explained_by_its_variants():
    wrong, fine = queries(lambda x: right(x, Formula(0.25, window=5)), Formula(0.25, softcap=0.3))
    assert explain(wrong, fine, PLAIN) is None


def test_a_hypothesis_that_spoils_what_is_right_explains_nothing():
    wrong, fine = queries(lambda x: right(x, Formula(0.25, window=5)) if x.row else right(x, PLAIN), PLAIN)
    assert fine
    assert explain(wrong, [], PLAIN) is not None
    assert explain(wrong, fine, PLAIN) is None


def test_two_that_leave_as_little_are_named_together_and_four_not_at_all():
    a, b, c, d = (Candidate(x, f"it is {x}", left) for x, left in zip("abcd", (2e-15, 5e-15, 0.4, 1.0), strict=True))
    explanation = choose([d, b, c, a], 13.0)
    assert explanation is not None
    words = "one of, since these numbers cannot tell them apart: it is a; or it is b"
    assert str(explanation) == f"{words} (leaves 6.5e-14 of 1.3e+01; next best, it is c, leaves 5.2e+00)"
    assert choose([a, b, Candidate("e", "it is e", 1e-12), Candidate("f", "it is f", 1e-12)], 1.0) is None
    assert choose([c, d], 1.0) is None
    assert choose([], 1.0) is None
    alone = choose([a, d], 1.0)
    assert alone is not None
    assert str(alone).endswith("nothing else that was tried explains a part of it)")


def test_a_rival_within_three_times_is_no_rival_beaten():
    near = [Candidate("a", "it is a", 2e-4), Candidate("b", "it is b", 5e-4), Candidate("c", "it is c", 7e-4)]
    explanation = choose(near, 1.0)
    assert explanation is not None
    assert [x.name for x in explanation.candidates] == ["a", "b"]
    assert explanation.rival is not None
    assert explanation.rival.name == "c"


CACHES = {
    "zeros": (lambda b: b * 0, "are zeros"),
    "three late": (lambda b: np.roll(b, 3, 1), "the token 3 before it: they stand 3 slots late"),
    "two early": (lambda b: np.roll(b, -2, 1), "the token 2 after it: they stand 2 slots early"),
    "halved": (lambda b: b / 2, "multiplied by 0.5"),
    "float16": (lambda b: b.astype(np.float16).astype(float), "in float16"),
    "scrambled": (lambda b: b[:, np.random.default_rng(1).permutation(b.shape[1])], "of other tokens"),
    "noise": (lambda b: np.random.default_rng(2).normal(size=b.shape), None),
    "an eighth of noise": (lambda b: b + np.random.default_rng(2).normal(size=b.shape) / 8, None),
    "NaN": (lambda b: b * np.nan, None),
}


@pytest.mark.parametrize("name", CACHES)
def test_what_wrong_slots_hold_is_told_where_their_numbers_tell_it(name):
    spoil, says = CACHES[name]
    b = np.random.default_rng(0).normal(size=(2, 24, 4, 8))
    a = b.copy()
    a[:, 6:] = spoil(b)[:, 6:]
    explanation = explain_cache(a, b, np.abs(np.nan_to_num(a, nan=9) - b).max(-1) > 1e-9)
    assert (explanation is None) == (says is None), explanation
    assert says is None or says in str(explanation)


COURSES = {
    "from on": (lambda rows, steps: steps >= 3, "sequence 0 from position 8 on; sequence 1 from position 14 on"),
    "one row": (lambda rows, steps: rows == 1, "sequence 1 from position 11 on, not in sequence 0"),
    "one step": (lambda rows, steps: (rows == 0) & (steps == 2), "sequence 0 at position 7 alone"),
    "some": (lambda rows, steps: (rows == 0) & (steps % 2 == 1), "sequence 0 at positions 6, 8, 10"),
    "prefill": (lambda rows, steps: steps == 0, "in the prefill alone"),
    "decode": (lambda rows, steps: steps >= 1, "in decode steps alone"),
    "grows": (lambda rows, steps: 0.1 * (1 + steps), "growing: 1.0e-01 at first, 6.0e-01 at last"),
    "constant": (lambda rows, steps: 0.5 + 0 * steps, "about constant: 5.0e-01 at first"),
    "shrinks": (lambda rows, steps: 1 / (1.0 + steps), "shrinking: 1.0e+00 at first, 1.7e-01 at last"),
    "NaN": (lambda rows, steps: np.where(steps == 4, np.inf, 0.0), "NaN or infinity in one path alone"),
}


@pytest.mark.parametrize("name", COURSES)
def test_how_a_difference_goes_on_is_described(name):
    size, says = COURSES[name]
    rows, steps = np.indices((2, 6))
    error = np.asarray(size(rows, steps), float) + 0.0 * rows
    words = extent(error, error > 0, np.array([[5], [11]]) + np.arange(6), steps >= 1)
    assert says in words
    for cause in ("stale", "mask", "padding", "dtype", "scale", "usually"):
        assert cause not in words


def test_numbers_in_order_are_told_as_ranges():
    assert spans([1, 2, 3, 7, 9, 10]) == "1 to 3, 7, 9 to 10"
    assert spans(list(range(0, 20, 2))) == "0, 2, 4, 6, …"


class Logits:
    """Two paths of which nothing but the logits is known, the second 1e-3 off from position 3 of sequence 1 on."""

    name_a, name_b, question = "mine", "trusted", "mine against trusted"

    def paths(self, dtype, shift=0.0):
        b = np.random.default_rng(0).normal(size=(2, 6, 40)) * (1 + shift)
        b = torch.from_numpy(b).to(getattr(torch, dtype)).double().numpy()
        a = b.copy()
        a[1, 3:, 7] += 1e-3 * np.array([1, 2, 4])
        return a, b


def test_where_only_logits_are_known_a_position_a_sequence_and_the_course_are_given():
    found = investigate(Logits(), "float32")
    assert found.verdict.verdict == BUG
    assert found.start is not None
    assert found.start.startswith("logits, position 3 of sequence 1: 9.8e-04 of its rms")
    assert found.origin is not None
    assert "sequence 1 from position 3 on, not in sequence 0" in found.origin.seen
    assert "growing" in found.origin.seen
    assert found.origin.explanation is None
    record = found.record()
    assert record["starts"]["operation"] == "logits"
    assert record["explained"] is None
    assert "usually" not in record


class FloatAlone(Logits):
    def paths(self, dtype, shift=0.0):
        a, b = super().paths(dtype, shift)
        return (a, b) if dtype == "float32" else (b, b)


def test_a_bug_of_float32_alone_has_a_place_too():
    found = investigate(FloatAlone(), "float32")
    assert found.verdict.verdict == BUG
    assert found.start is not None
    assert "position 3 of sequence 1" in found.start


def said(subject):
    """The guesses' sentences, after holding place and size to be there."""
    start = origin(subject)
    assert start is not None
    found = start.divergence
    assert found.factor > 1
    assert f"position {found.position} of sequence {found.sequence}" in str(found)
    assert start.seen
    return [x.sentence for x in start.explanation.candidates] if start.explanation else []


SAMPLE = ("left_pads_attended", "oldest_evicted", "page_table_stuck", "other_eps", "stale_slot", "rescale_inverted")
UNSEEN = (  # by these prompts, or, finite masks, by a model's scores
    "strides_swapped", "blocks_capped", "masked_not_zeroed", "empty_sequence", "mask_of_ten_thousand",
    "mask_of_a_billion", "mask_before_scale", "mask_added_twice", "mask_of_the_least_number",
)  # fmt: skip


def sampled(names, sample):
    """Every name; those that are not in the sample are exhaustive."""
    return [pytest.param(name, marks=() if name in sample else pytest.mark.exhaustive) for name in names]


@pytest.mark.parametrize("name", sampled([name for name in CORPUS if name not in UNSEEN], SAMPLE))
def test_a_fault_of_the_corpus_is_explained_rightly_or_not_at_all(name):
    with np.errstate(all="ignore"):
        sentences = said(subject_of(CORPUS[name]))
    assert bool(sentences) == (name in SAYS)
    assert name not in SAYS or any(SAYS[name] in sentence for sentence in sentences)


def test_eighty_one_faults_of_the_corpus_are_to_be_explained():
    assert len(SAYS) == 81
    assert set(SAYS) <= set(CORPUS) - set(UNSEEN)


@pytest.mark.parametrize("name", sampled(STRANGERS, (
    "llama: a window of 5", "gemma2: softcap dropped", "gpt_oss: sinks dropped", "llama: prefill not causal",
    "llama: another activation", "mistral: window off in the prefill",
)))  # fmt: skip
def test_a_bug_of_a_stranger_is_explained_rightly_or_not_at_all(name):
    pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[hf]'")
    case = STRANGERS[name]
    sentences = said(case.subject(name.partition(":")[0]))
    assert bool(sentences) == (case.says is not None)
    assert case.says is None or any(case.says in sentence for sentence in sentences)
