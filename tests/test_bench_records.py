"""Results on disk: valid or refused, whole or not there."""

import json
import os
from pathlib import Path

import pytest

from kvproof.bench import records
from kvproof.bench.decode import main


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("results") / "one.jsonl"
    assert (
        main(["--impl", "sdpa", "--device", "cpu", "--new-tokens", "2", "--repeats", "1", "--results", str(path)]) == 0
    )
    (found,) = records.read(path)
    return found


def test_what_is_appended_is_read_back(record, tmp_path):
    path = tmp_path / "run.jsonl"
    for key in "abc":
        records.append(path, record | {"key": key})
    assert records.read(path) == [record | {"key": key} for key in "abc"]
    assert records.main([str(path)]) == 0


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"schema": "kvproof/decode/9"}, "$.schema"),
        ({"explanation": None}, "$.explanation"),
        ({"new": 1}, "$: "),
        ({"impls": []}, "$.impls"),
        ({"constants": {}}, "$.constants"),
    ],
)
def test_a_record_that_breaks_the_schema_is_refused_and_the_file_is_as_it_was(record, tmp_path, change, place):
    path = tmp_path / "run.jsonl"
    records.append(path, record)
    held = path.read_bytes()
    with pytest.raises(records.BadRecord) as error:
        records.append(path, record | change)
    assert place in str(error.value)
    assert path.read_bytes() == held


@pytest.mark.parametrize("line", ['{"half', "[]", '{"schema": "kvproof/decode/1"}'])
def test_a_bad_line_is_named(record, tmp_path, capsys, line):
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(record) + "\n" + line + "\n")
    with pytest.raises(records.BadRecord, match=r"run\.jsonl:2: "):
        records.read(path)
    assert records.main([str(path)]) == 1
    assert "run.jsonl:2" in capsys.readouterr().err


def test_nan_never_reaches_the_file(record, tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        records.append(tmp_path / "run.jsonl", record | {"constants": record["constants"] | {"gflops": float("nan")}})
    assert not (tmp_path / "run.jsonl").exists()


def test_the_file_is_replaced_whole_and_never_grown(record, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    records.append(path, record)
    held, seen = path.read_bytes(), []

    def killed(source, target):
        seen.append((path.read_bytes(), Path(source).read_bytes()))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        records.append(path, record | {"key": "b"})
    ((before, aside),) = seen
    assert before == path.read_bytes() == held
    assert aside.startswith(held)
    assert aside.count(b"\n") == 2
    monkeypatch.undo()
    records.append(path, record | {"key": "c"})
    assert [r["key"] for r in records.read(path)] == [record["key"], "c"]


def test_no_file_is_exit_code_2(tmp_path, capsys):
    assert records.main([str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
