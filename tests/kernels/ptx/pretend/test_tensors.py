"""What tensors say of their device under a pretence, where new ones are, and when a move copies."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import get_overridable_functions, get_testing_overrides
from torch.utils._device import _device_constructors

from kvproof.kernels import ptx
from kvproof.kernels.ptx.arrays import true_device
from kvproof.kernels.ptx.pretend import tensors

GPU = torch.device("cuda", 0)
cuda: Any = torch.cuda


@pytest.fixture
def outside():
    return torch.arange(4.0)


@pytest.fixture(autouse=True)
def pretended(outside):
    """The GPU, of which `outside` knows nothing yet."""
    with ptx.route("sm_90", pretend=True):
        yield


def test_a_tensor_from_outside_says_that_it_is_on_the_gpu(outside):
    assert outside.device == GPU
    assert outside.device == outside[1:].device == torch.nn.Parameter(outside).device
    assert torch.device(outside.device) == torch.device("cuda:0")
    assert (outside.is_cuda, outside.is_cpu, outside.get_device()) == (True, False, 0)
    assert outside.type() == "torch.cuda.FloatTensor"
    assert "device='cuda:0'" in repr(outside)
    assert true_device(outside).type == "cpu"
    assert torch.zeros(2, device="meta").device.type == "meta"


MAKERS = """
torch.empty(3, device=d); torch.empty(3, device=d, dtype=torch.int8); torch.zeros((3,), device=d)
torch.full((3,), 1, device=d); torch.tensor([1, 2], device=d); torch.as_tensor([1, 2], device=d)
torch.asarray([1, 2], device=d); torch.as_tensor(np.ones(2), device=d); torch.rand(3, device=d); torch.ones(3, device=d)
torch.randint(0, 5, (3,), device=d); torch.randperm(3, device=d); torch.linspace(0, 1, 3, device=d)
torch.eye(3, device=d); torch.empty_strided((3,), (2,), device=d); torch.tril_indices(3, 3, device=d)
torch.fft.fftfreq(3, device=d); torch.zeros_like(x, device=d); torch.empty_like(x, device=d); torch.randn(3, device=d)
x.new_zeros(3, device=d); x.new_empty((3,), device=d); x.new_tensor([3], device=d); x.new_full((3,), 1, device=d)
x.to(d); x.to(d, torch.float16); x.to(device=d, non_blocking=True); x.to(torch.zeros(1, device=d)); x.to(d, copy=True)
torch.nn.Linear(2, 2, device=d).weight; torch.nn.Linear(2, 2).to(d).bias; torch.nn.Parameter(torch.empty(3, device=d))
torch.scalar_tensor(1, device=d); torch.rand_like(x, device=d); torch.arange(3, device=d); x.to(d, None, True)
torch.normal(0.0, 1.0, (3,), device=d); torch.zeros(3, device=d).clone(); torch.zeros(3, device=d)[1:] + 1
"""


@pytest.mark.parametrize("expression", [e.strip() for line in MAKERS.strip().splitlines() for e in line.split(";")])
def test_what_is_made_or_moved_is_where_it_was_asked_for(expression, outside):
    for d in ("cuda", "cuda:0", GPU, "cpu"):
        made = eval(expression, {"torch": torch, "np": np, "x": outside, "d": d})
        assert made.device == (torch.device("cpu") if d == "cpu" else GPU), d
        assert made.is_cuda == (d != "cpu")
        assert true_device(made).type == "cpu"


def test_every_function_of_torch_that_takes_a_device_is_among_those_above():
    known = {*tensors.MAKERS, *tensors.LIKE, *tensors.FFT, "as_tensor", "asarray"}
    names = {f.__name__.removeprefix("fft_") for f in _device_constructors()}
    assert names - known == {"nested_tensor"}
    signatures = get_testing_overrides()
    names = {f.__name__ for f in get_overridable_functions()[torch.Tensor] if f in signatures}
    found = {n for n in names if n.startswith("new_") and n != "new"}
    assert found <= {*tensors.METHODS}


def test_without_a_device_a_tensor_plays_on_the_gpu_and_cuda_copies_it():
    x = torch.zeros(3)
    assert x.is_cuda
    y = x.cuda()
    y += 1
    assert x.sum() == 0
    assert y.cuda() is y
    assert torch.from_numpy(np.zeros(3)).is_cuda
    assert torch.ops.aten.zeros.default([3], device=GPU).is_cuda


def test_moves_copy_where_a_gpu_copies_and_nowhere_else(outside):
    assert outside.to("cuda") is outside.cuda() is outside.to(outside.device) is outside
    assert outside.to(device="cuda", dtype=torch.float32) is outside
    host = outside.cpu()
    assert host.device.type == "cpu"
    host += 1
    assert outside[0] == 0
    assert host.cpu() is host.to("cpu") is host
    assert host.cuda().is_cuda
    assert outside.to(host).device.type == "cpu"
    assert outside.to("cpu", torch.float16).dtype == torch.float16
    assert outside.to(torch.float16).is_cuda
    x = outside.clone().requires_grad_()
    (x.cpu() * 2).sum().backward()
    assert x.grad is not None
    assert x.grad.is_cuda
    assert torch.equal(x.grad, torch.full((4,), 2.0))


def test_what_is_computed_on_the_host_is_on_the_host(outside):
    host = torch.ones(4, device="cpu")
    for x in (host + 1, host[1:], host.sum(), torch.cat([host, host]), torch.zeros_like(host), host.new_empty(2),
              host.sum() + host.sum(), torch.stack([torch.tensor(1, device="cpu")] * 2), host[0] * 2):  # fmt: skip
        assert x.device.type == "cpu"
    for x in (outside + 1, outside.cpu().cuda() * 2, outside[torch.tensor([1], device="cpu")], outside * host.sum()):
        assert x.is_cuda


def test_pinned_memory_is_the_host_s_and_says_so():
    for x in (torch.zeros(3, device="cpu").pin_memory(), torch.empty(3, pin_memory=True)):
        assert x.is_pinned()
        assert x.device.type == "cpu"
        assert x.cuda().is_cuda
    assert not torch.zeros(3, device="cpu").is_pinned()
    with pytest.raises(RuntimeError, match=r"cannot pin 'torch.cuda.FloatTensor'"):
        torch.zeros(3, device="cuda").pin_memory()


def test_a_default_device_is_heeded():
    torch.set_default_device("cuda")
    try:
        assert torch.zeros(3).cuda().is_cuda
        assert torch.tensor(3.0).is_cuda
        assert torch.zeros(3, device="cpu").device.type == "cpu"
    finally:
        torch.set_default_device(None)
    with torch.device("cuda"):
        x = torch.zeros(3)
        assert x.cuda() is x
        x = torch.ones(2).to("cpu", torch.float16)
        assert x.device.type == "cpu"
        assert x.to("cuda", torch.float32).is_cuda
        assert x.cuda().to(torch.float32).is_cuda
        assert torch.as_tensor(np.ones(2)).is_cuda
        assert x.new_zeros(2, device="cuda").is_cuda
    with torch.device("meta"):
        assert torch.zeros(3).device.type == "meta"


def test_what_no_cpu_can_stand_for_is_refused_by_name(outside):
    with pytest.raises(ptx.Refused, match="cuda:1 is asked for; one GPU is pretended"):
        torch.zeros(3, device="cuda:1")
    with pytest.raises(ptx.Refused, match="__cuda_array_interface__"):
        _ = outside.__cuda_array_interface__
    raw: Any = torch._C
    made = raw._VariableFunctions.zeros  # as a module holds it that took it before the route was opened
    with pytest.raises(ptx.Refused, match=r"test_tensors.*asks torch for CUDA memory past what is pretended"):
        made(3, device="cuda")
    for legacy in (lambda: cuda.FloatTensor(3), lambda: torch.UntypedStorage(4, device="cuda")):
        with pytest.raises(ptx.Refused, match=r"test_tensors.*by a class such as torch.cuda.FloatTensor"):
            legacy()


def test_types_have_torch_s_names_and_moves_keep_their_settings(outside):
    assert outside.to(torch.float8_e4m3fn).type() == "torch.cuda.Float8_e4m3fnTensor"
    assert outside.cpu().type() == "torch.FloatTensor"
    half = outside.type("torch.cuda.HalfTensor")
    assert (half.is_cuda, half.dtype) == (True, torch.float16)
    assert outside.type(cuda.HalfTensor).dtype == torch.float16
    assert outside.type("torch.DoubleTensor").is_cpu
    with pytest.raises(ValueError, match=r"invalid type: 'torch.FooTensor'"):
        outside.type("torch.cuda.FooTensor")
    with pytest.raises(RuntimeError, match="Invalid device, must be cuda device"):
        outside.cuda("cpu")
    image = torch.ones(2, 3, 4, 4, device="cuda")
    last = torch.channels_last
    assert image.cpu(memory_format=last).is_contiguous(memory_format=last)
    assert image.cpu().cuda(memory_format=last).is_contiguous(memory_format=last)
    assert image.cpu().is_contiguous()
