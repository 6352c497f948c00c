"""Hold two computations to one algebra: run both with Triton's fpsan, and compare all bits."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import triton

from ..check import copied
from ..errors import Refused
from ..reachable import buffer
from .outside import Outside, outside
from .sides import Left, Side, both, given, place, ran, same_random_numbers, side
from .verdict import Difference, DifferentAlgebra, Verdict

TARGET = "sm_90"  # as run's: fpsan makes dots loops over scratch memory on every target, with the same bits


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
    """Run two computations in the ring, from the same arrays and random numbers, and compare all bits that they leave.

    one, other  each a function of `args`: a launcher of Triton kernels on the CPU, or a `ring.formula`; or a launch,
                (kernel, grid, args) or (kernel, grid, args, keywords)
    args        arrays, also in tuples, lists and dicts, and other arguments. What a side writes to them is compared,
                and what it returns. Without them two launches are compared in the arrays that both were given
    outputs     names of the arrays to compare, where others are scratch: parameters of `one`, "returned"
    target      the GPU to compile for
    checks      of races and of memory; by default left to `check`, for instrumented code is long
    settings    of `route`: seed, max_steps, readable, reachable, ...

    Afterwards the arrays of `args` and of launches are as they came; those that a function captures, or an object
    holds, are neither put back nor compared. Raises Refused without fpsan, if nothing that is compared was written, or
    if a launch wrote to an array that the other was not given; TypeError for what is no side, array or name.
    """
    need_fpsan()
    sides = [side(x, args, label) for x, label in ((one, "the first"), (other, "the second"))]
    shared = given(one, args) if args else both(*(s.arrays for s in sides))
    everything = {f"{n} {k}": x for n, s in enumerate(sides) for k, x in s.arrays.items()} | shared
    memory = {name: buffer(name, x).array for name, x in everything.items()}
    came, kernels, in_torch = copied(memory), {}, []
    with same_random_numbers() as rewind:
        left = []
        for each in sides:
            rewind()
            left.append(ran(each, shared, memory, came, kernels, in_torch, target=target, checks=checks, **settings))
    if outputs is None:
        need_all_shared(sides, shared, left)
    names = chosen(outputs, sides, *left)
    differences = filter(None, (difference(name, *(x.arrays[name] for x in left)) for name in names))
    blank = {name: int(np.count_nonzero(n)) for name in names if (n := unwritten(name, *left)) is not None}
    return Verdict((sides[0].name, sides[1].name), tuple(names), tuple(differences), beyond(kernels, in_torch), blank)


def beyond(kernels: dict[str, Any], in_torch: Iterable[Outside]) -> tuple[Outside, ...]:
    """What the ring does not model of the kernels that ran, and of torch's functions."""
    return (*outside(kernels.values()), *{x.operation: x for x in in_torch}.values())


def need_fpsan() -> None:
    """Raise Refused for a Triton without fpsan, which came with 3.8."""
    from triton._C.libtriton import passes

    if not hasattr(passes.ttgpuir, "add_fp_sanitizer"):
        raise Refused(
            f"the check of algebra needs fpsan of Triton 3.8, and {triton.__version__} has none: install triton>=3.8, "
            "or compare numbers, with a tolerance"
        )


def need_all_shared(sides: list[Side], shared: dict[str, Any], left: list[Left]) -> None:
    """Raise Refused if a launch wrote to an array that the other was not given: what it left there is not compared."""
    known = {place(x) for x in shared.values()}
    for n, (own, other) in enumerate(zip(sides, reversed(sides), strict=True)):
        lone = [k for k, x in own.arrays.items() if f"{n} {k}" in left[n].written and place(x) not in known]
        if lone:
            raise Refused(
                f"{own.name} wrote to {', '.join(lone)}, which {other.name} was not given; give both the same arrays, "
                "or name those to compare: outputs="
            )


def chosen(outputs: Any, sides: list[Side], one: Left, other: Left) -> list[str]:
    """The names to compare. Raises Refused if there are none, nobody wrote to them, or the two sides have different
    ones."""
    if lone := sorted(set(one.arrays) ^ set(other.arrays)):
        raise Refused(f"only one of {sides[0].name} and {sides[1].name} returned {', '.join(lone)}; return the same")
    wanted = [outputs] if isinstance(outputs, str) or not isinstance(outputs, Iterable) else [*outputs]
    wanted = None if outputs is None else wanted
    if any(not isinstance(name, str) for name in wanted or ()):
        raise TypeError(f"outputs is {outputs!r}; it takes a name or several of {list(one.arrays)}")
    if unknown := sorted(set(wanted or ()) - set(one.arrays)):
        raise Refused(f"outputs names {unknown}; there are {list(one.arrays)}")
    if not one.arrays or wanted == []:
        raise Refused("there is nothing to compare; pass arrays, return them, or give two launches the same arrays")
    written = [name for name in one.arrays if name in one.written | other.written]
    idle = [name for name in wanted or one.arrays if name not in written]
    if idle if wanted else not written:
        raise Refused(
            f"neither side wrote to {', '.join(idle)}; compare arrays that they write, or return them. Those that a "
            "function captures are not seen: pass them"
        )
    for name in wanted or written:
        first, second = one.arrays[name], other.arrays[name]
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            was, now = (f"{x.shape} of {8 * x.itemsize} bits" for x in (first, second))
            raise Refused(f"{name} is {was} in {sides[0].name}, and {now} in {sides[1].name}; make them alike")
    return wanted or written


def unwritten(name: str, one: Left, other: Left) -> np.ndarray | None:
    """Which elements of what both returned nothing wrote in either; None: none."""
    found = one.blank.get(name), other.blank.get(name)
    both = found[0] & found[1] if found[0] is not None and found[1] is not None else None
    return both if both is not None and both.any() else None


def difference(name: str, one: np.ndarray, other: np.ndarray) -> Difference | None:
    """Where an array's bits differ; None if they do not."""
    bad = one != other
    if not bad.any():
        return None
    at = tuple(int(n) for n in np.argwhere(bad)[0])
    return Difference(name, at, int(one[at]), int(other[at]), int(np.count_nonzero(bad)), bad.size)
