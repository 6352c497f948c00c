"""A kernel's machine code: written, compiled and kept, with what a launch needs to know of it."""

import ctypes
import hashlib
from collections import defaultdict
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from ..start import Start
from ..uncollected import uncollected
from . import (
    asynchronous,
    brief,
    code,
    counted,
    ir,
    matrices,
    memory,
    numpy_loops,
    others,
    programs,
    replay,
    schedule,
    shared,
    twins,
    warp,
)
from .clocks import columns
from .counted import blocks
from .flow import Warp
from .lower import Unlowered
from .pieces import Once
from .plan import Plan, loops_by, may_write, plan

FAMILIES = [memory.LOWER, asynchronous.LOWER, shared.LOWER, warp.LOWER, matrices.LOWER, others.LOWER]
RUNTIME = numpy_loops.RUNTIME | programs.RUNTIME | memory.RUNTIME | shared.RUNTIME | warp.RUNTIME | matrices.RUNTIME
RUNTIME |= counted.RUNTIME | replay.RUNTIME
LASTING = 1e-3  # seconds for each instruction that a kernel has run, from which on better code is worth its price

ran: dict[bytes, float] = defaultdict(float)  # seconds of this process in machine code, by kernel, per instruction


class Compiled(NamedTuple):
    """A kernel's machine code, and what is known of it.

    blocks  of each instruction, which of plan.starts it belongs to
    events  whether programs stop at atomics, or all accesses, whose order is that of the schedule
    opcodes  that it has
    writes  the parameters through which it may write; None: any array
    table   of a kernel with events, see schedule.py
    fine    of arrays that a launch asked for, the next ones keep each reader from the start, see arrays.py
    """

    plan: Plan
    blocks: np.ndarray
    code: Any
    frame_size: int
    events: bool
    opcodes: frozenset[str]
    writes: set[str] | None
    table: np.ndarray | None
    fine: set[str]


def key(start: Start) -> bytes:
    """Stands for the machine code of a launch's kernel."""
    known = start.shadow and (*start.shadow[:3], bool(start.shadow.lines))
    return key_of(start.text, start.num_warps, known, start.may_race)


@lru_cache(maxsize=256)
def key_of(text: str, warps: int, shadow: Any = None, may_race: bool = False) -> bytes:
    """shadow: what code with one depends on; None of code without."""
    known = hashlib.sha256(text.encode()).digest() + bytes([warps, may_race])
    if shadow:
        ((numbers, rounded), *others) = shadow
        known += repr((numbers, sorted(rounded), others)).encode()
    return known


def compiled(start: Start, best: bool = False) -> Compiled:
    """A kernel's machine code: the best, if it is asked for, at hand, or the kernel has run for long; else what is
    soonest made.

    Raises Unlowered if it has none.
    """
    name = key(start)
    best = best or ran[name] > LASTING
    shadow, kind = bool(start.shadow), Warp
    if found := kept(name, 1, shadow) or (None if best else kept(name, 0, shadow)):
        return found
    if shadow:
        kind = partial(twins.Twins, rounds=bool(start.shadow.lines))
    return code_of(name, Once((start.decoded, kind, start.may_race)), 32 * start.num_warps, int(best))


@lru_cache(maxsize=256)
def kept(key: bytes, level: int, shadow: bool) -> Compiled | None:
    """What an earlier process has compiled, if both the code and its brief are on the disk."""

    def lost() -> list[str]:
        raise LookupError(key)

    found = brief.read(key)
    try:
        needed = needs(shadow, found[0]["asynchronous"]) if found else ()
        return found and found[1]._replace(code=code.compiled(key, lost, needed, level), fine=set())
    except LookupError:
        return None


def refuses(start: Start) -> str:
    """Why a launch runs in NumPy form even if its kernel has machine code, or ""."""
    if start.trace:
        return "it is to keep a log of all accesses"
    if not start.moved and start.seed is None:
        return ""
    opcodes = brief.opcodes(key(start), Once(start.decoded))
    if start.seed is not None and any(x.startswith("mbarrier.") and "_wait" in x for x in opcodes):
        return "it waits for mbarriers, which are late at random"
    if start.moved and any(".approx" in x or ".full" in x for x in opcodes):
        return "its approximations are to be moved"
    atomics = [x for x in opcodes if x.startswith(("atom.", "red."))]
    if start.seed is not None and atomics and (start.shadow or any(".global" not in x for x in atomics)):
        return "it has atomics, whose order is random"
    return ""


@lru_cache(maxsize=256)
@uncollected()
def code_of(key: bytes, kernel: Once, T: int, level: int = 0) -> Compiled:
    """kernel: the program, the Warp that writes its code, and whether accesses may race"""
    decoded, kind, may_race = kernel.value
    event = memory.is_access if may_race else memory.is_event
    made = plan(decoded, T, event, asynchronous.stop_of, pauses=not may_race)
    if loops_by(decoded, event, may_race):
        raise Unlowered("programs that wait for one another")
    if decoded.asynchronous:
        columns(T // 32, made.mbarriers)  # or Unlowered, for too many
    module = ir.Module("kernel")
    writer = kind(decoded, made, T, module, FAMILIES, memory.ANYWAY)

    def write() -> list[str]:
        writer.emit()
        return [str(module)]

    machine_code = code.compiled(key, write, needs(kind is not Warp, decoded.asynchronous), level)
    own = blocks(decoded, made.starts)
    known = bool(made.events), brief.opcodes(key, Once(decoded)), may_write(decoded)
    known += (schedule.table(decoded, made.events) if made.events else None,)
    found = Compiled(made, own, machine_code, writer.frame_size, *known, set())
    brief.write(key, decoded, found)
    return found


def needs(shadow: bool, beside: bool) -> tuple[Any, ...]:
    """What a kernel's code calls functions of; beside: something works beside its threads."""
    return (runtime(), *[runtime("shadows")] * shadow, *[runtime("asynchronous")] * beside)


@cache
def runtime(of: str = "all") -> Any:
    """The functions that the code of all kernels calls; or those that some call beside them."""
    functions, below = {
        "all": (RUNTIME, ()),
        "shadows": (twins.RUNTIME, ()),
        "asynchronous": (asynchronous.RUNTIME, ("all",)),
    }[of]

    def write() -> list[str]:
        module = ir.Module("runtime")
        for define in functions.values():
            define(module)
        return [str(module)]

    return code.compiled(f"runtime of {of}".encode(), write, tuple(map(runtime, below)), level=1)


@cache
def entry(name: str, *kinds: Any, of: str = "all") -> Callable[..., int]:
    """A function of a runtime that returns a status."""
    return ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(runtime(of)[name])
