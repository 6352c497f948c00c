"""The pictures of bench/requests: marks are the records' numbers, red is said, and bench/plots.py draws them."""

import json
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not here; python -m pip install -e '.[plots]'")

from kvproof.bench import plots
from kvproof.bench.measure import records
from kvproof.bench.requests.picture import latest_runs, pictures

from .._records import caption
from ._rounds import RED, WRONG, lived, rounds

RATES = {"engine-32": [30.0, 15.0, 33.0], "generate-8": [20.0, 10.0, 20.0], "hf-generate-8": [None] * 3}
DRAFTS = {"engine-8": [10.0, 10.0], "engine-8-draft-4": [11.0, 12.0], "engine-8-draft-16": [21.0, 20.0]}


def drawn(found) -> list[Any]:
    return [figure for _, figure in pictures(found)]


def test_bars_are_the_medians_with_a_dot_per_round_and_red_arms_say_so():
    found = rounds("throughput", RATES, parity={"generate-8": RED, "hf-generate-8": WRONG})
    (figure,) = drawn(found)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [30, 20]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == [[30, 15, 33], [20, 10, 20]]
    said = [label.get_text() for label in axes.get_yticklabels()]
    assert said == ["engine-32", "generate-8: RED, 1 of 4", "hf-generate-8: WRONG, not timed"]
    assert axes.get_xlim()[0] == 0
    assert "cpu: EPYC; torch 2.9, transformers None; commit d04c962a." in caption(figure)


def test_speculation_shows_ratios_of_each_text_and_how_much_it_repeats_itself():
    found = [*rounds("speculation", DRAFTS, "repetitive", 6.25), *rounds("speculation", DRAFTS, "prose", 1.5)]
    (figure,) = drawn(found)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["repetitive (6.2)", "prose (1.5)"]
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "s")]
    assert marks == pytest.approx([1.15, 2.05] * 2)
    assert list(figure.keys) == ["draft 4", "draft 16"]


def test_memory_is_drawn_from_the_warm_up_on_and_from_zero():
    (figure,) = drawn([lived()])
    (axes,) = figure.axes
    assert list(axes.lines[0].get_ydata()) == [900, 905, 909]
    assert axes.get_ylim()[0] == 0


def test_of_two_runs_of_the_same_the_later_is_drawn():
    old, new = rounds("throughput", RATES), rounds("throughput", {arm: [9.0] for arm in RATES})
    new[0] |= {"run": "of another commit", "key": "of another commit; round 0"}
    assert latest_runs([*old, *new]) == [new]
    other = rounds("throughput", RATES, model="random:gpt2")
    assert latest_runs([*old, *other]) == [old, other]


def test_plots_draws_every_job_of_a_file(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    for record in (*rounds("throughput", RATES), *rounds("speculation", DRAFTS, "prose", 1.5), lived()):
        records.append(path, record, records.REQUESTS)
    assert records.kind_of(path) == records.REQUESTS
    assert plots.main([str(path)]) == 0
    drawn = {picture.stem for picture in (tmp_path / "run").glob("*.png")}
    assert drawn == {"requests-throughput", "requests-speculation", "requests-memory"}
    assert records.main([str(path)]) == 0
    assert "6 records, all kvproof/requests/1" in capsys.readouterr().out


@pytest.mark.parametrize("line", [{"schema": records.REQUESTS}, {"schema": "x"}, [], {"schema": ["unhashable"]}])
def test_a_line_that_is_no_record_is_named(tmp_path, capsys, line):
    (tmp_path / "run.jsonl").write_text(json.dumps(line) + "\n")
    assert plots.main([str(tmp_path / "run.jsonl")]) == 2
    assert "run.jsonl:1" in capsys.readouterr().err
