"""What a causal LM computes on the way and what its cache holds at the end, of the rows and tokens compared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..subjects.oracle import live_slots
from ..subjects.ours import stack_rows
from ..tracing.module_tape import Columns, capture_modules
from ..tracing.tape import Activation, capture
from .caches import layers_of


@contextmanager
def taped(model: Any, family: bool) -> Iterator[Any]:
    """A tape of the model's operations, or of its modules, which is told what counts of each call."""
    if family:
        with capture(model) as tape:
            yield tape
    else:
        with capture_modules([model]) as tape:
            yield Columns(tape)


def live_slots_of(cache: Any, lengths: np.ndarray, start: np.ndarray | None = None) -> list[Activation]:
    """Each layer's live slots, the padding left out; nothing where a layer keeps something else, or not all.

    lengths  (B,) tokens of each sequence; start (B,) the slot of its first
    """
    found = []
    for layer, held in enumerate(layers_of(cache)):
        k, v = (getattr(held, name, None) for name in ("keys", "values"))
        if not (isinstance(k, torch.Tensor) and isinstance(v, torch.Tensor) and k.ndim == 4 and k.shape == v.shape):
            return []
        k, v = (x.double().cpu().numpy() for x in (k, v))
        if k.shape[2] < max(lengths + (0 if start is None else start)):
            return []  # a window keeps no slot for its oldest tokens
        found.append(Activation(layer, "cache", live_slots(k, v, lengths, start)))
    return found


def joined(runs: Sequence[tuple[np.ndarray, list[Activation]]]) -> tuple[np.ndarray, list[Activation]]:
    """The logits and traces of some rows each as those of all."""
    logits, traces = zip(*runs, strict=True)
    return np.concatenate(logits), stack_rows(traces)
