"""Right quantisers are not accused, in whatever order they compute."""

import pytest

from kvproof.reference.judge.formats.catalogue import FORMATS, named
from kvproof.reference.judge.formats.verdict import FORMAT, judge_format

from ._clean import ARITHMETIC, GROWING, QUANTISERS, cache, round_trip

DTYPES = ("float32", "float16", "bfloat16")
# Every format in every arithmetic and dtype; D takes turns.
RUNS = [
    (name, arithmetic, dtype, (64, 96, 128)[(i + j + k) % 3])
    for i, name in enumerate(QUANTISERS)
    for j, arithmetic in enumerate(ARITHMETIC)
    for k, dtype in enumerate(DTYPES)
]


def verdict(name, arithmetic, dtype, D, seed=0):
    state = name not in GROWING
    subject = cache(name, arithmetic) if state else round_trip(name, arithmetic)
    return judge_format(named(name), subject, dtype, state=state, D=D, seed=seed)


def test_every_format_has_a_right_quantiser():
    assert set(QUANTISERS) == set(FORMATS) - {"int8-static"}  # a scale that is given: the faults have one
    assert len(RUNS) == 300


@pytest.mark.parametrize("run", RUNS[::12], ids=str)
def test_right_quantisers_are_not_accused(run):
    found = verdict(*run)
    assert found.verdict == FORMAT, str(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_three_hundred_right_quantisers_are_not_accused(run):
    for seed in (1, 2):
        found = verdict(*run, seed=seed)
        assert found.verdict == FORMAT, str(found)
