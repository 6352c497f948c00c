"""What torch's dispatcher is asked while a thread pretends.

Creation on "cuda" gives the CPU's memory, also from within C++; results of tensors that are on the host stay there; and
an operator that Python has registered for CUDA (torch.library, Triton's own too) runs that kernel.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import library
from torch.utils._python_dispatch import TorchDispatchMode

from ..arrays import true_device
from ..errors import Refused
from .places import GPU, HOST, UNSAID, faking, is_gpu, key, note, place, pretence, pretending, said

CPU = torch.device("cpu")
KEYS = torch._C.DispatchKey
OURS_TOO = ("CPU", "CompositeExplicitAutograd", "CompositeImplicitAutograd")


class Dispatch(TorchDispatchMode):
    """torch's own kernels of the CPU, for tensors that play on the GPU."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: it would import torch._dynamo at the first operator, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not pretending() or isinstance(func, torch._ops.HigherOrderOperator):
            return func(*args, **kwargs)  # one of those is what launches a kernel of torch.library.triton_op
        if faking():
            return func(*args, **kwargs)
        if any(hasattr(t, "__torch_dispatch__") and t not in PLAIN for t in types):
            return NotImplemented  # of a subclass, which asks again for what it holds
        inputs = [*tensors((*args, *kwargs.values()))]
        device = kwargs.get("device")
        if device is not None and pretence().making == GPU:
            device = torch.device("cuda", 0)
        out = self.called(func, args, kwargs, inputs, device)
        if pretence().noted:
            settle(inputs, out, device)
        return out

    def called(self, func: Any, args: tuple, kwargs: dict[str, Any], inputs: list, device: Any) -> Any:
        """The kernel of an operator, one of Python's with the pretence on."""
        if by_python(func, "CUDA") and on_gpu(inputs, device):
            with self:
                return func._op_dk(KEYS.CUDA, *args, **(kwargs if device is None else {**kwargs, "device": device}))
        if func.namespace not in ("aten", "prim", "prims"):
            for which in OURS_TOO:
                if by_python(func, which):
                    with self:
                        return func._op_dk(getattr(KEYS, which), *args, **kwargs)
            if has_kernel(func, "CUDA") and not has_kernel(func, *OURS_TOO):
                what = f"{func.name()} is machine code for a GPU, which a pretended one cannot run"
                raise Refused(f"{what}: use an operator of Triton or torch in its place")
        if device is not None and is_gpu(device):
            kwargs = {**kwargs, "device": CPU}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        args = tuple(CPU if isinstance(x, torch.device) and is_gpu(x) else x for x in args)
        if draws(func) and draws_on_gpu(inputs, args, kwargs, device):
            with pretence().generator.drawing():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


@functools.cache
def draws(func: Any) -> bool:
    """Whether an operator takes random numbers."""
    return torch.Tag.nondeterministic_seeded in func.tags


def draws_on_gpu(inputs: list[torch.Tensor], args: tuple, kwargs: dict[str, Any], device: Any) -> bool:
    """Whether an operator would draw them from torch.cuda's generator: it is given none, and is on the GPU."""
    if any(isinstance(x, torch._C.Generator) for x in (*args, *kwargs.values())):
        return False
    if device is not None:
        return is_gpu(device)
    return any(place(x) == GPU for x in inputs)


def by_python(func: Any, key: str) -> bool:
    """Whether an operator's kernel for a dispatch key is a Python function, and not one of torch's own."""
    schema = func._schema
    overload = f".{schema.overload_name}" if schema.overload_name else ""
    if f"{schema.name.replace('::', '/')}{overload}/{key}" not in library._impls:
        return False
    line = re.search(rf"^{key}: registered at (.*)", torch._C._dispatch_dump(func.name()), re.MULTILINE)
    return line is None or "/torch/_native/" not in line[1]  # since 2.14 torch has some, which end in machine code


def on_gpu(inputs: list[torch.Tensor], device: Any) -> bool:
    """Whether an operator runs on the GPU: what it makes is to be there, or a tensor that it takes is."""
    if device is not None:
        return is_gpu(device)
    return any(said(x).type == "cuda" for x in inputs)


PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def has_kernel(func: Any, *keys: str) -> bool:
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), which) for which in keys)


def tensors(values: Any) -> Iterator[torch.Tensor]:
    """The tensors among arguments or results, and in their lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors(value)


def settle(inputs: list[torch.Tensor], out: Any, device: Any) -> None:
    """Note where results are: on the GPU if an input is; else on the host if all are."""
    if not inputs or (device is not None and is_gpu(device)):
        return
    places = [place(x) for x in inputs if true_device(x).type == "cpu" and x.dim()]
    if not places:  # the sum of two numbers
        places = [place(x) for x in inputs if true_device(x).type == "cpu"]
    if not places or GPU in places:
        return
    where = UNSAID if UNSAID in places else HOST
    old = {key(x) for x in inputs}
    for x in tensors((out,)):
        if key(x) not in old:
            note(x, where)
