"""A file of prompts: one per line, or JSONL; a bad line is refused by its number, an unread field is named."""

import json

import pytest

from kvproof.gpt2.cli import prompt_file


def read_prompts(data: bytes, name: str) -> list[str]:
    """The prompts alone, without their lines' numbers."""
    return [prompt for _, prompt in prompt_file.prompt_lines(data, name)]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"one\ntwo \xc3\xa9\n", "p.txt"),
        (b"one\ntwo \xc3\xa9", "p.txt"),
        (b"\xef\xbb\xbfone\r\n\r\n  \r\ntwo \xc3\xa9\r\n", "p.txt"),
        (b'{"prompt": "one"}\n\n{"id": 7, "prompt": "two \\u00e9"}\n', "p.jsonl"),
        (b'{"prompt": "one"}\n{"prompt": "two \xc3\xa9"}', "standard input"),
    ],
)
def test_a_prompt_file_is_read_as_it_is_meant(data, name):
    assert read_prompts(data, name) == ["one", "two é"]


def test_a_text_line_keeps_its_spaces_and_its_exotic_line_ends():
    lines = "  a\u2028b\x0bc\t\n[1]\n{not json}\n"
    assert read_prompts(lines.encode(), "p.txt") == ["  a\u2028b\x0bc\t", "[1]", "{not json}"]


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "p.txt", "p.txt holds no prompt"),
        (b"\n \n", "p.txt", "holds no prompt"),
        (b"a\nb\xff\n", "p.txt", "line 2: the file is no UTF-8"),
        (b'{"prompt": "a"}\nhello\n', "p.jsonl", "line 2 is no JSON object"),
        (b'{"prompt": "a"}\n\n{"text": "b"}\n', "p.txt", "line 3 is no JSON object"),
        (b'{"prompt": 3}\n', "p.jsonl", "line 1 is no JSON object"),
        (b'{"prompt": "\\ud83d"}\n', "p.jsonl", "line 1: the prompt holds half of a surrogate"),
        (b'{"prompt": "a", "prompt": "b"}\n', "p.jsonl", 'line 1 has 2 fields "prompt"; leave one'),
        (b'{"promt": "a"}\n', "p.jsonl", 'line 1 is no JSON object with a text "prompt" .did you mean "promt"'),
    ],
)
def test_a_bad_prompt_file_is_refused_by_line(data, name, message):
    with pytest.raises(prompt_file.PromptFileError, match=message):
        read_prompts(data, name)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"prompt": "a"}\n{"prompt": "b", "id": 7}\n', 'of a line only "prompt" is read, not "id" (line 2)'),
        (b'{"prompt": "a", "max_tokens": 5}', 'not "max_tokens" (line 1; --max-tokens sets it for all lines)'),
        (b'{"prompt": "a", "Temprature": 1}', '"Temprature" (line 1; --temperature sets it for all lines)'),
        (b'{"prompt": "a", "prompts": ["b"]}', '"prompts" (line 1; did you mean "prompt"?)'),
        (b'{"prompt": "a", "x": 1}\n\n{"prompt": "b", "x": 2, "y": 3}', 'not "x" (line 1), "y" (line 3)'),
        (b'{"promt": "a"}\n', 'p, line 1 is a JSON object without "prompt", so its lines are taken as text'),
    ],
)
def test_a_field_that_is_not_read_is_named(caplog, data, said):
    prompt_file.prompt_lines(data, "p")
    assert [said in message for message in caplog.messages] == [True]


def test_of_many_fields_that_are_not_read_some_are_named(caplog):
    prompt_file.prompt_lines(json.dumps({"prompt": "a"} | {f"field {i:02}": i for i in range(30)}).encode(), "p")
    assert '"field 07" (line 1) and 22 more' in caplog.text
    assert "08" not in caplog.text


def test_what_is_all_read_says_nothing(caplog):
    prompt_file.prompt_lines(b'{"prompt": "a"}\n{"prompt": "b"}\n', "p.jsonl")
    prompt_file.prompt_lines(b"[1]\n{}\n", "p.txt")
    assert not caplog.messages
