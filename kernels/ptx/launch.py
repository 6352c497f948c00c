"""Run Triton kernels on the machine: one launch with `run`, or an unchanged launcher's under `route`.

    report = run(kernel, grid, x, out, n, BLOCK=256, target="sm_90")
    with route(target="sm_80", seed=1) as reports:
        kernel[grid](x, out, n, BLOCK=256)

Arrays are the caller's own, NumPy's or torch's on the CPU: what the kernel stores appears in them.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
from triton.runtime import Autotuner, JITFunction, KernelInterface

from .compile import capability, compile, leaves
from .empties import unwritten, watching
from .execute import execute
from .reach import buffer, reached, scratch
from .segments import Buffer

Readable = Mapping[str, bool | np.ndarray]


class Settings(NamedTuple):
    """How the machine runs a launch; `run` and `route` take these as keywords, `execute` gets them.

    checks    whether bounds, alignment, unwritten memory, races, barriers and deadlock are checked
    seed      None runs the default schedule, an int a random one
    readable  by parameter name, whether an array may be read before the kernel writes it: one bool, or one per
              element. A function of (kernel name, its parameters by name) may return this, for launches that differ
    approximation_ulps  by how many units in the last place approximate functions are perturbed
    trace     whether the report keeps every access to global memory
    reachable  arrays that the kernel reaches by addresses it loads, as from a table of pointers: one, several, or by
              name. Live tensors whose address stands in an int64 argument are found without it
    warp_races  "raise", or "warn" for a RuntimeWarning where lanes of one warp race; see errors.WarpRace
    prints    whether what device_print prints goes to standard output; the report has it in any case
    """

    checks: bool = True
    seed: int | None = None
    readable: Readable | Callable[[str, dict[str, Any]], Readable | None] | None = None
    approximation_ulps: int = 0
    trace: bool = False
    reachable: Any = None
    warp_races: str = "raise"
    prints: bool = True


class Route(NamedTuple):
    """Which launches one route takes, and what becomes of their reports."""

    target: str
    settings: Settings
    reports: deque
    each: Callable[[Any], object] | None
    takes_all: bool  # else a launch with a tensor on another device goes its usual way

    def takes(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        tensors = (x for x in leaves((*args, *kwargs.values())) if hasattr(x, "data_ptr"))
        return self.takes_all or all(x.device.type == "cpu" for x in tensors)


_route: ContextVar[Route | None] = ContextVar("route", default=None)
_patching = threading.Lock()
_routes = 0  # open in all threads
_usual: dict[type, Any] = {}  # class -> its own run, while routes replace it


def run(kernel: Any, grid: Any, /, *args: Any, target: str = "sm_90", **kwargs: Any) -> Any:
    """Launch `kernel[grid](*args, **kwargs)` on the machine and return its report; None if the grid is empty.

    kernel  a @triton.jit function, also under triton.heuristics, or triton.autotune with a single configuration
    grid    an int, a tuple of up to three, or a function of the parameters by name
    args    NumPy arrays or torch CPU tensors of any strides, numbers, None, constexprs
    target  the GPU to compile for: "sm_80", 86, 89, 90, 100 or 120
    kwargs  parameters by name, Triton's options (num_warps, num_stages, ...), and the fields of `Settings`

    Raises BackendError under Triton's interpreter, TypeError and ValueError for arguments that do not fit, PtxError
    for what the machine finds.
    """
    if not isinstance(kernel, KernelInterface):
        raise TypeError(f"the kernel is {kernel!r}; run takes a function decorated with @triton.jit")
    settings = {name: kwargs.pop(name) for name in Settings._fields if name in kwargs}
    parameters = kernel.arg_names  # pyright: ignore[reportAttributeAccessIssue]
    if clash := sorted({"target", *settings} & set(parameters[len(args) :])):
        raise TypeError(f"{clash[0]}= is a parameter of the kernel and a setting of run; pass the kernel's by position")
    with _routed(Route(target, Settings(**settings), deque(maxlen=1), None, takes_all=True)) as reports:
        kernel[grid](*args, **kwargs)
    return reports[-1] if reports else None


@contextmanager
def route(
    target: str = "sm_90", *, keep: int | None = 64, each: Callable[[Any], object] | None = None, **settings: Any
) -> Iterator[deque]:
    """Inside, launches of this thread whose arrays are all on the CPU run on the machine; yields their reports.

    keep      how many reports stay, the latest; None keeps all
    each      is called with every report
    settings  the fields of `Settings`

    What torch.empty and its like give inside counts as unwritten until somebody writes it.
    Launches with a tensor elsewhere go their usual way. Routes nest: the innermost takes the launch.
    Raises BackendError under Triton's interpreter, which would run the kernels unseen.
    """
    with (
        _routed(Route(target, Settings(**settings), deque(maxlen=keep), each, takes_all=False)) as reports,
        watching(routing),
    ):
        yield reports


def routing() -> bool:
    """Whether this thread's launches on CPU tensors run on the machine."""
    return _route.get() is not None


@contextmanager
def _routed(route: Route) -> Iterator[deque]:
    capability(route.target)
    _patch(+1)
    token = _route.set(route)
    try:
        yield route.reports
    finally:
        _route.reset(token)
        _patch(-1)


def _patch(opened: int) -> None:
    """Count the routes of all threads: the first replaces what launches kernels, the last puts it back."""
    global _routes
    with _patching:
        if _routes == 0:
            _usual.update({JITFunction: JITFunction.run, Autotuner: Autotuner.run})
            JITFunction.run, Autotuner.run = _run, _run_tuned  # pyright: ignore[reportAttributeAccessIssue]
        _routes += opened
        if _routes == 0:
            JITFunction.run, Autotuner.run = _usual[JITFunction], _usual[Autotuner]


def _run(kernel: Any, /, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
    """JITFunction.run, while any thread has a route."""
    route = _route.get()
    if route is None or warmup or not route.takes(args, kwargs):
        return _usual[JITFunction](kernel, *args, grid=grid, warmup=warmup, **kwargs)
    report = _execute(kernel, grid, args, kwargs, *route[:2])
    if report is not None:
        route.reports.append(report)
        if route.each is not None:
            route.each(report)
    return report


def _run_tuned(tuner: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Autotuner.run, while any thread has a route: it would time a machine that says nothing about time."""
    route, name = _route.get(), tuner.base_fn.__name__
    if route is not None and len(tuner.configs) > 1 and route.takes(args, kwargs):
        raise ValueError(
            f"{name} is autotuned over {len(tuner.configs)} configurations, which only a GPU's timings choose between; "
            f"launch {name}.fn with the constexprs and options of one of {name}.configs"
        )
    return _usual[Autotuner](tuner, *args, **kwargs)


def _execute(kernel: Any, grid: Any, args: tuple, kwargs: dict[str, Any], target: str, settings: Settings) -> Any:
    compiled = compile(kernel, args, kwargs, target)
    shape = grid_shape(grid, compiled.parameters)
    if 0 in shape:
        return None
    readable = settings.readable
    if callable(readable):
        readable = readable(compiled.name, compiled.parameters)
    arguments = [(name, buffer(name, value)) for name, value in compiled.arguments]
    buffers = [value for _, value in arguments if isinstance(value, Buffer)]
    others = reached(buffers, settings.reachable)
    arrays = [array.name for array in (*buffers, *others)]
    if unknown := sorted(set(readable or ()) - set(arrays)):
        raise ValueError(f"readable names {unknown}; the arrays of {compiled.name} are {arrays}")
    own = {name: scratch(name, *size, math.prod(shape)) for name, size in compiled.scratch.items()}
    arguments = [(name, own.get(name, value)) for name, value in arguments]
    if "global_scratch" in own:
        readable = {**(readable or {}), "global_scratch": False}
    blank = {b.name: which for b in (*buffers, *others) if b.name not in (readable or {})
             and (which := unwritten(b)) is not None}  # fmt: skip
    return execute(
        compiled.ptx,
        shape,
        arguments,
        name=compiled.name,
        target=compiled.target,
        shared=compiled.shared,
        num_warps=compiled.num_warps,
        blank=blank,
        **settings._replace(readable=readable, reachable=others)._asdict(),
    )


def grid_shape(grid: Any, parameters: dict[str, Any]) -> tuple[int, int, int]:
    """A launch's grid as Triton takes it -> programs along x, y, z. Raises ValueError if that is no grid."""
    shape: Any = grid(parameters) if callable(grid) else grid
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not 1 <= len(shape) <= 3 or not all(isinstance(n, (int, np.integer)) and n >= 0 for n in shape):
        raise ValueError(f"the grid is {shape}; give one to three numbers of programs, each an int >= 0")
    x, y, z = (*(int(n) for n in shape), 1, 1)[:3]
    return x, y, z
