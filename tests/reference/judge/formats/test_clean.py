"""Right quantisers are not accused, in whatever order they compute."""

import pytest

from kvproof.reference.judge.formats.catalogue import FORMATS, named
from kvproof.reference.judge.formats.verdict import FORMAT, judge_format

from ._clean import ARITHMETIC, BY_MAXIMUM, GROWING, PRODUCTS, QUANTISERS, cache, round_trip

DTYPES = ("float32", "float16", "bfloat16")
# Every format in every arithmetic and dtype; D takes turns.
RUNS = [
    (name, arithmetic, dtype, (64, 96, 128)[(i + j + k) % 3])
    for i, name in enumerate(QUANTISERS)
    for j, arithmetic in enumerate(ARITHMETIC)
    for k, dtype in enumerate(DTYPES)
]
# The same, of formats whose scale is max / top, with quotients by products of the largest number.
PRODUCT_RUNS = [
    (name, arithmetic, dtype, (64, 96, 128)[(i + j + k) % 3])
    for i, name in enumerate(BY_MAXIMUM)
    for j, arithmetic in enumerate(PRODUCTS)
    for k, dtype in enumerate((*DTYPES, "float64"))
]


def verdict(name, arithmetic, dtype, D, seed=0):
    state = name not in GROWING
    subject = cache(name, arithmetic) if state else round_trip(name, arithmetic)
    return judge_format(named(name), subject, dtype, state=state, D=D, seed=seed)


def test_every_format_has_a_right_quantiser():
    assert set(QUANTISERS) == set(FORMATS) - {"int8-static"}  # a scale that is given: the faults have one
    assert len(RUNS) == 300
    assert len(PRODUCT_RUNS) == 256


@pytest.mark.parametrize("name", ["int8-row", "fp8-row"])
def test_ties_that_a_rounding_moves_are_told_and_are_no_bug(name):
    """Quotients by the reciprocal of the largest number leave ties by a last bit, some up and some down."""
    found = verdict(name, PRODUCTS[0], "float32", 128)
    assert found.verdict == FORMAT, str(found)
    assert "quotients halfway between two codes fell to the other one" in found.reason


@pytest.mark.parametrize("name", QUANTISERS)
def test_float64_may_be_rounded_to_the_dtype_of_the_computation_first(name):
    """round_trip casts to float32, whatever came."""
    for seed in (0, 2):
        found = verdict(name, ARITHMETIC[1], "float64", 128, seed=seed)
        assert found.verdict == FORMAT, str(found)


@pytest.mark.parametrize("run", [*RUNS[::12], *PRODUCT_RUNS[::11]], ids=str)
def test_right_quantisers_are_not_accused(run):
    found = verdict(*run)
    assert found.verdict == FORMAT, str(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("run", PRODUCT_RUNS, ids=str)
def test_two_hundred_and_fifty_six_products_are_not_accused(run):
    for seed in (1, 2):
        found = verdict(*run, seed=seed)
        assert found.verdict == FORMAT, str(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_three_hundred_right_quantisers_are_not_accused(run):
    for seed in (1, 2):
        found = verdict(*run, seed=seed)
        assert found.verdict == FORMAT, str(found)
