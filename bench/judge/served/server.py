"""What one server can be asked: to generate, for the logprobs of a prompt, and for one token after each prefix."""

import itertools
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .answers import Answer, Row, answer_of, cached_tokens, field, first_choice, most, prompt_rows
from .client import Client, ServerError
from .models import model_of

TOPS = (20, 5, 1)  # most probable tokens asked for: vLLM's limit, OpenAI's, and what the API must give
REFUSED = (400, 404, 422, 500, 501)  # how servers say no to a field that they do not know
PLAIN = {"top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 0, "stream": False}
# Beyond OpenAI's API, each left out where the server refuses it: sampling that changes no logprob, ids for texts.
EXTRAS = {
    "top_k": {"top_k": 0},
    "min_p and penalties": {"min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0},
    "ignore_eos": {"ignore_eos": True},
    "token ids": {"return_tokens_as_token_ids": True, "return_token_ids": True},
}
COLD = {"cache_prompt": {"cache_prompt": False}, "cache_salt": {"cache_salt": "kvproof"}}  # no prefix of an earlier one
ECHO, EXTENSION, STEPWISE = "echo", "prompt_logprobs", "one token after each prefix"


@dataclass(frozen=True)
class Prompt:
    """Tokens to send: their ids where the server takes and gives ids, else their text."""

    text: str
    ids: tuple[int, ...] | None = None

    def followed_by(self, rows: Sequence[Row]) -> "Prompt":
        """The prompt and the tokens of these rows.  Raises ServerError for ids behind a text."""
        tokens = [row.token for row in rows]
        if self.ids is None:
            if numbers := [token for token in tokens if isinstance(token, int)]:
                raise ServerError(f"a token came as the id {numbers[0]} alone, whose text nobody knows: ask by ids")
            return Prompt(self.text + "".join(map(str, tokens)))
        return Prompt(self.text, (*self.ids, *(int(token) for token in tokens)))

    @property
    def value(self) -> str | list[int]:
        return self.text if self.ids is None else list(self.ids)


class Server:
    """A server whose abilities have been asked: which fields it takes, and how it gives a prompt's logprobs.

    model    the name that requests carry; asked from /models where it is None
    top      most probable tokens of each position
    takes    the names of EXTRAS and COLD that it takes
    form     ECHO, EXTENSION or STEPWISE
    cached   most tokens of a prompt that came from its prefix cache, as it says
    reused   those of a prefill alone, which is asked for without; None where it says nothing of them
    notes    what was found out, a sentence each

    Raises ServerError where there is no server, no such model or no log-probabilities.
    """

    def __init__(self, client: Client, model: str | None = None, text: str = "Once upon a time"):
        self.client, self.where = client, f"{client.url}/completions"
        self.notes: list[str] = []
        self.extras: dict[str, Any] = {}
        self.takes: set[str] = set()
        self.cached, self.by_ids = 0, True
        self.reused: int | None = None
        self.counter = itertools.count()
        self.model = model_of(client, model, self.notes)
        self.top = self._limit(text)
        self._ask_extras(text)
        self.form = self._prompt_form(text)

    def prompts(self, texts: Sequence[str], by_ids: bool = True) -> list[Prompt]:
        """The texts, by their ids where the server gives and takes those; from here on its tokens are ids or texts."""
        found = [self._ids(text) for text in texts] if by_ids else []
        usable = by_ids and all(ids is not None and len(ids) for ids in found) and self._takes_ids(texts[0], found[0])
        if not usable:
            self.by_ids, found = False, [None] * len(texts)
            self.extras = {key: value for key, value in self.extras.items() if key not in EXTRAS["token ids"]}
        self.notes.append(f"{self.client.url} {'takes token ids' if usable else 'takes text and no token ids'}")
        return [Prompt(text, ids) for text, ids in zip(texts, found, strict=True)]

    def generate(self, prompt: Prompt, n: int, temperature: float = 0.0, **more: Any) -> Answer:
        """n tokens after the prompt, with their log-probabilities."""
        return self._complete(prompt, n, temperature=temperature, **more)

    def prefill(
        self, prompt: Prompt, rows: Sequence[Row], temperature: float = 0.0
    ) -> tuple[Row | None, Sequence[Row]]:
        """The rows of the tokens of `rows`, which follow the prompt, as a prefill of all of them gives them.

        Before them the row of the prompt's last token; None where each row is a prefill of its own. They are fewer
        where the server splits the text into other tokens; a note says so.
        """
        if self.form == STEPWISE or (self.form == EXTENSION and prompt.ids is None):
            return None, self._steps(prompt, rows, temperature)
        whole = prompt.followed_by(rows)
        self._forget(whole)
        if self.form == EXTENSION:
            found = self._extension(whole)[-len(rows) - 1 :]
            self._check_joined(len(found) > len(rows), whole)
            return found[0], found[1:]
        given = self._echo(prompt, temperature)
        echoed = self._echo(whole, temperature)
        self._check_joined(0 < len(given) <= len(echoed), whole)
        expected = [row.token for row in (*given, *rows)]
        pairs = zip(echoed, expected, strict=False)
        same = len(list(itertools.takewhile(lambda pair: pair[0].token == pair[1], pairs)))
        if same < len(expected):
            self._note_split(max(same - len(given), 0), len(rows))
        return echoed[len(given) - 1], echoed[len(given) : same]

    def _check_joined(self, joined: bool, prompt: Prompt) -> None:
        if not joined:
            raise ServerError(
                f"{self.where} gave by {self.form} no tokens that join to {prompt.text or prompt.value!r}, though "
                "it did for another prompt; pass another --prompt"
            )

    def keeps_tokens(self, prompt: Prompt, rows: Sequence[Row]) -> bool:
        """Whether the prompt followed by the tokens of `rows` is split into these tokens; False where nobody says."""
        if prompt.ids is not None or not rows:
            return True
        whole = prompt.followed_by(rows)
        if self.form == ECHO:
            expected = [row.token for row in (*self._echo(prompt), *rows)]
            return [row.token for row in self._echo(whole)] == expected
        alone, both = (self._complete(x, 1).tokens for x in (prompt, whole))
        return alone is not None and both == alone + len(rows)

    def _steps(self, prompt: Prompt, rows: Sequence[Row], temperature: float) -> list[Row]:
        """The rows of single requests, up to where the text so far is split into other tokens."""
        for i in range(1, len(rows)):
            if not self.keeps_tokens(prompt, rows[:i]):
                self._note_split(i, len(rows))
                rows = rows[:i]
                break
        return [self.step(prompt, rows[:i], temperature) for i in range(len(rows))]

    def _note_split(self, at: int, of: int) -> None:
        self.notes.append(
            f"{self.client.url}: the text of {of} generated tokens is split into others from token {at} on, or it does "
            "not say; compared up to there"
        )

    def step(self, prompt: Prompt, rows: Sequence[Row], temperature: float = 0.0) -> Row:
        """The token that a prefill of the prompt and the tokens of `rows` chooses next."""
        prefix = prompt.followed_by(rows)
        self._forget(prefix)
        return self._complete(prefix, 1, cold=True, temperature=temperature).generated[0]

    def _echo(self, prompt: Prompt, temperature: float = 0.0) -> list[Row]:
        """The rows of the prompt's own tokens."""
        answer = self._complete(prompt, 1, cold=True, temperature=temperature, echo=True)
        return list(answer.rows[: answer.prompt])

    def _extension(self, prompt: Prompt) -> list[Row]:
        assert prompt.ids is not None, "the extension is used by ids alone"
        body = self._body(prompt, 1, **self._cold()) | {"prompt_logprobs": self.top}
        found = self.client.post("/completions", body)
        if (cached := cached_tokens(found, self.where)) is not None:
            self.reused = max(self.reused or 0, cached)
        return prompt_rows(found, self.where, prompt.ids, self.top)

    def _complete(self, prompt: Prompt, n: int, *, echo: bool = False, cold: bool = False, **more: Any) -> Answer:
        fields = self._cold() if cold else {}
        body = self._body(prompt, n, **more, **fields) | ({"echo": True} if echo else {})
        found = self.client.post("/completions", body)
        answer = answer_of(found, self.where, self.top, prompt.value if echo else None, self.by_ids)
        self.cached = max(self.cached, answer.cached or 0)
        if cold and answer.cached is not None:
            self.reused = max(self.reused or 0, answer.cached)
        if not echo and not answer.rows:
            raise ServerError(f"{self.where} generated no token after {prompt.text!r}; pass another --prompt")
        return answer

    def may_reuse(self, alone: bool) -> bool:
        """Whether a prefill may have been answered out of what was decoded before.

        Not where the server says that none of its tokens were cached, nor where it takes a field that forbids it and
        says nothing.

        alone  the server is its own proof, so that one token after each prefix is decode itself with a warm cache
        """
        if self.reused is not None:
            return self.reused > 0
        return not self.takes & set(COLD) and (self.cached > 0 or (alone and self.form == STEPWISE))

    def _body(self, prompt: Prompt, n: int, **more: Any) -> dict[str, Any]:
        named = {"model": self.model, "prompt": prompt.value, "max_tokens": n, "logprobs": self.top}
        return named | PLAIN | self.extras | {"temperature": 0.0} | more

    def _cold(self) -> dict[str, Any]:
        """Fields that keep the server from answering out of what it has computed before."""
        fields = {"cache_prompt": {"cache_prompt": False}, "cache_salt": {"cache_salt": uuid.uuid4().hex}}
        return {key: value for name in self.takes & set(fields) for key, value in fields[name].items()}

    def _forget(self, prompt: Prompt) -> None:
        """Ask for another prompt, so that a server that keeps its last one computes this one anew."""
        if prompt.ids is None:
            first = "0" if prompt.text[:1] != "0" else "1"
            other = Prompt(f"{first} {next(self.counter)}")
        else:
            others = [i for i in prompt.ids if i != prompt.ids[0]] or [max(prompt.ids[0] - 1, 0)]
            other = Prompt("", (others[0],))
        self._complete(other, 1)

    def _limit(self, text: str) -> int:
        """How many of the most probable tokens the server gives; 0 where it gives the chosen one's alone."""
        for top in TOPS:
            self.top = top
            try:  # some tokens, since a list of texts is shorter where two of them are one text
                found = first_choice(self.client.post("/completions", self._body(Prompt(text), 8)), self.where)
            except ServerError as error:
                if error.status not in REFUSED or top == TOPS[-1]:
                    raise hinted(error) from None
                continue
            answer_of({"choices": [found]}, self.where, 0)
            return min(top, len(most(found.get("logprobs"))))  # a list may hold the chosen token beside
        raise AssertionError("the last one returns or raises")

    def _ask_extras(self, text: str) -> None:
        refused = []
        for name, fields in (EXTRAS | COLD).items():
            try:
                self.client.post("/completions", self._body(Prompt(text), 1) | fields)
            except ServerError as error:
                if error.status not in REFUSED:
                    raise
                refused.append(name)
                continue
            self.takes.add(name)
            self.extras |= {} if name in COLD else fields
        if refused:
            self.notes.append(f"{self.client.url} refuses {', '.join(refused)}, so that it was asked without")

    def _prompt_form(self, text: str) -> str:
        """How the prompt's logprobs can be had."""
        text += self._complete(Prompt(text), 2).text  # of one token nothing is given
        if (got := self._tried(lambda: self._echo(Prompt(text)))) and len(got) > 1:
            return ECHO
        ids = self._ids(text)
        if ids and (got := self._tried(lambda: self._extension(Prompt(text, ids)))) and len(got) > 1:
            return EXTENSION
        self.notes.append(
            f"{self.client.url} gives no log-probabilities of a prompt (echo, prompt_logprobs), so that prefill is "
            "one request per position: each prefix is sent by itself, for one token"
        )
        return STEPWISE

    def _tried(self, ask: Callable[[], list[Row]]) -> list[Row]:
        try:
            return ask()
        except ServerError as error:
            if error.status is None and "log-probabilities" not in str(error):
                raise
            return []

    def _ids(self, text: str) -> tuple[int, ...] | None:
        """The text's ids, as the completion names them or the server's tokenizer; None where it says neither."""
        body = self._body(Prompt(text), 1)
        found = self.client.post("/completions", body)
        choice = first_choice(found, self.where)
        given = field(choice, "prompt_token_ids", list, self.where) or found.get("prompt_token_ids")
        if given is None:
            root = Client(self.client.url.removesuffix("/v1"), self.client.key, self.client.timeout)
            try:
                found = root.post(
                    "/tokenize", {"content": text, "prompt": text, "model": self.model, "add_special": True}
                )
            except ServerError:
                return None
            given = found.get("tokens") if isinstance(found, dict) else None
        return tuple(given) if isinstance(given, list) and all(type(i) is int for i in given) else None

    def _takes_ids(self, text: str, ids: tuple[int, ...] | None) -> bool:
        """Whether the ids stand for the text: the server names its tokens by ids and expects the same ones next."""
        try:
            by_text = self._complete(Prompt(text), 1).generated[0]
            by_ids = self._complete(Prompt(text, ids), 1).generated[0]
        except ServerError as error:
            if error.status not in REFUSED:
                raise
            return False
        return all(isinstance(t, int) for t in by_text.known) and by_text.known.keys() == by_ids.known.keys()


def hinted(error: ServerError) -> ServerError:
    """The error of a first request; where completions are not there at all, what to do instead."""
    if error.status not in (404, 405):
        return error
    return ServerError(
        f"{error}. If it has chat completions alone, they hide the prompt's tokens: start a server with completions "
        "(vLLM, SGLang, llama.cpp), or give saved logits by --logits A B",
        error.status,
    )
