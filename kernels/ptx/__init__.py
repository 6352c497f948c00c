"""The PTX machine: run what the GPU would run, without a GPU.

    from kvproof.kernels import ptx

    report = ptx.run(kernel, grid, x, out, n, BLOCK=256, target="sm_90", num_warps=4)
    with ptx.route(target="sm_80", seed=1):  # an unchanged launcher
        kernel[grid](x, out, n, BLOCK=256)
    ptx.check(kernel, grid, x, out, n, BLOCK=256)  # on several GPUs, under several schedules

Triton compiles the kernel for a named GPU; the machine executes that PTX in NumPy, all threads of all programs at once,
and raises what is wrong with it: see errors.py. In the order of a launch's life:

    launch, compile, reach       arguments and a Triton kernel -> PTX, and the arrays that it may touch
    syntax, parse, inline        PTX -> instructions
    assemble, decode             instructions -> steps that can be run, bound to registers
    isa, and what it names       what each instruction computes that touches neither memory nor another thread
    access, atomics, collective  those that do; warp and mma are the arithmetic of the latter
    calls                        what device_print and device_assert call
    machine, block               who runs next; divergence, barriers, deadlock
    segments, places             addresses, and what they are called
    memory, shared, local        the bytes, who may touch them, and who has
    empties, unwritten           what torch.empty gave and nobody wrote, and whether it matters that it is read
    races, happens               what the log of a launch says of the accesses afterwards
    counters, execute            what it all cost: the report
"""

from .check import check
from .errors import (
    AssertionFailed,
    Deadlock,
    DivergentBarrier,
    Endless,
    Misaligned,
    OutOfBounds,
    ParseError,
    PtxError,
    Race,
    ScheduleDependent,
    Trap,
    Uninitialised,
    UnknownOpcode,
    WarpRace,
)
from .execute import Report
from .launch import route, routing, run

__all__ = [
    "AssertionFailed", "Deadlock", "DivergentBarrier", "Endless", "Misaligned", "OutOfBounds", "ParseError", "PtxError",
    "Race", "Report", "ScheduleDependent", "Trap", "Uninitialised", "UnknownOpcode", "WarpRace", "check", "route",
    "routing", "run",
]  # fmt: skip
