"""Run Triton kernels on the machine: one launch with `run`, or an unchanged launcher's under `route`.

    report = run(kernel, grid, x, out, n, BLOCK=256, target="sm_90")
    with route(target="sm_80", seed=1) as reports:
        kernel[grid](x, out, n, BLOCK=256)

Arrays are the caller's own, NumPy's or torch's on the CPU: what the kernel stores appears in them.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from triton.runtime import Autotuner, JITFunction, KernelInterface

from .arrays import true_devices
from .autotune import Launched, chosen, run_tuned, written
from .compile import NUMBERS, Compiled, capability, compile, compiling, leaves
from .compiled import Kernel
from .errors import Refused, UnknownOpcode
from .execute import execute
from .limits import grid_shape
from .other_targets import explain
from .patches import Patches
from .reachable import buffer, reached, scratch
from .settings import Settings, Tuning, check_settings
from .shadow.constants import numbers, pointers
from .shadow.launch import EVERY, LOST, Asked, recalled
from .tma import host
from .torch_empty import unwritten, watching


class Route(NamedTuple):
    """Which launches one route takes, and what becomes of their reports."""

    target: str
    settings: Settings
    reports: deque
    each: Callable[[Any], object] | None
    takes_all: bool  # else a launch with a tensor on another device goes its usual way
    launched: Launched
    pretend: bool = False
    tuning: Tuning = Tuning()
    lines: Any = ()  # of Python, of all launches with a shadow
    twins: Any = ()  # of memory that launches have written, with shadow="float64"

    def takes(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        if self.takes_all:
            return True
        given = [x for x in leaves((*args, *kwargs.values())) if x.__class__ not in NUMBERS]
        values = [x if hasattr(x, "numel") else getattr(x, "base", x) for x in given]  # of a descriptor, a reinterpret
        devices = {*true_devices(x for x in values if hasattr(x, "data_ptr"))}
        # A dtype in place of an array, as kernel.warmup takes it, is on no device.
        return all(getattr(device, "type", "cpu") == "cpu" for device in devices)


def made(
    target: str, settings: dict[str, Any], keep: int | None, each: Any = None, takes_all: bool = False,
    pretend: bool = False,
) -> Route:  # fmt: skip
    tuning = Tuning(**{name: settings.pop(name) for name in Tuning._fields if name in settings})
    if tuning.tolerance and tuning.autotune != "all":
        raise Refused('tolerance= came without autotune="all", and compares the configurations it runs: give both')
    launched = Launched(WeakKeyDictionary(), set())
    outer, lines, twins = _route.get(), set(), deque()
    if outer and outer.settings.shadow:
        settings = {"shadow": outer.settings.shadow, "rounding": outer.settings.rounding} | settings
        lines, twins, own = outer.lines, outer.twins, each
        each = lambda report: [f(report) for f in (own, outer.each) if f]  # noqa: E731
    return Route(
        target, Settings(**settings), deque(maxlen=keep), each, takes_all, launched, pretend, tuning, lines, twins
    )


_route: ContextVar[Route | None] = ContextVar("route", default=None)
_patches = Patches()


def run(kernel: Any, grid: Any, /, *args: Any, target: str = "sm_90", **kwargs: Any) -> Any:
    """Launch `kernel[grid](*args, **kwargs)` on the machine and return its report; None if the grid is empty.

    kernel  a @triton.jit function, also under triton.heuristics and triton.autotune: see the report's `config`
    grid    an int, a tuple of up to three, or a function of the parameters by name
    args    NumPy arrays or torch CPU tensors of any strides, tensor descriptors of torch tensors, numbers, None,
            constexprs, tuples of these
    target  the GPU to compile for: "sm_80", 86, 89, 90, 100 or 120
    kwargs  parameters by name, Triton's options (num_warps, num_stages, ...), and the fields of `Settings` and `Tuning`

    Raises Refused under Triton's interpreter; TypeError and ValueError for arguments, options, settings and launches
    that no GPU takes, OutOfResources among them; PtxError for what the machine finds.
    """
    if not isinstance(kernel, KernelInterface):
        raise TypeError(f"the kernel is {kernel!r}; run takes a function decorated with @triton.jit")
    settings = {name: kwargs.pop(name) for name in (*Settings._fields, *Tuning._fields) if name in kwargs}
    parameters = kernel.arg_names  # pyright: ignore[reportAttributeAccessIssue]
    if clash := sorted({"target", *settings} & set(parameters[len(args) :])):
        raise TypeError(f"{clash[0]}= is a parameter of the kernel and a setting of run; pass the kernel's by position")
    check_settings(settings)
    with _routed(made(target, settings, keep=None, takes_all=True)) as reports:
        kernel[grid](*args, **kwargs)
    return reports[0] if reports else None


@contextmanager
def route(
    target: str = "sm_90", *, keep: int | None = 64, each: Callable[[Any], object] | None = None,
    pretend: bool = False, **settings: Any,
) -> Iterator[deque]:  # fmt: skip
    """Inside, launches of this thread whose arrays are all on the CPU run on the machine; yields their reports.

    keep      number of reports to keep, the latest; None keeps all
    each      function, called with every report, and with those of inner routes if it has a shadow, which they inherit
    pretend   whether this thread has a GPU meanwhile: code that insists on one runs, see pretend/__init__.py. What
              cannot be pretended raises Refused
    settings  the fields of `Settings` and `Tuning`

    Memory of torch.empty and its like counts as unwritten until it is written. Launches with a tensor elsewhere go
    their usual way. Of nested routes the innermost takes the launch. A launch returns its report: see compiled.py.
    Raises ValueError for settings that do not fit, Refused under Triton's interpreter.
    """
    check_settings({"keep": keep, "each": each, "pretend": pretend, **settings})
    route = made(target, settings, keep, each, pretend=pretend)
    with _routed(route) as reports, watching(routing), pretended(route.target) if pretend else nullcontext():
        yield reports


def routing() -> bool:
    """Whether this thread's launches on CPU tensors run on the machine."""
    return _route.get() is not None


def shadow_of(array: Any) -> Any:
    """Within a route with a shadow: the values in float64 of what its launches stored to an array; None of no other."""
    route = _route.get()
    return recalled(route.twins, array) if route else None


def pretended(target: str) -> Any:
    from .pretend import pretend  # which needs torch

    return pretend(capability(target))


@contextmanager
def _routed(route: Route) -> Iterator[deque]:
    capability(route.target)
    with _patches.open(_patch):
        token = _route.set(route)
        try:
            yield route.reports
            if unknown := sorted(set(route.tuning.tolerance or ()) - route.launched.arrays):
                arrays = sorted(route.launched.arrays)
                what = f"tolerance names {unknown}; the arrays of the autotuned kernels launched are {arrays}"
                raise ValueError(what)
            if route.lines and (unknown := sorted({*route.settings.rounding} - route.lines - {EVERY, LOST})):
                known = sorted(route.lines)
                raise ValueError(f"rounding names {unknown}; the lines of the kernels launched are {known}")
        finally:
            _route.reset(token)


def _patch() -> None:
    """Replace what launches kernels."""
    _replace(JITFunction, _run)
    _adopt(Autotuner)
    # Others' tuners are Triton's with a `run` of their own; more may be imported while the route is open.
    _patches.put(Autotuner, "__init_subclass__", classmethod(_adopt))


def _adopt(tuner: Any) -> None:
    if "run" in vars(tuner):
        _replace(tuner, _run_tuned)
    for other in tuner.__subclasses__():
        _adopt(other)


def _replace(kind: Any, run: Callable[..., Any]) -> None:
    usual = kind.run

    def either(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        route = _route.get()
        if route is None or compiling() or not route.takes(args, kwargs):
            return usual(self, *args, **kwargs)
        return run(route, self, *args, **kwargs)

    _patches.put(kind, "run", either)


def _run(route: Route, kernel: Any, /, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
    """JITFunction.run on the machine."""
    made = Kernel(compile(kernel, args, kwargs, route.target), kernel, _launch)
    if warmup:
        return made
    try:
        return _launch(made, grid)
    except UnknownOpcode as error:
        explain(error, kernel, args, kwargs, route.target)
        raise


def _run_tuned(route: Route, tuner: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Autotuner.run on the machine: nothing is timed, since it is no GPU."""
    return run_tuned(tuner, tuner.fn.run, args, kwargs, route.launched, route.tuning, route.settings.reachable)


def argument(name: str, value: Any) -> Any:
    """The value of a PTX parameter as execute takes it."""
    if value.__class__ is host.Descriptor:
        return value._replace(base=buffer(name, value.base))
    return buffer(name, value)


def shadow(route: Route, compiled: Compiled) -> Asked | None:
    """What a launch is to be followed with; None where no shadow is asked for. Raises Refused beside a seed."""
    if not route.settings.shadow:
        return None
    if route.settings.seed is not None:
        raise Refused('seed= came with shadow="float64", which follows the default schedule; leave one out')
    lines = frozenset((file, n) for file, n in route.settings.rounding)
    return Asked(numbers(compiled.triton), pointers(compiled.arguments), LOST in lines, lines, tuple(route.twins))


def remember(route: Route, shadow: Any) -> None:
    """Keep a launch's twins for later ones, in place of those that lie within them."""
    earlier = [x for x in route.twins if not any(x.within(new) for new in shadow.kept)]
    route.lines.update(shadow.places)
    route.twins.clear()
    route.twins.extend((*earlier, *shadow.kept))


def _launch(kernel: Kernel, grid: Any) -> Any:
    """Run a compiled kernel over a grid -> its report; over an empty one, as on a GPU, nothing runs -> the kernel."""
    route, compiled = _route.get(), kernel.compiled
    if route is None:
        raise Refused(f"{compiled.name} was compiled for the machine; launch it within `with ptx.route():`")
    shape = grid_shape(grid, compiled.parameters)
    kernel._init_handles()
    if 0 in shape:
        return kernel
    readable = route.settings.readable
    if callable(readable):
        readable = readable(compiled.name, compiled.parameters)
        check_settings({"readable": readable})
    if route.pretend:
        from .pretend import check_places

        check_places(compiled.name, compiled.arguments)
    arguments = [(name, x if x.__class__ in NUMBERS else argument(name, x)) for name, x in compiled.arguments]
    buffers = host.arrays([value for _, value in arguments])
    others = reached(buffers, route.settings.reachable)
    arrays = [array.name for array in (*buffers, *others)]
    if readable and (unknown := sorted({*readable} - {*arrays})):
        raise ValueError(f"readable names {unknown}; the arrays of {compiled.name} are {arrays}")
    own = {name: scratch(name, *size, math.prod(shape)) for name, size in compiled.scratch.items()}
    arguments = [(name, own.get(name, value)) for name, value in arguments] if own else arguments
    if "global_scratch" in own:
        readable = {**(readable or {}), "global_scratch": False}
    blank = unwritten([b for b in (*buffers, *others) if not readable or b.name not in readable])
    known = {x: getattr(compiled, x) for x in ("name", "target", "shared", "num_warps")}
    asked = {**route.settings._asdict(), "readable": readable, "reachable": others, "shadow": shadow(route, compiled)}
    del asked["rounding"]
    report = execute(compiled.ptx, shape, arguments, blank=blank, written=written.get(), **known, **asked)
    if own:  # is Triton's, not the caller's
        report.unwritten = {name: left for name, left in report.unwritten.items() if name not in own}
    report.compiled, report.config = kernel, chosen.get()
    if report.shadow:
        remember(route, report.shadow)
    route.reports.append(report)
    if route.each is not None:
        route.each(report)
    return report
