"""10,000 ragged requests in every company: no byte differs from a lone run, no block is lost."""

import random
from functools import cache

import numpy as np
import pytest

from kvproof.gpt2 import GPT2, load
from kvproof.gpt2.engine import Drafter, Engine, Result

from ._requests import Told, alone, assert_nothing_left, logits_alone, ragged, run_with_arrivals, same

PAGES = (8, 16, 48)
PARTS, EACH = 16, 625  # 10,000 requests
LOGITS = 0.1  # of them keep their logits

pytestmark = pytest.mark.exhaustive


@cache
def model() -> GPT2:
    return load("tiny", impl="numba")


@cache
def part(number: int):
    """(requests, what each gives alone); prompts of 1 to some 900 tokens."""
    requests = ragged(random.Random(number), EACH, 60, 940, 40, LOGITS)
    return requests, [alone(model(), request) for request in requests]


@cache
def logits_of(number: int, i: int) -> np.ndarray:
    return logits_alone(model(), part(number)[1][i])


def compare(number: int, engine: Engine):
    """Run a part of the requests; count results that differ, and logits that were compared."""
    requests, expected = part(number)
    rng = random.Random(number)
    found, aborted, most = run_with_arrivals(engine, requests, rng, aborts=0.01, preempts=0.02)
    differ, compared = [], 0
    for i, (result, want) in enumerate(zip(found, expected, strict=True)):
        if i in aborted:
            cut = Result(want.prompt_ids, want.ids[: len(result.ids)], result.text, "abort")
            differ += [] if same(result, cut) else [i]
            continue
        differ += [] if same(result, want) else [i]
        if result.logits is not None:
            compared += 1
            differ += [] if np.array_equal(result.logits, logits_of(number, i)[: len(result.logits)]) else [i]
    assert differ == []
    assert compared > 30
    assert len(aborted) > 1
    assert engine.scheduler.preemptions > 5
    assert most <= engine.blocks.blocks
    assert_nothing_left(engine)


def engine_of(number: int, draft: int | Drafter) -> Engine:
    """In room for two to three of the longest."""
    page = PAGES[number % 3]
    return Engine(model(), running=24, page=page, blocks=2500 // page, step_tokens=96, draft=draft)


@pytest.mark.parametrize("number", range(PARTS))
def test_without_drafts(number):
    compare(number, engine_of(number, 0))


@pytest.mark.parametrize("number", range(PARTS))
def test_with_up_to_16_drafts(number):
    """k = number + 1; by prompt lookup, and told the right ones up to a random place."""
    k = number + 1
    engine = engine_of(number, Drafter(k, of_all=True, always=True))
    compare(number, engine)
    assert engine.drafter.drafted > engine.drafter.right > 0
    expected = part(number)[1]
    told = Told(k, [(want.prompt_ids, want.ids) for want in expected], random.Random(number))
    engine = engine_of(number + 1, told)
    compare(number, engine)
    assert told.right > 0.2 * told.drafted
