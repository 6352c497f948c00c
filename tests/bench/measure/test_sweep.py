"""The cells of a sweep: what each is known by, and its prompts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kvproof.bench.measure.interleaved import Models
from kvproof.bench.measure.plan import Cell, Plan
from kvproof.bench.measure.sweep import DISTINCT, prompts_for

PLAN = Plan(("naive", "triton"), torch.device("cpu"), 2, ("Once", "Twice"), False, "python bench/decode.py")
TEXTS = Cell("tiny", "float32", 5, None, 4)
DRAWN = replace(TEXTS, context=7)


@pytest.fixture(scope="module")
def models():
    return Models("tiny", PLAN.device)


def test_a_checkpoint_is_loaded_once_for_each_dtype_and_framework(models):
    assert models.torch("float32") is models.torch("float32")
    assert models.torch("float64").dtype == torch.float64
    (params, config), again = models.numpy("float64"), models.numpy("float64")
    assert again[0] is params
    assert config.n_vocab == models.torch("float32").config.n_vocab
    assert np.array_equal(params["wte"]["weight"], models.torch("float64").wte.weight.detach().numpy())


def test_sequences_take_the_prompts_in_turn(models):
    texts, drawn = prompts_for(TEXTS, PLAN, models), prompts_for(DRAWN, PLAN, models)
    assert [texts[row] == texts[row % 2] for row in range(5)] == [True] * 5
    assert texts[0] != texts[1]
    assert [len(ids) for ids in drawn] == [7] * 5
    assert drawn[DISTINCT] == drawn[0]
    assert len({tuple(ids) for ids in drawn}) == DISTINCT


def test_more_prompts_than_rows_are_refused(models):
    with pytest.raises(ValueError, match="2 prompts came for a batch of 1"):
        prompts_for(replace(TEXTS, batch=1), PLAN, models)


def test_a_finished_cell_is_known_by_all_that_its_figures_depend_on():
    others = {"impls": ("naive",), "repeats": 3, "graph": True, "prompts": ("Once",), "backend": "interpret"}
    assert len({PLAN.key(TEXTS), *(replace(PLAN, **{n: x}).key(TEXTS) for n, x in others.items())}) == 6
    assert PLAN.key(replace(TEXTS, weights="int8")) == PLAN.key(TEXTS).replace("float32", "float32, int8 weights")
    assert PLAN.key(DRAWN) == replace(PLAN, prompts=("Once",)).key(DRAWN)
    assert PLAN.key(TEXTS) == replace(PLAN, command="another").key(TEXTS)
