"""Guards against a scale of zero: called, estimated from what came, and permitted where they are said to be meant."""

import re

import ml_dtypes
import numpy as np
import pytest

from kvproof.reference.judge.formats.catalogue import named
from kvproof.reference.judge.formats.verdict import BUG, FORMAT, judge_format


def symmetric(guard, top=127, of_range=False, codes=np.rint):
    """A scale, or its range, of at least guard."""

    def subject(x):
        g = x.astype(np.float32)
        largest = np.abs(g).max(-1, keepdims=True)
        at_least = np.float32(guard)
        s = (
            np.maximum(largest, at_least) / np.float32(top)
            if of_range
            else np.maximum(largest / np.float32(top), at_least)
        )
        return (codes(np.clip(np.nan_to_num(g / s), -top, top)).astype(np.float32) * s).astype(x.dtype)

    return subject


def float8(guard):
    return symmetric(guard, 448, codes=lambda q: q.astype(ml_dtypes.float8_e4m3fn))


def minmax(guard):
    def subject(x):
        g = x.astype(np.float32)
        low = g.min(-1, keepdims=True)
        s = np.maximum((g.max(-1, keepdims=True) - low) / np.float32(255), np.float32(guard))
        return (np.clip(np.rint(np.nan_to_num((g - low) / s)), 0, 255) * s + low).astype(x.dtype)

    return subject


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "subject", "guard"),
    [("fp8-row", float8(1 / (448 * 512)), 1 / (448 * 512)), ("fp8-row", float8(1e-10), 1e-10),
        ("int8-row", symmetric(1e-9), 1e-9), ("int8-row", symmetric(1e-12), 1e-12),
        ("int8-row", symmetric(1e-5), 1e-5), ("int8-row", symmetric(3.7e-4), 3.7e-4),
        ("int8-row", symmetric(1e-10, of_range=True), 1e-10 / 127), ("int8-row-minmax", minmax(1e-5), 1e-5)],
    ids=lambda value: "" if callable(value) else str(value),
)  # fmt: skip
def test_a_guard_is_estimated_and_may_be_said_to_be_meant(name, subject, guard, dtype):
    verdict = judge_format(named(name), subject, dtype)
    assert (verdict.verdict, verdict.names) == (BUG, ("scale floor",)), str(verdict)
    meant = re.search(r"if that guard is meant: --format (\S+,floor=(\S+))", verdict.reason)
    assert meant, verdict.reason
    assert float(meant[2]) == pytest.approx(guard, rel=2e-3 if dtype == "bfloat16" else 1e-6)
    assert judge_format(named(meant[1]), subject, dtype).verdict == FORMAT


def test_a_guard_other_than_the_one_that_is_meant_is_told_once():
    verdict = judge_format(named("int8-row,floor=1e-9"), symmetric(1e-5))
    assert verdict.verdict == BUG
    assert "--format int8-row,floor=1e-05" in verdict.reason


def test_no_guard_is_told_where_something_else_is_wrong():
    for wrong in (lambda x: symmetric(1e-10)(x) * np.float32(1.01), symmetric(1e-10, codes=np.trunc)):
        verdict = judge_format(named("int8-row"), wrong)
        assert verdict.verdict == BUG
        assert "floor=" not in verdict.reason
