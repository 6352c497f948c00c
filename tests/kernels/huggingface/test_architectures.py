"""Every architecture of transformers under "kvproof": the committed table, a sample of it in CI, all of it once."""

import json
from collections import Counter

import pytest

pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[dev]'")

from kvproof.bench.judge.zoo.build import models
from kvproof.kernels.huggingface import register_with_transformers
from kvproof.kernels.huggingface.keywords import EAGER

from ._architectures import CACHED, CACHES, TABLE, WAITS, judged

SAMPLE = ("mistral", "granite_swa", "deepseek_v32", "mimo_v2_flash", "bigbird_pegasus", "inkling_text")
LINES = [json.loads(text) for text in TABLE.read_text(encoding="utf-8").splitlines()]
ROWS = {(line["model"], line["cache"]): line for line in LINES if "model" in line}
EVERY = [
    pytest.param(*row, marks=() if row[0] in SAMPLE and row[1] == "dynamic" else pytest.mark.exhaustive) for row in ROWS
]


def test_the_table_has_every_model_and_no_bug():
    assert {name for name, _ in ROWS} == {name for name, why in models().items() if why is None}
    assert len(ROWS) == len(CACHES) * len({name for name, _ in ROWS})
    verdicts = Counter((line["verdict"], line["cache"]) for line in ROWS.values())
    assert {verdict for verdict, _ in verdicts} == {"ROUNDING", None}
    assert verdicts["ROUNDING", "dynamic"] >= 60
    assert verdicts["ROUNDING", "static"] >= 60


def test_what_has_no_verdict_says_why_and_ours_are_refused_by_name():
    for line in ROWS.values():
        if line["verdict"] is None:
            ours = EAGER in line["why"]
            assert ours or line["why"] == WAITS or not line["reached"] or "Cache" in line["why"], line


def test_a_model_judged_against_its_own_cached_path_has_a_bug_of_its_own():
    for line in ROWS.values():
        assert ("own" in line) == (line.get("against") == CACHED)
        assert all(error > 1e-5 for error in line.get("own", {}).values())


@pytest.mark.parametrize(("name", "cache"), EVERY)
def test_an_architecture_is_judged_as_the_table_says(name, cache):
    register_with_transformers()
    line = judged(name, cache)
    row = ROWS[name, cache]
    assert [line[key] for key in ("verdict", "why", "against", "padded") if key in row] == [
        row[key] for key in ("verdict", "why", "against", "padded") if key in row
    ]
