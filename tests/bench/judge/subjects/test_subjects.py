"""Subjects: both paths see the same tokens and the same shift, and only the one under test sees a fault."""

from unittest.mock import patch

import numpy as np
import pytest
import torch

from kvproof.bench.judge.subjects.callables import CallableSubject
from kvproof.bench.judge.subjects.oracle import NumpySubject
from kvproof.bench.judge.subjects.ours import OurSubject
from kvproof.bench.judge.subjects.slots import slots_read
from kvproof.bench.measure.interleaved import Models
from kvproof.gpt2 import attention, load
from kvproof.reference.judge.faults import FAULTS
from kvproof.reference.judge.parity import LOGIT_BARS

from ...._gpt2_models import CACHED, random_prompts, small_model
from .._models import lengths_moved, relative, subject


@pytest.mark.parametrize("b", ["naive", "numpy"])
@pytest.mark.parametrize("impl", CACHED)
def test_our_impls_agree_as_far_as_each_dtype_rounds(impl, b):
    # The PTX machine takes its time over the kernel.
    ours = subject(impl, b, (9, 3), 2) if impl == "triton" else subject(impl, b)
    bars = {"float64": 1e-11, "float32": 5e-5, "float16": 3e-2, "bfloat16": 3e-1}
    errors = {dtype: relative(*ours.paths(dtype)) for dtype in bars}
    assert all(errors[dtype] < bar for dtype, bar in bars.items()), errors
    assert errors["bfloat16"] > 10 * errors["float32"] > 100 * errors["float64"]


def test_the_oracle_s_own_cache_is_a_path_where_numpy_has_the_arithmetic():
    ours = subject("numpy", "naive")
    assert relative(*ours.paths("float64")) < LOGIT_BARS["float64"]
    with pytest.raises(NotImplementedError, match="NumPy has no arithmetic in bfloat16"):
        ours.paths("bfloat16")


def test_the_question_says_what_agreement_would_prove():
    assert subject("eager", "naive").question == "cached against uncached"
    assert subject("sdpa", "numpy").question == "against the oracle"
    assert subject("sdpa", "eager").question == "one cached impl against another"


@pytest.mark.parametrize("a", ["eager", "numba"])
@pytest.mark.parametrize("b", ["naive", "numpy"])
def test_a_shift_moves_both_paths_alike_and_then_the_very_weights_are_back(a, b):
    ours = subject(a, b)
    weight = small_model(4, 8)[0].wte.weight
    kept, plain, moved = weight.clone(), ours.paths("float64"), ours.paths("float64", 1e-3)
    assert torch.equal(kept, weight)
    assert relative(*moved) < 1e-11
    assert relative(moved[1], plain[1]) > 1e-4
    assert np.array_equal(ours.paths("float64")[0], plain[0])


@pytest.mark.parametrize("a", ["eager", pytest.param("numba", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("b", ["naive", "numpy"])
def test_int8_weights_are_a_subject_whose_oracle_has_their_values(a, b):
    models = Models("tiny", torch.device("cpu"), "int8")
    ours = OurSubject(models, a, b, prompts=random_prompts(61, (9, 3)), steps=3)
    assert ours.weights == "int8"
    errors = {dtype: relative(*ours.paths(dtype)) for dtype in LOGIT_BARS}
    assert all(errors[dtype] < bar for dtype, bar in LOGIT_BARS.items()), errors
    assert errors["float32"] > 100 * errors["float64"]
    model = models.torch("float64")
    kept, plain = model.wte, ours.paths("float64")
    moved = ours.paths("float64", 1e-9)
    assert relative(*moved) < 1e-11
    assert relative(moved[1], plain[1]) > 1e-11
    assert model.wte is kept
    assert np.array_equal(ours.paths("float64")[0], plain[0])


def other_eps(model):
    return patch.object(model.ln_f, "eps", 1e-2)


@pytest.mark.parametrize("impl", [*CACHED, "naive"])
def test_a_fault_is_injected_into_the_path_under_test_alone(impl):
    clean, faulty = (subject(x, "naive", (9, 3), 2, y).paths("float64") for x, y in (("sdpa", None), (impl, other_eps)))
    assert np.array_equal(clean[1], faulty[1])
    assert relative(*faulty) > 1e-4


@pytest.mark.parametrize(("a", "b", "more", "message"), [
    ("fast", "naive", {}, "impl 'fast' is not known; choose one of numpy, naive"),
    ("naive", "naive", {}, "naive came twice"),
    ("eager", "naive", {"steps": 0}, "steps is 0"),
    ("numpy", "naive", {"inject": other_eps}, "cannot be injected into numpy"),
    ("eager", "naive", {"steps": 200}, "do not fit n_ctx 160"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused(a, b, more, message):
    with pytest.raises(ValueError, match=message):
        subject(a, b, **more)


def test_two_functions_by_name_are_a_subject():
    ours = CallableSubject("numpy:zeros_like", "numpy:ones_like")
    assert (ours.name_a, ours.name_b) == ("numpy:zeros_like", "numpy:ones_like")
    with pytest.raises(ValueError, match="'numpy:nothing': module 'numpy' has no 'nothing'"):
        CallableSubject("numpy:nothing", "numpy:ones_like")


def test_a_numpy_fault_and_the_oracle_are_a_subject():
    model, params = small_model(4, 8)
    ids = np.array(random_prompts(61, (20, 20)))
    fault = next(fault for fault in FAULTS if fault.name == "stale_cache")
    wrong = NumpySubject(fault.name, fault.apply, lambda dtype: params, model.config, ids)
    a, b = wrong.paths("float64")
    assert a.shape == b.shape == (2, 20, 61)
    assert relative(a, b) > 1e-2
    with pytest.raises(NotImplementedError):
        wrong.paths("float16")


@pytest.mark.parametrize(("by", "unread", "trespassed"), [(0, 0, 0), (-1, 2, 0), (1, 0, 2)])
def test_the_drawn_cache_shows_slots_that_are_missed_and_dead_ones_that_are_read(monkeypatch, by, unread, trespassed):
    monkeypatch.setitem(attention.DECODE_STEP, "eager", lengths_moved(by, attention.eager))
    slots = slots_read(load("tiny", impl="eager"), [5, 5], 8)
    assert (slots.unread, slots.trespassed) == (unread, trespassed)
