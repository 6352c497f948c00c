"""The PTX machine: run what the GPU would run, without a GPU.

    from kvproof.kernels import ptx

    report = ptx.run(kernel, grid, x, out, n, BLOCK=256, target="sm_90", num_warps=4)
    with ptx.route(target="sm_80", seed=1):  # an unchanged launcher
        kernel[grid](x, out, n, BLOCK=256)
    ptx.check(kernel, grid, x, out, n, BLOCK=256)  # on several GPUs, under several schedules

Triton compiles the kernel for a named GPU; the machine executes that PTX and raises what is wrong with it: see
errors.py. It has two engines: the NumPy form, which runs all threads of all programs at once and finds the words for
what is wrong, and machine code of this CPU, held to it bit for bit. In the order of a launch's life:

    settings, options, limits        settings and options, and whether the machine and a GPU take them
    launch, autotune, compile        arguments and a Triton kernel -> PTX; cubin, and compiled: what a launch returns
    specialised                      the kernel of a launch like one before, without asking Triton
    pretend/                         a GPU that is not there, for launchers that insist on one
    differences                      arrays put back and compared
    reachable                        the arrays that it may touch
    other_targets                    a target for a kernel with instructions that the machine does not execute
    syntax, parse, inline            PTX -> instructions; uncollected: without Python's garbage collector
    decode, start                    the typed form that both engines run: instructions bound to registers, arguments
    execute                          which engine runs a launch; its report
    native/                          machine code: every check inside, as one bit
    assemble, lockstep               the NumPy form: steps that can be run; a launch from memory to races
    isa, and what it names           what each instruction computes that touches neither memory nor another thread
    access, atomics, collective      those that do; warp is the arithmetic of the latter
    matrix_forms, wgmma_forms        what mma, ldmatrix and wgmma take
    asynchronous/                    mbarriers, the async proxy, and happens-before in shared memory
    tma/                             tensor maps and bulk copies
    tensor_core/                     what tensor cores do: mma, wgmma, tcgen05
    calls, printed                   device_print and device_assert
    machine, block, deadlock         scheduling, divergence, barriers, deadlock
    drawn                            what a random schedule draws before the first instruction
    termination, progress            loops that never end, long launches
    segments, holes, locations       addresses, arrays with holes, and the array and element at each
    memory, shared, tags, local      bytes, with what may be accessed and what was
    torch_empty, uninitialised       unwritten memory of torch.empty, and whether a read of it changes results
    races, happens_before            races in global memory, by happens-before over the log of a launch
    algebra                          whether two kernels are one algebra, in the ring of Triton's fpsan
    counters                         instructions, bytes and bank conflicts
    profile, profile_page            the report as tables, and as a page of pictures

The machine, and with it triton, is imported when one of its names is first asked for: pytest loads pytest_plugin.py,
and so this file, in every run.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .algebra.same import same_algebra
    from .algebra.verdict import DifferentAlgebra
    from .check import check
    from .errors import (
        AssertionFailed,
        ConfigDependent,
        Deadlock,
        DivergentBarrier,
        Endless,
        InvalidBarrier,
        InvalidTensorMap,
        Misaligned,
        OutOfBounds,
        ParseError,
        PtxError,
        Race,
        Refused,
        ScheduleDependent,
        Trap,
        Undefined,
        Unfinished,
        Uninitialised,
        UnknownOpcode,
        WarpRace,
    )
    from .execute import Report
    from .holes import spread
    from .launch import route, routing, run, shadow_of
    from .limits import OutOfResources

__all__ = [
    "AssertionFailed", "ConfigDependent", "Deadlock", "DifferentAlgebra", "DivergentBarrier", "Endless",
    "InvalidBarrier", "InvalidTensorMap", "Misaligned", "OutOfBounds", "OutOfResources", "ParseError", "PtxError",
    "Race", "Refused", "Report", "ScheduleDependent", "Trap", "Undefined", "Unfinished", "Uninitialised",
    "UnknownOpcode", "WarpRace", "check", "route", "routing", "run", "same_algebra", "shadow_of",
    "spread",
]  # fmt: skip

HOMES = {**dict.fromkeys(("route", "routing", "run", "shadow_of"), "launch"), "check": "check", "Report": "execute",
         "same_algebra": "algebra.same", "DifferentAlgebra": "algebra.verdict", "OutOfResources": "limits",
         "spread": "holes"}  # fmt: skip  # all others are errors


def __getattr__(name: str) -> Any:
    """A name of __all__, all of which are bound on first use.  Raises ImportError without triton."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = {x: vars(importlib.import_module(f".{HOMES.get(x, 'errors')}", __name__))[x] for x in __all__}
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "triton":
            raise
        raise ImportError(
            f'the PTX machine needs triton, which is published for Linux only ({error}); GPT-2 runs with impl="sdpa"'
        ) from error
    globals().update(found)  # the function `check` in place of its module
    return found[name]
