"""The two computations of a comparison: what each is, its arrays, and what a run of it wrote and returned."""

import inspect
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from triton.runtime import KernelInterface

from ..compile import instrumented, members
from ..differences import copied, named_arrays, put
from ..errors import Refused
from ..launch import route
from ..reachable import buffer
from ..segments import Buffer, span
from ..torch_empty import unwritten
from . import ring
from .outside import Outside
from .torch_outside import watching_torch


class Side(NamedTuple):
    """One of the two computations."""

    name: str
    run: Callable[[], Any]
    arrays: dict[str, Any]  # of a launch, by parameter
    needs_kernel: bool


class Left(NamedTuple):
    """What a run of a side left.

    arrays    the bits of the arrays that are compared, and of those returned, by name
    written   names of all of its arrays that it wrote to, whatever it wrote, and of those returned
    blank     by name, which elements of torch.empty's memory nothing wrote
    """

    arrays: dict[str, np.ndarray]
    written: set[str]
    blank: dict[str, np.ndarray]


def side(x: Any, args: tuple, label: str) -> Side:
    """What `one` or `other` of `compare` is. Raises TypeError for what is neither a function nor a launch."""
    if isinstance(x, tuple) and 3 <= len(x) <= 4 and isinstance(x[0], KernelInterface):
        kernel, grid, given, keywords = (*x, {})[:4]
        names = list(getattr(kernel, "arg_names", ()))
        pairs = [*zip(names, given, strict=False), *keywords.items()]
        arrays = dict(pair for name, value in pairs for pair in arrays_in(name, value))
        return Side(getattr(kernel, "__name__", label), lambda: kernel[grid](*given, **keywords) and None, arrays, True)
    if not callable(x) or isinstance(x, KernelInterface):
        what = "a kernel alone" if isinstance(x, KernelInterface) else f"a {type(x).__name__}"
        what += " that does not begin with a kernel" if isinstance(x, tuple) else ""
        raise TypeError(f"{label} side is {what}; pass a function of the arrays, or (kernel, grid, args, keywords)")
    name = getattr(x, "__name__", label)
    call = ring.is_formula(x)
    values = [in_ring(value) for value in args] if call else args
    return Side(label if name == "<lambda>" else name, lambda: x(*values), {}, not call)


def in_ring(value: Any) -> Any:
    """An argument as a formula takes it: floats as ring.Array, ints as NumPy arrays, over the same memory."""
    if isinstance(value, Mapping):
        return {key: in_ring(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [in_ring(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if hasattr(value, "data_ptr"):
        return ring.array(value) if value.is_floating_point() else value.detach().numpy()
    floats = isinstance(value, np.ndarray) and value.dtype.name in ring.FORMATS
    return ring.array(value) if floats else value


def arrays_in(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays of one argument, in tuples, lists and dicts, too. Raises TypeError for those that have no bits."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from arrays_in(f"{name}[{key!r}]", item)
    elif isinstance(value, (tuple, list)):
        for part, item in zip(members(name, value), value, strict=True):
            yield from arrays_in(part, item)
    elif isinstance(value, ring.Array):
        yield name, value.bits
    else:
        for part, item in named_arrays(name, value):
            yield part, plain(part, item)


def plain(name: str, value: Any) -> Any:
    """The same array. Raises TypeError for one that no kernel takes: sparse, or of a type of no 1, 2, 4 or 8 bytes."""
    dtype = getattr(value, "dtype", None)
    kind = str(dtype).removeprefix("torch.")
    sparse = hasattr(value, "data_ptr") and "strided" not in str(getattr(value, "layout", "strided"))
    if sparse or "complex" in kind or getattr(value, "itemsize", 8) not in (1, 2, 4, 8):
        what = f"sparse, {value.layout}" if sparse else f"of {kind}"
        raise TypeError(f"{name} is {what}; kernels take dense arrays of ints and floats: pass such, as its parts")
    return value


def given(one: Any, args: tuple) -> dict[str, Any]:
    """The arrays among the arguments, by the parameters of the first side where it has such."""
    named = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    try:
        names = [p.name for p in inspect.signature(one).parameters.values() if p.kind in named]
    except (TypeError, ValueError):
        names = []
    names += [f"args[{n}]" for n in range(len(names), len(args))]
    return dict(pair for name, value in zip(names, args, strict=False) for pair in arrays_in(name, value))


def both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The arrays that two launches share, by the parameters of the first."""
    addresses = {place(x) for x in other.values()}
    return {name: x for name, x in one.items() if place(x) in addresses}


def place(x: Any) -> tuple:
    """What two arrays of the same elements have in common, whatever their shapes if they have no gaps."""
    array = buffer("", x).array
    if array.flags.c_contiguous:
        return array.ctypes.data, array.nbytes, array.itemsize
    return array.ctypes.data, array.shape, array.strides


@contextmanager
def same_random_numbers() -> Iterator[Callable[[], None]]:
    """Yields what sets the generators of torch, NumPy and Python to where they are now; afterwards they are there."""
    torch: Any = sys.modules.get("torch")
    states = random.getstate(), np.random.get_state(), torch and torch.get_rng_state()

    def rewind() -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if torch:
            torch.set_rng_state(states[2])

    try:
        yield rewind
    finally:
        rewind()


def ran(
    side: Side, shared: Iterable[str], memory: dict[str, np.ndarray], came: dict[str, np.ndarray],
    kernels: dict[str, Any], in_torch: list[Outside], **settings: Any,
) -> Left:  # fmt: skip
    """Run a side in the ring, and put its arrays back; adds the kernels that it launched and what it computed in torch.

    shared  the names of the arrays to compare, of those in `memory`, which holds what `came` does

    Raises Refused for a function that launched no kernel.
    """
    spans: set[tuple[int, int]] = set()  # that kernels wrote to
    hashes: set[str] = set()

    def each(report: Any) -> None:
        hashes.add(report.compiled.hash)
        kernels[report.compiled.hash] = report.compiled
        spans.update(report.stored_to.values())

    try:
        with instrumented("fpsan"), watching_torch(in_torch), route(keep=0, each=each, **settings):
            returned = dict(results("returned", side.run()))
            blank = unwritten([Buffer(name, x) for name, x in returned.items()])
        if side.needs_kernel and not hashes:
            raise Refused(
                f"{side.name} launched no Triton kernel here, or none but over an empty grid; give it CPU tensors and "
                "programs, and mark a formula of the ring with @ring.formula"
            )
        written = {name for name, x in memory.items() if not np.array_equal(x, came[name]) or meets(x, spans)}
        for name, x in returned.items():
            own = [array in written for array, y in memory.items() if meets(x, {span(y)})]
            if (any(own) or not own) and not (name in blank and blank[name].all()):
                written.add(name)
        return Left({name: memory[name].copy() for name in shared} | copied(returned), written, blank)
    finally:
        put(memory, came)


def meets(array: np.ndarray, spans: set[tuple[int, int]]) -> bool:
    """Whether an array's memory overlaps one of some spans."""
    first, end = span(array)
    return any(low < end and first < high for low, high in spans)


def results(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that a side returned, as bits, by name."""
    for part, item in arrays_in(name, value):
        yield part, buffer(part, item).array
