"""Prompts for speculation, from text that repeats itself to ids at random."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...gpt2 import GPT2, generate
from ...gpt2.tokenizer import Tokenizer

PROMPT = 48  # tokens at most
CIRCLE = 160  # tokens after which greedy decoding may go in a circle
GOES_ON = 128  # tokens after that, in the same circle
PERIOD = 24  # tokens of a circle, at most
CANDIDATES = 16  # tried for each prompt that circles
PHRASES = (
    *("red, green and blue; ", "one step left, one step right, ", "wash, rinse, repeat. ", "tick tock, tick tock, "),
    *("up and down, ", "again and again and ", "to be or not to be, ", "ha ha ha, "),
)
PROSE = (
    "The ferry left an hour late, and by then the wind had turned. Those who had stayed on the pier went home along "
    "the harbour wall, past nets that hung to dry and a dog asleep on a coil of rope. Nobody spoke of the storm. In "
    "the kitchen above the bakery a lamp was lit, somebody laughed, and a window was closed against the rain."
)


@dataclass(frozen=True)
class Text:
    """A kind of prompt and how it is continued.

    prompt       called with the number of a request, gives its text; None draws ids at random
    temperature  0 is greedy
    circling     the prompt is not this text but the end of CIRCLE tokens with which the model goes on from it greedily,
                 if it goes in a circle and so does what the model writes after it; other texts are passed over
    """

    name: str
    prompt: Callable[[int], str] | None
    temperature: float
    circling: bool = False


def repetitive(i: int) -> str:
    return (PHRASES[i % len(PHRASES)] * 13)[i // len(PHRASES) :]


def json_lines(i: int) -> str:
    rows = [
        f'{{"id": {n}, "name": "item {n}", "tags": ["a", "b"], "price": {n}.50}}' for n in range(10 * i, 10 * i + 6)
    ]
    return "[" + ",\n ".join(rows) + ",\n"


def prose(i: int) -> str:
    words = PROSE.split()
    start = 9 * i % len(words)
    return " ".join(words[start:] + words[:start])


TEXTS = (
    Text("repetitive", repetitive, 0.0, circling=True),
    Text("json", json_lines, 0.0),
    Text("prose", prose, 0.0),
    Text("prose, sampled", prose, 0.8),
    Text("random ids, sampled", None, 1.0),
)


def prompts(text: Text, count: int, model: GPT2, tokenizer: Tokenizer | None) -> list[tuple[int, ...]]:
    """The prompts of so many requests.  Raises ValueError for a text where there is no tokenizer."""
    if not text.circling:
        return [ids(text, i, model.config.n_vocab, tokenizer) for i in range(count)]
    found: list[tuple[int, ...]] = []
    for first in range(0, CANDIDATES * count, count):
        begun = [ids(text, i, model.config.n_vocab, tokenizer) for i in range(first, first + count)]
        ends = [tuple(one.ids[-PROMPT:]) for one in generate(model, begun, max_new_tokens=CIRCLE)]
        after = generate(model, ends, max_new_tokens=GOES_ON)  # at other positions, where it may go on otherwise
        found += [end for end, one in zip(ends, after, strict=True) if circles((*end, *one.ids))]
        if len(found) >= count:
            return found[:count]
    raise ValueError(f"of {CANDIDATES * count} {text.name} texts {len(found)} go in a circle; {count} are needed")


def circles(tokens: tuple[int, ...]) -> bool:
    """Whether tokens repeat after at most PERIOD of them."""
    return any(tokens[period:] == tokens[:-period] for period in range(1, min(PERIOD, len(tokens) - 1) + 1))


def ids(text: Text, i: int, n_vocab: int, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """The prompt of request i, at most PROMPT ids.  Raises ValueError for a text where there is no tokenizer."""
    if text.prompt is None:
        return tuple(np.random.default_rng((1, i)).integers(n_vocab, size=PROMPT).tolist())
    if tokenizer is None:
        raise ValueError(f"text {text.name!r} needs a tokenizer, which the model has not; use tiny or random:gpt2")
    return tuple(tokenizer.encode(text.prompt(i))[:PROMPT])
