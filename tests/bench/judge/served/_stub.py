"""A server of OpenAI's completions API in a thread, whose prefill and decode give the logits that a test hands in."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from kvproof.reference.cache import ContiguousCache
from kvproof.reference.judge.difference import log_softmax
from kvproof.reference.model import forward

FIRST = 0x10000  # one character per token: that of id 0
KNOWN = {
    *("model", "prompt", "max_tokens", "logprobs", "echo", "temperature", "top_p", "seed", "stream", "logit_bias"),
    *("presence_penalty", "frequency_penalty"),
}


def text_of(ids: Sequence[int]) -> str:
    return "".join(chr(FIRST + int(i)) for i in ids)


def ids_of(prompt: str | list[int], merges: tuple[int, int, int] | None = None) -> tuple[int, ...]:
    if isinstance(prompt, list):
        return tuple(prompt)
    if merges is not None:
        x, y, z = merges
        prompt = prompt.replace(text_of([x, y]), text_of([z]))
    return tuple(max(ord(c) - FIRST, 0) for c in prompt)


@dataclass
class Replay:
    """Logits handed in: sequences of ids, in which rows (n, V) of either path stand from position `start` on.

    The tokens generated are the sequence's own; elsewhere all tokens are as probable.
    """

    sequences: Sequence[Sequence[int]]
    starts: Sequence[int]
    decoded: Sequence[np.ndarray]
    prefilled: Sequence[np.ndarray]

    def find(self, ids: Sequence[int], rows: Sequence[np.ndarray]) -> np.ndarray:
        for sequence, start, given in zip(self.sequences, self.starts, rows, strict=True):
            at = len(ids) - 1 - start
            if tuple(sequence[: len(ids)]) == tuple(ids) and 0 <= at < len(given):
                return given[at].astype(np.float64)
        return np.zeros(self.decoded[0].shape[-1])

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        return np.array([self.find(ids[: i + 1], self.prefilled) for i in range(len(ids))])

    def decode(self, prompt: Sequence[int], after: Sequence[int]) -> np.ndarray:
        """Logits (V,) behind the prompt and the tokens generated after it."""
        return self.find((*prompt, *after), self.decoded)

    def next(self, ids: Sequence[int]) -> int | None:
        for sequence in self.sequences:
            if tuple(sequence[: len(ids)]) == tuple(ids) and len(sequence) > len(ids):
                return int(sequence[len(ids)])
        return None


@dataclass
class Oracle:
    """The NumPy oracle: a prefill without a cache, and decode steps with one.

    known  its answers, which are asked for again and again
    """

    params: dict
    config: Any
    known: dict[tuple, np.ndarray] = field(default_factory=dict)

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        if (asked := tuple(ids)) not in self.known:
            self.known[asked] = forward(np.array([ids]), self.params, self.config)[0].astype(np.float64)
        return self.known[asked]

    def decode(self, prompt: Sequence[int], after: Sequence[int]) -> np.ndarray:
        if (asked := (tuple(prompt), tuple(after))) not in self.known:
            self.known[asked] = self.decoded(prompt, after)
        return self.known[asked]

    def decoded(self, prompt: Sequence[int], after: Sequence[int]) -> np.ndarray:
        cache = ContiguousCache(self.config, 1, len(prompt) + len(after), self.params["wte"]["weight"].dtype)
        out = forward(np.array([prompt]), self.params, self.config, cache)
        for token in after:
            out = forward(np.array([[token]]), self.params, self.config, cache)
        return out[0, -1].astype(np.float64)

    def next(self, ids: Sequence[int]) -> None:
        return None


@dataclass
class Manner:
    """How a server behaves.

    ids         takes token ids, and names tokens by them where asked
    form        "openai" | "content", of the logprobs
    echo, extension   gives a prompt's logprobs by either
    top         most probable tokens, at most
    processed   logprobs are computed after temperature and top_k
    strict      refuses fields that OpenAI has not
    greedy      ignores temperature
    late        echo's logprobs are those of the next position
    remembers   keeps what it computed of the last sequence, and answers the prompt's rows out of that
    merges      (x, y, z): a text has token z where x and y follow each other
    own_top_k   generates from so many candidates, whose probabilities it gives, unless asked for another top_k
    echo_wrong  how far echo's logprobs are from the model's
    cached      what it says came from its prefix cache
    jitter      how much the logits of one request differ from those of another, at random
    memory      what it remembers, by tokens so far
    before      called with (handler, path, body) first; True says that it has answered
    """

    ids: bool = True
    form: str = "openai"
    echo: bool = True
    extension: bool = False
    top: int = 20
    processed: bool = False
    strict: bool = False
    greedy: bool = True
    late: bool = False
    echo_wrong: float = 0.0
    own_top_k: int = 0
    remembers: bool = False
    merges: tuple[int, int, int] | None = None
    cached: int | None = None
    jitter: float = 0.0
    memory: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)
    before: Callable[[Any, str, Any], bool] = field(default=lambda handler, path, body: False)


class Refusal(Exception):
    pass


@contextmanager
def served(model: Any, manner: Manner | None = None) -> Iterator[str]:
    """The URL of a server of that model while the context is open."""
    manner = manner or Manner()
    noise = np.random.default_rng(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any):
            pass

        def do_GET(self):
            if not manner.before(self, self.path, None):
                reply(self, {"object": "list", "data": [{"id": "stub", "object": "model"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if manner.before(self, self.path, body):
                return
            if self.path != "/v1/completions":
                reply(self, {"error": {"message": f"no {self.path} here"}}, 404)
                return
            try:
                reply(self, completion(model, manner, body, noise))
            except Refusal as error:
                reply(self, {"error": {"message": str(error)}}, 400)

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any):  # a client that has hung up
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(
    handler: BaseHTTPRequestHandler, found: Any, status: int = 200, kind: str = "application/json", **headers: str
):
    body = found if isinstance(found, bytes) else json.dumps(found).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def completion(model: Any, manner: Manner, body: dict[str, Any], noise: np.random.Generator) -> dict[str, Any]:
    unknown = set(body) - KNOWN
    if manner.strict and unknown:
        raise Refusal(f"unknown fields {sorted(unknown)}")
    if isinstance(body["prompt"], list) and not manner.ids:
        raise Refusal("prompt must be a string")
    if body["logprobs"] > manner.top:
        raise Refusal(f"logprobs is at most {manner.top}")
    prompt = ids_of(body["prompt"], manner.merges)
    named = manner.ids and body.get("return_tokens_as_token_ids")
    moved = lambda x: x + manner.jitter * noise.normal(size=x.shape)  # noqa: E731
    rows, after = [], []
    for _ in range(body["max_tokens"]):
        logits = moved(model.prefill(prompt)[-1] if not after else model.decode(prompt, after))
        if manner.remembers and not any(past[0] == prompt[0] for past in manner.memory):
            manner.memory.clear()
        manner.memory[(*prompt, *after)] = logits
        own = {"top_k": manner.own_top_k} if manner.own_top_k else {}
        raw = {} if manner.processed else {"temperature": 1.0}
        logprobs = processed(logits, body | own | raw) if manner.processed or own else log_softmax(logits)
        after.append(chosen(model, manner, body, (*prompt, *after), logits, noise))
        rows.append((after[-1], logprobs))
    choice: dict[str, Any] = {"index": 0, "text": text_of(after), "finish_reason": "length"}
    if body.get("echo") and manner.echo:
        before = moved(model.prefill(prompt))
        if manner.remembers:
            before = np.array([manner.memory.get(prompt[: i + 1], row) for i, row in enumerate(before)])
        before = log_softmax(before)
        before = log_softmax(before * (1 - manner.echo_wrong))
        ahead = [*before[:-1]] if not manner.late else [*before[1:]]
        rows = [(prompt[0], None), *zip(prompt[1:], ahead, strict=True), *rows]
        choice["text"] = text_of((*prompt, *after))
    if manner.extension and "prompt_logprobs" in body:
        before = log_softmax(moved(model.prefill(prompt)))
        given = [best(x, body["prompt_logprobs"], token) for token, x in zip(prompt[1:], before, strict=False)]
        choice["prompt_logprobs"] = [None, *({str(i): {"logprob": x} for i, x in row.items()} for row in given)]
    if manner.ids and body.get("return_token_ids"):
        choice["prompt_token_ids"] = list(prompt)
    choice["logprobs"] = (content if manner.form == "content" else openai)(rows, body["logprobs"], named)
    usage: dict[str, Any] = {"prompt_tokens": len(prompt), "completion_tokens": len(after)}
    if manner.cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": manner.cached}
    return {"object": "text_completion", "model": "stub", "choices": [choice], "usage": usage}


def chosen(model: Any, manner: Manner, body: dict, ids: Sequence[int], logits: np.ndarray, noise: Any) -> int:
    scripted = model.next(ids)
    if scripted is not None:
        return scripted
    if manner.greedy or body["temperature"] == 0:
        return int(np.argmax(logits))
    drawn = np.random.default_rng((body["seed"], *ids))
    return int(drawn.choice(len(logits), p=np.exp(log_softmax(logits / body["temperature"]))))


def processed(logits: np.ndarray, body: dict[str, Any]) -> np.ndarray:
    """Log-probabilities after logit_bias, top_k and temperature; -9999 stands for minus infinity."""
    x = logits.copy()
    for token, bias in (body.get("logit_bias") or {}).items():
        x[int(token)] += bias
    kept = body.get("top_k") or len(x)
    x = np.where(x >= np.sort(x)[-kept], x, -np.inf)
    if body["temperature"] == 0:
        x = np.where(np.arange(len(x)) == np.argmax(x), 0.0, -np.inf)
    else:
        x = log_softmax(x / body["temperature"])
    return np.maximum(x, -9999.0)


def best(x: np.ndarray, top: int, token: int) -> dict[int, float]:
    """The most probable tokens, and the one that stands there."""
    order = np.argsort(-x, kind="stable")[:top]
    return {int(i): float(x[i]) for i in order} | {int(token): float(x[token])}


def openai(rows: Sequence[tuple[int, Any]], top: int, named: Any) -> dict[str, Any]:
    name = (lambda i: f"token_id:{i}") if named else (lambda i: text_of([i]))
    lists = [None if x is None else {name(i): v for i, v in best(x, top, token).items()} for token, x in rows]
    own = [None if x is None else float(x[token]) for token, x in rows]
    return {"tokens": [name(token) for token, _ in rows], "token_logprobs": own, "top_logprobs": lists}


def content(rows: Sequence[tuple[int, Any]], top: int, named: Any) -> dict[str, Any]:
    def entry(token: int, value: float) -> dict[str, Any]:
        return {"id": int(token), "token": text_of([token]), "logprob": float(value)}

    return {"content": [
        entry(token, x[token]) | {"top_logprobs": [entry(i, v) for i, v in best(x, top, token).items()]}
        for token, x in rows if x is not None
    ]}  # fmt: skip
