"""Ordinary kernels and tutorials' on the PTX machine: every target, awkward shapes, random schedules; no alarm."""

import re

import pytest

from kvproof.kernels import ptx
from kvproof.kernels.ptx.compile import compile

from ._kernels import (
    FLOATS,
    check,
    gelu_case,
    layer_norm_case,
    make,
    matmul_case,
    order_case,
    run,
    softmax_case,
    waves_case,
)
from ._programs import decode_case, histogram_case, locked_case, relay_case, total_case
from ._tutorials import TUTORIALS

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
ODD = (37, 45, 51)  # no multiple of a tile or of 16 bytes: loaded element by element
PLAIN = {"gelu": gelu_case, "softmax": softmax_case, "layer_norm": layer_norm_case}
LAUNCHES = {
    **{f"{name} {dtype}": (case, {"dtype": dtype}) for name, case in PLAIN.items() for dtype in FLOATS},
    **{f"waves {dtype}": (waves_case, {"dtype": dtype}) for dtype in ("float16", "bfloat16", "float32")},
    "waves float64": (waves_case, {"dtype": "float64", "turns": False}),
    "gelu of one": (gelu_case, {"n": 1}),
    "waves of large arguments": (waves_case, {"largest": 1e7}),  # sin reduces them in local memory
    "softmax of one": (softmax_case, {"n": 1, "num_warps": 1}),
    "softmax of 1025": (softmax_case, {"n": 1025, "num_warps": 8}),
    "layer_norm of one block": (layer_norm_case, {"n": 256, "num_warps": 2}),
    **{f"matmul {dtype}": (matmul_case, {"dtype": dtype}) for dtype in (*FLOATS, "int8")},
    **{f"matmul {dtype} of odd shape": (matmul_case, {"dtype": dtype, "shape": ODD}) for dtype in (*FLOATS, "int8")},
    "matmul tf32 in one stage": (matmul_case, {"dtype": "float32", "precision": "tf32", "num_stages": 1}),
    "matmul float16 in two stages": (matmul_case, {"num_stages": 2, "num_warps": 2}),
    **{f"total {dtype}": (total_case, {"dtype": dtype}) for dtype in ("float16", "float32", "float64", "int32")},
    "total of one program": (total_case, {"n": 1}),
    **{f"order {dtype}": (order_case, {"dtype": dtype}) for dtype in ("int32", "float32")},
    "histogram": (histogram_case, {}),
    "locked": (locked_case, {}),
    "relay": (relay_case, {}),
    "relay of two warps": (relay_case, {"n": 700, "num_warps": 2}),
    "decode": (decode_case, {}),
    "decode of one split": (decode_case, {"T": 32, "D": 64}),
}
TOGETHER = [name for name in LAUNCHES if re.match("total|histogram|locked|relay|decode|matmul float16", name)]
TALL = {"rows": 64, "num_stages": 3}
UNITS = {"sm_90": "wgmma", "sm_100": "tcgen05.mma"}  # what multiplies the tile


def made(launch):
    case, options = LAUNCHES[launch]
    return make(case, **options)


def text(case, target):
    return compile(case.kernel, (), case.arguments, target).ptx


def every_pair():
    """(launch, target): every target for one launch of each kernel, two for the others; the rest is exhaustive."""
    seen = set()
    for i, (launch, (case, _)) in enumerate(LAUNCHES.items()):
        for j, target in enumerate(TARGETS):
            rest = case in seen and (i + j) % 3
            yield pytest.param(launch, target, marks=[pytest.mark.exhaustive] if rest else [])
        seen.add(case)


@pytest.mark.parametrize(("launch", "target"), list(every_pair()))
def test_an_ordinary_kernel_computes_its_truth_without_an_alarm(launch, target):
    run(made(launch), target=target)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("launch", TOGETHER)
def test_programs_that_share_memory_agree_under_every_schedule(launch, seed):
    run(made(launch), target=TARGETS[seed], seed=seed)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_kernel_as_others_write_it_runs(name, target):
    for seed in (None, 0, 1):
        run(TUTORIALS[name](), target=target, seed=seed)


@pytest.mark.parametrize(
    ("name", "target"),
    [("attention_described", "sm_90"), ("attention_described", "sm_100"), ("matmul_described", "sm_100")],
)
def test_a_loop_with_warps_for_its_loads_and_for_its_products_runs(name, target):
    case = TUTORIALS[name](apart=True)  # pyright: ignore[reportCallIssue]
    assert "setmaxnreg" in text(case, target)  # its warps have parted
    reports = ptx.check(case.kernel, case.grid, readable=case.readable, **case.arguments, targets=target, seeds=(0,))
    check(case)
    assert len(reports) == 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_tile_of_64_rows_is_multiplied(target, dtype):
    case = make(matmul_case, dtype=dtype, **TALL)
    run(case, target=target)
    assert re.search(UNITS.get(target, "mma.sync"), text(case, target))


@pytest.mark.parametrize("target", TARGETS)
def test_a_sine_in_float64_calls_a_function_and_is_right(target):
    case = make(waves_case, dtype="float64")
    run(case, target=target)
    assert "call.uni" in text(case, target)


@pytest.mark.parametrize("target", TARGETS)
def test_each_matmul_takes_the_path_it_is_there_for(target):
    for launch in ("matmul float16", "matmul bfloat16", "matmul int8", "matmul float16 in two stages"):
        assert {"cp.async.c", "ldmatrix", "mma.sync"} <= paths(launch, target)
    assert paths("matmul tf32 in one stage", target) >= {"ldmatrix", "mma.sync"}
    assert paths("matmul float16 of odd shape", target) == {"ldmatrix", "mma.sync"}
    assert "mma.sync" not in paths("matmul float32", target)


def paths(launch, target):
    return set(re.findall(r"cp\.async\.c|ldmatrix|mma\.sync", text(made(launch), target)))


def test_a_large_sine_takes_its_path_through_local_memory():
    assert "ld.local" in text(made("waves of large arguments"), "sm_90")
