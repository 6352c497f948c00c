"""What a GPU takes of one launch, and the refusal of what it does not.

Source: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Triton raises OutOfResources for
the same when it loads a kernel, the driver answers a grid out of range with "invalid argument".
"""

import operator
from typing import Any, NamedTuple

from triton.runtime.errors import OutOfResources as TritonOutOfResources

from .errors import Refused

REGISTERS = 65536  # of an SM, each of 4 bytes
THREADS = 1024  # of a program
WARP = 32
GRID = (2**31 - 1, 65535, 65535)  # programs along x, y, z
RESERVED = 1024  # bytes of shared memory that CUDA takes for each program, from sm_80 on


class Limits(NamedTuple):
    """What an SM of one compute capability holds at once."""

    warps: int
    programs: int
    shared: int  # bytes


LIMITS = {
    75: Limits(32, 16, 65536),
    80: Limits(64, 32, 167936),
    86: Limits(48, 16, 102400),
    89: Limits(48, 24, 102400),
    90: Limits(64, 32, 233472),
    100: Limits(64, 32, 233472),
    120: Limits(48, 24, 102400),
}


class OutOfResources(Refused, TritonOutOfResources):
    """A program that asks for more than the target has: Triton's error of this name, in words."""

    def __init__(self, what: str, required: int, limit: int, name: str):
        TritonOutOfResources.__init__(self, required, limit, name)
        self.what = what

    def __str__(self) -> str:
        return self.what

    def __reduce__(self):
        return type(self), (self.what, self.required, self.limit, self.name)


def reserved(sm: int) -> int:
    """Bytes of shared memory that CUDA keeps for itself, for each program."""
    return RESERVED if sm >= 80 else 0


def shared_limit(sm: int) -> int:
    """The most bytes of shared memory that one program may have, by opting in."""
    return LIMITS[sm].shared - reserved(sm)


def grid_shape(grid: Any, parameters: dict[str, Any]) -> tuple[int, int, int]:
    """A launch's grid as Triton takes it -> programs along x, y, z.

    grid  whole numbers, one to three of them, or a function of the parameters by name that returns them

    Raises Refused for what is no grid, or more than a GPU takes.
    """
    shape: Any = grid(parameters) if callable(grid) else grid
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    try:
        numbers = [operator.index(n) for n in shape]
    except TypeError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or min(numbers) < 0:
        raise Refused(f"the grid is {shape}; give one to three numbers of programs, each an int >= 0")
    for axis, n, most in zip("xyz", numbers, GRID, strict=False):
        if n > most:
            advice = "let a program do more" + (", or lay the programs along x" if axis != "x" else "")
            raise Refused(f"the grid is {shape}, {n:,} programs along {axis}; a GPU takes up to {most:,}: {advice}")
    x, y, z = (*numbers, 1, 1)[:3]
    return x, y, z


def check_threads(name: str, num_warps: int) -> None:
    """Raise OutOfResources if a program has more threads than a GPU takes."""
    threads = num_warps * WARP
    if threads > THREADS:
        raise OutOfResources(
            f"{name} has {num_warps} warps, {threads:,} threads a program; a GPU takes up to {THREADS:,}: make "
            f"num_warps {THREADS // WARP} or less", threads, THREADS, "threads",
        )  # fmt: skip


def check_program(name: str, sm: int, num_warps: int, shared: int) -> None:
    """Raise OutOfResources if a program of these warps and bytes of shared memory fits no SM of the target."""
    check_threads(name, num_warps)
    room = shared_limit(sm)
    if shared > room:
        raise OutOfResources(
            f"{name} needs {shared:,} bytes of shared memory for a program; sm_{sm} has {room:,} ({room // 1024} KB): "
            "make its blocks or num_stages smaller", shared, room, "shared memory",
        )  # fmt: skip


def threads_by_registers(registers: int) -> int:
    """The most threads that a program may have whose threads hold so many registers: whole warps, by fours."""
    unit = -(-registers // 8) * 8 * WARP  # registers are given to a warp by 256
    return min(THREADS, REGISTERS // max(unit, 1) // 4 * 4 * WARP)


def check_registers(name: str, num_warps: int, registers: int) -> None:
    """Raise OutOfResources if the threads of a program hold more registers than an SM has."""
    most = threads_by_registers(registers)
    if num_warps * WARP > most:
        raise OutOfResources(
            f"{name} holds {registers} registers in each of {num_warps * WARP:,} threads; an SM has {REGISTERS:,}, so "
            f"{most} threads fit: make num_warps or maxnreg smaller", num_warps * WARP, most, "threads",
        )  # fmt: skip
