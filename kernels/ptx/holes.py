"""Arrays with holes: elements so far apart that an index of 32 bits overflows, in memory that is never allocated.

    slots = ptx.spread(np.zeros((3, 576), np.uint8), 2**30)  # 3 slots, 2**30 bytes apart: slot 2 lies at byte 2**31
    ptx.run(kernel, 1, slots, slots.strides[0], 2)

In the machine's arena the elements lie close together, whatever is between them in the caller's memory.
"""

import math
import mmap
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

HOLE = 1 << 24  # bytes between elements, from which on they are left out of the arena
MOST = 1 << 16  # pieces that an array may fall into
MOST_BYTES = 1 << 47  # addresses that Linux gives a process
NORESERVE = 0x4000  # Linux's MAP_NORESERVE: addresses without memory behind them until something is written there


class Close(NamedTuple):
    """Where the elements of an array with holes lie in the arena.

    strides  of the array there
    apart    (N,) int64 first byte of each piece in the caller's memory, counted from that of the first
    at       (N,) the same in the arena
    length   bytes of a piece
    """

    strides: tuple[int, ...]
    apart: np.ndarray
    at: np.ndarray
    length: int


def close(array: np.ndarray, guard: int, room: int = 0) -> Close | None:
    """An array's place in the arena without its holes, each of which leaves `guard` bytes or more; None: it has none.

    Each piece has `room` bytes at least. An address keeps its lowest 8 bits.
    """
    strides, extent, size, length = list(array.strides), array.itemsize, array.itemsize, 0
    apart = at = np.zeros(1, np.int64)
    for axis in sorted(range(array.ndim), key=lambda i: abs(array.strides[i])):
        n, stride = array.shape[axis], abs(array.strides[axis])
        step = stride
        if n > 1 and stride - extent >= HOLE:
            length, size = length or extent, size if length else max(size, room)
            step = size + guard + (stride - size - guard) % 256
            apart, at = (np.add.outer(np.arange(n) * s, x).ravel() for s, x in ((stride, apart), (step, at)))
            strides[axis] = step if array.strides[axis] > 0 else -step
        elif n > 1 and length:  # pieces that overlap others
            return None
        extent, size = extent + (n - 1) * stride, size + (n - 1) * step
    return Close(tuple(strides), apart, at, length) if 1 < len(apart) <= MOST else None


def spread(array: Any, apart: SupportsIndex | Sequence[SupportsIndex]) -> Any:
    """A copy of an array whose elements lie as far apart as its kernel is to reach, in memory that is not allocated.

    array  NumPy array or torch tensor, left as it is
    apart  the stride of its first axis in elements; or of each axis, positive, with no two elements in one place

    returns an array or tensor of the same shape, type and values: `spread(x, 2**30)[2]` lies 2**31 elements after
    `[0]`. Only pages that are written take memory, 4 KiB or more for each piece.

    Raises TypeError for what is no array or no stride, ValueError for strides that do not fit or reach 2**47 bytes,
    OSError for as much as this system does not give.
    """
    tensor = hasattr(array, "data_ptr")
    if not tensor and not isinstance(array, np.ndarray):
        raise TypeError(f"a {type(array).__name__} came; spread takes a NumPy array or a torch tensor: make it one")
    shape, itemsize = tuple(array.shape), array.itemsize
    strides = strides_of(shape, apart)
    size = (1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))) * itemsize
    if size > MOST_BYTES:
        raise ValueError(
            f"apart is {apart}; shape {list(shape)} would reach over {size} bytes; a process has addresses for 2**47: "
            "give smaller strides"
        )
    try:
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
    except OSError as error:
        what = f"{error.strerror}: this system gives no {size} bytes of addresses, over which shape {list(shape)} with "
        raise OSError(error.errno, f"{what}apart={apart} reaches; give smaller strides") from None
    if tensor:
        import torch

        copy = torch.frombuffer(memory, dtype=torch.uint8).view(array.dtype).as_strided(shape, strides)
        return copy.copy_(array)  # pyright: ignore[reportArgumentType]
    copy = np.ndarray(shape, array.dtype, memory, 0, [stride * itemsize for stride in strides])
    copy[...] = array
    return copy


def strides_of(shape: tuple[int, ...], apart: Any) -> list[int]:
    """What `apart` of `spread` says of each axis, in elements. Raises as it does."""
    what = f"apart is {apart}"
    if not shape or 0 in shape:
        raise ValueError(f"shape {list(shape)} has no elements to lie apart; pass an array of one axis or more")
    try:
        if isinstance(apart, Sequence) or np.ndim(apart):
            strides = [operator.index(stride) for stride in apart]
        else:
            inner = [math.prod(shape[axis + 1 :]) for axis in range(1, len(shape))]
            strides = [operator.index(apart), *inner]
    except TypeError:
        raise TypeError(f"{what}; it takes a whole number of elements, or one for each axis") from None
    if len(strides) != len(shape):
        raise ValueError(
            f"{what}; shape {list(shape)} has {len(shape)} axes: give as many strides, or that of the first"
        )
    if min(strides) < 0:
        raise ValueError(f"{what}; strides are positive, or 0 for an axis of one element")
    reach = 1
    for stride, n in sorted(zip(strides, shape, strict=True)):
        if stride < reach and n > 1:
            raise ValueError(f"{what}; elements of shape {list(shape)} overlap; give strides of {reach} or more")
        reach += (n - 1) * stride
    return strides
