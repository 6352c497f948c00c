"""`ptx.check`: what it runs, what it leaves in the arrays, and what two schedules may not disagree about."""

import math
import re

import ml_dtypes
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton import TensorWrapper

from kvproof.kernels import ptx
from kvproof.kernels.ptx.differences import gaps, numbers

ONE = {"targets": ("sm_90",), "seeds": (0, 1, 2)}


@triton.jit
def double(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, at < n) * 2, at < n)


@triton.jit
def last(out):
    """Who stores last is left to the schedule, as no tool that looks for races alone can see."""
    tl.atomic_xchg(out, (1 + tl.program_id(0)).to(out.dtype.element_ty), sem="relaxed")


@triton.jit
def total(x, out):
    tl.atomic_add(out, tl.load(x + tl.program_id(0)), sem="relaxed")


@triton.jit
def pairs(both, out):
    tl.store(out, tl.load(both[0]) + tl.load(both[1]))


@triton.jit
def everyone(out):
    tl.store(out, tl.program_id(0))


def terms(n=64):
    """Numbers whose sum depends on its order."""
    return np.random.default_rng(0).normal(0, 1, n).astype(np.float32) * 10.0 ** (np.arange(n) % 6).astype(np.float32)


def test_every_target_runs_the_default_schedule_and_one_per_seed():
    x, out = np.ones(300, np.float32), np.empty(300, np.float32)
    reports = ptx.check(double, (3,), x, out, 300, BLOCK=128, readable={"out": False}, seeds=(0, 7))
    assert [report.target for report in reports] == ["sm_80"] * 3 + ["sm_90"] * 3 + ["sm_100"] * 3
    assert (out == 2).all()


def test_every_run_starts_from_the_arrays_as_they_came():
    for x in (np.ones(300, np.float32), torch.ones(300, dtype=torch.bfloat16)):
        ptx.check(double, (3,), x, x, 300, BLOCK=128, **ONE)
        assert (x == 2).all()


def test_strides_shared_memory_and_read_only_arrays_are_kept():
    base = torch.arange(8.0)
    ptx.check(double, (1,), base[:6], base[4:], 4, BLOCK=4, **ONE)
    assert base.tolist() == [0, 1, 2, 3, 0, 2, 4, 6]
    fixed, out = np.ones(4, np.float32), np.zeros(4, np.float32)
    fixed.flags.writeable = False
    ptx.check(pairs, 1, (fixed, torch.ones(1)), out[::-2], **ONE)
    assert out.tolist() == [0, 0, 0, 2]


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((1, 1), np.int32), torch.zeros(()), np.zeros(1, np.int64),
        TensorWrapper(torch.zeros(1, dtype=torch.int32), tl.float32),
    ],
    ids=lambda out: str(out.dtype),
)  # fmt: skip
def test_results_that_depend_on_the_schedule_are_an_error_that_names_both_values(out):
    with pytest.raises(ptx.ScheduleDependent) as failure:
        ptx.check(last, (16,), out, **ONE)
    found = re.match(
        r"out(\[0(?:, 0)?\])? depends on the schedule: (\S+) \(0x\w+\) with target='sm_90', seed=None, and "
        r"(\S+) \(0x\w+\) with seed=[012]; 1 of 1 elements differ",
        str(failure.value),
    )
    assert found
    assert (found[1] or "").count("0") == len(out.shape)
    assert found[2] != found[3]


def test_the_arrays_hold_what_the_first_run_left_even_if_a_later_one_raises():
    usual, out = np.zeros(1, np.int32), np.zeros(1, np.int32)
    ptx.run(last, (16,), usual, target="sm_90")
    with pytest.raises(ptx.ScheduleDependent):
        ptx.check(last, (16,), out, **ONE)
    assert out[0] == usual[0] != 0


def test_a_sum_by_atomics_differs_in_its_last_bits_which_a_tolerance_allows():
    x, out = terms(), np.zeros(1, np.float32)
    with pytest.raises(ptx.ScheduleDependent, match=r"tolerance=\{'out': \.\.\.\}"):
        ptx.check(total, (64,), x, out, **ONE)
    for allowed in (1e-6, math.inf):
        out[:] = 0
        assert len(ptx.check(total, (64,), x, out, tolerance={"out": allowed}, **ONE)) == 4
    assert out[0] == pytest.approx(x.sum(dtype=np.float64), rel=1e-5)


def test_a_tolerance_is_a_share_of_the_largest_value_and_forgives_no_nan():
    a, b = np.array([1000.0, 1.0, np.nan, np.inf]), np.array([1000.0, 1.5, np.nan, np.inf])
    assert gaps(a, b).tolist() == [0, 0.0005, 0, 0]
    assert gaps(a, b[[0, 2, 1, 3]]).tolist() == [0, math.inf, math.inf, 0]
    assert gaps(np.zeros(2), -np.zeros(2)).tolist() == [0, 0]
    values = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    assert numbers(values.view("u2"), values).tolist() == [1.5, -2]
    assert numbers(values.view("u2"), torch.zeros(2, dtype=torch.bfloat16)).tolist() == [1.5, -2]


def test_what_a_run_finds_says_with_which_target_and_seed():
    with pytest.raises(ptx.OutOfBounds, match=r"test_check\.py:\d+.*; with target='sm_80', seed=None$") as failure:
        ptx.check(double, (3,), np.ones(300, np.float32), np.ones(300, np.float32), 301, BLOCK=128)
    assert failure.value.where
    with pytest.raises(ptx.Race, match=r"with target='sm_90', seed=None$"):
        ptx.check(everyone, (2,), np.zeros(1, np.int32), **ONE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "sm_91"}, "target is 'sm_91'"),
        ({"tolerance": {"y": 1e-6}}, r"tolerance names \['y'\]; the arrays are \['x', 'out'\]"),
        ({"seed": 1}, "seed= came.*check runs all targets= and seeds="),
        ({"checks": False}, "checks= came"),
        ({"grid": (0,)}, "the grid is empty"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(options, message):
    x, out = np.ones(4, np.float32), np.zeros(4, np.float32)
    with pytest.raises((TypeError, ValueError), match=message):
        ptx.check(double, options.pop("grid", 1), x, out, 4, BLOCK=4, **(ONE | options))


def test_a_target_may_stand_alone():
    x, out = np.ones(4, np.float32), np.zeros(4, np.float32)
    (report,) = ptx.check(double, 1, x, out, 4, BLOCK=4, targets="sm_89", seeds=())
    assert report.target == "sm_89"
