"""Memory of torch.empty, allocated while a route is open and still unwritten.

It is filled with a NaN that no arithmetic makes; an element that still holds it is unwritten. Types of 8 and 16 bits
but float16 and bfloat16 have no such pattern: there one other byte makes the whole tensor count as written.
"""

import functools
import threading
from bisect import bisect_right, insort
from collections.abc import Callable
from contextlib import AbstractContextManager
from ctypes import c_char
from typing import Any, NamedTuple

import numpy as np

from .arrays import true_device
from .patches import Patches
from .segments import Buffer, address_of, span

PATTERN = 0xFFE5  # a NaN as float16, bfloat16 and, repeated, float32 and float64
PATTERNS = {n: np.array([PATTERN] * 4, "u2").view(f"u{n}")[0] for n in (2, 4, 8)}  # of elements, by their bytes
MOST = 1 << 30  # bytes of a tensor that is looked after
FUNCTIONS = ("empty", "empty_like", "empty_strided", "empty_permuted")  # of torch
METHODS = ("new_empty", "new_empty_strided")  # of torch.Tensor


class Storage(NamedTuple):
    """A tensor's memory."""

    low: int
    high: int
    exact: bool  # whether unwritten elements are known one by one
    weak: Any

    def words(self) -> np.ndarray:
        """The bytes as words of the pattern's size; an odd one at the end is left out."""
        memory: Any = (c_char * (self.high - self.low)).from_address(self.low)
        return np.frombuffer(memory, "u2", (self.high - self.low) // 2)


_patches = Patches(afterwards=lambda: (_storages.clear(), _lows.clear()))
_noting = threading.Lock()
_storages: dict[int, Storage] = {}  # by first byte; no two overlap
_lows: list[int] = []  # their first bytes, in order
_look = [16]  # how many there are when those that are gone are looked for


def watching(here: Callable[[], bool]) -> AbstractContextManager[None]:
    """Inside, torch's functions that give unwritten memory note it, in threads where `here()` is true."""
    import torch

    def everything() -> None:
        for owner, names in ((torch, FUNCTIONS), (torch.Tensor, METHODS)):
            for name in names:
                _patches.put(owner, name, noted(getattr(owner, name), here))

    return _patches.open(everything)


@functools.lru_cache(maxsize=32)
def noted(function: Any, here: Callable[[], bool]) -> Any:
    import torch

    @functools.wraps(function)
    def empty(*args, **kwargs):
        made = function(*args, **kwargs)
        if not torch.compiler.is_compiling() and type(made) is torch.Tensor and here() and "out" not in kwargs:
            note(made)
        return made

    return empty


def note(tensor: Any) -> None:
    """Fill a new tensor with the pattern and remember its memory."""
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef

    if true_device(tensor).type != "cpu" or tensor.layout != torch.strided:
        return
    memory = tensor.untyped_storage()
    size, low = memory.nbytes(), memory.data_ptr()
    if not 2 <= size <= MOST or not low:
        return
    exact = tensor.element_size() >= 4 or tensor.dtype in (torch.float16, torch.bfloat16)
    storage = Storage(low, low + size, exact, StorageWeakRef(memory))
    with _noting:
        before, end = bisect_right(_lows, low) - 1, bisect_right(_lows, low + size - 1)
        near = [_storages[x] for x in _lows[max(before, 0) : end]]  # may overlap: all in between do, the first may
        gone = [s for s in near if s.high > low]  # whose memory was given back
        if len(_storages) >= _look[0]:  # now and then
            gone += [s for s in _storages.values() if s.weak.expired() and s not in gone]
            _look[0] = 16 + 2 * (len(_storages) - len(gone))
        for other in gone:
            del _storages[other.low]
            _lows.remove(other.low)
        _storages[low] = storage
        insort(_lows, low)
    storage.words()[...] = PATTERN


def unwritten(buffers: list[Buffer]) -> dict[str, np.ndarray]:
    """By array, the unwritten elements, bool of its shape, where not all may count as written."""
    found = {}
    for name, array in buffers:
        first = address_of(array)
        at = bisect_right(_lows, first)
        storage = _storages.get(_lows[at - 1]) if at else None
        if storage is not None and first < storage.high and array.size:
            found |= {name: blank} if (blank := blank_of(array, first, storage)) is not None else {}
    return found


def blank_of(array: np.ndarray, first: int, storage: Storage) -> np.ndarray | None:
    """The unwritten elements of an array that begins in a storage; None: all may count as written."""
    low, high = (first, first + array.nbytes) if array.flags.c_contiguous else span(array)
    # not one whose memory was given back, and part of it out again
    if low < storage.low or high > storage.high or storage.weak.expired():
        return None
    if not storage.exact:
        return np.ones(array.shape, bool) if (storage.words() == PATTERN).all() else None
    if array.itemsize == 1:
        return None
    blank = array == PATTERNS[array.itemsize]
    return blank if np.count_nonzero(blank) else None
