"""A fault planted in a torch model moves its logits, and nothing of it is left when the context closes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kvproof.bench.judge.faults.catalogue import TORCH_FAULTS, in_torch
from kvproof.bench.judge.faults.planting import correct_step, decoding_at, in_decode, planted
from kvproof.bench.judge.tracing.tape import capture
from kvproof.reference.judge.faults import FAULTS, ORACLE, decode, describe

from ...._gpt2_models import CACHED, forced, random_prompts, small_model

V, LENGTHS, STEPS = 61, (9, 6), 5
PROMPTS, TOKENS = random_prompts(V, LENGTHS), np.random.default_rng(1).integers(V, size=(2, STEPS))
IN_KERNEL = ("torch_lengths_not_advanced",)  # a sample, since the PTX machine takes its time
each_fault = pytest.mark.parametrize("fault", TORCH_FAULTS, ids=lambda fault: fault.name)


def model_of(impl="sdpa", dtype="float64", device="cpu"):
    return small_model(3, 8, dtype, device)[0].with_impl(impl)


def logits(model, prompts=PROMPTS, chunk=None):
    return forced(model, prompts, TOKENS, chunk=chunk).cpu()


def namespaces(model):
    spaces = [space for m in [model, *model.modules()] for space in (vars(m), m._parameters)]
    return [{name: id(value) for name, value in space.items()} for space in spaces]


def test_names_are_unique_over_both_catalogues_and_links_are_threads():
    names = [fault.name for fault in (*FAULTS, *TORCH_FAULTS)]
    assert len(set(names)) == len(names)
    assert len(TORCH_FAULTS) >= 15
    assert all(fault.link and "https://github.com/" in fault.link for fault in TORCH_FAULTS)
    said = json.loads(json.dumps([describe(fault) for fault in TORCH_FAULTS]))
    assert said[0] == describe(TORCH_FAULTS[0]) | {"place": list(TORCH_FAULTS[0].place or ())}
    assert "inject" not in said[0]


@pytest.mark.parametrize("impl", ["sdpa", "eager", pytest.param("triton", marks=pytest.mark.exhaustive)])
@each_fault
def test_an_injected_fault_changes_logits_and_restoring_restores_bits(fault, impl, device):
    model = model_of(impl, device=device if impl == "triton" else "cpu")
    right, before = logits(model), namespaces(model)
    with fault.inject(model):
        wrong = logits(model)
    assert not (wrong - right).abs().max() <= 1e-5
    assert namespaces(model) == before
    assert torch.equal(logits(model), right)


def traced(model):
    """Every operation's result of the prefill and the steps, by its place, in order of computation."""
    with capture(model) as tape:
        logits(model)
    return {x[:2]: x.value for x in tape.activations()}


@pytest.mark.parametrize("fault", [f for f in TORCH_FAULTS if f.place], ids=lambda fault: fault.name)
def test_a_run_first_differs_at_the_place_that_the_fault_names(fault):
    model = model_of()
    right = traced(model)
    with fault.inject(model):
        wrong = traced(model)
    same = {place: np.allclose(wrong[place], value, rtol=0, atol=1e-9) for place, value in right.items()}
    assert next(place for place in same if not same[place]) == fault.place


@each_fault
def test_nothing_is_left_behind_by_an_exception(fault):
    model = model_of()
    before = namespaces(model)
    with pytest.raises(RuntimeError, match="inside"), fault.inject(model):
        raise RuntimeError("inside")
    assert namespaces(model) == before


@each_fault
def test_only_what_an_oracle_sees_moves_a_model_without_a_cache(fault):
    model, ids = model_of(), torch.tensor([PROMPTS[0]])
    right = model(ids)
    with fault.inject(model):
        moved = (model(ids) - right).abs().max()
    assert moved > 1e-5 if fault.seen_by == ORACLE else moved == 0


@pytest.mark.parametrize("fault", [f for f in TORCH_FAULTS if f.name in IN_KERNEL], ids=lambda fault: fault.name)
def test_a_fault_moves_the_kernel_s_decode_as_well(fault, device):
    model = model_of("triton", "float32", device)
    right = logits(model)
    with fault.inject(model):
        assert (logits(model) - right).abs().max() > 1e-3
    assert torch.equal(logits(model), right)


@pytest.mark.parametrize("impl", [impl for impl in CACHED if impl != "triton"])
@pytest.mark.parametrize(
    "plan", [in_decode(correct_step), decoding_at(lambda slots: slots)], ids=["decode", "positions"]
)
def test_the_seams_without_a_fault_give_the_same_bits(plan, impl):
    model = model_of(impl)
    right = logits(model)
    with planted(plan(model)):
        assert torch.equal(logits(model), right)


@pytest.mark.parametrize("fault", [f for f in TORCH_FAULTS if "equally long" in f.imitates], ids=lambda f: f.name)
def test_a_fault_of_ragged_batches_hides_in_an_even_one(fault):
    model, even = model_of(), random_prompts(V, (7, 7))
    right = logits(model, even)
    with fault.inject(model):
        assert (logits(model, even) - right).abs().max() <= 1e-12


def test_the_numpy_op_as_a_decode_step_is_as_good_as_torch_s():
    model, op = model_of(), replace(FAULTS[0], apply=decode)
    right = logits(model)
    with in_torch(op).inject(model):
        assert (logits(model) - right).abs().max() <= 1e-12


@pytest.mark.parametrize("name", ["no_scale", "length_short", "head_zero", "tail_dropped", "lse_in_base_two"])
def test_a_numpy_attention_fault_runs_in_torch(name):
    (fault,) = [fault for fault in FAULTS if fault.name == name]
    model = model_of(dtype="float32")
    right = logits(model)
    with in_torch(fault).inject(model):
        wrong = logits(model)
    assert in_torch(fault).name == f"step_{name}"
    assert (wrong - right).abs().max() > 1e-3
    assert torch.equal(logits(model), right)


def test_a_cache_fault_is_no_decode_step():
    (fault,) = [fault for fault in FAULTS if fault.name == "stale_slot"]
    with pytest.raises(ValueError, match="stale_slot is a cache fault; only an attention fault is a decode step"):
        in_torch(fault)
