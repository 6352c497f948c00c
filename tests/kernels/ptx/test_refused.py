"""What is refused before anything runs: launches no GPU takes, options and settings that do not fit, at every door."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton import knobs
from triton.runtime.errors import OutOfResources

from kvproof.kernels import ptx
from kvproof.kernels.ptx import limits
from kvproof.kernels.ptx.compile import compile
from kvproof.kernels.ptx.limits import LIMITS, grid_shape, shared_limit, threads_by_registers


@triton.jit
def copy(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, at < n), at < n)


@triton.jit
def shuffle(x, places, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.gather(tl.load(x + at), tl.load(places + at), 0))


def routed(kernel, grid, *args, target="sm_90", **kwargs):
    """The launch as a launcher makes it, and the settings where a route takes them."""
    names = ("seed", "checks", "readable", "approximation_ulps", "trace", "max_steps", "engine")
    settings = {k: kwargs.pop(k) for k in names if k in kwargs}
    with ptx.route(target, **settings):
        return kernel[grid](*args, **kwargs)


def checked(kernel, grid, *args, target="sm_90", **kwargs):
    return ptx.check(kernel, grid, *args, targets=target, seeds=(), **kwargs)


DOORS = pytest.mark.parametrize("door", [ptx.run, routed, checked], ids=["run", "route", "check"])


def refused(door, words, grid: Any = (3,), kind: type[Exception] = ptx.Refused, **kwargs):
    """Assert that a launch of `copy` is refused in one line, and leaves the result alone."""
    x, out = torch.ones(300), torch.zeros(300)
    with pytest.raises(kind, match=words) as failure:
        door(copy, grid, x, out, 300, **{"BLOCK": 128, **kwargs})
    assert isinstance(failure.value, ValueError)
    assert "\n" not in str(failure.value)
    assert not out.any()


@DOORS
@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ((1, 65536), "65,536 programs along y; a GPU takes up to 65,535: let a program do more, or lay"),
        ((1, 1, 1 << 20), "along z"),
        ((1 << 31,), "2,147,483,648 programs along x; a GPU takes up to 2,147,483,647: let a program do more$"),
        (lambda meta: (1, 10**6), "along y"),
        ((2, -1), "each an int >= 0"),
        ((1, 2, 3, 4), "one to three"),
        ((1.0,), "one to three"),
    ],
)
def test_grids_that_no_gpu_takes_are_refused(door, grid, words):
    refused(door, words, grid)


def test_the_largest_grids_and_every_whole_number_are_taken():
    assert grid_shape((2**31 - 1, 65535, 65535), {}) == (2**31 - 1, 65535, 65535)
    assert grid_shape([np.int64(3), torch.tensor(2)], {}) == (3, 2, 1)
    assert grid_shape(torch.Size([4, 5]), {}) == (4, 5, 1)
    assert grid_shape(lambda meta: meta["n"], {"n": 7}) == (7, 1, 1)


@DOORS
@pytest.mark.parametrize("warps", [64, 128])
def test_more_threads_than_a_gpu_takes_are_refused_as_triton_would(door, warps):
    refused(door, f"copy has {warps} warps, {32 * warps:,} threads a program; a GPU takes up to 1,024",
            kind=OutOfResources, num_warps=warps)  # fmt: skip


@pytest.mark.parametrize("door", [ptx.run, routed], ids=["run", "route"])
@pytest.mark.parametrize(("target", "kilobytes"), [("sm_75", 64), ("sm_86", 99), ("sm_120", 99), ("sm_80", 163)])
def test_more_shared_memory_than_the_target_has_is_refused_as_triton_would(door, target, kilobytes):
    N = {64: 32768, 99: 32768, 163: 65536}[kilobytes]  # values of 4 bytes
    x, places, out = np.ones(N, np.float32), np.zeros(N, np.int32), np.zeros(N, np.float32)
    with pytest.raises(ptx.OutOfResources, match=rf"{target} has {kilobytes << 10:,} \({kilobytes} KB\)") as failure:
        door(shuffle, (1,), x, places, out, N, num_warps=32, target=target)
    assert isinstance(failure.value, OutOfResources)
    assert failure.value.required > failure.value.limit == kilobytes << 10
    assert not out.any()


def test_the_limits_are_those_of_the_programming_guide():
    kilobytes = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
    assert {sm: shared_limit(sm) >> 10 for sm in LIMITS} == kilobytes
    limits.check_program("k", 90, 32, 227 << 10)
    assert [threads_by_registers(n) for n in (32, 64, 65, 128, 168, 255)] == [1024, 1024, 896, 512, 384, 256]
    with pytest.raises(OutOfResources, match=r"holds 128 registers in each of 1,024 threads.*512 threads fit"):
        limits.check_registers("k", 32, 128)


OPTIONS = [
    ({"num_warps": 3}, "num_warps of copy is 3; it must be a power of two from 1 to 32"),
    ({"num_warps": "4"}, "num_warps of copy is '4'"),
    ({"num_warps": 0}, "num_warps of copy is 0"),
    ({"num_stages": 1.5}, "num_stages of copy is 1.5; it must be a whole number from 0"),
    ({"maxnreg": -8}, "maxnreg of copy is -8"),
    ({"num_ctas": 2}, "no thread block clusters"),
    ({"warp_size": 64}, "it must be 32"),
    ({"debug": "yes"}, "it must be True or False"),
    ({"arch": "sm80"}, "arch= came.*target="),
    ({"backend_name": "hip"}, "backend_name= came"),
    ({"stream": 0}, "stream= came"),
    ({"max_num_imprecise_acc_default": 64}, "Triton overwrites it"),
    ({"num_warp": 4}, "num_warp= is no parameter of copy.*did you mean num_warps=?"),
    ({"BLOK": 4}, "did you mean BLOCK=?"),
    ({"xyzzy": 4}, "there are .*maxnreg"),
    ({"instrumentation_mode": "gsan"}, "gsan, Triton's sanitizer of global memory.*unset instrumentation_mode"),
    ({"instrumentation_mode": "consam"}, "consan, fpsan, gsan, iisan"),
    ({"instrumentation_mode": 1}, "it must be one of consan"),
]


@DOORS
@pytest.mark.parametrize(("option", "words"), OPTIONS, ids=[next(iter(o)) for o, _ in OPTIONS])
def test_options_that_cannot_be_honoured_are_refused_by_name(door, option, words):
    refused(door, words, **option)


def test_a_sanitizer_asked_for_by_the_environment_is_judged_alike():
    for mode, words in (("gsan", "gsan, Triton's"), ("nosan", "the modes are")):
        with knobs.compilation.scope():
            knobs.compilation.instrumentation_mode = mode
            refused(ptx.run, words)
    # consan on a GPU before sm_90 makes LLVM end the process.
    refused(ptx.run, "consan, whose instructions sm_80 has not", instrumentation_mode="consan", target="sm_80")


def test_a_sanitizer_asked_for_by_keyword_is_what_is_compiled():
    x = torch.ones(4)
    texts = [compile(copy, (x, x, 4, 4), {"instrumentation_mode": mode}).ptx for mode in ("fpsan", "", "iisan")]
    with knobs.compilation.scope():
        knobs.compilation.instrumentation_mode = "fpsan"
        by_knob = compile(copy, (x, x, 4, 4), {}).ptx
    assert by_knob == texts[0]
    assert compile(copy, (x, x, 4, 4), {}).ptx == texts[1]
    assert ptx.run(copy, 1, x, x, 4, 4, instrumentation_mode="iisan").metadata.instrumentation_mode == "iisan"
    assert knobs.compilation.instrumentation_mode == ""


def test_an_architecture_that_the_environment_overrides_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm80")
    refused(ptx.run, "TRITON_OVERRIDE_ARCH is sm80, and the target sm_90")


@pytest.mark.parametrize("option", ["launch_cooperative_grid", "launch_pdl"])
def test_options_without_effect_are_named(option):
    x = torch.ones(4)
    with pytest.warns(UserWarning, match=f"{option}= has no effect on copy here"):
        ptx.run(copy, 1, x, x, 4, 4, **{option: True})  # pyright: ignore[reportArgumentType]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ptx.run(copy, 1, x, x, 4, 4, **{option: False})  # pyright: ignore[reportArgumentType]


SETTINGS = [
    ("checks", "no", "True or False"),
    ("checks", 1, "True or False"),
    ("seed", -1, "whole number >= 0"),
    ("seed", 1.5, "whole number >= 0"),
    ("seed", True, "whole number >= 0"),
    ("approximation_ulps", "x", "0 to 65536"),
    ("approximation_ulps", -1, "0 to 65536"),
    ("approximation_ulps", 0.5, "0 to 65536"),
    ("trace", "yes", "True or False"),
    ("max_steps", 0, "1 or more"),
    ("max_steps", "many", "1 or more"),
    ("engine", "cuda", 'None, "native" or "numpy"'),
    ("readable", ["out"], "a dict of array names"),
    ("readable", {"out": "no"}, "a dict of array names"),
    ("readable", {3: True}, "a dict of array names"),
]


@DOORS
@pytest.mark.parametrize(("name", "value", "words"), SETTINGS)
def test_settings_of_another_type_or_range_are_refused(door, name, value, words):
    if door is checked and name in ("checks", "seed"):  # which check sets itself
        with pytest.raises(TypeError, match=f"{name}= came"):
            checked(copy, 1, np.ones(4), np.ones(4), 4, 4, **{name: value})
    else:
        refused(door, f"{name} is .*; it must be .*{words}", **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("keep", -1, "keep is -1"),
        ("keep", "all", "keep is 'all'"),
        ("each", 3, "each is 3; it must be None or a function"),
        ("sed", 1, "sed= is no setting of the machine; did you mean seed=?"),
        ("target", "sm_70", "target is 'sm_70'"),
        ("target", None, "target is None"),
    ],
)
def test_a_route_s_own_settings_are_asked_for(name, value, words):
    with pytest.raises(ptx.Refused, match=words), ptx.route(**{name: value}):
        pass


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("targets", (), r"targets is \(\); it must be one or more GPUs"),
        ("targets", 90, "targets is 90"),
        ("targets", ("sm_80", None), "targets is"),
        ("targets", ("sm_80", "sm_80"), "'sm_80' twice"),
        ("seeds", 3, "seeds is 3; it must be a sequence"),
        ("seeds", (0, 0.5), "seeds is"),
        ("seeds", "12", "seeds is '12'"),
        ("seeds", (1, 1), "1 twice"),
        ("tolerance", 0.1, "tolerance is 0.1"),
        ("tolerance", {"out": "1e-6"}, "tolerance is"),
        ("tolerance", {"out": float("nan")}, "tolerance is"),
        ("tolerance", {"out": -1}, "tolerance is"),
    ],
)
def test_a_check_that_would_check_nothing_or_cannot_is_refused(name, value, words):
    refused(ptx.check, words, **{name: value})


def test_the_fixture_refuses_as_check_does(check_kernel):
    refused(check_kernel, "targets is", targets=())
    refused(check_kernel, "approximation_ulps is 'x'", approximation_ulps="x")
    refused(check_kernel, "programs along y", grid=(1, 70000))
