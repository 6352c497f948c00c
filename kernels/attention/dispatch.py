"""Whether an operator must go through torch's dispatcher, or its body on the CPU may be called as it is."""

from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor


def keys(*names: Any) -> int:
    """Keys of torch's dispatcher, as it compares them."""
    return reduce(or_, map(torch._C.DispatchKeySet, names)).raw_repr()


NAMES = torch._C.DispatchKey
USUAL = keys(NAMES.BackendSelect, NAMES.ADInplaceOrView)  # of a thread in which nothing traces or transforms
PLAIN = keys(NAMES.CPU, NAMES.ADInplaceOrView, NAMES.AutogradCPU, NAMES.AutocastCPU)  # of a tensor


def undispatched(tensors: list[Tensor]) -> bool:
    """Whether torch's dispatcher, asked for an operator, would but count writes and call its body on the CPU.

    It takes 60 us, as long as the machine code of a small launch.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_function_stack():
        return False
    if torch.autograd._profiler_enabled():  # pyright: ignore[reportPrivateImportUsage]
        return False
    if torch._C._dispatch_tls_local_include_set().raw_repr() != USUAL:
        return False
    graded, of = torch.is_grad_enabled(), torch._C._dispatch_keys
    return all(
        t.__class__ is Tensor and of(t).raw_repr() == PLAIN and not (graded and t.requires_grad) for t in tensors
    )
