"""The body of a completion request, as OpenAI's API describes it, read into the engine's terms.

Source: OpenAI's API reference, "Create completion" and "Batch"; of vLLM's additions `top_k` and `return_token_ids`.
"""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...reference.config import brief
from ..arguments import is_text

CHOICES, STOPS, LOGPROBS = 128, 4, 5  # the most that OpenAI takes


class BadRequest(ValueError):
    """A request that cannot be answered.

    code   a word for programs
    param  the field at fault, None if it is the line as a whole
    """

    def __init__(self, code: str, message: str, param: str | None = None):
        self.code, self.param = code, param
        super().__init__(message)


@dataclass(frozen=True)
class Body:
    """The settings of one completion request, checked. Prompts are texts or ids, one or more."""

    prompts: list[Any]
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    echo: bool = False
    logprobs: int | None = None
    return_token_ids: bool = False


def wrong(name: str, value: Any, fits: str) -> BadRequest:
    """An error with what came and what fits."""
    return BadRequest("invalid_value", f"{name} is {shown(value)}; it must be {fits}", name)


def shown(value: Any) -> str:
    """A value of JSON, shortened, as a message shows it."""
    if isinstance(value, (dict, list)):
        return brief(value)
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 40 else f"{text[:37]}..."


def whole(low: int, high: float, fits: str) -> Callable[[str, Any], int]:
    """A check for whole numbers from low to high."""

    def check(name: str, value: Any) -> int:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise wrong(name, value, fits)
        return value

    return check


def real(fit: Callable[[float], bool], fits: str) -> Callable[[str, Any], float]:
    """A check for numbers."""

    def check(name: str, value: Any) -> float:
        if type(value) not in (int, float) or not fit(value):
            raise wrong(name, value, fits)
        try:
            return float(value)
        except OverflowError:
            raise wrong(name, value, fits) from None

    return check


def truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")
    return value


def stops(name: str, value: Any) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else value
    fits = f"a text or a list of up to {STOPS} texts, none of them empty"
    if not isinstance(found, list) or len(found) > STOPS or not all(isinstance(one, str) and one for one in found):
        raise wrong(name, value, fits)
    if not all(map(is_text, found)):
        raise wrong(name, value, "a text; it holds half of a surrogate pair")
    return tuple(found)


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_tokens": whole(1, 2**31 - 1, "a whole number, 1 or more"),
    "temperature": real(lambda t: 0 <= t < float("inf"), "a number, 0 (greedy) or more"),
    "top_p": real(lambda p: 0 < p <= 1, "above 0 and at most 1"),
    "top_k": whole(1, 2**31 - 1, "a whole number, 1 or more, or null for all tokens"),
    "n": whole(1, CHOICES, f"a whole number from 1 to {CHOICES}"),
    "stop": stops,
    "seed": whole(0, 2**64 - 1, "a whole number from 0 to 2**64 - 1, or null for the job's"),
    "echo": truth,
    "logprobs": whole(0, LOGPROBS, f"a whole number from 0 to {LOGPROBS}, or null"),
    "return_token_ids": truth,
}
# Fields that would change the text and that GPT-2 here does not have: taken where they ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "stream": (False,),
    "stream_options": (),
}
IGNORED = ("model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
KNOWN = ("prompt", *CHECKS, *NEUTRAL, "best_of", *IGNORED)


def read_body(body: Any) -> Body:
    """A request's body, null fields as if they were not there.  Raises BadRequest for the first that does not fit."""
    if not isinstance(body, dict):
        raise BadRequest("invalid_value", f"body is {shown(body)}; it must be an object with a prompt", "body")
    if "messages" in body and "prompt" not in body:
        raise chat("messages")
    given = {name: value for name, value in body.items() if value is not None}
    for name in given:
        if name not in KNOWN:
            raise unknown(name, KNOWN, "body")
    if not isinstance(given.get("model", ""), str):
        raise wrong("model", given["model"], "a text, or left out; the model is the job's, whatever it names")
    if "prompt" not in given:
        raise BadRequest("missing_field", "prompt is missing; give a text, token ids, or a list of either", "prompt")
    settings = {name: check(name, given[name]) for name, check in CHECKS.items() if name in given}
    for name, values in NEUTRAL.items():
        if name in given and not any(neutral(given[name], value) for value in values):
            raise unsupported(name, given[name])
    n = settings.get("n", 1)
    if "best_of" in given and not neutral(given["best_of"], n):
        raise unsupported("best_of", given["best_of"])
    if settings.get("echo") and "logprobs" in settings:
        raise BadRequest(
            "unsupported", "echo and logprobs came together; logprobs are of new tokens only: leave one out", "echo"
        )
    return Body(read_prompts(given["prompt"]), **settings)


def neutral(value: Any, other: Any) -> bool:
    """Whether two values are equal, true and 1 apart."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def unsupported(name: str, value: Any) -> BadRequest:
    return BadRequest("unsupported", f"{name} is {shown(value)}, which kvproof does not support; leave it out", name)


def unknown(name: str, known: tuple[str, ...], where: str) -> BadRequest:
    """The error for a field that nobody reads, with the closest that is read."""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, 1, 0.6)
    advice = f"did you mean {near[0]}?" if near else f"leave it out of the {where}"
    return BadRequest("unknown_field", f"{shown(name)} is not known; {advice}", name)


def chat(param: str) -> BadRequest:
    return BadRequest(
        "unsupported",
        "it is a chat request; GPT-2 has no chat template: send the text as prompt, with url /v1/completions",
        param,
    )


def read_prompts(prompt: Any) -> list[Any]:
    """One or more prompts, each a text or ids.  Raises BadRequest."""
    fits = "a text, a list of token ids, or a list of texts or of lists of ids"
    many = isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list))
    prompts = prompt if many else [prompt]
    for one in prompts:
        ids = isinstance(one, list) and all(type(i) is int for i in one)
        if not (isinstance(one, str) or ids) or isinstance(one, str) != isinstance(prompts[0], str):
            raise wrong("prompt", prompt, fits)
        if not one:
            raise BadRequest(
                "invalid_value", "prompt is empty; the end-of-text token's id alone starts from nothing", "prompt"
            )
        if isinstance(one, str) and not is_text(one):
            raise wrong("prompt", one, "a text; it holds half of a surrogate pair")
    return prompts
