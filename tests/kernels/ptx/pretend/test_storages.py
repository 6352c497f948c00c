"""Where tensors are that were copied, saved and loaded, or sent by another process, and those that hold others."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kvproof.kernels import ptx

aten = torch.ops.aten
WAYS: Any = [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x)), lambda x: loaded(saved(x)),
             lambda x: torch.tensor(x.tolist()[0], device=x.device)]  # fmt: skip


@pytest.fixture(autouse=True)
def pretended():
    with ptx.route("sm_90", pretend=True):
        yield


def saved(x: Any) -> bytes:
    file = io.BytesIO()
    torch.save(x, file)
    return file.getvalue()


def loaded(file: bytes, **how: Any) -> Any:
    return torch.load(io.BytesIO(file), **how)


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_where_the_original_is(way: Any):
    assert way(torch.ones(2, device="cuda")).is_cuda
    assert way(torch.ones(2, device="cpu")).is_cpu


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
def test_a_tensor_made_of_a_tensor_is_where_that_is():
    host = torch.ones(2, device="cpu")
    assert torch.tensor(host).is_cpu
    assert torch.tensor(host, device="cuda").is_cuda
    assert torch.tensor(torch.ones(2, device="cuda")).is_cuda
    assert torch.tensor([1.0]).is_cuda


def test_a_file_says_where_its_tensors_were_and_map_location_where_they_come():
    gpu, host = saved(torch.ones(2, device="cuda")), saved(torch.ones(2, device="cpu"))
    for file in (gpu, host):
        for where in ("cpu", torch.device("cpu"), {"cuda:0": "cpu"}, lambda storage, location: storage):
            assert loaded(file, map_location=where).is_cpu
        for where in ("cuda", torch.device("cuda:0"), {"cpu": "cuda:0"}, lambda storage, location: storage.cuda()):
            assert loaded(file, map_location=where).is_cuda or (file is gpu and where == {"cpu": "cuda:0"})
    layer = torch.nn.Linear(2, 2, device="cuda")
    found = loaded(saved(layer.state_dict()))
    assert all(x.is_cuda for x in found.values())
    layer.load_state_dict(loaded(saved(layer.state_dict()), map_location="cpu"))
    assert layer.weight.is_cuda


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_the_host_are_on_the_host_and_can_be_pinned(workers: int):
    data = TensorDataset(torch.arange(6.0, device="cpu"))
    batches = [x for (x,) in DataLoader(data, batch_size=2, num_workers=workers)]
    assert [x.tolist() for x in batches] == [[0, 1], [2, 3], [4, 5]]
    assert all(x.is_cpu for x in batches)
    if not workers:
        pinned = [x for (x,) in DataLoader(data, batch_size=2, pin_memory=True)]
        assert all(x.is_pinned() and x.cuda().is_cuda for x in pinned)


class Quantised(torch.Tensor):
    """float32 to those who ask, int8 and a scale inside, as torchao's weights are."""

    @staticmethod
    def __new__(cls, q: torch.Tensor, scale: torch.Tensor) -> Any:
        made: Any = torch.Tensor._make_wrapper_subclass
        return made(cls, q.shape, dtype=torch.float32, device=q.device)

    def __init__(self, q: torch.Tensor, scale: torch.Tensor):
        self.q, self.scale = q, scale

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        x = args[0]
        if func is aten._to_copy.default:
            return Quantised(x.q.to(kwargs["device"]), x.scale.to(kwargs["device"]))
        assert func in (aten.detach.default, aten.alias.default)
        return Quantised(x.q, x.scale)


def test_a_tensor_that_holds_others_moves_them():
    def made(device: str) -> Any:
        return Quantised(torch.ones(3, dtype=torch.int8, device=device), torch.ones(1, device=device))

    gpu, host = made("cuda"), made("cpu")
    assert gpu.to("cuda") is gpu.cuda() is gpu.to(gpu) is gpu
    assert host.to("cpu") is host.cpu() is host
    for x in (host.cuda(), host.to("cuda"), host.to(gpu)):
        assert x.is_cuda
        assert x.q.is_cuda
        assert x.scale.is_cuda
    for x in (gpu.cpu(), gpu.to("cpu"), gpu.to(device="cpu", non_blocking=True)):
        assert x.is_cpu
        assert x.q.is_cpu
