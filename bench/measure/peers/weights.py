"""Our weights as the peers take them: read anew, in float32, or as rows of int8 with a scale."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ....gpt2.weights import checkpoint, open_checkpoint
from ....reference.config import Config
from ....reference.synthetic import random_config, random_tensors


def open_weights(name: str | Path) -> tuple[Config, Iterator[tuple[str, torch.Tensor]]]:
    """The config and the tensors of what `load` takes, by canonical name, one at a time, as stored.

    Read anew, not taken from our model: a peer owes nothing to how ours keeps its weights.
    """
    path = checkpoint(name)
    if isinstance(path, str):
        config = random_config(path)
        return config, ((key, torch.from_numpy(array)) for key, array in random_tensors(config))
    return open_checkpoint(path)[:2]


def float_weights(name: str | Path) -> tuple[Config, dict[str, np.ndarray]]:
    """The config and every tensor in float32, contiguous, by canonical name."""
    config, tensors = open_weights(name)
    return config, {key: np.ascontiguousarray(tensor.float().numpy()) for key, tensor in tensors}


def head_name(config: Config) -> str:
    """The tensor whose rows, (V, E), give the logits."""
    return "wte.weight" if config.tie_word_embeddings else "lm_head.weight"


def int8_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8, a scale for each row: (n, m) float32 -> (n, m) int8 and (n, 1) float32, their product rounded.

    A row of zeros has scale 1.
    """
    scale = np.abs(weight).max(1, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight / scale).astype(np.int8), scale
