"""The sweep: one line per model and scenario, whatever happens to a model, and no model twice."""

import json
import os
import time

from kvproof.bench.judge.zoo import sweep as zoo
from kvproof.bench.judge.zoo.__main__ import main
from kvproof.reference.judge.verdict import ROUNDING

from ._zoo import SAMPLE


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_model_is_judged_and_its_line_written(tmp_path, capsys):
    path = tmp_path / "zoo.jsonl"
    assert main([str(path), "--only", "llama"]) == 0
    (line,) = lines(path)
    assert (line["model_type"], line["scenario"], line["outcome"]) == ("llama", "dynamic", ROUNDING)
    assert line["rungs"]
    assert "ulps" not in line
    assert capsys.readouterr().out.splitlines()[-1] == f"1 {ROUNDING}"


def test_a_killed_run_goes_on_where_it_ended(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(zoo, "in_a_process", lambda *_: {"outcome": ROUNDING})
    path = tmp_path / "zoo.jsonl"
    assert main([str(path), "--only", "llama", "gpt2"]) == 0
    with path.open("a") as file:
        file.write('{"model_type": "opt", "outc')
    assert main([str(path), "--only", "llama", "gpt2", "opt"]) == 0
    assert [line["model_type"] for line in lines(path)] == ["llama", "gpt2", "opt"]
    assert main([str(path), "--only", "opt"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing was left to judge"


def test_lines_of_another_transformers_are_not_mixed_in(tmp_path, capsys):
    path = tmp_path / "zoo.jsonl"
    path.write_text(json.dumps({"model_type": "opt", "scenario": "dynamic", "transformers": "4.0"}) + "\n")
    assert main([str(path), "--only", "llama"]) == 3
    assert "holds lines of transformers 4.0" in capsys.readouterr().err


def test_what_a_model_raises_is_its_line():
    found = zoo.judged("openai-gpt", "dynamic")
    assert found["outcome"] == zoo.RAISED
    assert found["message"]
    assert found["place"].count(":") == 1


def test_a_model_that_hangs_or_ends_the_process_is_a_line_too():
    assert zoo.in_a_process(time.sleep, (60,), 0.5)["outcome"] == zoo.LATE
    ended = zoo.in_a_process(os._exit, (7,), 60)
    assert (ended["outcome"], ended["message"]) == (zoo.ENDED, "the process ended with exit code 7")


def test_names_that_are_none_are_refused(tmp_path, capsys):
    assert main([str(tmp_path / "zoo.jsonl"), "--only", "lama"]) == 3
    assert "lama came, which is none of llama," in capsys.readouterr().err
    assert main([str(tmp_path / "zoo.jsonl"), "--scenarios", "warm"]) == 3
    assert "warm came, which is none of dynamic, static, left-padded" in capsys.readouterr().err
    assert main([]) == 3


def test_models_are_described_one_json_line_each(capsys):
    assert main(["--models", "--only", SAMPLE[0], "gemma4_assistant"]) == 0
    drafts, llama = sorted((json.loads(x) for x in capsys.readouterr().out.splitlines()), key=len)
    assert drafts["not_built"].startswith("it drafts for another model")
    assert (llama["heads"], llama["kv_heads"], llama["cache"]) == (4, 2, "DynamicCache")
    assert llama["attention_interface"]
    assert llama["float64"] == "runs"
