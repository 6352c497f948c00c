"""Launching on the machine, and routing launchers to it; a recorder stands where the machine would be."""

import os
import sys
import threading
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.compiler.errors import CompilationError

from kvproof.kernels.ptx import launch
from kvproof.kernels.ptx.compile import compile
from kvproof.kernels.ptx.launch import route, routing, run

from ... import _child
from ._compiled_claims import in_child, raised
from ._kernels import scale

USUAL = triton.runtime.JITFunction.run, triton.runtime.Autotuner.run
executed: list[Any] = []


def execute(text, grid, arguments, **settings):
    """Stands in for the machine: notes the launch, which is its report, and stores ones into every array."""
    executed.append(SimpleNamespace(text=text, grid=grid, arguments=arguments, **settings))
    for _, value in arguments:
        if hasattr(value, "array"):
            value.array[...] = 1
    return executed[-1]


def arrays():
    return np.zeros(48, np.float32), np.zeros(48, np.float32)


@triton.jit
def seeded(x, seed):
    tl.store(x, seed)


heuristic = triton.heuristics({"BLOCK": lambda args: triton.next_power_of_2(args["n"])})(scale)
lone = triton.autotune([triton.Config({"BLOCK": 64}, num_warps=2)], key=["n"])(scale)
tuned = triton.autotune([triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 128})], key=["n"])(scale)


def test_results_appear_in_the_caller_s_arrays_whatever_their_strides_and_dtypes():
    cases = [np.zeros((8, 6), np.float32)[::2, ::-3], np.zeros((), np.int8), np.zeros(4, ml_dtypes.bfloat16)]
    cases += [torch.zeros(8, 6, dtype=torch.bfloat16).t()[1:, ::2], torch.zeros((), dtype=torch.float64)]
    cases += [torch.zeros(4, dtype=dtype) for dtype in (torch.float8_e4m3fn, torch.bool)]
    cases += [torch.zeros(4).requires_grad_()]
    for case in cases:
        run(seeded, 1, case, 1.0)
        array = executed[-1].arguments[0][1].array
        assert array.shape == tuple(case.shape)
        assert array.dtype.kind == "u"
        assert array.itemsize == case.itemsize
        values = case.detach().double().numpy() if isinstance(case, torch.Tensor) else case.astype(np.float64)
        assert (values != 0).all(), case


def test_run_passes_grid_arguments_and_settings_on():
    x, out = arrays()
    readable = {"x": np.arange(48) < 40}
    run(scale, lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]), 2), x, out, 48, factor=2, BLOCK=32, target="sm_80",
        checks=False, seed=7, readable=readable, num_warps=2)  # fmt: skip
    last = executed[-1]
    assert last.grid == (2, 2, 1)
    assert [name for name, _ in last.arguments][:4] == ["x", "out", "n", "factor"]
    assert last.arguments[2:4] == [("n", 48), ("factor", 2)]
    assert (last.name, last.num_warps, last.checks, last.seed, last.approximation_ulps) == ("scale", 2, False, 7, 0)
    assert last.readable is readable
    assert last.target in last.text
    assert last.target == "sm_80"
    before = len(executed)
    assert run(scale, (3, 0), x, out, 48, 2, 32) is None
    assert len(executed) == before


def test_the_decorators_choose_as_on_a_gpu_but_nothing_is_timed():
    x, out = arrays()
    grid = lambda meta: (meta["BLOCK"],)  # noqa: E731
    run(heuristic, grid, x, out, 48, 2.0)
    assert executed[-1].grid == (64, 1, 1)
    run(lone, grid, x, out, 33, 2.0)
    assert executed[-1].num_warps == 2
    assert run(tuned, grid, x, out, 48, 2.0).config is tuned.configs[0]
    assert executed[-1].grid == (64, 1, 1)
    with route():
        assert tuned[grid](torch.zeros(48), torch.zeros(48), 48, 2.0).config is tuned.configs[0]


def test_a_route_takes_an_unchanged_launcher_s_launches():
    x, seen = torch.zeros(48), []
    assert not routing()
    with route("sm_80", keep=2, each=seen.append, seed=3) as reports:
        assert routing()
        for _ in range(3):
            scale[(2,)](x, x, 48, 2.0, BLOCK=32)  # pyright: ignore[reportArgumentType]
    assert executed[-1].seed == 3
    assert len(seen) == 3
    assert list(reports) == seen[1:]
    assert not routing()


def test_the_target_is_the_one_asked_for():
    fp8 = torch.zeros(4, dtype=torch.float8_e4m3fn)  # which sm_80 has not
    run(seeded, 1, fp8, 1.0, target="sm_90")
    raised(CompilationError, "fp8e4nv", run, seeded, 1, fp8, 1.0, target="sm_80")
    with route("sm_80"):
        raised(CompilationError, "fp8e4nv", seeded[(1,)], fp8, 1.0)


def test_routes_nest_and_are_undone_by_exceptions():
    x = torch.zeros(48)
    with pytest.raises(ZeroDivisionError), route(seed=1) as outer:  # noqa: PT012
        with route(seed=2) as inner:
            seeded[(1,)](x, 5)
        assert executed[-1].seed == 2
        seeded[(1,)](x, 5)
        assert executed[-1].seed == 1
        assert (len(inner), len(outer)) == (1, 1)
        raise ZeroDivisionError
    assert (triton.runtime.JITFunction.run, triton.runtime.Autotuner.run) == USUAL
    assert not routing()


def test_a_route_is_its_own_thread_s_and_leaves_tensors_elsewhere_alone():
    meta, failures = torch.zeros(4, device="meta"), []

    def launch(x):
        try:
            seeded[(1,)](x, 5)
        except Exception as error:
            failures.append(error)

    before = len(executed)
    with route() as reports:
        thread = threading.Thread(target=launch, args=(torch.zeros(4),))
        thread.start()
        thread.join()
        launch(meta)
        raised(ValueError, "x is on meta.*pass x.cpu", run, seeded, 1, meta, 5)
    assert [type(failure) for failure in failures] == [RuntimeError] * 2  # both went to the GPU that is not there
    assert not reports
    assert len(executed) == before


def test_readable_can_depend_on_the_launch():
    x, out = arrays()
    with route(readable=lambda name, given: {"x": np.arange(48) < given["n"]} if name == "scale" else None):
        scale[(1,)](x, out, 9, 2.0, BLOCK=32)  # pyright: ignore[reportArgumentType]
        assert executed[-1].readable["x"].sum() == 9
        seeded[(1,)](x, 5)
        assert executed[-1].readable is None
    raised(ValueError, r"\['y'\]; the arrays of seeded are \['x'\]", run, seeded, 1, x, 5, readable={"y": True})


def test_mistakes_are_answered_with_what_to_do():
    x, out = arrays()
    raised(ValueError, "target is 'sm_91'; it can be sm_75", run, seeded, 1, x, 5, target="sm_91")
    raised(TypeError, "decorated with @triton.jit", run, print, 1, x)
    raised(TypeError, "under any other decorator", compile, lone, (x, out, 4, 2.0), {})
    raised(TypeError, "missing a required argument: 'factor'; its parameters are x, out", run, scale, 1, x, out, 48)
    raised(TypeError, "seed= is a parameter of the kernel", run, seeded, 1, x, seed=5)
    raised(ValueError, "wraps= is no parameter of seeded.*did you mean warp_size", run, seeded, 1, x, 5, wraps=4)
    raised(TypeError, "complex64.*native", run, seeded, 1, x.view(np.complex64), 5)
    raised(TypeError, ">f4", run, seeded, 1, x.astype(">f4"), 5)
    raised(ValueError, r"the grid is \(1.5,\)", run, seeded, 1.5, x, 5)
    raised(ValueError, r"the grid is \(2, -1\)", run, seeded, (2, -1), x, 5)
    raised(ValueError, "num_ctas of seeded is 2", run, seeded, 1, x, 5, num_ctas=2)


def test_under_the_interpreter_nothing_runs_in_silence():
    code = "from kvproof.kernels.ptx.launch import route\nwith route(): pass"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    child = _child.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert child.returncode == 1
    assert "Refused: TRITON_INTERPRET is set" in child.stderr


if __name__ == "__main__":
    launch.execute = execute  # pyright: ignore[reportAttributeAccessIssue]


in_child(globals())
