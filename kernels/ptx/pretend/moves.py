"""Methods by which a tensor moves between the GPU and the host, or says where it is.

Memory is copied where a GPU would copy it, and nowhere else.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..arrays import true_device
from . import replaced
from .places import GPU, HOST, PINNED, UNSAID, faking, is_gpu, key, note, place, said

# In place of "cuda". This object, and no other of the kind: a TorchFunctionMode is handed what stands here for a method
# of a tensor, and calls it a second time.
CPU = torch.device("cpu")


def put_all() -> None:
    method = functools.partial(
        replaced.around, where=lambda self, *_: (true_device(self).type == "cpu" or wraps(self)) and not faking()
    )
    for name in ("to", "cuda", "cpu", "pin_memory", "is_pinned", "type", "get_device", "record_stream"):
        replaced.put(torch.Tensor, name, method, globals()[f"tensor_{name}"])
    static = lambda usual, ours: staticmethod(replaced.around(usual, ours))  # noqa: E731
    replaced.put(torch.Tensor, "_make_wrapper_subclass", static, wrapper)


def is_cuda(x: torch.Tensor) -> bool:
    return said(x).type == "cuda"


def wrapper(usual: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
    """Tensor._make_wrapper_subclass: what says that it is on the CPU, since what it holds is, does so on."""
    out, device = usual(*args, **kwargs), kwargs.get("device")
    if device is not None and torch.device(device).type == "cpu" and not faking():
        note(out, HOST)
    return out


def moved(source: torch.Tensor | None, out: torch.Tensor, device: Any) -> torch.Tensor:
    """`out`, which is `source` or made of it, on a device: copied where a GPU would copy it."""
    if device is None or true_device(out).type != "cpu":
        return out
    to = GPU if is_gpu(device) else HOST
    at = UNSAID if source is None else place(source)
    stays = at == to or (at == PINNED and to == HOST)
    if not stays and source is not None and key(out) == key(source):
        return Moved.apply(out, to, at)
    return out if stays else note(out, to)


class Moved(torch.autograd.Function):
    """A copy on the GPU or the host, whose gradient comes back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, to: str, at: str) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return note(x.clone(), to)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, str, str], output: torch.Tensor) -> None:
        _, ctx.to, ctx.at = inputs

    @staticmethod
    def jvp(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return Moved.apply(grads[0], ctx.to, ctx.at)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return Moved.apply(grads[0], ctx.at, ctx.to), None, None


def tensor_to(usual: Any, self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Tensor.to(device, dtype), .to(dtype), .to(tensor), with non_blocking, copy and memory_format."""
    if args and args[0] is CPU:
        return usual(self, *args, **kwargs)
    given, device = [*args], kwargs.pop("device", None)
    if given and isinstance(given[0], torch.Tensor):
        kwargs["other"] = given.pop(0)
    elif given and (given[0] is None or isinstance(given[0], (str, torch.device, int))):
        device = given.pop(0)
    if "other" in kwargs:
        other = kwargs.pop("other")
        device, kwargs["dtype"] = other.device, other.dtype
    kwargs |= zip((*(() if "dtype" in kwargs else ("dtype",)), "non_blocking", "copy"), given, strict=False)
    if device is not None and not is_gpu(device) and torch.device(device).type != "cpu":
        return usual(self, device, **kwargs)
    if wraps(self):
        return wrapped_to(self, "cuda:0" if is_gpu(device) else device, **kwargs)
    return usual(moved(self, self, device), CPU, **kwargs)


def wraps(x: torch.Tensor) -> bool:
    """Whether a tensor is of a subclass that has its own say at the dispatcher, such as a quantised weight."""
    tensor: Any = torch.Tensor
    return getattr(type(x), "__torch_dispatch__", None) is not tensor.__torch_dispatch__


def wrapped_to(self: torch.Tensor, device: Any, dtype: Any = None, copy: bool = False, **kwargs: Any) -> torch.Tensor:
    """Tensor.to of such a one, which moves what it holds."""
    device, dtype = self.device if device is None else torch.device(device), dtype or self.dtype
    if device.type == self.device.type and dtype == self.dtype and not copy:
        return self
    return torch.ops.aten._to_copy.default(self, dtype=dtype, layout=self.layout, device=device, **kwargs)


def tensor_cuda(usual: Any, self: torch.Tensor, device: Any = None, non_blocking: bool = False,
                memory_format: torch.memory_format = torch.preserve_format) -> torch.Tensor:  # fmt: skip
    device = "cuda" if device is None else device
    if not is_gpu(device):
        raise RuntimeError(f"Invalid device, must be cuda device: {device} came; use .to({str(device)!r})")
    return self.to("cuda", memory_format=memory_format)


def tensor_cpu(usual: Any, self: torch.Tensor, *, memory_format: Any = torch.preserve_format) -> torch.Tensor:
    return self.to("cpu", memory_format=memory_format)


def tensor_pin_memory(usual: Any, self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if is_cuda(self) and place(self) == GPU:
        raise RuntimeError(f"cannot pin '{self.type()}': only dense CPU tensors can be pinned")
    return self if place(self) == PINNED else note(self.clone(), PINNED)


def tensor_is_pinned(usual: Any, self: torch.Tensor, *args: Any, **kwargs: Any) -> bool:
    return place(self) == PINNED


def tensor_type(usual: Any, self: torch.Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Tensor.type(): its name, or a conversion."""
    if dtype is None:
        name = usual(self)
        return name.replace("torch.", "torch.cuda.", 1) if is_cuda(self) and ".cuda." not in name else name
    if isinstance(dtype, type):
        dtype = f"{dtype.__module__}.{dtype.__name__}"
    if isinstance(dtype, str):
        out = usual(self, dtype.replace("torch.cuda.", "torch.", 1))
        return moved(self, out, "cuda" if dtype.startswith("torch.cuda.") else "cpu")
    return usual(self, dtype, *args, **kwargs)


def tensor_get_device(usual: Any, self: torch.Tensor) -> int:
    return 0 if is_cuda(self) else -1


def tensor_record_stream(usual: Any, self: torch.Tensor, stream: Any) -> None:
    """Nothing: memory is given back when it is no longer used."""
