"""A request's body: what OpenAI's completions take is taken or refused by name, and nothing is ignored in silence."""

from dataclasses import replace

import pytest

from kvproof.gpt2.jobs.body import CHECKS, IGNORED, NEUTRAL, BadRequest, Body, read_body


def test_what_is_left_out_or_null_has_openai_s_default():
    plain = Body(["x"], max_tokens=16, temperature=1.0, top_p=None, n=1, stop=(), seed=None, echo=False, logprobs=None)
    names = ("best_of", *CHECKS, *NEUTRAL, *IGNORED)
    assert read_body({"prompt": "x"}) == read_body({"prompt": "x"} | dict.fromkeys(names)) == plain


@pytest.mark.parametrize(
    "prompt", ["x", [1, 2], ["x", "y"], [[1], [2, 3]], ["x"], [[0]], "<|endoftext|>", " ", "\u0000"]
)
def test_a_prompt_is_a_text_or_ids_or_several(prompt):
    many = isinstance(prompt, list) and isinstance(prompt[0], (str, list))
    assert read_body({"prompt": prompt}).prompts == (prompt if many else [prompt])


def test_every_setting_arrives():
    asked = {
        "max_tokens": 3, "temperature": 0, "top_p": 0.5, "top_k": 4, "n": 128, "stop": "a", "seed": 2**64 - 1,
        "echo": True, "return_token_ids": True,
    }  # fmt: skip
    assert set(asked) | {"logprobs"} == set(CHECKS)
    assert read_body({"prompt": "x"} | asked) == replace(Body(["x"]), **(asked | {"stop": ("a",)}))
    assert read_body({"prompt": "x", "logprobs": 0, "max_tokens": 2.0, "stop": ["a", "b", "c", "d"]}) == Body(
        ["x"], logprobs=0, max_tokens=2, stop=("a", "b", "c", "d")
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"presence_penalty": 0}, {"frequency_penalty": 0.0}, {"logit_bias": {}}, {"suffix": ""}, {"stream": False},
        {"best_of": 1}, {"best_of": 3, "n": 3}, {"model": "gpt-3.5-turbo-instruct"},
        {"user": "u"}, {"metadata": {"a": 1}},
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_taken(fields):
    assert read_body({"prompt": "x"} | fields) == Body(["x"], n=fields.get("n", 1))


@pytest.mark.parametrize(
    ("fields", "code", "param", "words"),
    [
        ({"presence_penalty": 0.5}, "unsupported", "presence_penalty", "presence_penalty is 0.5, which kvproof does"),
        ({"frequency_penalty": -1}, "unsupported", "frequency_penalty", "leave it out"),
        ({"logit_bias": {"50256": -100}}, "unsupported", "logit_bias", "does not support"),
        ({"suffix": "x"}, "unsupported", "suffix", 'suffix is "x"'),
        ({"stream": True}, "unsupported", "stream", "stream is true"),
        ({"stream": 0}, "unsupported", "stream", "stream is 0"),
        ({"stream_options": {}}, "unsupported", "stream_options", "leave it out"),
        ({"presence_penalty": False}, "unsupported", "presence_penalty", "is false"),
        ({"best_of": 2}, "unsupported", "best_of", "best_of is 2"),
        ({"best_of": 1, "n": 2}, "unsupported", "best_of", "best_of is 1"),
        ({"echo": True, "logprobs": 1}, "unsupported", "echo", "logprobs are of new tokens only: leave one out"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens", "max_tokens is 0; it must be a whole number, 1 or more"),
        ({"max_tokens": True}, "invalid_value", "max_tokens", "is true"),
        ({"max_tokens": "9"}, "invalid_value", "max_tokens", 'is "9"'),
        ({"max_tokens": 2.5}, "invalid_value", "max_tokens", "is 2.5"),
        ({"temperature": -1}, "invalid_value", "temperature", "0 .greedy. or more"),
        ({"temperature": 1e999}, "invalid_value", "temperature", "is Infinity"),
        ({"temperature": 10**400}, "invalid_value", "temperature", "is 1000"),
        ({"top_p": 0}, "invalid_value", "top_p", "above 0 and at most 1"),
        ({"top_p": 1.5}, "invalid_value", "top_p", "is 1.5"),
        ({"top_k": 0}, "invalid_value", "top_k", "or null for all"),
        ({"n": 0}, "invalid_value", "n", "from 1 to 128"),
        ({"n": 129}, "invalid_value", "n", "from 1 to 128"),
        ({"seed": -1}, "invalid_value", "seed", "null for the job's"),
        ({"seed": 2**64}, "invalid_value", "seed", "18446744073709551616"),
        ({"stop": ""}, "invalid_value", "stop", "none of them empty"),
        ({"stop": list("abcde")}, "invalid_value", "stop", "up to 4"),
        ({"stop": ["a", 1]}, "invalid_value", "stop", "up to 4"),
        ({"stop": "\ud83d"}, "invalid_value", "stop", "half of a surrogate"),
        ({"echo": 1}, "invalid_value", "echo", "true or false"),
        ({"logprobs": 6}, "invalid_value", "logprobs", "from 0 to 5"),
        ({"logprobs": True}, "invalid_value", "logprobs", "is true"),
        ({"model": 3}, "invalid_value", "model", "the model is the job's"),
        ({"Max-Tokens": 3}, "unknown_field", "Max-Tokens", "did you mean max_tokens"),
        ({"max_new_tokens": 3}, "unknown_field", "max_new_tokens", "did you mean max_tokens"),
        ({"zzz": 3}, "unknown_field", "zzz", "leave it out of the body"),
        ({"prompt": ""}, "invalid_value", "prompt", "prompt is empty"),
        ({"prompt": []}, "invalid_value", "prompt", "prompt is empty"),
        ({"prompt": ["a", ""]}, "invalid_value", "prompt", "prompt is empty"),
        ({"prompt": ["a", [1]]}, "invalid_value", "prompt", "a list of token ids, or"),
        ({"prompt": [1, "a"]}, "invalid_value", "prompt", "a list of token ids, or"),
        ({"prompt": [[1], ["a"]]}, "invalid_value", "prompt", "a list of token ids, or"),
        ({"prompt": [True]}, "invalid_value", "prompt", "a list of token ids, or"),
        ({"prompt": [1.0]}, "invalid_value", "prompt", "a list of token ids, or"),
        ({"prompt": 3}, "invalid_value", "prompt", "prompt is 3"),
        ({"prompt": {"a": 1}}, "invalid_value", "prompt", "a list of token ids, or"),
        ({"prompt": "\udc80"}, "invalid_value", "prompt", "half of a surrogate"),
        ({"prompt": None}, "missing_field", "prompt", "prompt is missing"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(fields, code, param, words):
    with pytest.raises(BadRequest, match=words) as refused:
        read_body({"prompt": "x"} | fields)
    assert (refused.value.code, refused.value.param) == (code, param)


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_a_body_is_an_object(body):
    with pytest.raises(BadRequest, match="it must be an object with a prompt"):
        read_body(body)


def test_a_chat_is_told_what_to_do():
    with pytest.raises(BadRequest, match="send the text as prompt, with url /v1/completions") as refused:
        read_body({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3})
    assert refused.value.param == "messages"
