"""The impl triton on the PTX machine: which calls of the kernel a step makes, and each request's bits."""

import random
from functools import cache

import numpy as np
import pytest
import torch

from kvproof.gpt2 import Config
from kvproof.gpt2.engine import Engine, Request
from kvproof.gpt2.model import GPT2
from kvproof.gpt2.weights import as_dtype, build
from kvproof.reference.synthetic import random_tensors

from ._requests import Told, alone, assert_nothing_left, logits_alone, run_with_arrivals, same

CONFIG = Config(n_vocab=61, n_ctx=64, n_embd=64, n_head=1, n_layer=1, n_inner=64)


@cache
def model(dtype: str) -> GPT2:
    tensors = ((name, torch.from_numpy(array)) for name, array in random_tensors(CONFIG, 0))
    return build(CONFIG, tensors, None, as_dtype(dtype), torch.device("cpu"), "triton", True)


@pytest.mark.parametrize(("dtype", "page", "draft"), [
    ("float32", 4, 0), ("float32", 4, 3), ("bfloat16", 4, 3),
    pytest.param("float64", 4, 3, marks=pytest.mark.exhaustive),
])  # fmt: skip
def test_every_request_has_the_bits_of_its_lone_run(dtype, page, draft):
    rng, trunk = random.Random(0), [i % 7 for i in range(40)]
    requests = [
        Request(trunk[:n] + [i] * (i % 3 + 1), 2 + 2 * i, temperature=0.5 * (i % 2), seed=i, logits=True)
        for i, n in enumerate((19, 3, 17, 0))
    ]
    expected = [alone(model(dtype), request) for request in requests]
    drafter = Told(draft, [(want.prompt_ids, want.ids) for want in expected], rng) if draft else 0
    engine = Engine(model(dtype), running=4, page=page, blocks=64 // page, step_tokens=40, draft=drafter)
    found, *_ = run_with_arrivals(engine, requests, rng, preempts=0.2)
    assert not draft or engine.drafter.right > 0
    assert engine.scheduler.preemptions > 0
    for result, want in zip(found, expected, strict=True):
        assert same(result, want)
        assert np.array_equal(result.logits, logits_alone(model(dtype), want)[: len(result.logits)])
    assert_nothing_left(engine)


def test_a_step_makes_one_call_for_equal_numbers_of_tokens():
    engine = Engine(model("float32"), running=8, step_tokens=64)
    for n in (1, 18, 1, 33, 2):
        engine.add(Request([3] * n, 1))
    spans = engine.scheduler.plan()
    calls = engine.runner.calls(spans)
    assert [tuple(call.rows.shape) for call in calls] == [(2, 1), (1, 2), (2, 16), (1, 2), (1, 16), (1, 1)]
    assert sorted(torch.cat([call.rows.flatten() for call in calls]).tolist()) == list(range(55))
    assert [call.seen.tolist() for call in calls] == [[1, 1], [2], [16, 16], [18], [32], [33]]
