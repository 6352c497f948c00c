"""torch.autocast("cuda") under a pretence: dtypes as on a GPU, on tensors of the CPU."""

import pytest
import torch
import torch.nn.functional as F

from kvproof.kernels import ptx


@pytest.fixture(autouse=True)
def pretended():
    with ptx.route(pretend=True):
        yield


def test_products_are_low_and_sums_are_high():
    x, linear = torch.randn(4, 4, device="cuda"), torch.nn.Linear(4, 4, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = linear(x)
        for low in (y, x @ x, torch.bmm(x[None], x[None]), F.linear(x, x), torch.einsum("ij,jk->ik", x, x)):
            assert low.dtype == torch.bfloat16
        for high in (F.softmax(y, -1), y.exp(), y.sum(), F.layer_norm(y, (4,)), y + x, torch.addcmul(x, y, y)):
            assert high.dtype == torch.float32
        assert torch.addcmul(y, y, y).dtype == torch.bfloat16
        assert torch.sum(y, 0, dtype=torch.float64).dtype == torch.float64
        assert (y + y).dtype == torch.bfloat16
        F.mse_loss(y, x).backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.dtype == torch.float32
    assert (x @ x).dtype == torch.float32
    with torch.autocast("cuda"):
        assert (x @ x).dtype == torch.float16
        with torch.autocast("cuda", enabled=False):
            assert (x @ x).dtype == torch.float32


class Twice(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float16)
    def forward(ctx, x):
        assert not torch.is_autocast_enabled("cuda")
        return x * 2

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, *grads):
        assert grads[0].is_cuda
        return grads[0] * 2


def test_functions_cast_their_inputs():
    x = torch.ones(3, device="cuda", requires_grad=True)
    assert Twice.apply(x).dtype == torch.float32
    with torch.autocast("cuda"):
        y = Twice.apply(x)
        assert torch.is_autocast_enabled("cuda")
    assert y.dtype == torch.float16
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def test_tensors_of_the_host_are_not_cast():
    x = torch.ones(2, 2, device="cpu")
    with torch.autocast("cuda"):
        assert (x @ x).dtype == torch.float32
        assert (x.cuda() @ x.cuda()).dtype == torch.float16
