"""The record of Triton's own tutorials, run unchanged on the machine: its form, and the bars it is held to.

A line of tutorials.jsonl is one launch: file and commit, kernel, target, sizes, verdict, seconds. The files are not
here: each was run under route(target, pretend=True) and held to its own test, or to torch.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROWS: list[dict[str, Any]] = [
    json.loads(text) for text in (Path(__file__).parent / "tutorials.jsonl").read_text(encoding="utf-8").splitlines()
]
FIELDS = {
    "repository": str, "commit": str, "tutorial": str, "kernel": str, "target": str, "sizes": dict, "verdict": str,
    "seconds": (float, type(None)),
}  # fmt: skip
UNCOMPILED = "Triton 3.8.0 does not compile it: "
VERDICT = re.compile(
    r"right|accused: (Race|Uninitialised|Deadlock): .+|refused: (UnknownOpcode|Refused|OutOfResources): .+"
    rf"|{re.escape(UNCOMPILED)}.+|the tutorial fails before its launch: .+"
)
# Those that the machine does not model, and those that no sm_100 has the registers for.
REFUSED = {
    ("gluon/12-cluster-launch-control.py", "sm_100"): "clusterlaunchcontrol",
    ("gluon/14-multicta.py", "sm_100"): "num_ctas", ("gluon/14-multicta.py", "sm_90"): "num_ctas",
    ("06-fused-attention.py", "sm_100"): "OutOfResources: _attn_fwd holds 168 registers in each of 640 threads",
}  # fmt: skip


def problems(rows: list[dict[str, Any]]) -> list[str]:
    """What is wrong with a record."""
    found = []
    for n, row in enumerate(rows, 1):
        if set(row) != set(FIELDS) or not all(isinstance(row[name], kind) for name, kind in FIELDS.items()):
            found.append(f"line {n} has not its fields")
            continue
        if not re.fullmatch(r"[0-9a-f]{40}", row["commit"]) or row["target"] not in ("sm_80", "sm_90", "sm_100"):
            found.append(f"line {n}: {row['commit']} is no commit, or {row['target']} no target")
        if not VERDICT.fullmatch(row["verdict"]):
            found.append(f"line {n}: {row['verdict']} is no verdict")
        if row["verdict"].startswith("refused"):
            why = REFUSED.get((row["tutorial"], row["target"]))
            if why is None or why not in row["verdict"]:
                found.append(f"line {n}: {row['tutorial']} is refused on {row['target']}")
        early = re.match("0[1-9]-", row["tutorial"]) and row["target"] == "sm_90"
        if early and not row["verdict"].startswith(("right", "accused: ", UNCOMPILED)):
            found.append(f"line {n}: {row['tutorial']} has no result on sm_90")
    cases = [json.dumps([row.get(name) for name in ("tutorial", "kernel", "target", "sizes")]) for row in rows]
    found += [f"{case} is there twice" for case in {x for x in cases if cases.count(x) > 1}]
    there = {re.sub(r"(\d\d)-.*", r"\1", row.get("tutorial", "")) for row in rows}
    every = {f"{n:02}" for n in range(1, 12)} | {f"gluon/{n:02}" for n in range(1, 15)}
    return found + [f"tutorial {name} is missing, or none of Triton's" for name in sorted(every ^ there)]


def test_every_tutorial_is_there_and_none_is_wrong():
    assert problems(ROWS) == []


def test_most_launches_are_right_and_every_accusation_says_where():
    right = [row for row in ROWS if row["verdict"] == "right"]
    accused = [row for row in ROWS if row["verdict"].startswith("accused")]
    assert len(ROWS) >= 275
    assert len(right) >= 242
    assert all(re.search(r"\d\d-[\w-]+\.py:\d+.*; PTX line \d+: ", row["verdict"]) for row in accused)


def row_of(**change: Any) -> list[dict[str, Any]]:
    """The record with its first row changed."""
    return [ROWS[0] | change, *ROWS[1:]]


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (row_of(verdict="WRONG 3.5"), "line 1: WRONG 3.5 is no verdict"),
        (row_of(verdict="refused: UnknownOpcode: mul"), "line 1: 01-vector-add.py is refused on sm_100"),
        (row_of(target="sm_90", sizes={}, verdict="the tutorial fails before its launch: x"), "no result on sm_90"),
        (row_of(commit="main"), "main is no commit"),
        (row_of(seconds="1"), "line 1 has not its fields"),
        ([*ROWS, ROWS[5]], "is there twice"),
        ([row for row in ROWS if row["tutorial"] != "gluon/13-conv-im2col.py"], "tutorial gluon/13 is missing"),
    ],
)
def test_a_planted_fault_is_found(rows, what):
    (found,) = problems(rows)
    assert what in found
