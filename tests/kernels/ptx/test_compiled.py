"""What `kernel[grid](...)` and `kernel.warmup(...)` return on the machine, and which configuration of a tuner runs."""

import re
import threading
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton import Config
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler.errors import CompilationError
from triton.runtime.errors import PTXASError

from kvproof.kernels import ptx
from kvproof.kernels.ptx import other_targets


@triton.jit
def add_to(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(out + at, at < n) + tl.load(x + at, at < n), at < n)


@triton.jit
def normalise(x, N: tl.constexpr):
    at = tl.arange(0, N)
    v = tl.load(x + at)
    tl.store(x + at, v / tl.sum(v))


@triton.jit
def dot(a, b, c, OUT: tl.constexpr, N: tl.constexpr = 64):  # pyright: ignore[reportArgumentType]
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    tl.store(c + at, tl.dot(tl.load(a + at), tl.load(b + at), out_dtype=OUT))


def arrays(n=300):
    return torch.arange(float(n)), torch.ones(n)


def per(meta):
    return (triton.cdiv(meta["n"], meta["BLOCK"]),)


SIZES = [Config({"BLOCK": 64}, num_warps=2), Config({"BLOCK": 128}), Config({"BLOCK": 256}, num_warps=8)]


def tuned(configs=SIZES, **options):
    return triton.autotune(configs, key=["n"], **options)(add_to)


def test_a_launch_returns_what_triton_s_compiled_kernel_has():
    x, out = arrays()
    with ptx.route("sm_86"):
        left = add_to[per](x, out, 300, BLOCK=128, num_warps=2)  # pyright: ignore[reportCallIssue]
    assert left.grid == (3, 1, 1)
    assert left.total.instructions > 0
    assert (left.name, left.num_warps, left.target, left.config) == ("add_to", 2, "sm_86", None)
    assert 8 <= left.n_regs <= 32
    assert left.n_spills == 0
    assert left.n_max_threads == 64
    assert left.metadata.num_warps == 2
    assert left.metadata.shared == left.shared == 0
    assert left.metadata.target.arch == 86
    assert {"ttir", "ttgir", "llir", "ptx", "cubin"} <= set(left.asm)
    assert left.kernel == left.asm["cubin"]
    assert left.hash == left.metadata.hash
    assert left.packed_metadata[0] == 2
    left._init_handles()
    assert not hasattr(left, "n_register")
    with pytest.raises(AttributeError, match="n_register"):
        _ = left.n_register


@triton.jit
def squared(x, ASSEMBLY: tl.constexpr, BLOCK: tl.constexpr = 32):  # pyright: ignore[reportArgumentType]
    at = x + tl.arange(0, BLOCK)
    v = tl.load(at)
    if ASSEMBLY is not None:
        v = tl.inline_asm_elementwise(ASSEMBLY, "=r,r", [v], tl.float32, True, 1)  # pyright: ignore[reportArgumentType]
    tl.store(at, v)


@pytest.mark.parametrize("options", [{}, {"maxnreg": 64}, {"maxnreg": 255, "num_warps": 8}])
def test_a_launch_makes_no_cubin_until_it_is_asked_for_and_then_once_for_all_processes(options, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    left = ptx.run(squared, 1, torch.ones(32), None, **options)
    (kept,) = tmp_path.glob("*/squared.cubin")
    assert not kept.read_bytes()
    assert left.n_regs > 0
    assert left.asm["cubin"][:4] == kept.read_bytes()[:4] == b"\x7fELF"
    squared.device_caches.clear()  # as another process has them
    monkeypatch.setattr(CUDABackend, "make_cubin", None)
    assert ptx.run(squared, 1, torch.ones(32), None, **options).kernel == left.kernel


def test_ptxas_says_how_many_registers_a_kernel_holds_whose_cap_leaves_no_room_for_its_threads(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    ptx.run(squared, 1, torch.ones(32), None, num_warps=16, maxnreg=255)  # which ptxas keeps far below
    (kept,) = tmp_path.glob("*/squared.cubin")
    assert kept.read_bytes()


def test_assembly_in_a_kernel_is_shown_to_ptxas_at_every_launch():
    ptx.run(squared, 1, torch.ones(32), "mul.f32 $0, $1, $1;")
    for _ in range(2):
        with pytest.raises(PTXASError, match="Arguments mismatch for instruction 'mul'"):
            ptx.run(squared, 1, torch.ones(32), "mul.f32 $0, $1;")


def test_registers_and_spills_are_those_of_the_machine_code():
    caps, N = (32, 255), 4096  # of which a thread of one warp holds 128 values until their sum is known
    left = {cap: ptx.run(normalise, 1, torch.rand(N), N, num_warps=1, maxnreg=cap) for cap in caps}
    assert left[32].n_regs <= 32
    assert left[32].n_spills > 64
    assert 128 < left[255].n_regs <= 255
    assert left[255].n_spills == 0
    assert ptx.run(normalise, 1, torch.rand(N), N, num_warps=4).shared > 0


def test_warmup_compiles_for_the_machine_and_what_it_returns_can_be_launched():
    x, out = arrays()
    with ptx.route("sm_80") as reports:
        made = add_to.warmup(torch.float32, torch.float32, 300, BLOCK=128, grid=(1,))
        assert made.metadata.target.arch == 80
        assert made.n_regs > 0
        assert not reports
        first = made[(3, 1, 1)](x, out, 300, 128)
        made.run(3, 1, 1, 0, made.function, made.packed_metadata, None, None, None, x, out, 300, 128)
        assert len(reports) == 2
        first[(3,)](x, out, 300)  # which leaves the constexpr out
        assert torch.equal(out, 1 + 3 * x)
        with pytest.raises(ptx.Refused, match="compiled for BLOCK=128, and is launched with 64"):
            made[(5,)](x, out, 300, 64)
        with pytest.raises(TypeError, match="its parameters are x, out, n, BLOCK"):
            made[(5,)](x, out)
        made = tuned().warmup(x, out, 300, grid=(1,))
        assert [kernel.num_warps for kernel in made] == [2, 4, 8]
    failures = []

    def elsewhere():
        try:
            first[(3,)](x, out, 300, 128)
        except ptx.Refused as error:
            failures.append(str(error))

    thread = threading.Thread(target=elsewhere)  # which has no route
    thread.start()
    thread.join()
    assert "launch it within" in failures[0]


def test_an_empty_grid_runs_nothing_and_returns_the_compiled_kernel():
    x, out = arrays()
    with ptx.route() as reports:
        left: Any = add_to[(0,)](x, out, 300, BLOCK=128)  # pyright: ignore[reportArgumentType]
        assert left.n_regs > 0
        assert not reports
    assert ptx.run(add_to, (2, 0), x, out, 300, 128) is None


@pytest.mark.parametrize("grid", [3, (3,), [3, 1], torch.Size([3]), (torch.tensor(3), 1, 1), per])
def test_every_form_of_a_grid_is_taken(grid):
    x, out = arrays()
    with ptx.route():
        add_to[grid](x, out, 300, BLOCK=128)  # pyright: ignore[reportArgumentType]
        add_to.run(x, out, 300, 128, grid=grid, warmup=False)
    assert torch.equal(out, 1 + 2 * x)


def test_an_autotuned_kernel_runs_its_first_configuration_and_says_which():
    kernel, (x, out) = tuned(), arrays()
    with ptx.route() as reports:
        for n in (300, 200):
            left = kernel[per](x, out, n)
            assert left.config is kernel.best_config is SIZES[0]
            assert left.num_warps == 2
    assert len(reports) == 2
    assert ptx.run(kernel, per, x, out, 300).config is SIZES[0]
    assert not kernel.cache  # a GPU that comes later still tunes
    assert all(r.config is SIZES[0] for r in ptx.check(kernel, per, x, out, 300, targets="sm_80"))


def test_what_prunes_the_configurations_is_asked():
    x, out = arrays()
    last = tuned(prune_configs_by={"early_config_prune": lambda configs, args, **kw: configs[2:]})
    assert ptx.run(last, per, x, out, 300).config is SIZES[2]
    best = {"perf_model": lambda BLOCK, **kw: abs(BLOCK - 128), "top_k": 2}
    assert ptx.run(tuned(prune_configs_by=best), per, x, out, 300).config is SIZES[1]


def test_configurations_that_the_target_does_not_take_are_passed_over():
    x, out = arrays()
    configs = [Config({"BLOCK": 64}, num_warps=64), SIZES[1]]
    assert ptx.run(tuned(configs), per, x, out, 300).config is SIZES[1]
    with pytest.raises(ptx.OutOfResources, match="64 warps"):
        ptx.run(tuned([configs[0], Config({"BLOCK": 64}, num_warps=128)]), per, x, out, 300)


def test_hooks_and_resets_are_those_of_the_launch_that_a_gpu_keeps():
    x, out = arrays()
    kernel = tuned(reset_to_zero=["out"])
    with ptx.route():
        kernel[per](x, out, 300)
        assert torch.equal(out, x)  # zeroed before the first launch of a key
        kernel[per](x, out, 300)
        assert torch.equal(out, 2 * x)
    x, out = arrays()
    ptx.run(tuned(restore_value=["out"]), per, x, out, 300)
    assert torch.equal(out, 1 + x)
    called = []
    hooked = [Config({"BLOCK": 64}, pre_hook=lambda given: called.append(given["BLOCK"])), *SIZES[1:]]
    other = tuned(hooked, pre_hook=lambda given, reset_only=False: called.append(reset_only))
    ptx.run(other, per, x, out, 300)
    assert called == [64, True]


def test_tuners_and_heuristics_nest_in_both_orders():
    x, out = arrays()
    half = triton.heuristics({"BLOCK": lambda given: triton.next_power_of_2(given["n"]) // 2})
    warps = [Config({}, num_warps=1), Config({}, num_warps=2)]
    outer = triton.autotune(warps, key=["n"])(half(add_to))
    with ptx.route():
        left = outer[per](x, out, 300)
        assert (left.grid, left.num_warps, left.config) == ((2, 1, 1), 1, warps[0])
        left = triton.heuristics({"n": lambda given: given["x"].numel()})(tuned())[(5,)](x, out)
        assert (left.grid, left.config) == ((5, 1, 1), SIZES[0])
    assert torch.equal(out, 1 + 2 * x)


def test_a_launch_that_names_what_the_configurations_set_is_refused():
    x, out = arrays()
    for clash in ({"num_warps": 8}, {"BLOCK": 32}):
        with pytest.raises(ptx.Refused, match=f"{next(iter(clash))}= came with a launch of add_to.*leave it out"):
            ptx.run(tuned(), per, x, out, 300, **clash)  # pyright: ignore[reportArgumentType]


FORMATS = {
    "float16": tl.float32, "bfloat16": tl.float32, "float32": tl.float32, "int8": tl.int32,
    "float8_e4m3fn": tl.float32, "float8_e5m2": tl.float32,
}  # fmt: skip


@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_dot_of_every_format_runs_where_others_have_no_such_unit(dtype, target):
    a = torch.eye(64).to(getattr(torch, dtype))
    c = torch.zeros(64, 64, dtype=torch.int32 if dtype == "int8" else torch.float32)
    ptx.run(dot, 1, a, a, c, FORMATS[dtype], target=target)
    assert torch.equal(c.float(), torch.eye(64))


@pytest.mark.parametrize(("known", "advised"), [(("sm_80", "sm_90"), "sm_90"), (("sm_89", "sm_80"), "sm_89"), ((), "")])
def test_the_advice_for_what_the_machine_lacks_names_a_target_that_works(monkeypatch, known, advised):
    """sm_80 has no float8_e4m3fn; of the others, the machine is made to know only some."""
    monkeypatch.setattr(other_targets, "FEATURES", re.compile("mma"))
    monkeypatch.setattr(other_targets, "ELSEWHERE", known)
    a, c = torch.eye(64).to(torch.float8_e4m3fn), torch.zeros(64, 64)
    error = ptx.UnknownOpcode("mma.sync.aligned.m16n8k512")
    other_targets.explain(error, dot, (a, a, c, tl.float32), {}, "sm_120")
    assert (f"take target='{advised}'" if advised else "runs it either") in str(error)
    if advised:
        ptx.run(dot, 1, a, a, c, tl.float32, target=advised)
        assert torch.equal(c, torch.eye(64))
    with pytest.raises(CompilationError):
        ptx.run(dot, 1, a, a, c, tl.float32, target="sm_80")


def test_no_other_target_is_named_for_what_an_assembly_asks_for():
    error = ptx.UnknownOpcode("add.q32")
    other_targets.explain(error, dot, (), {}, "sm_90")
    assert "target" not in str(error)
