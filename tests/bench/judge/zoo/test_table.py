"""The committed table of every causal LM: complete, as its page says, and as the judge says today of a sample."""

import json
from collections import Counter
from pathlib import Path

import pytest

from kvproof.bench.judge.zoo import sweep as zoo
from kvproof.bench.judge.zoo.build import models
from kvproof.reference.judge.verdict import BUG, INCONCLUSIVE, ROUNDING

LINES = [json.loads(x) for x in (Path(__file__).parent / "architectures.jsonl").read_text().splitlines()]
WORDS = {line["model_type"]: line["outcome"] for line in LINES}
CELLS = {
    (line["model_type"], *cell.split("/")): told.partition(":")[0]
    for line in LINES
    for cell, told in line.get("cells", {}).items()
}
# A bug, a neighbour without it, and a model with nothing wrong.
SAMPLE = [
    ("gpt_neo", "static", "steps"), ("gpt_neo", "dynamic", "steps"), ("mamba", "dynamic", "chunks"),
    ("mamba", "dynamic", "steps"), ("zamba2", "dynamic", "steps"), ("bamba", "dynamic", "bare"),
    ("roberta", "dynamic", "generate"), ("recurrent_gemma", "dynamic", "left-padded"), ("moshi", "own", "steps"),
    ("gemma2", "paged", "steps"), ("rwkv", "own", "chunks"), ("qwen3_next", "static", "generate"),
]  # fmt: skip
KNOWN_BUGS = {
    "bamba", "camembert", "data2vec-text", "deepseek_v4", "falcon_mamba", "gemma2", "git", "gpt_neo", "inkling_text",
    "jamba", "mamba", "minimax_m3_vl_text", "moshi", "nemotron_h", "recurrent_gemma", "reformer", "roberta",
    "roberta-prelayernorm", "vaultgemma", "xlm-roberta", "xlm-roberta-xl", "xmod", "zamba", "zamba2",
}  # fmt: skip


def test_the_table_has_every_model_of_its_transformers():
    transformers = pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[hf]'")
    (version,) = {line["transformers"] for line in LINES}
    if transformers.__version__ != version:
        pytest.skip(f"the table is of transformers {version}, here is {transformers.__version__}")
    assert set(WORDS) == set(models())


def test_a_verdict_for_19_of_20_and_every_bug_is_one_that_was_confirmed_by_hand():
    built = [word for word in WORDS.values() if word != zoo.NOT_BUILT]
    assert sum(word in (ROUNDING, BUG) for word in built) >= 0.95 * len(built)
    assert {name for name, word in WORDS.items() if word == BUG} == KNOWN_BUGS
    assert {name for (name, *_), word in CELLS.items() if word == BUG} == KNOWN_BUGS
    assert INCONCLUSIVE not in CELLS.values()
    assert not any("error of ours" in told for line in LINES for told in line.get("cells", {}).values())


def test_the_page_counts_what_the_table_holds():
    page = (Path(zoo.__file__).parent / "README.md").read_text(encoding="utf-8")
    words, cells = Counter(WORDS.values()), Counter(CELLS.values())
    assert f"| no bug in any cell | {words[ROUNDING]} | |" in page
    assert f"| BUG in some cell, confirmed by hand | {words[BUG]} | {cells[BUG]} |" in page
    assert f"| ROUNDING | | {cells[ROUNDING]:,} |" in page


@pytest.mark.parametrize("cell", SAMPLE, ids="/".join)
def test_the_judge_says_so_today(cell):
    pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[hf]'")
    name, cache, scenario = cell
    found = zoo.judged(name, scenario, cache)
    assert {x: told.partition(":")[0] for x, told in found["cells"].items()} == {f"{cache}/{scenario}": CELLS[cell]}
