"""Check one launch of a Triton kernel: on several GPUs, under several schedules, with every check of the machine on.

check(kernel, grid, x, out, n, BLOCK=256, readable={"out": False})
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from triton.runtime import Autotuner

from .compile import capability
from .differences import copied, difference, named_arrays, put
from .errors import PtxError, Refused, ScheduleDependent
from .execute import Report
from .launch import run
from .reachable import buffer
from .settings import Settings, Tuning, check_settings, several, whole

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
    args, kwargs  as `run` takes them, with `readable`, `max_steps`, `engine`, `autotune`, and `approximation_ulps`,
               which are drawn anew by each seed

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
    if kwargs.get("shadow"):
        raise Refused("shadow= came to check, which runs random schedules; give it to run")
    targets = (targets,) if isinstance(targets, str) else targets
    named = lambda x: isinstance(x, str)  # noqa: E731
    targets = several("targets", targets, named, "one or more GPUs, such as ('sm_80', 'sm_90')", least=1)
    seeds = several("seeds", seeds, whole(0), "a sequence of whole numbers >= 0, such as range(3)")
    settings = (*Settings._fields, *Tuning._fields)
    check_settings({"tolerance": tolerance} | {k: x for k, x in kwargs.items() if k in settings})
    for target in targets:
        capability(target)
    given = [*zip(names, args, strict=False), *kwargs.items()]
    arrays = dict(pair for name, value in given for pair in named_arrays(name, value))
    if unknown := sorted(set(tolerance or ()) - set(arrays)):
        raise ValueError(f"tolerance names {unknown}; the arrays are {list(arrays)}")
    memory = {name: buffer(name, value).array for name, value in arrays.items()}
    came, left, reports = copied(memory), None, []
    tunes = kwargs.get("autotune") == "all" and tuned(kernel)
    try:
        for target in targets:
            usual: dict[str, np.ndarray] = {}
            for seed in (None, *seeds):
                put(memory, came)
                silent = {"prints": False} if reports else {}  # once is enough
                here = {"target": target, "seed": seed}
                here |= {"tolerance": tolerance} if tunes else {}
                reports.append(checked(kernel, grid, args, kwargs | here | silent))
                now = copied(memory)
                left, usual = left or now, usual or now
                for name, value in arrays.items():
                    compare(name, value, usual[name], now[name], (tolerance or {}).get(name), (target, seed))
    finally:
        if left:
            put(memory, left)
    return reports


def tuned(kernel: Any) -> bool:
    """Whether triton.autotune is among a kernel's decorators."""
    while not isinstance(kernel, Autotuner) and hasattr(kernel, "fn"):
        kernel = kernel.fn
    return isinstance(kernel, Autotuner)


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
    if found := difference(name, like, usual, now, tolerance):
        raise ScheduleDependent(
            f"{found.place} depends on the schedule: {found.one} with target={run[0]!r}, seed=None, and {found.other} "
            f"with seed={run[1]}; {found.count}. Where that is right, as of atomic additions of floats, allow it: "
            f"tolerance={{{name!r}: ...}}"
        )
