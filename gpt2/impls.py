"""The impl that "auto" stands for: on a CPU the compiled engine, where it can run; elsewhere torch's own attention."""

import sys
from functools import cache

import torch

from .arguments import IMPLS, check_impl, refuse

AUTO = "auto"


def resolve_impl(
    impl: str, device: torch.device, dtype: torch.dtype, weights: str | None = None, invariant: bool = False
) -> str:
    """The impl that a model is loaded for, one of IMPLS: the one named, or what "auto" is for it on this machine.

    device, dtype, weights, invariant  as `load` takes them. Where "auto" is "sdpa" on a CPU, one line on standard error
                                       says why, once in a process; an invariant model has no such way out

    Raises ValueError for an unknown impl, or a device or dtypes that the engine does not take; ImportError where the
    engine was asked for, by name or by invariant, and cannot run. Imports nothing of the engine for other impls.
    """
    if check_impl(impl, (AUTO, *IMPLS)) not in (AUTO, "numba"):
        return impl
    if device.type != "cpu":
        if impl == AUTO:
            return "sdpa"
        raise refuse("device", str(device), "the CPU for impl 'numba'; use impl='triton' on a GPU")
    from ..kernels.cpu.machine_code import NoEngine

    try:
        check_engine(dtype, weights)
        return "numba"
    except (ValueError, NoEngine) as error:
        if impl != AUTO or invariant:
            raise
        say_once(f"impl 'sdpa' computes, the slower one: {error}")
        return "sdpa"


def check_engine(dtype: torch.dtype, weights: str | None):
    """Raises ValueError unless the engine takes these dtypes, NoEngine unless it runs on this machine."""
    from ..kernels.cpu.machine_code import NoEngine, Variant, available, check

    name = str(dtype).removeprefix("torch.")
    variant = Variant(weights or name, name, name, "float64" if name == "float64" else "float32")
    check(variant)
    if reason := available(variant):
        raise NoEngine(reason)


@cache
def say_once(line: str):
    print(f"kvproof: {line}", file=sys.stderr)
