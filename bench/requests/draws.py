"""The requests that every arm gets: their lengths and their ids, drawn once from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPREAD = 0.9  # standard deviation of the logarithm of a length: one in ten is above 3 times the median
TYPICAL = 4  # the median is the least length times this, so that the tail ends long after it


@dataclass(frozen=True)
class Draw:
    """Prompts as token ids, and how many new tokens each asks for."""

    seed: int
    prompts: tuple[tuple[int, ...], ...]
    new_tokens: tuple[int, ...]

    @property
    def useful(self) -> int:
        """New tokens that were asked for, of all requests."""
        return sum(self.new_tokens)

    def record(self) -> dict:
        return {
            "seed": self.seed,
            "prompt_tokens": [len(prompt) for prompt in self.prompts],
            "new_tokens": list(self.new_tokens),
        }

    def __str__(self) -> str:
        words = [
            f"{name} {min(n)} to {max(n)}, median {np.median(n):.0f}, {sum(n):,} in all"
            for name, n in (("prompt tokens", [len(p) for p in self.prompts]), ("new tokens", self.new_tokens))
        ]
        return f"{len(self.prompts)} requests of seed {self.seed}: {'; '.join(words)}"


def long_tailed(rng: np.random.Generator, count: int, least: int, most: int) -> np.ndarray:
    """Lengths (count,) from `least` to `most`: log-normal about TYPICAL * least, or the middle where that is more."""
    middle = min(TYPICAL * least, (least + most) / 2)
    drawn = middle * np.exp(SPREAD * rng.standard_normal(count))
    return np.clip(drawn.round(), least, most).astype(int)


def draw(count: int, n_vocab: int, prompt: Sequence[int], new: Sequence[int], seed: int) -> Draw:
    """Requests of mixed lengths: most short, a few as long as may be; ids below n_vocab.

    prompt, new  least and most tokens of a prompt, and new tokens
    """
    rng = np.random.default_rng(seed)
    lengths, asked = long_tailed(rng, count, *prompt), long_tailed(rng, count, *new)
    prompts = tuple(tuple(rng.integers(n_vocab, size=n).tolist()) for n in lengths)
    return Draw(seed, prompts, tuple(asked.tolist()))
