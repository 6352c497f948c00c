"""The decode kernel's compiled code, for several GPUs and schedules, against the plain float64 formula.

Whoever reads a dead slot, or a result that no program has written, is stopped; so is a race. The other tests of the
kernel run on the PTX machine too, for one GPU and in its default schedule.
"""

import numpy as np
import pytest
import torch

from kvproof.bench.judge.contract.op import to_numpy, to_torch
from kvproof.kernels import ptx
from kvproof.kernels.attention import decode_attention, make_workspace
from kvproof.reference.judge.cases import DTYPES, Case, draw_qkv
from kvproof.reference.judge.rounding import attention_error, weights

TARGETS = ("sm_80", "sm_90", "sm_100")
HEAD_DIMS = (1, 3, 4, 8, 16, 32, 64, 80, 96, 128, 256)
RAGGED = (304, 129, 128, 45, 1, 0)


def readable(kernel: str, arguments: dict):
    """What a launch may read: live slots, and what a launch before it has written."""
    if kernel != "attend_simt":
        return {}
    T = arguments["T"]
    live = (torch.arange(T) < arguments["lengths"][:, None])[:, None, :, None].numpy()
    unwritten = ("result.out", *(f"partials.{name}" for name in ("m", "l", "acc", "begun", "done")))
    return {"cache.k": live, "cache.v": live} | dict.fromkeys(unwritten, False)


def run(case: Case, target: str, seed: int | None = None, fused=True, **settings):
    """The kernel's output for a case, its error in multiples of its bound, and the reports of its launches."""
    q, k, v, lengths = draw_qkv(case)
    inputs = [to_torch(x) for x in (q, k, v, lengths)]
    partials = make_workspace(*inputs[1].shape, inputs[0].dtype, "cpu")
    for x in (partials.m, partials.l, partials.acc):
        x.fill_(torch.nan)
    with ptx.route(target, keep=None, seed=seed, readable=readable, **settings) as reports:
        o = to_numpy(decode_attention(*inputs, workspace=partials, fused=fused))
    return o, attention_error(o, q, k, v, lengths), list(reports)


def agrees(dtype: str, D: int, target: str, seed: int | None):
    case = Case(dtype, RAGGED, 304, D, 2)
    o, error, reports = run(case, target, seed, fused=seed is None or seed % 2 == 0)
    names = ["attend_simt"] if seed is None or seed % 2 == 0 else ["attend_simt", "combine_splits"]
    assert [report.name for report in reports] == names
    assert {report.target for report in reports} == {target}
    assert error <= 1
    # Threads that add up the same rows must get the same bits: which of their copies is stored is anyone's guess.
    assert [report.disagreeing for report in reports] == [0] * len(names)
    if dtype == "float64":
        q, k, v, lengths = draw_qkv(case)
        for b, h in np.ndindex(len(RAGGED) - 1, 2):
            p, _ = weights(q[b, h], k[b, h], lengths[b], D**-0.5)
            exact = p @ v[b, h, : lengths[b]]
            assert np.abs(o[b, h] - exact).max() <= 1e-13 * max(1, np.abs(v[b, h, : lengths[b]]).max())


@pytest.mark.parametrize(
    ("dtype", "target"), [*((dtype, "sm_90") for dtype in DTYPES), ("float32", "sm_80"), ("bfloat16", "sm_100")]
)
def test_the_compiled_kernel_agrees_with_the_formula(dtype, target):
    for seed in (None, 1):
        agrees(dtype, 64, target, seed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", [*TARGETS, "sm_86", "sm_89", "sm_120"])
@pytest.mark.parametrize("D", HEAD_DIMS)
def test_every_head_dim_and_dtype_agrees_with_the_formula_on_every_target(D, target):
    for dtype in DTYPES:
        for seed in (None, *range(5)):
            agrees(dtype, D, target, seed)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_byte_of_the_cache_is_read_but_the_live_ones_and_none_left_out(dtype):
    case = Case(dtype, (1024, 777, 512), 1024, 64, 2)
    _, _, (attend,) = run(case, "sm_90")
    least = 2 * 64 * np.dtype(DTYPES[dtype]).itemsize * sum(case.lengths)
    for name in ("cache.k", "cache.v"):
        assert least <= attend.unique[name] <= 1.02 * least


def test_a_schedule_changes_no_bit():
    case = Case("float32", RAGGED, 304, 64, 2)
    assert len({run(case, "sm_90", seed)[0].tobytes() for seed in (None, 0, 1, 2, 3)}) == 1


def test_approximate_functions_two_ulps_off_stay_within_the_gate():
    case = Case("float32", RAGGED, 304, 64, 2)
    exact, _, _ = run(case, "sm_90")
    moved, error, _ = run(case, "sm_90", seed=3, approximation_ulps=2)
    assert moved.tobytes() != exact.tobytes()
    assert error <= 1
