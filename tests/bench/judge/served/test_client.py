"""Whatever a server does instead of answering: one line says what came and what to do, and none has the key."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from kvproof.bench.judge import __main__ as verify
from kvproof.bench.judge.contract.adapters import small_model
from kvproof.bench.judge.served import client, command
from kvproof.bench.judge.served.client import Client, ServerError

from ._stub import Manner, Oracle, reply, served, text_of

KEY = "sk-a-key-that-nobody-may-see"
QUICK = ["--steps", "2", "--prompt", text_of([7, 8, 9])]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def verdict_of(before, *words, **manner):
    """Exit code of the command on a stub of which `before` answers some requests itself."""
    with served(Oracle(*small_model("float32")), Manner(before=before, **manner)) as url:
        return verify.main(["--url", url, *QUICK, *words])


def completions(answer):
    """A `before` that answers completions by answer(handler, body) alone."""

    def before(handler, path, body):
        if body is None:
            return False
        answer(handler, body)
        return True

    return before


def status(code, message="no", **headers):
    return completions(lambda handler, body: reply(handler, {"error": {"message": message}}, code, **headers))


def with_logprobs(**found):
    """Completions whose "logprobs" are these."""
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    answer = {"choices": [{"text": "x", "logprobs": found or None}], "usage": usage}
    return completions(lambda handler, body: reply(handler, answer))


def cut(handler, body):
    """A body of fewer bytes than its head says."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"te')
    handler.close_connection = True


def hang_up(handler, body):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def no_models(handler, path, body):
    if body is None:
        reply(handler, {"detail": "Not Found"}, 404)
    return body is None


def many_models(handler, path, body):
    if body is None:
        reply(handler, {"data": [{"id": "one"}, {"id": "two"}]})
    return body is None


CHAT = {"choices": [{"message": {"content": "x"}, "logprobs": None}]}
TOKENS = {"tokens": ["a"], "token_logprobs": [-1.0, -2.0], "top_logprobs": None}
LOGITS = {"tokens": ["a"], "token_logprobs": [7.5], "top_logprobs": [{"a": 7.5, "b": 3.0}]}
WORDS = {"tokens": ["a"], "token_logprobs": ["high"], "top_logprobs": None}


@pytest.mark.parametrize(("before", "says"), [
    (status(401, f"Incorrect API key {KEY}"), "answered 401 (Incorrect API key ***); it wants another API key: set"),
    (status(403), "answered 403 (no); its API key may not do this"),
    (status(404), "answered 404 (no); is this the address of its API, with the /v1 at the end"),
    (status(404), "If it has chat completions alone, they hide the prompt's tokens"),
    (status(500, "CUDA error"), "answered 500 (CUDA error); its own log says why"),
    (status(429, "slow down", Retry_After="0"), "answered 429 (slow down); it takes no more requests now"),
    (status(429, "slow down", Retry_After="3600"), "answered 429 (slow down); it takes no more requests now"),
    (status(503, "Loading model", Retry_After="0"), "answered 503 (Loading model); it is not ready"),
    (completions(lambda h, b: reply(h, b"<html>welcome", kind="text/html")), "answered HTML that is no whole JSON"),
    (completions(lambda h, b: reply(h, b"<html>gone", 502, "text/html")), "answered 502 (HTML); a proxy answered"),
    (completions(lambda h, b: reply(h, b'{"choices": [', kind="application/json")), "no whole JSON, cut off after 13"),
    (completions(lambda h, b: reply(h, b"data: {}\n\n", kind="text/event-stream")), 'asked with "stream": false'),
    (completions(lambda h, b: reply(h, {}, 307, Location="/elsewhere")), "307 (/elsewhere); it redirects; pass"),
    (completions(cut), "the connection broke after 17 bytes"),
    (completions(hang_up), "closed the connection without an answer"),
    (completions(lambda h, b: reply(h, ["x"])), 'answered without "choices"'),
    (completions(lambda h, b: reply(h, CHAT)), "gives no log-probabilities (logprobs is absent); start the server so"),
    (with_logprobs(), "gives no log-probabilities (logprobs is absent)"),
    (with_logprobs(tokens=["a"]), "logprobs is a dict without token_logprobs"),
    (with_logprobs(token_logprobs=[-1.0]), "gave 1 token_logprobs and no tokens"),
    (with_logprobs(**TOKENS), "gave 2 token_logprobs and 1 tokens"),
    (with_logprobs(**LOGITS), "so these are logits or scores: give those by --logits A B"),
    (with_logprobs(**WORDS), "gave 'high' for a log-probability, which is none"),
    (with_logprobs(tokens=[], token_logprobs=[]), "generated no token after"),
    (no_models, "answered 404 (Not Found)"),
    (no_models, "without a list of models, name yours by --model"),
    (many_models, "serves one, two; name one of them by --model"),
])  # fmt: skip
def test_what_came_and_what_to_do_stand_in_one_line_without_the_key(before, says, capsys):
    assert verdict_of(before) == 3
    said = capsys.readouterr().err
    (line,) = said.splitlines()
    assert says in line
    assert KEY not in said


def test_a_model_that_is_not_served_is_named_with_those_that_are(capsys):
    assert verdict_of(many_models, "--model", "three") == 3
    assert "serves one, two; there is no 'three'" in capsys.readouterr().err


def test_without_a_list_of_models_the_name_is_taken_and_the_report_says_so(capsys):
    assert verdict_of(no_models, "--model", "mine", "--dtype", "float32") == 0
    assert "nobody checked the model's name" in " ".join(capsys.readouterr().out.split())


def test_a_request_that_is_put_off_is_sent_again_and_the_report_says_so(capsys):
    busy = iter([True])

    def before(handler, path, body):
        if body is None or not next(busy, False):
            return False
        reply(handler, {"error": "busy"}, 429, Retry_After="0")
        return True

    assert verdict_of(before, "--dtype", "float32") == 0
    assert "answered 429; asked again after 0 s" in " ".join(capsys.readouterr().out.split())


def test_a_server_that_sends_nothing_is_left_after_the_timeout(capsys):
    done = threading.Event()
    try:
        assert verdict_of(completions(lambda handler, body: done.wait(10)), "--timeout", "0.2") == 3
    finally:
        done.set()
    assert "gave no whole answer in 0.2 s; wait longer by --timeout SECONDS" in capsys.readouterr().err


def test_a_port_where_nobody_listens(capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert verify.main(["--url", f"http://127.0.0.1:{free.getsockname()[1]}/v1"]) == 3
    assert "nobody listens there; is the server running, and on this port?" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "says"), [
    (["--url", "127.0.0.1:8000"], "is no address of a server; write http://HOST:PORT/v1"),
    (["--url", f"http://me:{KEY}@127.0.0.1/v1"], "the address holds a password"),
    (["--url", f"me:{KEY}@127.0.0.1/v1"], "the address holds a password"),
    (["--url", f"http://127.0.0.1/v1?key={KEY}"], "'http://127.0.0.1/v1' came with a ? or # and more"),
    (["--url", f"127.0.0.1/v1?key={KEY}"], "'127.0.0.1/v1' came with a ? or # and more"),
    (["--url", f"http://127.0.0.1/v1#{KEY}"], "'http://127.0.0.1/v1' came with a ? or # and more"),
    (["--url", "http://127.0.0.1:1/v1", "--against", f"http://127.0.0.1:1/v1?{KEY}"], "came with a ? or # and more"),
    (["--url", "http://[::1/v1"], "'http://[::1/v1' is no address of a server; write http://HOST:PORT/v1"),
    (["--url", "http://127.0.0.1:x/v1"], "is no address of a server"),
    (["--url", "http://127.0.0.1:99999/v1"], "is no address of a server"),
    (["--url", "http://127.0.0.1/v\u00e91"], "is no address of a server"),
    (["--url", "http://127.0.0.1/v 1"], "is no address of a server"),
    (["--url", "http://127.0.0.1:1/v1", "--api-key-env", KEY], "takes the name of the variable that holds the key"),
    (["--url", "http://127.0.0.1:1/v1", "--api-key-env", "NO_SUCH"], "names NO_SUCH, which is not set"),
    (["--url", "http://127.0.0.1:1/v1", "--steps", "0"], "--steps is 0"),
    (["--url", "http://127.0.0.1:1/v1", "--prompt", ""], "an empty --prompt came"),
    (["--url", "http://127.0.0.1:1/v1", "--timeout", "0"], "--timeout is 0; it is a number of seconds above 0"),
    (["--url", "http://127.0.0.1:1/v1", "--timeout", "nan"], "--timeout is nan; it is a number of seconds above 0"),
    (["--url", "http://127.0.0.1:1/v1", "--timeout", "86401"], "--timeout is 86401; it is a number of seconds above 0"),
    (["--url", "http://127.0.0.1:1/v1", "--timeout", "1e12"], "and a day (86400) at most"),
    (["--url", "http://127.0.0.1:1/v1", "--against-model", "x"], "name that server by --against URL"),
    (["--url", "http://127.0.0.1:1/v1", "--against", ""], "--against is empty; give it a value or leave it out"),
    (["--url", ""], "--url is empty"),
    (["--url", "http://127.0.0.1:1/v1", "--cache", "static"], "--cache does nothing beside --url"),
    (["--impl", "sdpa", "--timeout", "3"], "--timeout does nothing beside --impl"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused(words, says, capsys):
    assert verify.main(words) == 3
    said = capsys.readouterr().err
    assert says in " ".join(said.split())
    assert KEY not in said


@pytest.mark.parametrize("spoilt", [
    "{}\r", "{}\r\n", "\n{}", " {} ", "{}\t", "{}\x0b", "{}\r\nX-More: 1", "{}\n\n{}", "{} {}", "{}\u00e9", "\u20ac{}",
    "{}\x7f", "{}\x00", "{}\udcff", "\u2028{}", " ", "\r\n",
])  # fmt: skip
def test_a_key_that_is_spoilt_is_mended_or_refused_and_never_shown(spoilt, monkeypatch, capsys):
    seen = []

    def before(handler, path, body):
        seen.append(handler.headers["Authorization"])
        return False

    key = spoilt.replace("{}", KEY)
    monkeypatch.setattr(command.os, "environ", {"OPENAI_API_KEY": key})
    code = verdict_of(before, "--dtype", "float32")
    said = "".join(capsys.readouterr())
    assert KEY not in said
    if key.strip() == KEY:
        assert code == 0
        assert set(seen) == {f"Bearer {KEY}"}
    else:
        assert (code, seen) == (3, [])
        assert "kvproof verify: OPENAI_API_KEY holds " in said


@pytest.mark.parametrize("key", [KEY, 'sk-"quoted"', "sk-back\\slash"])
@pytest.mark.parametrize("answer", [
    lambda key: (400, {"error": {"message": f"no {key}"}}), lambda key: (400, {"detail": [{"key": key}]}),
    lambda key: (400, key.encode()), lambda key: (200, f"it is {key}".encode()),
    lambda key: (200, {"data": [{"id": key}]}),
])  # fmt: skip
def test_a_key_that_the_server_repeats_is_hidden(key, answer, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    status, found = answer(key)
    before = lambda handler, path, body: reply(handler, found, status) is None  # noqa: E731
    assert verdict_of(before, "--model", "other") == 3
    said = "".join(capsys.readouterr())
    assert key not in said
    assert json.dumps(key)[1:-1] not in said
    assert "***" in said


def test_the_key_goes_to_the_server_and_no_further():
    seen = []

    @contextmanager
    def watching():
        def before(handler, path, body):
            seen.append(handler.headers["Authorization"])
            return False

        with served(Oracle(*small_model("float32")), Manner(before=before)) as url:
            yield url

    with watching() as url:
        Client(url, KEY).get("/models")
        Client(url).get("/models")
    assert seen == [f"Bearer {KEY}", None]


def test_a_wait_longer_than_the_limit_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it slept"))
    manner = Manner(before=status(503, Retry_After=str(int(client.WAIT) + 1)))
    with served(Oracle(*small_model("float32")), manner) as url, pytest.raises(ServerError, match="503"):
        Client(url).post("/completions", {})
