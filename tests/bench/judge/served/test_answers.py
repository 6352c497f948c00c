"""Whatever stands in an answer's fields, it is read or refused in one line that names the field."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kvproof.bench.judge.served.answers import Answer, answer_of, first_choice, prompt_rows
from kvproof.bench.judge.served.client import Client, ServerError
from kvproof.bench.judge.served.models import model_of

from ._judged import TEXTS, judged, oracle
from ._stub import Manner, completion, reply, served

BODY = {"prompt": [7, 8, 9, 10, 11], "max_tokens": 2, "logprobs": 5, "temperature": 0.0, "echo": True, "seed": 0}
ASKED = {"return_token_ids": True, "prompt_logprobs": 5}
WRONG = [None, 5, -1, True, 0.5, "x", "", "3", [], [5], ["x"], [[]], [None], {}, {"x": 5}, {"x": None}, {"x": {}},
    [{}], [{"token": "a"}], [{"token": [], "logprob": -1.0}], [{"token": "a", "logprob": []}], 10**400, -(10**400),
    float("nan"), float("inf"), [{"token": "a", "logprob": -1.0}], {"\u00b2": {"logprob": -1.0}},
    {"9" * 5000: {}}]  # fmt: skip


def answers() -> dict[str, Any]:
    manners = {
        "openai": Manner(cached=1), "content": Manner(form="content", cached=1),
        "vllm": Manner(echo=False, extension=True, cached=1),
    }  # fmt: skip
    return {
        name: completion(oracle(), manner, BODY | ASKED, np.random.default_rng(0)) for name, manner in manners.items()
    }


def places(x: Any, way: tuple = ()) -> Iterator[tuple]:
    """The way to each value within JSON, of a long list to its first two."""
    yield way
    for key, value in x.items() if isinstance(x, dict) else enumerate(x[:2]) if isinstance(x, list) else ():
        yield from places(value, (*way, key))


def spoilt(x: Any, way: tuple, value: Any) -> Any:
    if not way:
        return value
    x = copy.deepcopy(x)
    at = x
    for key in way[:-1]:
        at = at[key]
    at[way[-1]] = value
    return x


@pytest.mark.parametrize("form", ["openai", "content", "vllm"])
@pytest.mark.parametrize("by_ids", [True, False], ids=["ids", "texts"])
def test_any_value_in_any_place_is_read_or_refused(form, by_ids):
    right = answers()[form]
    prompt = BODY["prompt"] if by_ids else TEXTS[0]
    refused = []
    for way in places(right):
        for value in WRONG:
            found = spoilt(right, way, value)
            try:
                assert isinstance(answer_of(found, "HERE", 5, prompt, by_ids), Answer)
                prompt_rows(found, "HERE", BODY["prompt"], 5)
            except ServerError as error:
                refused.append(str(error))
    assert len(refused) > 300
    assert [line for line in refused if not line.startswith("HERE ") or len(line) > 400] == []


@pytest.mark.parametrize(("way", "value", "says"), [
    (("usage",), [], "gave [] for usage, which is an object"),
    (("usage",), [5], "gave [5] for usage, which is an object"),
    (("usage", "prompt_tokens_details"), [5], "gave [5] for prompt_tokens_details, which is an object"),
    (("usage", "prompt_tokens_details", "cached_tokens"), "3", "gave '3' for cached_tokens, which is a whole number"),
    (("usage", "prompt_tokens"), "5", "gave '5' for prompt_tokens"),
    (("choices", 0, "text"), 5, "gave 5 for text, which is text"),
    (("choices", 0, "logprobs", "top_logprobs"), 5, "gave 5 for top_logprobs, which is a list"),
    (("choices", 0, "logprobs", "top_logprobs", 1), ["a"], "without a logprob in top_logprobs ('a')"),
    (("choices", 0, "logprobs", "top_logprobs", 1), [{"token": "a"}], "in top_logprobs ({'token': 'a'})"),
    (("choices", 0, "logprobs", "tokens", 1), True, "neither text nor an id (True)"),
])  # fmt: skip
def test_the_field_is_named(way, value, says):
    with pytest.raises(ServerError) as caught:
        answer_of(spoilt(answers()["openai"], way, value), "HERE", 5, BODY["prompt"])
    assert says in str(caught.value)


def test_the_most_probable_tokens_are_read_from_lists_too():
    right = answers()["openai"]
    expected = answer_of(right, "HERE", 5, BODY["prompt"])
    listed = copy.deepcopy(right)
    found = listed["choices"][0]["logprobs"]
    found["top_logprobs"] = [
        best and [{"token": token, "logprob": x} for token, x in best.items()] for best in found["top_logprobs"]
    ]
    assert answer_of(listed, "HERE", 5, BODY["prompt"]) == expected


@pytest.mark.parametrize(("found", "says"), [
    ({"data": 5}, "/models gave 5 for data, which is a list"),
    ({"data": {"id": "x"}}, "for data, which is a list"),
    ({"data": [5]}, "/models gave 5 for data, which is an object"),
    ({"data": [{"id": 5}]}, "/models gave 5 for id, which is text"),
    ([5], "/models gave [5] for the list of models, which is an object"),
    (None, "serves no model"),
    ({"data": [None]}, "serves no model"),
    ({"error": {"message": "no such tenant"}}, "/models answered with an error (no such tenant)"),
    ({"data": []}, "serves no model"),
    ({}, "serves no model"),
])  # fmt: skip
def test_a_list_of_models_that_is_none_is_refused(found, says):
    before = lambda handler, path, body: reply(handler, found) is None  # noqa: E731
    with served(None, Manner(before=before)) as url, pytest.raises(ServerError) as caught:
        model_of(Client(url, timeout=10), None, [])
    assert says in str(caught.value)


@pytest.mark.parametrize("code", [None, 400, "bad_request"])
def test_an_error_with_the_status_200_is_shown_and_a_field_that_it_refuses_is_left_out(code):
    def before(handler, path, body):
        refused = bool(body) and ("top_k" in body or body["max_tokens"] == 99)
        if refused:
            reply(handler, {"error": {"message": "top_k is out of place", "code": code}})
        return refused

    if code == 400:
        assert any("refuses top_k" in note for note in judged(oracle(), Manner(before=before)).notes)
    else:
        with pytest.raises(ServerError, match=r"answered with an error \(top_k is out of place\)"):
            judged(oracle(), Manner(before=before))


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 200_000, b"9" * 5000, b"\xff\xfe", b"NaN", b"5", b"null", b'"x"']
)
def test_a_body_that_is_no_completion_is_refused(body):
    def before(handler, path, _):
        reply(handler, body)
        return True

    with served(None, Manner(before=before)) as url, pytest.raises(ServerError):
        first_choice(Client(url, timeout=10).post("/completions", {}), "HERE")
