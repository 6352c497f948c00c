"""What is asked of the engine, and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Request:
    """A prompt and the settings of its continuation.

    prompt          a text, or token ids
    max_new_tokens  at most this many; any of model.end_tokens ends it sooner
    temperature     0 is greedy; else logits are divided by it, then cut by top_k, then by top_p
    seed, row       it draws from the stream (seed, row), as row `row` of gpt2.generate; None is another seed each time
    stop            strings that end it; the text is cut before the first complete one
    logits          keep the logits of every new token
    """

    prompt: str | Sequence[int]
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    row: int = 0
    stop: str | Sequence[str] = ()
    logits: bool = False


@dataclass
class Result:
    """A request's continuation: the bytes that gpt2.generate gives for it alone.

    prompt_ids     the prompt's tokens
    ids            the new tokens, without the end token that ended them
    text           the new text, cut before a stop string; None if the model has no tokenizer
    finish_reason  "stop" (an end token or a stop string), "length", "abort" or "error"
    error          why, if it is "error"; the ids before it stand
    logits         (n, V) of the new tokens and of the end token, if they were asked for
    """

    prompt_ids: list[int]
    ids: list[int]
    text: str | None
    finish_reason: str
    error: str | None = None
    logits: np.ndarray | None = None


@dataclass
class Event:
    """What a step brought to one request.

    request  the number that `add` gave
    ids      its new tokens, none or more
    text     its new text, which no later token changes
    result   all of it, once it has ended
    """

    request: int
    ids: list[int]
    text: str
    result: Result | None = None
