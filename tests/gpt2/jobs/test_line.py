"""A line of input: whatever its bytes are, it is read, and what is wrong with it is said."""

import json

import pytest

from kvproof.gpt2.jobs.body import BadRequest, Body
from kvproof.gpt2.jobs.line import content, read_line

from ._lines import LINE, line

GOOD = LINE | {"body": {"prompt": "x"}}


def test_a_good_line_is_its_request():
    read = read_line(3, line("né", prompt="y"))
    assert (read.index, read.custom_id, read.asked) == (3, "né", Body(["y"]))


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_s_end_is_not_part_of_it(end):
    data = json.dumps(GOOD).encode()
    assert read_line(0, data + end) == read_line(0, data)
    assert read_line(0, b"\xef\xbb\xbf" + data + end) == read_line(0, data)
    assert read_line(0, data).digest != read_line(0, data + b" ").digest


def test_blank_lines_are_no_lines():
    assert [content(1, blank) for blank in (b"", b"\n", b" \t\r\n")] == [b""] * 3


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"hello", "invalid_json", "it is no JSON .Expecting value, at column 1"),
        (b'{"custom_id": "a"', "invalid_json", "one object must stand on a line"),
        (b"\xff{}", "invalid_json", "byte 1 is no UTF-8"),
        (b"\xef\xbb\xbf{}", "invalid_json", "it is no JSON"),
        (b"[1]", "invalid_json", r"it is \[1\]; it must be an object with custom_id, method, url, body"),
        (b"null", "invalid_json", "it is null"),
        (b"[" * 100_000, "invalid_json", "it is no JSON"),
        (b'{"custom_id": ' + b"1" * 5000 + b"}", "invalid_json", "it is no JSON"),
        (b'{"custom_id": NaN}', "invalid_json", "NaN is no number of JSON"),
        (b'{"body": {"prompt": "a", "prompt": "b"}}', "invalid_json", '"prompt" comes twice; leave one'),
        (b"{}", "missing_field", "custom_id is missing; a line has custom_id, method, url, body"),
        (b'{"custom-id": "a"}', "unknown_field", "did you mean custom_id"),
    ],
)
def test_a_line_that_is_none_says_why(data, code, words):
    read = read_line(1, data)
    assert isinstance(read.asked, BadRequest)
    assert read.asked.code == code
    with pytest.raises(BadRequest, match=words):
        raise read.asked
    assert read.custom_id is None


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"custom_id": 3}, "custom_id", "custom_id is 3; it must be a text of its own"),
        ({"custom_id": ""}, "custom_id", 'custom_id is ""'),
        ({"method": "GET"}, "method", 'method is "GET"; it must be POST'),
        ({"url": "/v1/embeddings"}, "url", "it must be /v1/completions"),
        ({"url": "/v1/chat/completions"}, "url", "GPT-2 has no chat template: send the text as prompt"),
        ({"body": {"messages": []}}, "messages", "GPT-2 has no chat template"),
        ({"body": 1}, "body", "body is 1"),
        ({"priority": 1}, "priority", '"priority" is not known; leave it out of the line'),
    ],
)
def test_a_bad_field_is_named_and_the_line_keeps_its_custom_id(fields, param, words):
    read = read_line(0, json.dumps(GOOD | fields).encode())
    assert isinstance(read.asked, BadRequest)
    assert read.asked.param == param
    with pytest.raises(BadRequest, match=words):
        raise read.asked
    assert read.custom_id == (None if fields.get("custom_id") == 3 else fields.get("custom_id", "a"))


@pytest.mark.parametrize("name", ["custom_id", "method", "url", "body"])
def test_a_field_that_is_missing_is_named(name):
    read = read_line(0, json.dumps({key: value for key, value in GOOD.items() if key != name}).encode())
    assert isinstance(read.asked, BadRequest)
    assert (read.asked.code, read.asked.param) == ("missing_field", name)
