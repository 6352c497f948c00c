"""Tiny models of every architecture: they run, their logits are of size 1 and come from all earlier tokens."""

import pytest
import torch

from kvproof.bench.judge.zoo.build import build, known, logits, models, prompt
from kvproof.bench.judge.zoo.record import record
from kvproof.bench.judge.zoo.shrink import chosen
from kvproof.bench.judge.zoo.sizes import EXCEPTIONS, NOT_BUILT

from ._zoo import BUILT, EXHAUSTIVE, SAMPLE

# Their tokens see later ones: a prompt of CPM-Ant attends both ways, so does the n-gram stream of ProphetNet.
SEE_LATER = {"cpmant", "prophetnet"}


@pytest.mark.parametrize("model_type", EXHAUSTIVE)
def test_logits_are_of_size_1_and_come_from_the_first_token(model_type):
    made = record(model_type, build(model_type), 0.0)
    assert 0.5 < made["logits_rms"] < 2
    assert made["first_token"] > 0.03
    assert made["causal"] == (model_type not in SEE_LATER)
    assert made["parameters"] < 1e6


def test_the_seed_decides():
    first, again, other = (logits(build("llama", seed), prompt()) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1


def test_building_leaves_the_random_state_as_it_was():
    before = torch.get_rng_state()
    build("llama")
    assert torch.equal(before, torch.get_rng_state())


def test_every_kind_of_layer_is_kept():
    kinds = [("a", 0)] * 5 + [("b", 0)] * 5 + [("a", 1)]
    assert {kinds[i] for i in chosen(kinds)} == set(kinds)
    assert chosen([("a",)] * 9) == [0, 1, 2, 3]


def test_hybrids_have_both_their_kinds_of_layers():
    for name, kinds in (
        ("gemma2", {"sliding_attention", "full_attention"}),
        ("qwen3_next", {"linear_attention", "full_attention"}),
        ("lfm2", {"conv", "full_attention"}),
    ):
        assert set(build(name).config.layer_types) == kinds


def test_every_architecture_is_built_or_has_a_reason():
    assert len(BUILT) >= 180
    assert set(models()) <= set(known())
    assert {name: why for name, why in models().items() if name in NOT_BUILT} == NOT_BUILT
    assert set(SAMPLE) <= set(BUILT)
    assert all(why for _, why in EXCEPTIONS.values())


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"'lama' is no causal LM of transformers; it has afmoe, .*llama"):
        build("lama")
    with pytest.raises(ValueError, match="gemma4_assistant is not built: it drafts for another model"):
        build("gemma4_assistant")
