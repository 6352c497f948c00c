"""Triton's CompiledKernel without a driver: what `kernel[grid](...)` and `kernel.warmup(...)` return under a route.

Registers and spills are those of Triton's cubin, as its cuobjdump prints them.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import triton

from .compile import SCRATCH, Compiled, bind, flattened
from .errors import Refused
from .limits import WARP, check_program, check_registers, threads_by_registers

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Usage(NamedTuple):
    """What each thread of a kernel holds."""

    registers: int
    stack: int  # bytes
    local: int  # bytes


@cache
def usage(cubin: bytes) -> Usage:
    """Read a cubin of one kernel. Raises CalledProcessError for none."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [TOOLS / "cuobjdump", "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return Usage(found["REG"], found["STACK"], found["LOCAL"])


class Kernel:
    """A kernel compiled for the machine; all that is not below is Triton's own: asm, metadata, hash, name, src, ...

    n_regs         registers of a thread
    n_spills       words of 4 bytes that a thread keeps in local memory, as the driver counts them
    n_max_threads  the most threads of a program that the registers leave room for, and .reqntid allows
    shared, num_warps, target  of a program: bytes of shared memory, warps; "sm_90"

    `kernel[grid](*args)` launches it again, with all parameters of the Python function, inside a route.
    """

    def __init__(self, compiled: Compiled, python: Any, launch: Callable[..., Any]):
        self.compiled, self.python, self._launch = compiled, python, launch
        self.shared, self.num_warps, self.target = compiled.shared, compiled.num_warps, compiled.target
        self.module = self.function = None  # which the driver would have loaded

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "compiled" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.compiled.triton, name)

    @property
    def kernel(self) -> bytes:
        return self.compiled.asm["cubin"]

    @cached_property
    def usage(self) -> Usage:
        return usage(self.kernel)

    @property
    def n_regs(self) -> int:
        return self.usage.registers

    @property
    def n_spills(self) -> int:
        return (self.usage.stack + self.usage.local) // 4

    @property
    def n_max_threads(self) -> int:
        return min(threads_by_registers(self.n_regs), self.num_warps * WARP)

    def _init_handles(self) -> None:
        """As Triton loads it: raises OutOfResources for a program that does not fit the target."""
        check_program(self.compiled.name, int(self.target[3:]), self.num_warps, self.shared)
        most = self.compiled.triton.metadata.maxnreg  # else ptxas keeps to what the threads leave
        if most and threads_by_registers(most) < self.num_warps * WARP:
            check_registers(self.compiled.name, self.num_warps, self.n_regs)

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return lambda *args, stream=None: self._launch(self.with_arguments(args), grid)

    @property
    def run(self) -> Callable[..., Any]:
        """Triton's launcher, called with the grid, what the driver needs, and the arguments."""
        return lambda x, y, z, stream, function, packed, metadata, enter, leave, *args: self[(x, y, z)](*args)

    def with_arguments(self, args: tuple) -> "Kernel":
        """The same machine code on other arguments. Raises Refused where a value that was folded is another now."""
        old = self.compiled
        folded = {name for name, kind in old.types.items() if kind == "constexpr"}
        # Triton's launcher passes over constexprs without a look, so that those at the end may be left out.
        rest = {name: old.parameters[name] for name in self.python.arg_names[len(args) :] if name in folded}
        new = bind(self.python, args, rest)
        for name in new:
            if name in folded and not same(old.parameters[name], new[name]):
                raise Refused(
                    f"{old.name} was compiled for {name}={old.parameters[name]!r}, and is launched with {new[name]!r}; "
                    "launch the @triton.jit function itself, which compiles it anew"
                )
        scratch = [pair for pair in old.arguments if pair[0] in SCRATCH]
        arguments = flattened(new, old.types, old.maps)
        return Kernel(old._replace(arguments=arguments + scratch, parameters=new), self.python, self._launch)


def same(a: Any, b: Any) -> bool:
    """Whether two values that Triton folds are the same one, as far as they can be compared."""
    a, b = (getattr(x, "value", x) for x in (a, b))
    try:
        return a is b or bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return True
