"""The three words, what is said with them, and what is refused."""

import json

import ml_dtypes
import numpy as np
import pytest

from kvproof.reference.judge.formats.catalogue import FORMATS, named
from kvproof.reference.judge.formats.computation import decode, encode, round_trip
from kvproof.reference.judge.formats.explanation import Candidate, choose
from kvproof.reference.judge.formats.verdict import BUG, FORMAT, INCONCLUSIVE, Parts, judge_format

INT8 = FORMATS["int8-row"]


def right(x):
    return round_trip(INT8, x)


def test_format_says_what_is_lost():
    verdict = judge_format(INT8, right)
    assert verdict.verdict == FORMAT
    assert "the code loses nothing beside" in verdict.reason
    for found in verdict.found:
        if found.case not in ("tiny", "nonfinite"):
            assert found.lost == pytest.approx(found.must, rel=1e-3, abs=1e-7), found.case


def test_bug_says_where_and_how_much_more_is_lost():
    verdict = judge_format(INT8, lambda x: right(x) * np.float32(1.01))
    assert verdict.verdict == BUG
    worst = max(verdict.found, key=lambda found: found.outside / found.of)
    assert f"(b {worst.where[0]}, h {worst.where[1]}, t {worst.where[2]}, d {worst.where[3]})" in verdict.reason
    assert verdict.explained == ()
    assert json.loads(json.dumps(verdict.record()))["verdict"] == "BUG"


def test_numbers_that_are_not_quantised_are_no_format():
    verdict = judge_format(INT8, lambda x: x)
    assert verdict.names == ("not quantised",)
    assert "explains it: nothing is quantised" in str(verdict)


def test_a_dtype_that_hides_the_codes_is_inconclusive():
    f = named("int8-row-minmax")
    verdict = judge_format(f, lambda x: round_trip(f, x).astype(ml_dtypes.float8_e4m3fn), only=("offset",))
    assert verdict.verdict == INCONCLUSIVE
    assert "let the subject return float32" in verdict.reason


def test_what_is_refused_is_reported():
    def no(x):
        raise NotImplementedError("not today")

    verdict = judge_format(INT8, no)
    assert verdict.verdict == INCONCLUSIVE
    assert "refused: normal: NotImplementedError: not today" in str(verdict)

    def broken(x):
        raise ValueError("today")

    with pytest.raises(ValueError, match="today"):
        judge_format(INT8, broken)


def test_other_shapes_and_dtypes_are_refused():
    with pytest.raises(ValueError, match="return x's own shape"):
        judge_format(INT8, lambda x: x[..., :-1])
    with pytest.raises(ValueError, match="float32"):
        judge_format(INT8, right, "int8")


def parts(scale=1.0):
    kept = {}

    def quantise(x):
        data, rest, cut = encode(INT8, x)
        kept["cut"] = cut
        return data, rest.s * scale, rest

    return Parts(quantise, lambda data, s, rest: decode(INT8, data, rest, kept["cut"]))


def test_codes_and_scales_are_judged_apart():
    assert judge_format(INT8, parts()).verdict == FORMAT
    verdict = judge_format(INT8, parts(1.01))
    assert verdict.verdict == BUG
    assert "stored scales are none that the rule gives" in verdict.reason


def test_a_hypothesis_is_named_only_where_no_rival_does_as_well():
    best, near, far = (Candidate(name, name, left) for name, left in (("a", 0.0), ("b", 0.004), ("c", 0.3)))
    assert choose([best, far]) == (best,)
    assert choose([best, near, far]) == (best, near)
    assert choose([far]) == ()
    assert choose([]) == ()
    assert choose([best, near, near, near]) == ()
