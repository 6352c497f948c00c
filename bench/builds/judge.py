"""Whether an output is right, by the process that asks: one judge for all builds and engines."""

import base64
import json
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...reference.judge.rounding import attention, attention_error
from .worker import inputs


class Parity(NamedTuple):
    """How far an output is from the truth.

    gates  the largest error against the float64 formula, in multiples of what rounding explains: right up to 1
    error  the largest difference from it
    """

    gates: float
    error: float


@lru_cache(maxsize=256)
def of_attention(shape: tuple[int, int, int, int], dtype: str, out: str) -> Parity:
    """Of decode attention over `worker.inputs`.

    out  the bytes of (B, H, D) in base64: equal ones are judged once
    """
    q, k, v, lengths = inputs(shape, dtype)
    o = np.frombuffer(base64.b64decode(out), dtype).reshape(q.shape)
    found = Parity(0, 0)
    for b in range(len(q)):  # float64 copies of one sequence at a time
        one = slice(b, b + 1)
        of = q[one], k[one], v[one], lengths[one]
        error = np.abs(o[one].astype(np.float64) - attention(*of)).max()
        found = Parity(*map(max, found, (attention_error(o[one], *of), float(error))))
    return found


@lru_cache(maxsize=1)
def greedy(prompt: tuple[int, ...], new: int) -> list[int]:
    """Ids of `tiny` by the impl that caches nothing and calls no kernel."""
    from kvproof.gpt2 import generate, load

    return generate(load("tiny", impl="naive"), [[*prompt]], max_new_tokens=new)[0].ids


def of_tokens(prompt: list[int], new: int, out: str) -> Parity:
    """Of greedy ids, as JSON: nothing but equality will do."""
    wrong = float(json.loads(out) != greedy(tuple(prompt), new))
    return Parity(np.inf if wrong else 0, wrong)
