"""The engine: what it refuses, what it streams, and each request's bytes."""

import random

import numpy as np
import pytest
import torch

from kvproof.gpt2 import ContextFull, GPT2, load
from kvproof.gpt2.engine import Drafter, Engine, Request

from ._requests import alone, assert_nothing_left, logits_alone, ragged, run_with_arrivals, same


@pytest.fixture(scope="module")
def model() -> GPT2:
    return load("tiny", impl="numba")


@pytest.fixture(scope="module")
def requests(model) -> list[Request]:
    return ragged(random.Random(0), 40, 40, 260, 60)


@pytest.fixture(scope="module")
def expected(model, requests):
    return [alone(model, request) for request in requests]


@pytest.mark.parametrize("page", (1, 16, 64))
@pytest.mark.parametrize("draft", (0, 5))
def test_every_request_has_the_bytes_of_its_lone_run(model, requests, expected, page, draft):
    """In few blocks, so that some are preempted."""
    drafter = Drafter(draft, of_all=True, always=True) if draft else 0
    engine = Engine(model, running=9, page=page, blocks=352 // page + 1, step_tokens=48, draft=drafter)
    found, aborted, most = run_with_arrivals(engine, requests, random.Random(page), aborts=0.05, preempts=0.05)
    for i, (result, want) in enumerate(zip(found, expected, strict=True)):
        if i in aborted:
            assert result.ids == want.ids[: len(result.ids)]
        else:
            assert same(result, want), i
    assert 0 < len(aborted) < 20
    assert engine.scheduler.preemptions > 0
    assert most <= engine.blocks.blocks
    assert not draft or engine.drafter.right > 0
    assert_nothing_left(engine)
