"""Triton's kernel for a launch like one before, without asking Triton, which takes five times as long to find it.

What Triton specialises a kernel on stands in a key, at least as finely as it does: types; of integers whether they are
1, multiples of 16, and how wide; of addresses how they are aligned; constexprs and options themselves. A kernel is
handed out again as long as Triton's own cache has it.
"""

import sys
from itertools import count
from typing import Any

import numpy as np
from triton import knobs

from .options import IDLE
from .segments import address_of

MOST = 1024  # launches
_known: dict[tuple, tuple] = {}


class Unmarked(TypeError):
    """An argument of another kind than those that are told apart here."""


def key_of(
    kernel: Any, parameters: dict[str, Any], options: dict[str, Any], target: Any, asked: str | None
) -> tuple[tuple | None, list[Any]]:
    """The key of a launch, None where Triton is to be asked; and all that its parameters hold but constexprs, in a row.

    target  a GPUTarget
    asked   of this thread's launches, the mode of instrumentation
    """
    runtime, stages, values = knobs.runtime, knobs.compilation, []
    found = [id(kernel), target.arch, asked, kernel.debug, runtime.debug, runtime.add_stages_inspection_hook]
    found += getattr(runtime, "override_arch", None), getattr(stages, "instrumentation_mode", ""), stages.dump_ir
    torch: Any = sys.modules.get("torch")
    for name, x in options.items():
        found += name, x.__class__, x
    try:
        for parameter, x in zip(kernel.params, parameters.values(), strict=True):
            if parameter.is_constexpr:
                found += x.__class__, x
            else:
                mark(x, found, values, torch and torch.Tensor)
        hash(key := tuple(found))
    except TypeError:
        return None, []
    # Those are called, and of such options is warned, at each launch.
    return None if kernel.pre_run_hooks or any(map(options.get, IDLE)) else key, values


def mark(x: Any, found: list[Any], values: list[Any], tensor: Any) -> None:
    """Note what Triton may specialise on in a value. Raises Unmarked."""
    kind = x.__class__
    found.append(kind)
    if isinstance(x, tuple):
        found.append(len(x))
        for item in x:
            mark(item, found, values, tensor)
        return
    values.append(x)
    if kind is int:
        found.append((x == 1, x & 15 == 0, -(1 << 31) <= x < 1 << 31, -(1 << 63) <= x < 1 << 63, x < 1 << 64))
    elif kind is tensor:
        found += x.dtype, x.data_ptr() & 15
    elif kind is np.ndarray:
        found += x.dtype, address_of(x) & 15
    elif kind is bool:
        found.append(x)
    elif x is not None and kind is not float:
        raise Unmarked(kind)


def recalled(kernel: Any, key: tuple, target: Any) -> tuple[Any, list[tuple[str, int]]]:
    """The CompiledKernel of an earlier launch of this key, and which of the values each of its PTX's parameters is; or
    None, where there was none or Triton has another by now."""
    if not (found := _known.get(key)):
        return None, []
    _, out, order, cache, at = found
    theirs = kernel.device_caches.get(target) or (None,)
    same = all(value == of.get(name, key) for (name, _), (value, of) in kernel.used_global_vals.items())
    return (out, order) if same and theirs[0] is cache and cache.get(at) is out else (None, [])  # or Triton complains


def numbered(kernel: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters, with numbers from 0 on in place of the values that `key_of` gives."""
    numbers = count()

    def number(x: Any) -> Any:
        if not isinstance(x, tuple):
            return next(numbers)
        return type(x)(*map(number, x)) if hasattr(x, "_fields") else tuple(map(number, x))

    pairs = zip(kernel.params, parameters.items(), strict=True)
    return {name: x if parameter.is_constexpr else number(x) for parameter, (name, x) in pairs}


def remember(kernel: Any, key: tuple, target: Any, out: Any, order: list[tuple[str, int]]) -> None:
    cache = kernel.device_caches[target][0]
    if at := next((at for at, x in cache.items() if x is out), None):
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = kernel, out, order, cache, at  # so that no other kernel has its id
