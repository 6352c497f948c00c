"""Optimizers, recurrent layers, torch's fake tensors and its tracers under a pretence."""

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from kvproof.kernels import ptx

from .... import _child

OPTIMIZERS = [x for x in vars(torch.optim).values() if isinstance(x, type) and issubclass(x, torch.optim.Optimizer)]
OPTIMIZERS.remove(torch.optim.Optimizer)


@pytest.fixture(autouse=True)
def pretended():
    with ptx.route("sm_90", pretend=True):
        yield


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_takes_a_step(kind: Any):
    sparse = kind is torch.optim.SparseAdam
    layer = nn.Embedding(3, 3, sparse=True) if sparse else nn.Linear(3, 3, bias=False)
    layer.cuda()
    before, x = layer.weight.detach().clone(), torch.ones(1, device="cuda", dtype=torch.int64) if sparse else None
    optimizer = kind(layer.parameters())

    def loss() -> Any:
        optimizer.zero_grad()
        found = layer(torch.ones(1, 3, device="cuda") if x is None else x).square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    assert layer.weight.is_cuda
    assert not torch.equal(layer.weight, before)


def test_what_torch_loads_late_it_can_load_inside_a_route():
    """In a process of its own: forward mode then reads the source of torch's functions, which must be its own, and
    torch.compile brings a compiler that was not there when the route opened.
    """
    code = (
        "import torch; from kvproof.kernels import ptx\n"
        "with ptx.route(pretend=True):\n"
        "    x = torch.ones(1, 2, device='cuda')\n"
        "    assert torch.func.jvp(lambda x: x * 2, (x,), (x,))[1].tolist() == [[2, 2]]\n"
        "    assert torch.compile(torch.nn.Linear(2, 2).cuda())(x).is_cuda\n"
    )
    _child.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_built_and_moved(kind: Any):
    layer = kind(3, 4)
    weights = [x.detach().clone() for x in layer.parameters()]
    layer.cuda()
    out, _ = layer(torch.ones(2, 1, 3, device="cuda"))
    out.sum().backward()
    assert out.is_cuda
    assert layer.weight_ih_l0.grad.is_cuda
    assert all(torch.equal(a, b) for a, b in zip(weights, layer.parameters(), strict=True))


def test_fake_tensors_are_on_the_gpu_and_have_gradients():
    with FakeTensorMode():
        x = torch.ones(3, device="cuda")
        assert (x + 1).device == torch.device("cuda", 0)
        assert nn.Linear(3, 2, device="cuda")(x).is_cuda


def test_torch_traces_with_fake_tensors():
    graph = make_fx(lambda x: x * 2 + 1, tracing_mode="fake")(torch.ones(3, device="cuda"))
    assert graph(torch.ones(2, device="cuda")).tolist() == [3, 3]
    assert [x.name for x in graph.graph.nodes if x.op == "call_function"] == ["mul", "add"]
