"""Hold two computations to one algebra: run both with Triton's fpsan, and compare all bits."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import triton
from triton.runtime import KernelInterface

from ..check import copied, named_arrays, put
from ..compile import instrumented
from ..errors import Refused
from ..launch import route
from ..reachable import buffer
from . import ring
from .outside import Outside, outside
from .torch_outside import watching_torch
from .verdict import Difference, DifferentAlgebra, Verdict

TARGET = "sm_90"  # as run's: fpsan makes dots loops over scratch memory on every target, with the same bits


class Side(NamedTuple):
    """One of the two computations."""

    name: str
    run: Callable[[], Any]
    arrays: dict[str, Any]  # of a launch, by parameter
    needs_kernel: bool


def same_algebra(one: Any, other: Any, /, *args: Any, **settings: Any) -> Verdict:
    """Raise DifferentAlgebra unless two computations leave the same bits under fpsan; as `compare` otherwise."""
    verdict = compare(one, other, *args, **settings)
    if not verdict.same:
        raise DifferentAlgebra(verdict)
    return verdict


def compare(
    one: Any, other: Any, /, *args: Any, target: str = TARGET, outputs: Any = None, checks: bool = False,
    **settings: Any,
) -> Verdict:  # fmt: skip
    """Run two computations in the ring, from the same arrays, and compare what they leave and return, bit for bit.

    one, other  each a function of `args`: a launcher of Triton kernels on the CPU, or a `ring.formula`; or a launch,
                (kernel, grid, args) or (kernel, grid, args, keywords)
    args        arrays, which are compared, and other arguments. Without them two launches are compared in the
                arrays that both were given
    outputs     names of the arrays to compare, where others are scratch: parameters of `one`, "returned"
    target      the GPU to compile for
    checks      of races and of memory; by default left to `check`, for instrumented code is long
    settings    of `route`: seed, max_steps, readable, reachable, ...

    Afterwards all arrays are as they came. Triton's instrumentation mode is switched on for the whole process while
    this runs. Raises Refused without fpsan, if nothing is compared, or if neither side writes anything.
    """
    need_fpsan()
    sides = [side(x, args, label) for x, label in ((one, "the first"), (other, "the second"))]
    shared = given(one, args) if args else both(*(s.arrays for s in sides))
    everything = {f"{n} {k}": x for n, s in enumerate(sides) for k, x in s.arrays.items()} | shared
    memory = {name: buffer(name, x).array for name, x in everything.items()}
    came = copied(memory)
    kernels: dict[str, Any] = {}
    in_torch: list[Outside] = []
    found = []
    for each in sides:
        try:
            put(memory, came)
            with instrumented("fpsan"), watching_torch(in_torch):
                returned = launched(each, kernels, target=target, checks=checks, **settings)
            found.append({name: memory[name].copy() for name in shared} | dict(results("returned", returned)))
        finally:
            put(memory, came)
    names = chosen(outputs, sides, *found)
    if all(name in came and np.array_equal(x[name], came[name]) for x in found for name in names):
        raise Refused(f"neither side wrote to {', '.join(names)}; compare arrays that they write, or return them")
    differences = filter(None, (difference(name, *(x[name] for x in found)) for name in names))
    beyond = (*outside(kernels.values()), *{x.operation: x for x in in_torch}.values())
    return Verdict((sides[0].name, sides[1].name), tuple(names), tuple(differences), beyond)


def need_fpsan() -> None:
    """Raise Refused for a Triton without fpsan, which came with 3.8."""
    from triton._C.libtriton import passes

    if not hasattr(passes.ttgpuir, "add_fp_sanitizer"):
        raise Refused(
            f"the check of algebra needs fpsan of Triton 3.8, and {triton.__version__} has none: install triton>=3.8, "
            "or compare numbers, with a tolerance"
        )


def side(x: Any, args: tuple, label: str) -> Side:
    """What `one` or `other` of `compare` is. Raises TypeError for what is neither a function nor a launch."""
    if isinstance(x, tuple) and 3 <= len(x) <= 4 and isinstance(x[0], KernelInterface):
        kernel, grid, given, keywords = (*x, {})[:4]
        names = list(getattr(kernel, "arg_names", ()))
        pairs = [*zip(names, given, strict=False), *keywords.items()]
        arrays = dict(pair for name, value in pairs for pair in named_arrays(name, value))
        return Side(getattr(kernel, "__name__", label), lambda: kernel[grid](*given, **keywords) and None, arrays, True)
    if not callable(x) or isinstance(x, KernelInterface):
        what = "a kernel alone" if isinstance(x, KernelInterface) else repr(x)
        raise TypeError(f"{label} side is {what}; pass a function of the arrays, or (kernel, grid, args, keywords)")
    name = getattr(x, "__name__", label)
    call = ring.is_formula(x)
    values = [in_ring(value) for value in args] if call else args
    return Side(label if name == "<lambda>" else name, lambda: x(*values), {}, not call)


def in_ring(value: Any) -> Any:
    """An argument as a formula takes it: floats as ring.Array, ints as NumPy arrays, over the same memory."""
    if hasattr(value, "data_ptr"):
        return ring.array(value) if value.is_floating_point() else value.detach().numpy()
    floats = isinstance(value, np.ndarray) and value.dtype.name in ring.FORMATS
    return ring.array(value) if floats else value


def given(one: Any, args: tuple) -> dict[str, Any]:
    """The arrays among the arguments, by the parameters of the first side where it has such."""
    try:
        names = [p.name for p in inspect.signature(one).parameters.values() if p.kind != p.VAR_POSITIONAL]
    except (TypeError, ValueError):
        names = []
    names += [f"args[{n}]" for n in range(len(names), len(args))]
    return dict(pair for name, value in zip(names, args, strict=False) for pair in named_arrays(name, value))


def both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The arrays that two launches share, by the parameters of the first."""
    addresses = {place(x) for x in other.values()}
    return {name: x for name, x in one.items() if place(x) in addresses}


def place(x: Any) -> tuple:
    array = buffer("", x).array
    return array.ctypes.data, array.shape, array.strides


def launched(side: Side, kernels: dict[str, Any], **settings: Any) -> Any:
    """Run a side; adds the kernels that it launched. Raises Refused for a function that launched none."""
    ran: list[Any] = []
    with route(keep=0, each=lambda report: ran.append(report.compiled), **settings):
        returned = side.run()
    if side.needs_kernel and not ran:
        raise Refused(
            f"{side.name} launched no Triton kernel here; give it CPU tensors, and mark a formula of the ring with "
            "@ring.formula"
        )
    kernels.update((kernel.hash, kernel) for kernel in ran)
    return returned


def results(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The bits of what a side returned, by name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from results(f"{name}[{key!r}]", item)
    elif isinstance(value, (tuple, list)):
        for n, item in enumerate(value):
            yield from results(f"{name}[{n}]", item)
    elif isinstance(value, ring.Array):
        yield name, value.bits.copy()
    elif isinstance(value, np.ndarray) or hasattr(value, "data_ptr"):
        yield name, buffer(name, value).array.copy()


def chosen(outputs: Any, sides: list[Side], one: dict, other: dict) -> list[str]:
    """The names to compare. Raises Refused if there are none, or the two sides have different ones."""
    if set(one) != set(other):
        lone = sorted(set(one) ^ set(other))
        raise Refused(f"only one of {sides[0].name} and {sides[1].name} returned {', '.join(lone)}; return the same")
    wanted = [outputs] if isinstance(outputs, str) else list(one if outputs is None else outputs)
    if unknown := sorted(set(wanted) - set(one)):
        raise Refused(f"outputs names {unknown}; there are {list(one)}")
    if not wanted:
        raise Refused("there is nothing to compare; pass arrays, return them, or give two launches the same arrays")
    for name in wanted:
        if (one[name].shape, one[name].dtype) != (other[name].shape, other[name].dtype):
            was, now = (f"{x.shape} of {8 * x.itemsize} bits" for x in (one[name], other[name]))
            raise Refused(f"{name} is {was} in {sides[0].name}, and {now} in {sides[1].name}; make them alike")
    return wanted


def difference(name: str, one: np.ndarray, other: np.ndarray) -> Difference | None:
    """Where an array's bits differ; None if they do not."""
    bad = one != other
    if not bad.any():
        return None
    at = tuple(int(n) for n in np.argwhere(bad)[0])
    return Difference(name, at, int(one[at]), int(other[at]), int(np.count_nonzero(bad)), bad.size)
