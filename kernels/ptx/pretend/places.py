"""Which tensors play on the pretended GPU, and which are on the host.

Every tensor's memory is the CPU's. What counts is who made it: a storage that is not noted here is on the GPU.
"""

import threading
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ..arrays import true_device
from ..errors import Refused
from .properties import Properties

HOST = "host"  # put there by device="cpu", .cpu() or .to("cpu")
PINNED = "pinned"  # likewise, but a kernel reaches it
UNSAID = "unsaid"  # made without a device: it plays on the GPU, but .cuda() copies it
GPU = "gpu"


@dataclass
class Pretence:
    """One thread's pretended GPU."""

    properties: Properties
    stream: Any  # the current one
    generator: Any  # torch.cuda.default_generators[0]
    noted: dict[int, tuple[Any, str]] = field(default_factory=dict)  # by storage: a weak reference, its place; else GPU
    making: str = ""  # where the tensor that is being made will be
    thread: int = field(default_factory=threading.get_ident)  # asyncio.to_thread hands this on, but torch no modes


_pretence: ContextVar[Pretence | None] = ContextVar("pretence", default=None)


def pretending() -> bool:
    """Whether this thread has a pretended GPU."""
    found = _pretence.get()
    return found is not None and found.thread == threading.get_ident()


def pretence() -> Pretence:
    found = _pretence.get()
    assert found is not None
    return found


def faking() -> bool:
    """Whether torch's FakeTensorMode is on, whose tensors are on any device and have no memory."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def is_gpu(device: Any) -> bool:
    """Whether a device, as torch takes it (a name, a number, torch.device), is the pretended GPU.

    Raises Refused for a second one.
    """
    if device is None or isinstance(device, bool):
        return False
    if isinstance(device, int):
        index = device
    else:
        device = torch.device(device)
        if device.type != "cuda":
            return False
        index = device.index or 0
    if index != 0:
        raise Refused(f"cuda:{index} is asked for; one GPU is pretended, cuda:0")
    return True


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor within those that torch.func's transforms wrap around it."""
    functorch: Any = vars(torch._C)["_functorch"]
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def key(tensor: torch.Tensor) -> int:
    """Of the tensor's storage; 0 if it has none of its own."""
    tensor = unwrapped(tensor)
    with suppress(RuntimeError, NotImplementedError):
        return tensor.untyped_storage()._cdata
    return 0


def place(tensor: torch.Tensor) -> str:
    """Where a tensor of the CPU plays."""
    return place_of(key(tensor)) if pretence().noted else GPU


def place_of(at: int) -> str:
    """Where the storage of a key plays."""
    weak, found = pretence().noted.get(at, (None, GPU))
    return GPU if weak is None or weak.expired() else found


def note(tensor: torch.Tensor, where: str) -> torch.Tensor:
    """Remember where a new tensor plays."""
    if true_device(tensor).type == "cpu" and key(tensor):
        note_storage(unwrapped(tensor).untyped_storage(), where)
    return tensor


def note_storage(storage: Any, where: str) -> None:
    """Remember where a new storage plays."""
    noted, at = pretence().noted, storage._cdata
    if where == GPU:
        noted.pop(at, None)
        return
    if len(noted) & (len(noted) - 1) == 0:  # now and then
        for gone in [k for k, (weak, _) in noted.items() if weak.expired()]:
            del noted[gone]
    noted[at] = StorageWeakRef(storage), where


def check_places(name: str, arguments: list[tuple[str, Any]]) -> None:
    """Raise Refused where an argument of a kernel is a tensor on the host, which a GPU does not reach."""
    for parameter, value in arguments:
        tensor = getattr(value, "base", value)
        if isinstance(tensor, torch.Tensor) and true_device(tensor).type == "cpu" and place(tensor) == HOST:
            raise Refused(
                f"{parameter} of {name} is on the CPU, where device='cpu', .cpu() or .to('cpu') put it or what it was "
                f'made of, so Triton raises that it "cannot be accessed from Triton (cpu tensor?)": pass it .cuda()'
            )


def said(tensor: torch.Tensor) -> torch.device:
    """The device that a tensor says it is on."""
    true = true_device(tensor)
    if true.type != "cpu":
        return true
    return true if place(tensor) in (HOST, PINNED) else torch.device("cuda", 0)
