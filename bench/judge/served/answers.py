"""The log-probabilities in a completion, in each form that a server of OpenAI's completions API gives them.

    choices[0].logprobs.{tokens, token_logprobs, top_logprobs}       OpenAI, vLLM, SGLang, llama-cpp-python
    choices[0].logprobs.content[].{token, id, logprob, top_logprobs} llama.cpp's server
    choices[0].prompt_logprobs[].{id: {logprob}}                     vLLM's extension

A token is its id where the server gives one ("token_id:7", too, is one), else its text.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .client import ServerError

Token = int | str
ID = re.compile(r"token_id:([0-9]{1,18})")
LOWEST = -9000.0  # below it a server means minus infinity: OpenAI and vLLM write -9999
HUGE = 1e300  # from here on a number is no log-probability, and may be too large for a float
SHOWN = 60  # characters of what came in a wrong place
KINDS = {dict: "an object", list: "a list", int: "a whole number", str: "text"}
TOLERANCE = 0.01  # by which a sum of probabilities may exceed 1, in half precision


@dataclass(frozen=True)
class Row:
    """One position: the token that stands there, and what the server says of those that could have.

    token    the one that was generated or given
    logprob  its own; None where none came
    top      the most probable tokens, the chosen one among them where it was added or is one of them
    floor    no token outside `top` is more probable; None where nothing is known of those
    """

    token: Token
    logprob: float | None
    top: dict[Token, float]
    floor: float | None

    @property
    def known(self) -> dict[Token, float]:
        chosen = {} if self.logprob is None else {self.token: self.logprob}
        return self.top | chosen


@dataclass(frozen=True)
class Answer:
    """A completion: its text, and a Row per token, those of the prompt first where they were asked for.

    prompt   how many rows are the prompt's
    tokens   how many tokens the prompt has, where that is said
    cached   how many of its tokens came from the server's prefix cache, where that is said
    """

    text: str
    rows: Sequence[Row]
    prompt: int
    tokens: int | None
    cached: int | None

    @property
    def generated(self) -> Sequence[Row]:
        return self.rows[self.prompt :]


def answer_of(
    found: Any, where: str, top: int, echoed: str | Sequence[int] | None = None, by_ids: bool = True
) -> Answer:
    """The Answer in a server's JSON.

    top     how many of the most probable tokens were asked for
    echoed  the prompt, text or ids, where its rows were asked for too
    by_ids  tokens are ids where those come; else texts

    Raises ServerError for what is no completion and for one without log-probabilities.
    """
    choice = first_choice(found, where)
    usage, cached = field(found, "usage", dict, where) or {}, cached_tokens(found, where)
    tokens, generated = field(usage, "prompt_tokens", int, where), field(usage, "completion_tokens", int, where)
    rows = rows_of(choice.get("logprobs"), where, top, by_ids)
    prompt = 0 if echoed is None else prompt_count(rows, echoed, generated)
    return Answer(field(choice, "text", str, where) or "", rows, prompt, tokens, cached)


def cached_tokens(found: dict[str, Any], where: str) -> int | None:
    """How many of the prompt's tokens came from the prefix cache; None where that is not said."""
    usage = field(found, "usage", dict, where) or {}
    return field(field(usage, "prompt_tokens_details", dict, where) or {}, "cached_tokens", int, where)


def prompt_count(rows: Sequence[Row], prompt: str | Sequence[int], generated: int | None) -> int:
    """How many rows are the prompt's.

    A server may leave out the first token, where it added that itself, and the last one, which nothing follows; so the
    rows are counted by what stands in them, and by the usage only where texts do not join to the prompt.
    """
    if not isinstance(prompt, str):
        for given in (list(prompt), list(prompt[1:])):
            if [row.token for row in rows[: len(given)]] == given:
                return len(given)
        return 0
    joined = ""
    for i, row in enumerate(rows):
        joined += str(row.token)
        if joined.lstrip() == prompt.lstrip():
            return i + 1
    return max(len(rows) - generated, 0) if generated is not None else 0


def first_choice(found: Any, where: str) -> dict[str, Any]:
    choices = found.get("choices") if isinstance(found, dict) else None
    if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
        raise ServerError(f'{where} answered without "choices", as no completion is; does it speak OpenAI\'s API?')
    return choices[0]


def rows_of(logprobs: Any, where: str, top: int, by_ids: bool) -> list[Row]:
    """The rows of a choice's "logprobs"."""
    if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
        return [content_row(x, where, top, by_ids) for x in logprobs["content"]]
    if not isinstance(logprobs, dict) or not isinstance(logprobs.get("token_logprobs"), list):
        came = "absent" if logprobs is None else f"a {type(logprobs).__name__} without token_logprobs"
        raise ServerError(
            f"{where} gives no log-probabilities (logprobs is {came}); start the server so that it does (vLLM: "
            "--max-logprobs 20; llama-cpp-python: --logits_all true; transformers serve has none), or save both paths' "
            "logits: --logits A B"
        )
    own, tokens = logprobs["token_logprobs"], logprobs.get("tokens")
    if not isinstance(tokens, list) or len(tokens) != len(own):
        count = "no" if not isinstance(tokens, list) else len(tokens)
        raise ServerError(f"{where} gave {len(own)} token_logprobs and {count} tokens; they must be as many")
    lists = field(logprobs, "top_logprobs", list, where) or [None] * len(own)
    if len(lists) != len(own):
        raise ServerError(f"{where} gave {len(own)} token_logprobs and {len(lists)} top_logprobs; they must be as many")
    bests = [best_of(best, where, by_ids) for best in lists]
    return [row(t, p, best, where, top) for t, p, best in zip(tokens, own, bests, strict=True)]


def content_row(x: Any, where: str, top: int, by_ids: bool) -> Row:
    token, logprob = entry(x, "content", where, by_ids)
    return row(token, logprob, best_of(x.get("top_logprobs"), where, by_ids), where, top)


def best_of(best: Any, where: str, by_ids: bool) -> dict[Token, Any]:
    """{token: log-probability} of the most probable tokens, which came so or as a list of {token, logprob}."""
    if isinstance(best, list):
        return dict(entry(x, "top_logprobs", where, by_ids) for x in best)
    return expected(best, dict, "top_logprobs", where) or {}


def entry(x: Any, name: str, where: str, by_ids: bool) -> tuple[Token, Any]:
    """(token, log-probability) of a {token, id, logprob}."""
    if not isinstance(x, dict) or "logprob" not in x:
        raise ServerError(
            f"{where} gave a token without a logprob in {name} ({short(x)}); its log-probabilities are of no form "
            "known here"
        )
    named = x["id"] if by_ids and type(x.get("id")) is int else x.get("token")
    return checked_token(named, where), x["logprob"]


def checked_token(token: Any, where: str) -> Token:
    if isinstance(token, bool) or not isinstance(token, int | str):
        raise ServerError(f"{where} gave a token that is neither text nor an id ({short(token)})")
    return token


def expected(x: Any, kind: type, name: str, where: str) -> Any:
    """x, which is None or of that kind.  Raises ServerError with the field's name for all else."""
    if x is None or (isinstance(x, kind) and not isinstance(x, bool)):
        return x
    raise ServerError(
        f"{where} gave {short(x)} for {name}, which is {KINDS[kind]} in OpenAI's API; does it speak that?"
    )


def field(found: dict[str, Any], name: str, kind: type, where: str) -> Any:
    """A field that is absent, null or of that kind.  Raises ServerError with its name for all else."""
    return expected(found.get(name), kind, name, where)


def short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def row(token: Any, own: Any, best: Any, where: str, top: int) -> Row:
    """A Row from a token, its log-probability and the {token: log-probability} of the most probable ones.

    Two tokens can have one text, as halves of a character do; a dict holds one of them. So a list of texts that is
    shorter than asked is not compared, and neither are texts that stand for any broken character.
    """
    chosen = as_token(checked_token(token, where))
    found = {as_token(key): number(value, where) for key, value in (best or {}).items()}
    counted = len(found) - (chosen in found and len(found) > top)
    texts = [key for key in found if isinstance(key, str)]
    if texts and counted < top:
        found = {}
    listed = sorted((value for value in found.values() if not math.isnan(value)), reverse=True)[:top]
    floor = listed[-1] if listed and listed[-1] > LOWEST else None  # what top_k leaves out is not improbable
    clear = {key: value for key, value in found.items() if not value <= LOWEST and is_clear(key)}
    logprob = None if own is None or not is_clear(chosen) else number(own, where)
    logprob = None if logprob is not None and logprob <= LOWEST else logprob
    total = sum(math.exp(min(value, 50.0)) for value in clear.values())
    if total > 1 + TOLERANCE:
        raise ServerError(
            f"{where} gave log-probabilities whose probabilities add up to {total:.3g} at token {token!r}; they cannot "
            "exceed 1, so these are logits or scores: give those by --logits A B"
        )
    return Row(chosen, logprob, clear, floor)


def as_token(text: Token) -> Token:
    found = ID.fullmatch(text) if isinstance(text, str) else None
    return int(found[1]) if found else text


def is_clear(token: Token) -> bool:
    return isinstance(token, int) or (token != "" and "\ufffd" not in token)


def number(value: Any, where: str) -> float:
    """A log-probability; NaN passes, since the verdict is about it."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or HUGE <= abs(value) < math.inf:
        raise ServerError(f"{where} gave {short(value)} for a log-probability, which is none")
    return float(value)


def prompt_rows(found: Any, where: str, ids: Sequence[int], top: int) -> list[Row]:
    """The rows of vLLM's "prompt_logprobs", one per token of the prompt; none of them where there is no such field.

    Raises ServerError where they do not belong to these ids.
    """
    given = field(first_choice(found, where), "prompt_logprobs", list, where)
    if given is None:
        return []
    if len(given) != len(ids):
        raise ServerError(f"{where} gave prompt_logprobs of {len(given)} tokens for {len(ids)} ids")
    rows = []
    for token, best in zip(ids, given, strict=True):
        best = expected(best, dict, "prompt_logprobs", where) or {}
        if wrong := [key for key, x in best.items() if not (re.fullmatch(r"[0-9]{1,18}", key) and isinstance(x, dict))]:
            raise ServerError(f"{where} gave {short(wrong[0])} in prompt_logprobs, which is no id with its logprob")
        values = {int(key): x.get("logprob") for key, x in best.items()}
        rows.append(row(token, values.get(token), values, where, top))
    return rows


def most(logprobs: Any) -> Sequence[Token]:
    """The tokens in the longest list of most probable ones."""
    if not isinstance(logprobs, dict):
        return ()
    lists = logprobs.get("top_logprobs") or [x.get("top_logprobs") or () for x in logprobs.get("content") or ()]
    return max((x for x in lists if x), key=len, default=())
