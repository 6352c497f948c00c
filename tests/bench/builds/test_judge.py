"""bench/builds/judge.py: outputs of any build against the float64 formula, tokens against the model without a cache."""

import base64
import json

from kvproof.bench.builds.judge import greedy, of_attention, of_tokens
from kvproof.bench.builds.worker import inputs
from kvproof.reference.judge.rounding import attention

SHAPE = 2, 3, 40, 16


def coded(o) -> str:
    return base64.b64encode(o.astype("float32").tobytes()).decode()


def test_each_sequence_is_held_to_the_formula():
    o = attention(*inputs(SHAPE, "float32"))
    assert of_attention(SHAPE, "float32", coded(o)).gates <= 1
    o[1, 2, 3] += 1e-3  # of the last sequence
    red = of_attention(SHAPE, "float32", coded(o))
    assert red.gates > 1
    assert 0.9e-3 < red.error < 1.1e-3


def test_tokens_are_those_of_the_model_without_a_cache():
    ids = greedy((1, 2, 3), 4)
    assert of_tokens([1, 2, 3], 4, json.dumps(ids)).gates == 0
    assert of_tokens([1, 2, 3], 4, json.dumps(ids[:-1])).gates > 1
