"""A model of what a decode step costs: seconds = launches * overhead + bytes / bandwidth + flops / rate.

It is meant to explain, so it is kept this small; where it is wrong, the difference is shown. It does not know that
memory and arithmetic overlap, nor that a matrix product of few rows is slower than one of many.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...reference.config import Config


@dataclass(frozen=True)
class Work:
    """What a computation does: operations launched, bytes that must move, floating-point operations."""

    launches: float
    bytes: float
    flops: float


@dataclass(frozen=True)
class Parts:
    """Seconds of a computation, by cause."""

    overhead: float
    bytes: float
    flops: float

    @property
    def total(self) -> float:
        return self.overhead + self.bytes + self.flops


@dataclass(frozen=True)
class Constants:
    """What a machine takes.

    overhead   seconds per launched operation
    rate       floating-point operations per second
    bandwidth  ((bytes, bytes per second), ...), rising in bytes: small working sets lie in a cache
    """

    overhead: float
    rate: float
    bandwidth: tuple[tuple[float, float], ...]

    def speed(self, working_set: float) -> float:
        """Bytes per second of reading a working set of so many bytes, between the measured sizes by their logarithm."""
        sizes, speeds = zip(*self.bandwidth, strict=True)
        return float(np.interp(np.log(max(working_set, 1.0)), np.log(sizes), speeds))

    def parts(self, work: Work) -> Parts:
        return Parts(work.launches * self.overhead, work.bytes / self.speed(work.bytes), work.flops / self.rate)


def block_parameters(config: Config) -> int:
    """Elements of the weight matrices of all blocks, which every token is multiplied by."""
    return config.n_layer * (4 * config.n_embd**2 + 2 * config.n_embd * config.n_inner)


def parameters(config: Config) -> int:
    """All elements of the model, a tied head counted once."""
    E, inner = config.n_embd, config.n_inner
    small = config.n_layer * (9 * E + inner) + 2 * E  # biases and LayerNorms
    heads = 1 if config.tie_word_embeddings else 2
    return block_parameters(config) + small + heads * config.n_vocab * E + config.n_ctx * E


def step_weights(config: Config) -> int:
    """Elements one decode step reads: all but the embedding tables, of which it reads rows; the head is one of them."""
    tables = config.n_ctx + (0 if config.tie_word_embeddings else config.n_vocab)
    return parameters(config) - tables * config.n_embd


def step_weight_bytes(config: Config, itemsize: int, weights: str | None = None) -> int:
    """Bytes of these; with "int8" weights a matrix takes one byte an element and a float32 scale a channel."""
    if weights is None:
        return itemsize * step_weights(config)
    E, inner, head = config.n_embd, config.n_inner, config.n_vocab * config.n_embd
    channels = config.n_layer * (5 * E + inner) + config.n_vocab
    matrices = block_parameters(config) + head
    return matrices + 4 * channels + itemsize * (step_weights(config) - matrices)


def kv_elements(config: Config) -> int:
    """Elements of K and V that one token of one sequence leaves in the cache."""
    return 2 * config.n_layer * config.n_embd


def cached_step(config: Config, lengths: list[int], itemsize: int, launches: float) -> Work:
    """One decode step over a cache; lengths[b] counts the live slots of sequence b, the new token's included."""
    weights, cached = step_weights(config), kv_elements(config) * sum(lengths)
    products = block_parameters(config) + config.n_vocab * config.n_embd
    return Work(launches, itemsize * (weights + cached), 2 * len(lengths) * products + 2 * cached)


def whole_pass(config: Config, lengths: list[int], itemsize: int, launches: float) -> Work:
    """The whole sequences at once, logits of the last token alone: a prefill, and every step of the naive path.

    Shorter rows are padded to the longest, which is computed too; each token attends to its past.
    """
    B, T = len(lengths), max(lengths)
    attention = kv_elements(config) * B * T * (T + 1)
    products = 2 * B * (T * block_parameters(config) + config.n_vocab * config.n_embd)
    return Work(launches, itemsize * step_weights(config), products + attention)


def first_below(cached: Callable[[int], float], naive: Callable[[int], float], start: int, stop: int) -> int | None:
    """The least n in [start, stop] from which on cached(n) < naive(n); None if it stays above at the end."""
    found = None
    for n in range(stop, start - 1, -1):
        if cached(n) >= naive(n):
            break
        found = n
    return found
