"""Compiling for a GPU that is not here: what Triton makes of the arguments, and which parameters they become."""

import threading
import time

import ml_dtypes
import numpy as np
import torch
import triton
import triton.language as tl
from triton.compiler.errors import CompilationError

from kvproof.kernels.aot.readings import example_launches
from kvproof.kernels.attention import Workspace
from kvproof.kernels.ptx.compile import compile

from ._compiled_claims import in_child, raised
from ._kernels import scale


def names(compiled):
    return [name for name, _ in compiled.arguments]


@triton.jit
def widen(x, out):
    at = tl.arange(0, 64)
    tl.store(out + at, tl.load(x + at).to(tl.float32))


@triton.jit
def options(x, lse, flag, pair, one, SIZE: tl.constexpr = 32):  # pyright: ignore[reportArgumentType]
    at = tl.arange(0, SIZE)
    tl.store(x + at, tl.load(pair[0] + at) + pair[1] + one + flag)
    if lse is not None:
        tl.store(lse, 0.0)


@triton.jit(do_not_specialize=["n"])
def unspecialised(x, n):
    tl.store(x, n)


@triton.jit
def slow(x, n):
    tl.store(x, n)


@triton.jit
def watched(x, n):
    tl.store(x, n)


def test_our_kernels_compile_for_the_gpu_that_is_named():
    texts = set()
    for sm, dtype, D, T in ((80, "bfloat16", 64, 300), (90, "float16", 80, 300), (100, "float32", 3, 1)):
        (launch,) = example_launches(getattr(torch, dtype), D, T)
        ours = compile(launch.kernel, (), launch.arguments | launch.options, f"sm_{sm}")
        assert f".target sm_{sm}" in ours.ptx
        assert ours.num_warps == launch.options["num_warps"]
        texts.add(ours.ptx)
    assert len(texts) == 3


def test_arguments_are_those_of_the_ptx_in_its_order():
    (launch,) = example_launches(torch.float16, 64)
    compiled = compile(launch.kernel, (), launch.arguments | launch.options)
    entry = compiled.ptx[compiled.ptx.index(".entry") :]
    found = [name for name, x in compiled.arguments if hasattr(x, "data_ptr")]
    partials = [f"partials.{name}" for name in Workspace._fields]
    assert found == ["q.q", "cache.k", "cache.v", "new.k", "new.v", "lengths", "result.out", *partials]
    assert names(compiled)[-5:] == ["T", "M", "ticket", "global_scratch", "profile_scratch"]
    assert f"attend_simt_param_{len(compiled.arguments) - 1}\n)" in entry
    assert compiled.name == "attend_simt"


def test_arguments_that_triton_folds_have_no_parameter():
    x = np.zeros(64, np.float32)
    compiled = compile(options, (x, None, True, (x, np.float32(2.5)), 1), {})
    assert names(compiled) == ["x", "flag", "pair[0]", "pair[1]", "global_scratch", "profile_scratch"]
    assert compiled.arguments[0][1] is x
    assert compiled.parameters["SIZE"] == 32
    assert names(compile(options, (x, x, False, (x, 2.5), 7), {}))[:5] == ["x", "lse", "flag", "pair[0]", "pair[1]"]
    assert "n" in names(compile(unspecialised, (x, 1), {}))


def test_the_alignment_that_an_array_has_decides_its_specialisation():
    x, out = np.zeros(80, np.float16), np.zeros(80, np.float16)
    assert x.ctypes.data % 16 == out.ctypes.data % 16 == 0
    aligned = compile(scale, (x[:64], out[:64], 64, 2.0, 512), {}).ptx
    assert compile(scale, (x[8:72], out[:64], 64, 2.0, 512), {}).ptx == aligned
    assert compile(scale, (torch.from_numpy(x), out, 64, 2.0, 512), {}).ptx == aligned
    assert "ld.global.v2.b32" in aligned
    assert "ld.global.v2.b32" not in compile(scale, (x[1:65], out[:64], 64, 2.0, 512), {}).ptx


def test_numpy_torch_and_ml_dtypes_arrays_of_one_dtype_compile_alike():
    dtypes = {"bfloat16": ml_dtypes.bfloat16, "float8_e5m2": ml_dtypes.float8_e5m2, "int64": np.int64, "bool": np.bool_}
    out, texts = np.zeros(64, np.float32), []
    for name, dtype in dtypes.items():
        theirs = torch.zeros(64, dtype=getattr(torch, name))
        ours = np.zeros(64, dtype)
        texts += [compile(widen, (x, out), {}).ptx for x in (theirs, ours)]
    assert texts[::2] == texts[1::2]
    assert len(set(texts)) == len(dtypes)


def test_compiling_again_takes_less_than_a_millisecond():
    launch = example_launches(torch.float16, 64)[0]
    times = []
    for _ in range(20):
        start = time.perf_counter()
        compile(launch.kernel, (), launch.arguments | launch.options)
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3, times


def active_driver():
    try:
        return triton.runtime.driver.active
    except RuntimeError as error:
        return str(error)


def test_threads_compile_for_their_own_targets_and_leave_the_driver_as_it_was():
    x, texts, before = np.zeros(4), {}, active_driver()

    def compile_for(sm):
        for n in range(3):
            texts[sm, n] = compile(slow, (x, 0.5 * n), {}, f"sm_{sm}").ptx

    slow.add_pre_run_hook(lambda *args, **kwargs: time.sleep(0.02))  # while Triton is at it
    threads = [threading.Thread(target=compile_for, args=(sm,)) for sm in (80, 86, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 9
    assert all(f".target sm_{sm}" in text for (sm, _), text in texts.items())
    assert active_driver() == before


def test_other_threads_do_not_see_the_target():
    seen = []

    def look():
        seen.append(getattr(triton.runtime.driver.active, "get_current_target", None))

    def hook(*args, **kwargs):
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    watched.add_pre_run_hook(hook)
    compile(watched, (np.zeros(4), 5), {})
    assert seen[0]().arch == 90
    assert seen[1] is None


def test_the_driver_is_left_as_it_was_when_compiling_fails():
    before = active_driver()
    fp8, out = torch.zeros(64, dtype=torch.float8_e4m3fn), np.zeros(64, np.float32)  # which sm_80 has not
    raised(CompilationError, "fp8e4nv", compile, widen, (fp8, out), {}, "sm_80")
    assert active_driver() == before


in_child(globals())
