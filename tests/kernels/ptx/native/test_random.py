"""Random programs on both engines: what one finds the other finds, and what runs leaves equal bits and reports."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from kvproof.kernels.ptx.native import kernel, tiers

from .. import _text
from . import _both
from ._random import Program, drawn


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(tiers, "PRICE", -1.0)


def outcome(program: Program, engine: str | None, came: list[np.ndarray]) -> tuple[dict[str, Any], str]:
    """What a program leaves and reports, or the error it ends in; and who ran it."""
    for array, before in zip(program.arrays, came, strict=True):
        array[...] = before
    run = lambda body, **settings: _text.run(body, *program.arrays, **settings)  # noqa: E731
    found, what = _both.outcome(run, engine, (program.body,), program.settings)
    memory = [a if a.base is None else a.base for a in program.arrays]
    return what | {"memory": [x.tobytes() for x in memory]}, getattr(found, "engine", "error")


def same(seeds: range) -> Counter[tuple[str, str]]:
    """Run so many programs on both engines -> how many ended how, on which."""
    ended = Counter()
    for seed in seeds:
        program = drawn(np.random.default_rng(seed))
        came = [a.copy() for a in program.arrays]
        usual, _ = outcome(program, "numpy", came)
        now, engine = outcome(program, None, came)
        assert now == usual, (seed, program)
        ended[re.split(r"\W", usual.get("error", "fine"))[0], engine] += 1
    return ended


def test_better_code_does_the_same(monkeypatch):
    monkeypatch.setattr(kernel, "LASTING", -1.0)
    assert same(range(80, 110))["fine", "native"] > 4


@pytest.mark.parametrize("part", range(4))
def test_random_programs_end_alike(part):
    ended = same(range(100 * part, 100 * part + 60))
    assert ended["fine", "native"] > 4, ended
    assert ended["Race", "error"] + ended["WarpRace", "error"] > 10, ended


@pytest.mark.exhaustive
def test_thousands_of_random_programs_end_alike():
    assert same(range(10_000, 14_000))["fine", "native"] > 400
