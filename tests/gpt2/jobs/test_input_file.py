"""A job's input: one line at a time, repeated names found over the whole file, growth left to the next run."""

import io
import json
import random

from kvproof.gpt2.jobs import input_file
from kvproof.gpt2.jobs.input_file import Input

from ._lines import line


def test_blank_lines_count_as_places_and_not_as_requests():
    lines = Input(io.BytesIO(b"\n" + line("a") + b" \r\n" + line("b")[:-1]))
    assert (lines.count, lines.repeats) == (2, {})
    assert list(lines.lines()) == [(1, line("a")), (3, line("b")[:-1])]
    assert list(lines.lines(1)) == [(3, line("b")[:-1])]
    assert list(lines.lines(2)) == []


def test_an_empty_file_has_no_lines():
    assert Input(io.BytesIO(b"")).count == 0


def test_repeats_name_the_first_line_even_a_bad_one():
    bad = json.dumps({"custom_id": "a", "url": "?"}).encode() + b"\n"
    lines = Input(io.BytesIO(bad + line("b") + line("a") + b"no\nno\n" + line("a") + line("b")))
    assert lines.repeats == {2: 0, 5: 0, 6: 1}


def test_repeats_are_those_of_a_dictionary_whatever_the_hashes(monkeypatch):
    monkeypatch.setattr(input_file, "hash_of", lambda text: len(text) % 2)  # all collide
    rng = random.Random(0)
    names = [str(rng.randrange(60)) for _ in range(100)]
    first: dict[str, int] = {}
    want = {i: first[name] for i, name in enumerate(names) if first.setdefault(name, i) != i}
    assert want
    assert Input(io.BytesIO(b"".join(map(line, names)))).repeats == want


def test_what_is_appended_meanwhile_is_left_to_the_next_run(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(line("a"))
    with open(path, "rb") as file:
        lines = Input(file)
        with open(path, "ab") as more:
            more.write(line("b"))
        assert [index for index, _ in lines.lines()] == [0]
        assert Input(file).count == 2


def test_a_half_line_that_grows_meanwhile_stays_the_half_that_was_counted(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(line("a") + b'{"custom')
    with open(path, "rb") as file:
        lines = Input(file)
        with open(path, "ab") as more:
            more.write(b'_id": "b"}\n')
        assert list(lines.lines())[1:] == [(1, b'{"custom')]


def test_names_that_come_once_are_never_held(monkeypatch):
    read, seen = input_file.read_line, []

    def noted(index: int, data: bytes):
        seen.append(index)
        return read(index, data)

    monkeypatch.setattr(input_file, "read_line", noted)
    assert Input(io.BytesIO(b"".join(map(line, "abcadef")))).repeats == {3: 0}
    assert seen == [0, 1, 2, 3, 4, 5, 6, 0, 3]
