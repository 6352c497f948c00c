"""`kvproof verify --hf` at the command line: one cell, all of them, and options that do not fit."""

import json

import pytest

from kvproof.bench.judge import __main__ as verify
from kvproof.bench.judge.huggingface.command import PROMPT_IDS

from .._models import stranger

pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[hf]'")
QUICK = ("--context", "8", "--steps", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("llama")
    stranger("llama").save_pretrained(found)
    return str(found)


def test_a_scenario_is_named_in_the_report(folder, capsys):
    assert verify.main(["--hf", folder, "--cache", "static", "--scenario", "crop", *QUICK]) == 0
    assert "ROUNDING: static cache, left-padded, crop against uncached forward, unpadded" in capsys.readouterr().out


def test_without_a_tokenizer_ragged_ids_are_judged(folder, capsys):
    assert verify.main(["--hf", folder, "--steps", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["a"] == "dynamic cache, left-padded"
    assert record["difference"]["of"] == 2 * len(PROMPT_IDS)


def test_all_prints_a_line_per_cell_and_their_sums(folder, capsys):
    assert verify.main(["--hf", folder, "--all", "--cache", "dynamic", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"ROUNDING: {folder}, float32, dynamic, every scenario"
    assert [line.split()[1] for line in lines[3:-1]] == ["steps", *(s for s in verify.SCENARIOS if s != "steps")]
    assert lines[-1] == "9 cells: 9 ROUNDING"


def test_all_as_json_holds_every_cell_with_its_rungs(folder, capsys):
    assert verify.main(["--hf", folder, "--all", "--scenario", "bare", "--json", *QUICK]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["word"] == "ROUNDING"
    assert [cell["cache"] for cell in record["cells"]] == ["dynamic", "static"]
    assert [rung["dtype"] for rung in record["cells"][0]["found"]["rungs"]] == ["float64", "float32"]


@pytest.mark.parametrize(("given", "message"), [
    (["--cache", "sliding"], "none of its layers has a window"),
    (["--cache", "hybrid"], r"its layers are all of one kind (DynamicLayer)"),
    (["--cache", "paged", "--scenario", "crop"], "the paged cache decodes in the scenario steps alone; crop came"),
    (["--cache", "quantised-fp8", "--scenario", "beams"], "judged in the scenarios steps, chunks, pieces; beams came"),
    (["--all", "--left-padded", "2"], "--all has padding and positions among its scenarios"),
    (["--all", "--html", "page.html"], "leave --left-padded, --no-position-ids and --html out"),
    (["--scenario", "chunks", "--prompt", "x"], "the tokenizer of"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_reason(folder, capsys, given, message):
    assert verify.main(["--hf", folder, *given]) == verify.USAGE
    assert message in " ".join(capsys.readouterr().err.split())
