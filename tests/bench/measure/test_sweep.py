"""The cells of a sweep: what each is known by, and its prompts."""

from dataclasses import replace

import pytest
import torch

from kvproof.bench.measure.interleaved import Models
from kvproof.bench.measure.sweep import DISTINCT, Cell, Plan, prompts_for

PLAN = Plan(("naive", "triton"), torch.device("cpu"), 2, ("Once", "Twice"), False, "python bench/decode.py")
TEXTS = Cell("tiny", "float32", 5, None, 4)
DRAWN = replace(TEXTS, context=7)


@pytest.fixture(scope="module")
def models():
    return Models("tiny", PLAN.device)


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
    assert PLAN.key(DRAWN) == replace(PLAN, prompts=("Once",)).key(DRAWN)
    assert PLAN.key(TEXTS) == replace(PLAN, command="another").key(TEXTS)
