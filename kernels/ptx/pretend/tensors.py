"""What torch answers before its dispatcher is asked: functions that make tensors, and the devices that they are on.

C++ would look for a driver as soon as it saw "cuda", so these are given "cpu" and what they make is noted as the GPU's.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import overrides
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _device

from ..errors import Refused
from . import replaced
from .moves import CPU, is_cuda, moved
from .places import GPU, HOST, PINNED, UNSAID, faking, is_gpu, note, place, pretence, pretending, said

# torch's own list of what makes tensors from nothing, and those that take a device beside a tensor.
MAKERS = tuple(sorted(f.__name__ for f in _device._device_constructors() if vars(torch).get(f.__name__) is f))
MAKERS = ("normal", *(name for name in MAKERS if name not in ("as_tensor", "asarray")))
LIKE = ("empty_like", "full_like", "ones_like", "rand_like", "randint_like", "randn_like", "zeros_like")
METHODS = ("new_empty", "new_empty_strided", "new_full", "new_ones", "new_tensor", "new_zeros")
FFT = ("fftfreq", "rfftfreq")


def put_all() -> None:
    replaced.put(torch, "compile", replaced.around, compile)
    eager()
    for owner, names, new in ((torch, MAKERS, True), (torch.fft, FFT, True), (torch, LIKE, False),
                              (torch.Tensor, METHODS, False)):  # fmt: skip
        for name in names:
            replaced.put(owner, name, replaced.around, functools.partial(made, new))
    for name in ("as_tensor", "asarray", "from_numpy", "frombuffer"):
        replaced.put(torch, name, replaced.around, taken)
    for name, ours in (("device", said), ("is_cuda", is_cuda), ("is_cpu", is_cpu)):
        replaced.put(torch.Tensor, name, replaced.attribute, ours)
    replaced.put(FakeTensorMode, "avoid_device_init", replaced.attribute, lambda mode: True)  # which has no driver
    replaced.put(torch.nn.RNNBase, "flatten_parameters", replaced.function, lambda self: None)  # into cuDNN's layout
    replaced.put(torch.Tensor, "__cuda_array_interface__", replaced.attribute, array_interface)


def eager() -> None:
    """Have modules that were compiled run as they are written, as soon as torch's compiler is loaded."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo and dynamo._stance.stance != "force_eager":
        replaced.put(dynamo, "_stance", lambda usual, _: dynamo.DynamoStance("force_eager"), None)


def compile(usual: Callable[..., Any], model: Any = None, **settings: Any) -> Any:
    """torch.compile: what it makes runs as it is written where a thread pretends, and compiled elsewhere."""
    if isinstance(model, torch.nn.Module):
        compiled = usual(model, **settings)
        eager()
        return compiled
    if model is None:
        return lambda model: torch.compile(model, **settings)
    made: list[Any] = []

    @functools.wraps(model)
    def either(*args, **kwargs):
        if pretending():
            return model(*args, **kwargs)
        if not made:
            made.append(usual(model, **settings))
        return made[0](*args, **kwargs)

    return either


def is_cpu(x: torch.Tensor) -> bool:
    return said(x).type == "cpu"


def array_interface(x: torch.Tensor) -> Any:
    raise Refused(
        "__cuda_array_interface__ of a tensor is asked for; its memory is the CPU's, so no CUDA code can use it"
    )


def default_device() -> torch.device | None:
    """That of torch.set_default_device or `with torch.device(...)`, if one is set."""
    if not torch._C._len_torch_function_stack():
        return None
    found = [x.device for x in overrides._get_current_function_mode_stack() if isinstance(x, _device.DeviceContext)]
    return found[-1] if found else None


def made(new: bool, usual: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function makes, a tensor: from nothing if `new`, else its device may be another tensor's."""
    if kwargs.get("device") is CPU or faking():
        return usual(*args, **kwargs)
    device, pinned = kwargs.get("device"), kwargs.pop("pin_memory", None)
    if device is None and new:
        device = default_device()
    if device is None:
        where = UNSAID if new else None
    elif is_gpu(device):
        kwargs["device"], where = CPU, GPU
    else:
        where = HOST
    if pinned:
        where = PINNED
    now = pretence()
    before, now.making = now.making, where or ""
    try:
        out = usual(*args, **kwargs)
    finally:
        now.making = before
    source = args[0] if args else kwargs.get("data")
    if device is None and usual.__name__ == "tensor" and isinstance(source, torch.Tensor):
        where = None
    if where is None:
        where = place(source) if isinstance(source, torch.Tensor) else GPU
    return note(out, where) if isinstance(out, torch.Tensor) else out


def taken(usual: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
    """torch.as_tensor and its like: a new tensor, or the one that came, moved."""
    if kwargs.get("device") is CPU or faking():
        return usual(*args, **kwargs)
    device = kwargs.pop("device", None)
    device = default_device() if device is None else device
    source = args[0] if args else kwargs.get("data", kwargs.get("obj"))
    if usual.__name__ in ("as_tensor", "asarray"):
        kwargs["device"] = CPU
    out = usual(*args, **kwargs)
    if isinstance(source, torch.Tensor):
        return moved(source, out, device)
    return moved(None, note(out, UNSAID), device)
