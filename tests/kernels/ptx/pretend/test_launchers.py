"""Launchers as public repositories write them, none of which runs without a GPU, within a pretence: unchanged."""

import functools
import types
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from kvproof.kernels import ptx


@triton.jit
def scale(x, out, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, at < n) * factor, at < n)


def launch(x: torch.Tensor, factor: float) -> torch.Tensor:
    out = torch.empty_like(x)
    grid = lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)  # noqa: E731
    scale[grid](x, out, x.numel(), factor, 128)  # pyright: ignore[reportArgumentType]
    return out


@pytest.fixture
def x():
    return torch.arange(300.0)


@pytest.fixture(autouse=True)
def reports(x):
    with ptx.route("sm_80", pretend=True) as reports:
        yield reports


def insists(x: torch.Tensor, factor: float) -> torch.Tensor:
    if not x.is_cuda:
        raise ValueError("x must be a CUDA tensor")
    assert x.device.type == "cuda"
    with torch.cuda.device(x.device.index):
        return launch(x, factor)


def test_one_that_checks_where_its_tensors_are(x, reports):
    assert torch.equal(insists(x, 2.0), 2 * x)
    assert len(reports) == 1
    with pytest.raises(ValueError, match="must be a CUDA tensor"):
        insists(x.cpu(), 2.0)


def contiguous(function):
    """As decorators do that make arguments contiguous and choose the device of the first."""

    @functools.wraps(function)
    def wrapper(ctx, *args):
        given = [a.contiguous() if isinstance(a, torch.Tensor) else a for a in args]
        tensor = next(a for a in given if isinstance(a, torch.Tensor))
        with torch.cuda.device(tensor.device.index):
            return function(ctx, *given)

    return wrapper


class Scale(torch.autograd.Function):
    @staticmethod
    @contiguous
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(ctx, x, factor):
        ctx.factor = factor
        return insists(x, factor)

    @staticmethod
    @contiguous
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, *grads):
        return insists(grads[0], ctx.factor), None


def test_an_autograd_function_forward_and_backward(x, reports):
    leaf = x.clone().requires_grad_()
    (Scale.apply(leaf, 3.0) * x).sum().backward()
    assert torch.equal(leaf.grad, 3 * x)
    assert len(reports) == 2


def test_what_asks_when_it_is_imported(x):
    source = """
import torch, triton, triton.language as tl
assert torch.cuda.is_available()
MAJOR = torch.cuda.get_device_capability()[0]
SMS = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
SHARED = triton.runtime.driver.active.utils.get_device_properties(0)["max_shared_mem"]
NAME = torch.cuda.get_device_name(0)
DEVICE = triton.runtime.driver.active.get_active_torch_device()
TARGET = triton.runtime.driver.active.get_current_target()
WARPS = [2, 4] if SHARED < 100 * 1024 else [4, 8]
AHEAD = torch.zeros(4, device=DEVICE)
"""
    module: Any = types.ModuleType("asks")
    exec(source, module.__dict__)
    assert (module.MAJOR, module.SMS, module.TARGET.arch, module.WARPS) == (8, 108, 80, [4, 8])
    assert module.AHEAD.device == module.DEVICE == x.device


operators = torch.library.Library("kvproof_launchers", "DEF")


def register(name: str, function: Any, key: str) -> None:
    operators.define(f"{name}(Tensor x, float factor) -> Tensor")
    operators.impl(name, function, key)


@pytest.mark.parametrize("key", ["CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd"])
def test_an_operator_that_is_registered_for_the_gpu(x, key):
    register(f"scale_{key.lower()}", insists, key)
    operator = getattr(torch.ops.kvproof_launchers, f"scale_{key.lower()}")
    assert torch.equal(operator(x, 2.0), 2 * x)


def test_custom_op_with_its_gradient(x):
    @torch.library.custom_op("kvproof_launchers::custom", mutates_args=(), device_types="cuda")
    def custom(x: torch.Tensor, factor: float) -> torch.Tensor:
        assert torch.zeros(1, device=x.device).is_cuda
        return insists(x, factor)

    def context(ctx, inputs, output):
        ctx.factor = inputs[1]

    custom.register_autograd(lambda ctx, g: (custom(g.contiguous(), ctx.factor), None), setup_context=context)
    leaf = x.clone().requires_grad_()
    (custom(leaf, 3.0) * x).sum().backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, 3 * x)


def test_triton_op(x, reports):
    @torch.library.triton_op("kvproof_launchers::triton", mutates_args={})
    def doubled(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        torch.library.wrap_triton(scale)[(3,)](x, out, x.numel(), 2.0, BLOCK=128)
        return out

    assert torch.equal(doubled(x), 2 * x)
    assert len(reports) == 1


def test_a_library_that_takes_the_place_of_torch_s_operators(x, reports):
    library = torch.library.Library("aten", "IMPL")
    library.impl("neg", lambda x: insists(x, -1.0), "CUDA")
    library.impl("zeros", lambda size, **given: insists(torch.ones(size, device=given["device"]), 0.0), "CUDA")
    try:
        assert torch.equal(-x, 0 - x)
        assert torch.equal(torch.zeros([5], device="cuda"), x[:5] * 0)
        assert len(reports) == 2
        host = torch.ones(3, device="cpu")
        assert torch.equal(-host, 0 - host)
        assert torch.zeros([5], device="cpu").sum() == 0
        assert len(reports) == 2  # what is on the host is not the library's
    finally:
        library._destroy()


def test_torch_compile_runs_as_it_is_written(x, reports):
    compiled: Any = torch.compile(lambda x: insists(x, 2.0) + 1, fullgraph=True)
    assert torch.equal(compiled(x), 2 * x + 1)
    assert torch.equal(torch.compile(dynamic=True)(lambda x: insists(x, 3.0))(x), 3 * x)  # pyright: ignore[reportCallIssue]
    assert torch.equal(torch.compile(torch.nn.Identity())(x), x)
    assert len(reports) == 2


outside = torch.compile(lambda x: insists(x, 2.0), fullgraph=True)


def test_so_does_what_was_compiled_before_the_route_was_opened(x):
    assert torch.equal(outside(x), 2 * x)


def test_a_table_of_pointers_holds_addresses_that_the_machine_finds(x):
    @triton.jit
    def gather(table, out, n, BLOCK: tl.constexpr):
        source = tl.load(table + tl.program_id(0)).to(tl.pointer_type(tl.float32))
        at = tl.arange(0, BLOCK)
        tl.store(out + tl.program_id(0) * n + at, tl.load(source + at, at < n), at < n)

    pages = [x[:100], torch.ones(100, device=x.device)]
    table = torch.tensor([page.data_ptr() for page in pages], dtype=torch.int64, device=x.device)
    out = torch.empty(2, 100, device=x.device)
    gather[(2,)](table, out, 100, 128)  # pyright: ignore[reportArgumentType]
    assert torch.equal(out, torch.stack(pages))


def test_a_tensor_on_the_host_is_not_a_kernel_s(x):
    for host in (x.cpu(), torch.zeros(300, device="cpu"), x.cpu() + 1):
        with pytest.raises(ptx.Refused, match=r"x of scale is on the CPU.*pass it .cuda\(\)"):
            launch(host, 2.0)
    assert torch.equal(launch(x.cpu().cuda(), 2.0), 2 * x)
    assert torch.equal(launch(torch.zeros(300).pin_memory(), 2.0), x * 0)


def test_unwritten_memory_on_the_gpu_counts_as_unwritten():
    for made in (torch.empty(300, device="cuda"), torch.zeros(1, device="cuda").new_empty(300)):
        with pytest.raises(ptx.Uninitialised, match=r"x\[0\]"):
            launch(made, 2.0)
