"""The record of public launchers, unchanged, on the machine: launchers.jsonl, one line for each, and what it must show.

repository, commit, file, launcher   whose function it is; "a, b" for two that were run in one
kernels                              those that it launched; ["-"] if it fell before the first
target, seeds, seconds               how it ran; null is the default schedule; of the default runs together
verdict                              right: results as torch's in float64, within what the dtype rounds
                                     accused: rightly, as reading the kernel's source has shown: error, line, why;
                                     "values" is what only the comparison shows
                                     not reached: why
"""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from kvproof.kernels import ptx

RECORD = Path(__file__).with_name("launchers.jsonl")
FIELDS = {"repository", "commit", "file", "launcher", "kernels", "target", "seeds", "seconds", "verdict"}
MORE = {"right": set(), "accused": {"error", "line", "why"}, "not reached": {"why"}}
OTHERS = {"values", "TypeError"}  # what an accusation may rest on beside the machine's errors


def rows() -> list[dict]:
    return [json.loads(line) for line in RECORD.read_text().splitlines()]


def faults(record: list[dict]) -> list[str]:
    """What is missing for the bars: 100 launchers of 15 repositories, 90 of them right or rightly accused."""
    verdicts = Counter(row["verdict"] for row in record)
    found = [f"{verdict} is no verdict" for verdict in verdicts.keys() - MORE.keys()]
    found += [] if len(record) >= 100 else [f"{len(record)} launchers, 100 are due"]
    repositories = {row["repository"] for row in record}
    found += [] if len(repositories) >= 15 else [f"{len(repositories)} repositories, 15 are due"]
    reached = verdicts["right"] + verdicts["accused"]
    return found + ([] if reached >= max(90, 0.9 * len(record)) else [f"{reached} of {len(record)} launchers reached"])


def test_the_record_shows_a_hundred_launchers_of_fifteen_repositories():
    assert faults(rows()) == []


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (lambda found: found[:99], "99 launchers"),
        (lambda found: [row | {"repository": "one/only"} for row in found], "1 repositories"),
        (lambda found: [row | {"verdict": "traceback"} for row in found[:1]] + found[1:], "traceback is no verdict"),
        (lambda found: [row | {"verdict": "not reached"} for row in found[:40]] + found[40:], "launchers reached"),
    ],
)
def test_a_record_that_falls_short_is_told(record, what):
    assert any(what in fault for fault in faults(record(rows())))


def test_every_line_has_its_fields():
    for row in rows():
        assert row.keys() == FIELDS | MORE[row["verdict"]], row
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", row["repository"]), row
        assert re.fullmatch(r"[0-9a-f]{40}", row["commit"]), row
        assert row["file"].endswith(".py"), row
        assert row["kernels"] or row["verdict"] == "not reached", row
        assert row["target"] in ("sm_80", "sm_90", "sm_100"), row
        assert None in row["seeds"], row
        assert 0 <= row["seconds"] < 240, row


def test_every_accusation_names_an_error_of_the_machine_and_a_line():
    accused = [row for row in rows() if row["verdict"] == "accused"]
    assert accused
    for row in accused:
        assert row["error"] in OTHERS or issubclass(getattr(ptx, row["error"]), ptx.PtxError), row
        assert re.fullmatch(r"\w+\.py:\d+", row["line"]), row
        assert row["line"].split(":")[0] == row["file"].rsplit("/", 1)[-1], row


def test_no_launcher_is_counted_twice():
    keys = [(row["repository"], row["file"], row["launcher"]) for row in rows()]
    assert len(set(keys)) == len(keys)


def test_a_third_ran_in_a_random_schedule_too():
    assert sum(1 in row["seeds"] for row in rows()) >= len(rows()) / 3
