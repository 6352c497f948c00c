"""Check one launch of a Triton kernel: on several GPUs, under several schedules, with every check of the machine on.

check(kernel, grid, x, out, n, BLOCK=256, readable={"out": False})
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .compile import capability, members
from .errors import PtxError, ScheduleDependent
from .execute import Report
from .launch import buffer, run
from .settings import Settings, check_settings, several, whole

OURS = ("targets", "seeds", "tolerance", "target", "seed", "checks")  # names a kernel's parameter cannot be given by


def check(
    kernel: Any, grid: Any, /, *args: Any, targets: str | Sequence[str] = ("sm_80", "sm_90", "sm_100"),
    seeds: Sequence[int] = (0, 1, 2), tolerance: Mapping[str, float] | None = None, **kwargs: Any,
) -> list[Report]:  # fmt: skip
    """Run `kernel[grid](*args, **kwargs)` with every check on; returns the report of each run.

    targets    the GPUs to compile for, one or more; on each the default schedule runs first, then a random one for each
               of `seeds`, which may be none. Every run starts from the arrays as they came, and all of one target must
               leave the same bits in them
    tolerance  by array, how far its values may differ, in units of its largest: {"out": 1e-6} where atomic additions
               of floats come in any order, {"log": math.inf} where any order is right
    args, kwargs  as `run` takes them, with `readable`, `max_steps`, and `approximation_ulps`, which are drawn anew by
               each seed

    Afterwards the arrays hold what the first run left, also where a later one raises. Raises the PtxError that a run
    finds, its message ending with the target and seed that `run` shows it with; ScheduleDependent, a PtxError, if
    results differ; ValueError if the grid is empty, or a setting does not fit; what `run` raises.
    """
    names = list(getattr(kernel, "arg_names", ()))
    if clash := sorted({*OURS} & {*kwargs, *names[len(args) :]}):
        raise TypeError(
            f"{clash[0]}= came, or is a parameter of the kernel: check runs all targets= and seeds=, every check on; "
            "pass the kernel's own by position"
        )
    targets = (targets,) if isinstance(targets, str) else targets
    named = lambda x: isinstance(x, str)  # noqa: E731
    targets = several("targets", targets, named, "one or more GPUs, such as ('sm_80', 'sm_90')", least=1)
    seeds = several("seeds", seeds, whole(0), "a sequence of whole numbers >= 0, such as range(3)")
    check_settings({"tolerance": tolerance} | {k: x for k, x in kwargs.items() if k in Settings._fields})
    for target in targets:
        capability(target)
    given = [*zip(names, args, strict=False), *kwargs.items()]
    arrays = dict(pair for name, value in given for pair in named_arrays(name, value))
    if unknown := sorted(set(tolerance or ()) - set(arrays)):
        raise ValueError(f"tolerance names {unknown}; the arrays are {list(arrays)}")
    memory = {name: buffer(name, value).array for name, value in arrays.items()}
    came, left, reports = copied(memory), None, []
    try:
        for target in targets:
            usual: dict[str, np.ndarray] = {}
            for seed in (None, *seeds):
                put(memory, came)
                silent = {"prints": False} if reports else {}  # once is enough
                reports.append(checked(kernel, grid, args, kwargs | {"target": target, "seed": seed} | silent))
                now = copied(memory)
                left, usual = left or now, usual or now
                for name, value in arrays.items():
                    compare(name, value, usual[name], now[name], (tolerance or {}).get(name), (target, seed))
    finally:
        if left:
            put(memory, left)
    return reports


def named_arrays(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays of one parameter, a tuple's as `members` names them."""
    if isinstance(value, tuple):
        for part, item in members(name, value):
            yield from named_arrays(part, item)
    elif isinstance(value, np.ndarray) or hasattr(value, "data_ptr"):
        yield name, value


def copied(memory: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in memory.items()}


def put(memory: dict[str, np.ndarray], values: dict[str, np.ndarray]) -> None:
    """Write what differs: an array that kernels only read may be read-only."""
    for name, array in memory.items():
        if not np.array_equal(array, values[name]):
            array[...] = values[name]


def checked(kernel: Any, grid: Any, args: tuple, kwargs: dict[str, Any]) -> Report:
    try:
        report = run(kernel, grid, *args, **kwargs)
    except PtxError as error:
        error.args = (f"{error}; with target={kwargs['target']!r}, seed={kwargs['seed']}", *error.args[1:])
        raise
    if report is None:
        raise ValueError("the grid is empty, so there is nothing to check; give each axis a program or more")
    return report


def compare(name: str, like: Any, usual: np.ndarray, now: np.ndarray, tolerance: float | None, run: tuple) -> None:
    """Raise ScheduleDependent unless an array's bits, or values within the tolerance, are those of the default run."""
    if tolerance == math.inf or np.array_equal(usual, now):
        return
    a, b = numbers(usual, like), numbers(now, like)
    gap = gaps(a, b)
    bad = usual != now if tolerance is None else gap > tolerance
    if not bad.any():
        return
    at = tuple(np.argwhere(bad)[0])
    place = f"{name}[{', '.join(map(str, at))}]" if at else name
    one, other = (f"{values[at]} ({int(bits[at]):#x})" for values, bits in ((a, usual), (b, now)))
    raise ScheduleDependent(
        f"{place} depends on the schedule: {one} with target={run[0]!r}, seed=None, and {other} with seed={run[1]}; "
        f"{np.count_nonzero(bad)} of {bad.size} elements differ, by up to {gap.max():.2g} of the largest value. Where "
        f"that is right, as of atomic additions of floats, allow it: tolerance={{{name!r}: ...}}"
    )


def numbers(bits: np.ndarray, like: Any) -> np.ndarray:
    """Bits of an array like `like` as float64."""
    if isinstance(like, np.ndarray):
        return bits.view(like.dtype).astype(np.float64)
    import torch

    dtype = getattr(like, "base", like).dtype
    return torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(dtype).double().numpy()


def gaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| in units of the largest finite value of both; infinite where only one is NaN or infinite."""
    sizes = np.abs([a, b])
    with np.errstate(all="ignore"):
        gap = np.abs(a - b) / np.max(sizes, initial=0, where=np.isfinite(sizes))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
