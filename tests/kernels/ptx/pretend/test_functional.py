"""Moves between the GPU and the host under torch.func's transforms, in both directions of differentiation."""

import subprocess
import sys

import pytest
import torch
from torch import func

from kvproof.kernels import ptx


@pytest.fixture(autouse=True)
def pretended():
    with ptx.route("sm_90", pretend=True):
        yield


def test_forward_mode_works_the_first_time_that_it_is_asked_for():
    """In a process of its own: torch reads the source of its functions then, which must be its own."""
    code = (
        "import torch; from kvproof.kernels import ptx\n"
        "with ptx.route(pretend=True):\n"
        "    x = torch.ones(2)\n"
        "    assert torch.func.jvp(lambda x: x * 2, (x,), (x,))[1].tolist() == [2, 2]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_vmap_moves_whole_tensors():
    host, gpu = torch.ones(3, 2, device="cpu"), torch.ones(3, 2, device="cuda")
    assert torch.vmap(lambda x: x.cuda() * 2)(host).is_cuda
    assert torch.vmap(lambda x: x.cpu() * 2)(gpu).is_cpu
    assert torch.vmap(lambda x: x * 2)(host).is_cpu


def test_derivatives_are_right_and_gradients_are_where_their_tensor_is():
    x = torch.arange(1.0, 4.0, device="cuda")

    def f(x: torch.Tensor) -> torch.Tensor:
        assert x.is_cuda
        return (x.cpu() ** 3).sum()

    gradient = torch.tensor([3.0, 12.0, 27.0])
    for found in (func.grad(f)(x), func.jacrev(f)(x), func.vjp(f, x)[1](torch.tensor(1.0, device="cpu"))[0]):
        assert torch.equal(found, gradient)
        assert found.is_cuda
    out, tangent, *_ = func.jvp(f, (x,), (torch.ones(3, device="cuda"),))
    assert (out.item(), tangent.item(), tangent.is_cpu) == (36, 42, True)
    second = func.hessian(f)(x)
    assert torch.equal(second, torch.diag(6 * x))
    assert second.is_cuda
