"""How threads share a step: in phases, each cut into shares that a free thread takes, with a meeting at its end.

Which thread computes a share changes no bit of it. Every phase has LINE counters, int64, in memory: the threads that
have come to its end, then the shares taken of each thread's region. They start at 0 and are used once; those of phase 0
say that the caller has begun, and that it never will.
"""

import platform
from typing import Any, NamedTuple

from llvmlite import ir
from numba import njit, types

from .functions import OPTIONS
from .job import LINE
from .pointers import place, shifted
from .vectors import I32, I64, declare, operation

REGIONS = LINE - 1
SPINS = 4000  # looks at a counter before a waiting thread lets others have its core, some 50 microseconds
PAUSE = {
    "x86_64": ("llvm.x86.sse2.pause",),
    "aarch64": ("llvm.aarch64.hint", I32(1)),
    "arm64": ("llvm.aarch64.hint", I32(1)),
}


@operation
def count_up(context, start, index):
    """Add 1 to an int64 that other threads count up too; returns what it was."""

    def generate(ctx, builder, signature, args):
        return builder.atomic_rmw("add", place(builder, shifted(builder, start, *args), I64), I64(1), "seq_cst")

    return types.int64(start, types.int64), generate


@operation
def look(context, start, index):
    """An int64 that other threads write."""

    def generate(ctx, builder, signature, args):
        return builder.load_atomic(place(builder, shifted(builder, start, *args), I64), "seq_cst", 8)

    return types.int64(start, types.int64), generate


@operation
def pause(context):
    """Tell the core that this thread waits."""

    def generate(ctx, builder, signature, args):
        name, *operands = PAUSE.get(platform.machine().lower().replace("amd64", "x86_64"), ("",))
        if name:
            builder.call(declare(builder, name, ir.VoidType(), *(x.type for x in operands)), operands)
        return ctx.get_dummy_value()

    return types.void(), generate


@operation
def give_way(context):
    """Let another thread have this core, where the system's C library has the call for it."""

    def generate(ctx, builder, signature, args):
        if platform.system() != "Windows":
            builder.call(declare(builder, "sched_yield", I32), [])
        return ctx.get_dummy_value()

    return types.void(), generate


class Crew(NamedTuple):
    """The threads of a job, from one of them: a Pointer to the counters, its number, how many they are."""

    phases: Any
    thread: Any
    threads: Any


@njit(**OPTIONS)
def share(crew, phase, count):
    """A share of a phase's `count` that no thread has taken, or `count` if there is none; asked for until then.

    A thread goes through shares of its own, one after another, since memory is read so best, and then helps the others.
    """
    regions = min(crew.threads, REGIONS)
    for i in range(regions):
        region = (crew.thread + i) % regions
        first, stop = count * region // regions, count * (region + 1) // regions
        taken = first + count_up(crew.phases, phase * LINE + 1 + region)
        if taken < stop:
            return taken
    return count


@njit(**OPTIONS)
def meet(crew, phase):
    """Wait until every thread has come to the end of this phase."""
    count_up(crew.phases, phase * LINE)
    spins = 0
    while look(crew.phases, phase * LINE) < crew.threads:
        spins += 1
        if spins > SPINS:
            give_way()
        else:
            pause()


@njit(**OPTIONS)
def all_here(phases):
    """Wait for the first thread, the caller's, to begin; False if Python was interrupted, and it never will."""
    spins = 0
    while look(phases, 0) == 0:
        if look(phases, 1) != 0:
            return False
        spins += 1
        if spins > SPINS:
            give_way()
        else:
            pause()
    return True
