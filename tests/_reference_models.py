"""What the reference's tests share: the golden files, the models they were made from, and the bars."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kvproof.reference.config import Config
from kvproof.reference.synthetic import random_tensors
from kvproof.reference.weights import nest

DATA = Path(__file__).parent / "data"
SEEDS = {"syn-tiny": 1, "syn-hd32": 2}
# The variants' spellings that the reference reads too -> the key of expected.npz with the logits each must give.
SAFETENSORS_SPELLINGS = {
    "plain": "logits_f32",
    "plain-f16": "logits_f16weights",
    "plain-bf16": "logits_bf16weights",
    "openai-style-noprefix-maskbuffers": "logits_f32",
    "prefix-lmhead-maskedbias-safetensors": "logits_f32",
    "sharded-safetensors": "logits_f32",
}
F64_BAR, F32_BAR = 1e-11, 5e-5  # times max(1, max|wanted|)


@cache
def goldens(name):
    """The arrays of one golden file; info_json comes decoded, as "info"."""
    with np.load(DATA / "goldens" / f"{name}.npz") as file:
        arrays = dict(file)
    return arrays | {"info": json.loads(arrays.pop("info_json").item())}


@cache
def synthetic(name, dtype=np.float64):
    """params and config of syn-tiny or syn-hd32."""
    config = Config.from_dict(goldens(name)["info"]["config"])
    return nest({key: array.astype(dtype) for key, array in random_tensors(config, SEEDS[name])}), config


def cast(tree, kind) -> Any:
    """The same nested weights in another dtype."""
    if isinstance(tree, dict):
        return {name: cast(value, kind) for name, value in tree.items()}
    return [cast(value, kind) for value in tree] if isinstance(tree, list) else tree.astype(kind)


def error(got, want):
    """max|got - want| in units of max(1, max|want|), the unit of both bars. NaN if either holds one."""
    assert got.shape == want.shape
    return np.abs(np.asarray(got, np.float64) - want).max() / max(1.0, np.abs(want).max())
