"""The arrays that a launch may touch: its arguments, scratch memory, and what a table of pointers leads to."""

import gc
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from .arrays import true_device
from .segments import BITS, SURELY, Buffer, span

UNSIGNED = {n: np.dtype(f"u{n}") for n in (1, 2, 4, 8)}


def buffer(name: str, value: Any) -> Any:
    """An array argument -> a Buffer over its memory, as unsigned ints of its element size; a number -> itself.

    Raises ValueError for a tensor that is not on the CPU.
    """
    if value.__class__ in (int, float, bool):
        return value
    torch: Any = sys.modules.get("torch")
    if torch and value.__class__ is torch.Tensor and value.dtype in plain():
        try:
            array = value.numpy()
            if 0 not in array.strides:
                return Buffer(name, array.view(UNSIGNED[array.itemsize]))
        except (RuntimeError, TypeError):  # it is elsewhere, has a gradient, is negated, ...
            pass
    if hasattr(value, "data_ptr"):
        value = getattr(value, "base", value)  # of triton.reinterpret
        device = true_device(value)
        if device.type != "cpu":
            advice = f"pass {name}.cpu(), or launch the kernel as usual to run it there"
            raise ValueError(f"{name} is on {device}; the machine works on this computer's memory: {advice}")
        words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        value = beyond(value).detach().view(words[value.element_size()]).numpy()
    if isinstance(value, np.ndarray):
        return Buffer(name, value.view(f"u{value.itemsize}"))
    return value.item() if isinstance(value, np.generic) else value


@cache
def plain() -> frozenset[Any]:
    """The types of torch's elements that NumPy has, too."""
    import torch

    return frozenset((torch.float32, torch.float64, torch.float16, torch.uint8, torch.int8, torch.int32, torch.int64))


def beyond(tensor: Any) -> Any:
    """What a kernel may touch by a tensor's pointer: the tensor, unless it repeats a part of another.

    FlagGems' gather gives the dimension that it indexes itself a stride of 0: elements of the tensor it was made from
    that lie behind the pointer are meant, too.
    """
    strides, whole = tensor.stride(), tensor._base
    if 0 not in strides:
        return tensor
    kept = [n for n, stride in zip(tensor.shape, strides, strict=True) if stride]
    repeats = math.prod(kept) < tensor.numel()
    if whole is None or not repeats or whole.dtype != tensor.dtype or not whole.is_contiguous():
        return tensor
    if math.prod(kept) == whole.numel():  # all of it, as torch's expand repeats it
        return tensor
    count = whole.storage_offset() + whole.numel() - tensor.storage_offset()
    return tensor.as_strided((count,), (1,))


def scratch(name: str, size: int, alignment: int, programs: int) -> Buffer:
    """What Triton's allocator would give: `size` bytes for each program, one program after the other."""
    room = np.zeros(programs * size + alignment, np.uint8)
    first = -room.ctypes.data % alignment
    return Buffer(name, room[first : first + programs * size])


def named(reachable: Any) -> Iterator[tuple[str, Any]]:
    """`reachable` of a launch as pairs of a name and an array. Raises TypeError for anything but arrays."""
    if isinstance(reachable, Mapping):
        pairs = [(str(name), x) for name, x in reachable.items()]
    elif isinstance(reachable, Sequence):
        pairs = [(f"reachable[{n}]", x) for n, x in enumerate(reachable)]
    else:
        pairs = [("reachable", reachable)]
    for name, x in pairs:
        if not isinstance(x, np.ndarray) and not hasattr(x, "data_ptr"):
            raise TypeError(f"{name} is {type(x).__name__}; reachable= takes arrays, in a list or by name in a dict")
        yield name, x


def reached(buffers: list[Buffer], reachable: Any) -> list[Buffer]:
    """What a launch may touch beyond its arguments: `reachable`, and live tensors that tables of pointers point into.

    buffers    the arguments; a table is any of 64-bit words
    reachable  None, an array, several, or arrays by name

    A tensor that a table alone leads to is called `*table[i]`. NumPy arrays are found only if `reachable` names them.
    """
    found = [buffer(name, x) for name, x in named(reachable if reachable is not None else ())]
    tables = [b for b in (*buffers, *found) if b.array.itemsize == 8]
    while tables:
        known = [span(b.array) for b in (*buffers, *found) if b.array.size]
        new = [*pointed(tables, known)]
        found, tables = found + new, [b for b in new if b.array.itemsize == 8]
    return found


def pointed(tables: list[Buffer], known: list[tuple[int, int]]) -> Iterator[Buffer]:
    """The tensors outside of the `known` spans of memory that addresses in some tables lie in."""
    wanted: dict[int, str] = {}
    for table, array in tables:
        likely = (array >= SURELY) & (array < 1 << BITS - 1)
        for at in np.argwhere(likely) if likely.any() else ():
            wanted.setdefault(int(array[tuple(at)]), f"*{table}[{', '.join(map(str, at))}]" if len(at) else f"*{table}")
    for low, high in known:
        wanted = {address: name for address, name in wanted.items() if not low <= address < high}
    if not wanted:
        return
    tensors = sorted(living(), key=lambda b: span(b.array)[0] - span(b.array)[1])  # the largest first
    for _, array in tensors:
        low, high = span(array)
        inside = [address for address in wanted if low <= address < high]
        if inside:
            yield Buffer(wanted[inside[0]], array)
            wanted = {address: name for address, name in wanted.items() if address not in inside}


def living() -> Iterator[Buffer]:
    """Every tensor of this process that lies in its memory."""
    torch: Any = sys.modules.get("torch")
    for x in gc.get_objects() if torch else ():
        plain = type(x) in (torch.Tensor, torch.nn.Parameter) and x.layout == torch.strided
        if plain and true_device(x).type == "cpu" and math.prod(x.shape) and not x.is_complex() and not x.is_quantized:
            with suppress(RuntimeError):  # within a transform of torch.func there is no memory to see
                yield buffer("", x)
