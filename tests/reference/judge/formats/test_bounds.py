"""The bounds of a format are exact: right results lie inside, the next number outside."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from kvproof.reference.judge.formats.bounds import judge_numbers, must_lose, scales_outside
from kvproof.reference.judge.formats.cases import KINDS, cases
from kvproof.reference.judge.formats.catalogue import FORMATS, named
from kvproof.reference.judge.formats.computation import decode, encode, round_trip
from kvproof.reference.judge.formats.ties import other_rule, parted

each_format = pytest.mark.parametrize("name", FORMATS)


def rows(seed=0, shape=(2, 3, 4, 64)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@each_format
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_oracle_s_own_computation_lies_inside(name, dtype):
    for case in cases(FORMATS[name], dtype, state=True):
        y = round_trip(FORMATS[name], case.x, case.pieces)
        assert not judge_numbers(FORMATS[name], case.x, y, case.pieces).outside.any(), case.name


@pytest.mark.parametrize("more", ["compute=input,scale_dtype=input", "scale_dtype=bfloat16", "floor=1e-6,ties=away"])
def test_what_is_computed_and_stored_in_other_dtypes_lies_inside(more):
    for name in ("int8-row", "uint4-block", "fp8-row"):
        f = named(f"{name},{more}")
        for case in cases(f, np.float16):
            y = round_trip(f, case.x, case.pieces)
            assert not judge_numbers(f, case.x, y, case.pieces).outside.any(), (name, case.name)


@each_format
def test_codes_and_scales_apart_give_what_the_round_trip_gives(name):
    f, x = FORMATS[name], rows(1, (2, 3, 32, 64))
    data, kept, cut = encode(f, x)
    per = {"bytes": 1, "quarters": 4}.get(f.packing, 2)
    assert data.shape == (len(cut.g), cut.g.shape[1] // per)
    assert np.array_equal(decode(f, data, kept, cut), round_trip(named(f"{name},window=0,window_kind=sliding"), x))


@pytest.mark.parametrize(
    "name", ["int8-row", "uint4-block", "fp8-row", "mxfp4", "nvfp4", "q4_0", "int8-row-zero-point"]
)
def test_the_next_code_lies_outside(name):
    """A result one code off is never taken for a right one, but where a quotient lies on the edge of two codes."""
    f, x = FORMATS[name], rows(2)
    _, kept, cut = encode(f, x)
    y = round_trip(f, x)
    for sign in (-1, 1):
        steps = np.diff(f.codes.values).min() * np.abs(kept.s)[:, None] * np.ones(cut.g.shape)
        moved = (y + sign * cut.join(steps)).astype(np.float32)
        outside = judge_numbers(f, x, moved).outside
        assert outside.mean() > 0.999


def test_bounds_are_a_few_last_bits_wide():
    """int8-row: of numbers on one side of right ones, the sixth next float32 is outside."""
    f, x = FORMATS["int8-row"], rows(3)
    y = round_trip(f, x)
    for towards in (np.inf, -np.inf):
        moved = y.copy()
        for _ in range(6):
            moved = np.nextafter(moved, np.float32(towards))
        assert judge_numbers(f, x, moved).outside[np.abs(y) > 0].all()


def test_the_least_that_is_lost_is_that_of_exact_arithmetic():
    """int8-row against fractions: |code * max / 127 - x|, the nearest code, but for the scale's float32."""
    x = rows(4, (1, 1, 6, 8))
    lost = must_lose(FORMATS["int8-row"], x)
    for t in range(6):
        row = [Fraction(float(v)) for v in x[0, 0, t]]
        scale = max(map(abs, row)) / 127
        for d, v in enumerate(row):
            exact = abs(round(v / scale) * scale - v)
            assert abs(float(exact) - lost[0, 0, t, d]) < 127 * 2.0**-23 * float(scale)
            assert exact <= scale / 2


@pytest.mark.parametrize(
    "name", ["int8-row", "uint4-block", "q8_0", "mxfp4", "int8-channel,window=0,window_kind=sliding"]
)
def test_stored_scales_are_the_rule_s_and_no_others(name):
    f, x = named(name), rows(5, (2, 3, 32, 64))
    _, kept, _ = encode(f, x)
    assert not scales_outside(f, x, kept.s).any()
    assert scales_outside(f, x, kept.s * 1.001).all() or f.scale_dtype == "e8m0"
    assert scales_outside(f, x, kept.s * 2).all()
    with pytest.raises(ValueError, match="groups"):
        scales_outside(f, x, kept.s[:-1])


def test_ties_are_decided_where_the_scale_is_a_power_of_two():
    x = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5], np.float32).reshape(1, 1, 1, 6)
    even = np.array([127, 0, 2, 2, 0, -2], np.float32).reshape(x.shape)
    away = np.array([127, 1, 2, 3, -1, -2], np.float32).reshape(x.shape)
    for rule, y, n in (("even", even, 0), ("even", away, 3), ("away", away, 0), ("away", even, 3)):
        f = named(f"int8-row,ties={rule}")
        judged = judge_numbers(f, x, y)
        assert not judged.outside.any()
        assert parted(f, judged.ties).sum() == n


def test_all_ties_by_another_rule_are_that_rule_s_and_ties_both_ways_are_nobody_s():
    f, x = named("int8-row"), (np.arange(-64, 63) + 0.5).astype(np.float32)
    x = np.append(x, np.float32(127)).reshape(1, 1, 1, -1)
    up = np.where(x < 127, np.floor(x + np.float32(0.5)), x).astype(np.float32)
    assert other_rule(f, [judge_numbers(f, x, up).ties]) == "up"
    assert other_rule(f, [judge_numbers(f, x, np.rint(x)).ties]) == ""
    mixed = np.where(np.arange(128) % 3 == 0, up, np.rint(x)).astype(np.float32)
    mixed.flat[1::5] = np.ceil(x - np.float32(0.5)).flat[1::5]
    assert other_rule(f, [judge_numbers(f, x, mixed).ties]) == ""


def test_nan_permits_anything_in_its_own_group_and_nothing_beside():
    f, x = FORMATS["int8-row"], rows(6)
    x[0, 0, 0, 3] = np.nan
    y = round_trip(f, x)
    y[0, 0, 0] = 7
    assert not judge_numbers(f, x, y).outside.any()
    y[0, 0, 1] = 7
    assert judge_numbers(f, x, y).outside[0, 0, 1].all()


def test_every_case_is_drawn_for_some_format():
    drawn = {case.name for f in FORMATS.values() for case in cases(f, np.float32)}
    assert set(KINDS) <= drawn
    assert any("pieces" in case.name for case in cases(FORMATS["int8-row"], np.float32, state=True))
