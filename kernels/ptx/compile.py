"""Compile a Triton kernel for a GPU that is not here, as Triton's JIT does there for the same arguments.

During one `JITFunction.run(warmup=True)` a stand-in driver names the target; Triton specialises, folds and caches.
"""

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import triton
import triton.language as tl
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from .cubin import Texts, without_cubin
from .errors import Refused
from .limits import LIMITS
from .options import DEFAULTS, check_options
from .specialised import key_of, numbered, recalled, remember
from .tma import host

TARGETS = tuple(LIMITS)
ELEMENTS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16"),
    *("float32", "float64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
)
SCRATCH = ("global_scratch", "profile_scratch")  # pointers that Triton appends to the kernel's own parameters; the
# second is zeroed by Triton's driver, the first holds what torch.empty would
NUMBERS = frozenset((int, float, bool, str, type(None)))  # what is no array, surely
_compiling = threading.RLock()
_here = threading.local()
_asked: ContextVar[str | None] = ContextVar("asked", default=None)  # the mode of `instrumented`


class Compiled(NamedTuple):
    """One kernel compiled for one target and these arguments."""

    asm: dict[str, Any]  # see Texts
    name: str
    shared: int  # bytes of dynamic shared memory
    num_warps: int
    target: str
    arguments: list[tuple[str, Any]]  # of the PTX's parameters, in order; what Triton folded has none
    parameters: dict[str, Any]  # of the Python function, by name
    scratch: dict[str, tuple[int, int]]  # argument -> (bytes of each program, alignment), where the kernel wants any
    types: dict[str, Any]  # of the parameters in Triton's signature; "constexpr" where it folded the value
    triton: Any  # its CompiledKernel
    maps: Sequence[dict[str, Any]] = ()  # what Triton says of each tensor descriptor; none on targets without

    @property
    def ptx(self) -> str:
        return self.asm["ptx"]


class Pointer:
    """A NumPy array as Triton looks at a tensor."""

    def __init__(self, array: np.ndarray):
        if array.dtype.name not in ELEMENTS or not array.dtype.isnative:
            raise TypeError(f"an array has dtype {array.dtype!r}; kernels take native {', '.join(ELEMENTS)}")
        self.dtype, self.data_ptr = array.dtype.name, lambda: array.ctypes.data


class StandIn:
    """Triton's driver while one thread compiles: that thread sees the target, all others the true GPU."""

    def __init__(self, target: GPUTarget, true: Any):
        # The target is its own device number, so that no true device shares its cache of kernels.
        answers = {"target": lambda: target, "device": lambda: target, "stream": lambda device: 0}
        self._answers = {f"get_current_{name}": answer for name, answer in answers.items()}
        self._thread, self._true = threading.get_ident(), true

    def __getattr__(self, name: str) -> Any:
        if threading.get_ident() == self._thread and name in self._answers:
            return self._answers[name]
        true = self._true
        if true is None:
            with suppress(RuntimeError):  # there is no GPU
                true = driver.default
        return getattr(true, name)


def capability(target: str) -> int:
    """ "sm_90" -> 90. Raises ValueError for none of TARGETS, Refused under Triton's interpreter."""
    if type(tl.sum).__name__ == "InterpretedFunction":
        raise Refused("TRITON_INTERPRET is set, so nothing is compiled; unset it and start Python again")
    return number_of(target)


@cache
def number_of(target: str) -> int:
    match = re.fullmatch(r"sm_(\d+)a?", str(target))
    if not match or int(match[1]) not in TARGETS:
        raise Refused(f"target is {target!r}; it can be {', '.join(f'sm_{sm}' for sm in TARGETS)}")
    return int(match[1])


def compile(kernel: Any, args: tuple, kwargs: dict[str, Any], target: str = "sm_90") -> Compiled:
    """Compile what `kernel[grid](*args, **kwargs)` launches on `target`; Triton caches it, in memory and on disk.

    kernel  a @triton.jit function
    args    NumPy arrays, torch tensors of any device (meta, too), tensor descriptors, numbers, None, constexprs, tuples
            of these
    kwargs  parameters by name, and Triton's options

    Raises Refused under Triton's interpreter, TypeError for another kernel or argument, ValueError for keywords and
    values that no launch has and for thread block clusters; and what Triton raises. Whether the
    program fits the target is checked at its launch: see compiled.Kernel.
    """
    sm = capability(target)
    if not isinstance(kernel, JITFunction):
        raise TypeError(f"the kernel is {kernel!r}; compile takes the @triton.jit function under any other decorator")
    own, asked, to = kernel.signature.parameters, _asked.get(), GPUTarget("cuda", sm, 32)
    by_launch = asked is None or kwargs.get("instrumentation_mode")
    checked = kwargs if by_launch else {**kwargs, "instrumentation_mode": asked}
    try:
        parameters = bind(kernel, args, {name: x for name, x in kwargs.items() if name in own})
    except TypeError:
        check_options(kernel, checked, sm)
        raise
    options = {name: x for name, x in kwargs.items() if name in DEFAULTS or name not in own}
    key, values = key_of(kernel, parameters, options, to, asked)
    out, order = recalled(kernel, key, to) if key else (None, [])
    if out is None:
        mode = check_options(kernel, checked, sm)
        given = {name: x for name, x in kwargs.items() if name != "instrumentation_mode"}
        out = _compile(to, kernel, args, given, mode)
        if not isinstance(out.asm, Texts):
            out.asm = Texts(out)
    facts, (types, scratch, maps, found) = out.metadata, facts_of(out, tuple(parameters))
    if order:
        arguments = [(name, values[n]) for name, n in order]
    else:
        arguments = flattened(parameters, types, maps)
        if key and "tensordesc" not in str(types):
            remember(kernel, key, to, out, flattened(numbered(kernel, parameters), types, ()))
    if not 0 <= found - len(arguments) <= len(SCRATCH):
        raise RuntimeError(
            f"Triton {triton.__version__} gives {facts.name} {found} parameters for {len(arguments)} arguments: it "
            "lays them out in a way unknown here; use another version, and report this one"
        )
    arguments += [(name, 0) for name in SCRATCH[: found - len(arguments)]]
    facts = facts.name, facts.shared, facts.num_warps
    return Compiled(out.asm, *facts, f"sm_{sm}", arguments, parameters, scratch, types, out, maps)


@lru_cache(maxsize=256)
def facts_of(out: Any, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, tuple[int, int]], Any, int]:
    """Of a CompiledKernel: types, scratch and maps as in Compiled, and how many parameters its PTX has."""
    facts = out.metadata
    sizes = {name: (getattr(facts, f"{name}_size", 0), getattr(facts, f"{name}_align", 1)) for name in SCRATCH}
    scratch = {name: size for name, size in sizes.items() if size[0]}
    types = {name: out.src.signature.get(name, "constexpr") for name in names}
    return types, scratch, getattr(facts, "tensordesc_meta", None) or (), parameter_count(out.asm["ptx"])


def parameter_count(ptx: str) -> int:
    entry = re.search(r"\.entry\s+[\w$]+\s*\((.*?)\)", ptx, re.DOTALL)
    return entry[1].count(".param") if entry else 0


def bind(kernel: JITFunction, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All parameters of a kernel by name, defaults filled in. Raises TypeError, with their names, unless these fit."""
    names, count = kernel.arg_names, len(args)
    if count + len(kwargs) == len(names) and kwargs.keys() == {*names[count:]}:  # sooner than by inspect
        return dict(zip(names, args, strict=False)) | {name: kwargs[name] for name in names[count:]}
    try:
        bound = kernel.signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{kernel.__name__}: {error}; its parameters are {', '.join(kernel.arg_names)}") from None
    bound.apply_defaults()
    return bound.arguments


def compiling() -> bool:
    """Whether this thread is inside `_compile`, whose warmup is Triton's own."""
    return getattr(_here, "compiling", False)


def _compile(target: GPUTarget, kernel: JITFunction, args: tuple, kwargs: dict[str, Any], mode: str | None) -> Any:
    kinds = {*map(type, leaves((*args, *kwargs.values())))}
    if any(issubclass(kind, (np.ndarray, np.generic)) for kind in kinds):
        args, kwargs = tuple(map(_seen, args)), {name: _seen(x) for name, x in kwargs.items()}
    with _compiling, _knob(mode):
        true = driver._active  # None where nobody has asked for one, or there is no GPU
        driver.set_active(StandIn(target, true))  # pyright: ignore[reportArgumentType]
        before, _here.compiling = compiling(), True
        try:
            return kernel.run(*args, grid=None, warmup=True, **kwargs)
        finally:
            _here.compiling = before
            driver.set_active(true)  # pyright: ignore[reportArgumentType]


@contextmanager
def instrumented(mode: str) -> Iterator[None]:
    """Inside, launches of this thread that name no mode of their own are compiled with this one."""
    token = _asked.set(mode)
    try:
        yield
    finally:
        _asked.reset(token)


def instrumentation() -> str:
    """The mode that a launch of this thread is compiled with, if it names none; "" for none."""
    return _asked.get() or getattr(knobs.compilation, "instrumentation_mode", "")


@contextmanager
def _knob(mode: str | None) -> Iterator[None]:
    """Inside, Triton makes no cubin, and instruments what it compiles, for it asks a knob. None leaves it as it is."""
    before, hook = getattr(knobs.compilation, "instrumentation_mode", ""), knobs.runtime.add_stages_inspection_hook
    if hook is None and not knobs.compilation.dump_ir:  # which dumps the cubin, too
        knobs.runtime.add_stages_inspection_hook = without_cubin()
    knobs.compilation.instrumentation_mode = before if mode is None else mode
    try:
        yield
    finally:
        knobs.runtime.add_stages_inspection_hook, knobs.compilation.instrumentation_mode = hook, before


def _seen(value: Any) -> Any:
    """An argument as Triton is to see it."""
    if isinstance(value, tuple):
        items = [x if x.__class__ in NUMBERS else _seen(x) for x in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, np.generic):
        return value.item()
    return Pointer(value) if isinstance(value, np.ndarray) else value


def flattened(parameters: dict[str, Any], types: dict[str, Any], maps: Sequence[dict]) -> list[tuple[str, Any]]:
    """The PTX parameters of all Python parameters; see Compiled. Raises Refused for what no GPU takes."""
    rest = iter(maps)
    return [pair for name, x in parameters.items() for pair in placed(name, types.get(name, "constexpr"), x, rest)]


def placed(name: str, kind: Any, value: Any, maps: Iterator[dict]) -> Iterable[tuple[str, Any]]:
    """The PTX parameters of one Python parameter, by its type in Triton's signature: none if it was folded."""
    if isinstance(kind, (tuple, list)):
        parts = zip(members(name, value), value, kind, strict=True)
        return [pair for part, item, inner in parts for pair in placed(part, inner, item, maps)]
    if str(kind).startswith("tensordesc"):
        return host.placed(name, value, next(maps, None))
    return [(name, value)] if kind != "constexpr" else []


def members(name: str, values: tuple | list) -> list[str]:
    """The names of the members of a tuple called `name`: name.field or name[0]."""
    return members_of(name, getattr(values, "_fields", None) or len(values))


@lru_cache(maxsize=1024)
def members_of(name: str, fields: Any) -> list[str]:
    return [f"{name}[{n}]" for n in range(fields)] if isinstance(fields, int) else [f"{name}.{x}" for x in fields]


def leaves(value: Any) -> list[Any]:
    """A value, or those that a tuple holds, however deep."""
    if not isinstance(value, tuple):
        return [value]
    found = []
    for item in value:
        if isinstance(item, tuple):
            found += leaves(item)
        else:
            found.append(item)
    return found
