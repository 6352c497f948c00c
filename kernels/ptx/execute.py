"""One launch from start to end: the typed form and its arguments, the engine that runs it, and the report."""

import os
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial, reduce
from typing import Any, NamedTuple

import numpy as np

from . import lockstep
from .assemble import assemble
from .counters import CLASSES, Traffic, class_of
from .errors import Refused
from .parse import Instruction
from .progress import say
from .races import Access
from .segments import Buffer, Region
from .settings import ENGINES
from .shadow.acts import line
from .shadow.launch import Asked, ShadowReport
from .start import Start
from .tma import host


class Line(NamedTuple):
    """What one source line of a launch did, or all lines of a class, or the launch."""

    instructions: int = 0  # warp instructions
    loaded: Traffic = Traffic()  # from global memory
    stored: Traffic = Traffic()
    shared: Traffic = Traffic()
    barriers: int = 0  # by programs' warps
    atomics: int = 0  # by threads

    def plus(self, other: "Line") -> "Line":
        pairs: Any = zip(self, other, strict=True)
        added: Any = (a.plus(b) if isinstance(a, Traffic) else a + b for a, b in pairs)
        return Line(*added)


class Report:
    """What a launch did: counts of warps, threads and bytes over all programs.

    name, target, grid, num_warps  which launch
    total        Line of the whole launch
    lines        Line by Python source line (file name, number)
    classes      warp instructions by class of instruction
    unique       distinct bytes of each array argument that were read; {} with checks=False
    unwritten    elements that came unwritten and still are, by array of which any came so; {} with checks=False
    stored_to    first byte and one past the last, in this process, of each array that it wrote to, whatever it wrote
    disagreeing  threads whose copy of a replicated value differs from the one that was stored
    printed      what the kernel printed, see printed.Printed
    log          with trace=True, every access to global memory in order, see races.Access; else empty
    regions      where the arrays lie in the log's addresses
    config       the triton.Config of a kernel under triton.autotune that ran; else None
    engine, engine_reason  "native", or "numpy" and why

    What Triton's CompiledKernel has, it has too, if a Triton kernel was launched: n_regs, n_spills, asm, metadata, ...
    """

    compiled: Any = None  # the compiled.Kernel
    config: Any = None
    engine = engine_reason = ""
    shadow: Any = None  # with shadow="float64", a shadow.launch.ShadowReport

    def __init__(self, name: str, target: str, world: Any, trace: bool):
        self.name, self.target, self.grid, self.num_warps = name, target, world.grid, world.T // 32
        self.counters, memory = world.counters, world.memory
        self.disagreeing, self.printed = self.counters.disagreeing, world.printed
        self.unwritten = memory.unwritten()
        self.unique = memory.read_bytes()
        self.stored_to = memory.spans()
        self.log: list[Access] = memory.log if trace else []
        self.regions: list[Region] = memory.regions if trace else []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.compiled is None:
            raise AttributeError(f"a report has no {name!r}")
        return getattr(self.compiled, name)

    def __getitem__(self, grid: Any) -> Any:
        """Launch the same compiled kernel again: report[grid](*args)."""
        return self.compiled[grid]

    @cached_property
    def by_instruction(self) -> list[tuple[Instruction, Line]]:
        """What each instruction that ran did."""
        counters = self.counters
        found = []
        for n, step in enumerate(counters.decoded.steps):
            issued, moved = int(counters.issued[n]), counters.memory.get(n, Traffic())
            kind = class_of(step.instruction.opcode)
            loaded = moved if kind in ("global load", "async copy") else Traffic()
            stored = moved if kind == "global store" else Traffic()
            shared, atomics = counters.shared.get(n, Traffic()), moved.operations if kind == "atomic" else 0
            line = Line(issued, loaded, stored, shared, issued if kind == "barrier" else 0, atomics)
            found += [(step.instruction, line)] if issued else []
        return found

    @cached_property
    def total(self) -> Line:
        return reduce(Line.plus, (line for _, line in self.by_instruction), Line())

    @cached_property
    def lines(self) -> dict[tuple[str, int], Line]:
        lines: dict[tuple[str, int], Line] = {}
        for instruction, did in self.by_instruction:
            where = line(instruction.where)
            lines[where] = lines.get(where, Line()).plus(did)
        return dict(sorted(lines.items()))

    @cached_property
    def classes(self) -> dict[str, int]:
        classes = dict.fromkeys(CLASSES, 0)
        for instruction, did in self.by_instruction:
            classes[class_of(instruction.opcode)] += did.instructions
        return {name: n for name, n in classes.items() if n}


def execute(
    text: str, grid: tuple[int, int, int], arguments: list[tuple[str, Any]], *, name: str, target: str, shared: int,
    num_warps: int, checks: bool = True, seed: int | None = None, readable: dict[str, Any] | None = None,
    approximation_ulps: int = 0, trace: bool = False, reachable: Sequence[Buffer] = (), prints: bool = True,
    blank: dict[str, np.ndarray] | None = None, warp_races: str = "raise", max_steps: int | None = None,
    written: dict[str, np.ndarray] | None = None, engine: str | None = None,
    shadow: Asked | None = None,
) -> Report:  # fmt: skip
    """Run the kernel of a PTX module over a grid.

    arguments  (name, Buffer, number or tma.host.Descriptor) in the order of the module's parameters
    reachable  more arrays that it may touch, by addresses that it loads
    blank      by array, which elements are unwritten: see uninitialised.py
    written    by array, which elements it wrote: filled here; None where nobody asks
    shared     bytes of dynamic shared memory; the rest as in settings.py

    Raises what the machine finds, see errors.py; whatever was written until then is in the arrays.
    """
    if warp_races not in ("raise", "warn"):
        raise ValueError(f'warp_races is {warp_races!r}; it can be "raise" or "warn"')
    hints = shadow[:3] if shadow else None
    known = text, approximation_ulps, seed or 0 if approximation_ulps else 0, seed is not None, hints
    engine = engine or engine_of_process()
    plain = engine != "numpy" and not shadow and not approximation_ulps
    decoded = typed(text, num_warps, partial(assemble, *known)) if plain else assemble(*known)
    if len(arguments) != len(decoded.parameters):
        raise ValueError(f"{name} takes {len(decoded.parameters)} arguments in its PTX; {len(arguments)} came")
    parameters = {name: value for (name, _), (_, value) in zip(decoded.parameters, arguments, strict=True)}
    buffers = [*host.arrays([*parameters.values()]), *reachable]
    start = Start(text, decoded, grid, parameters, buffers, shared, num_warps, checks, seed, readable or {}, blank,
                  warp_races, max_steps, trace, prints, approximation_ulps > 0, shadow)  # fmt: skip
    came = [b.array.copy() for b in buffers] if shadow else []
    launch, ran, why = run(start, written, engine)
    report = Report(name, target, launch, trace)
    report.engine, report.engine_reason = ran, why
    again = "numpy" if engine == "numpy" else None  # with roundings, which may be more than machine code carries
    report.shadow = ShadowReport(start, came, launch, lambda x: run(x, None, again)[0]) if shadow else None
    return report


def run(start: Start, written: dict[str, np.ndarray] | None, engine: str | None) -> tuple[Any, str, str]:
    """Run a launch -> what a Report is made from, the engine that ran it, and why if it was NumPy.

    engine  "native", "numpy", or None for whatever ends sooner

    Raises Refused where it is to be machine code, and cannot be; what the machine finds.
    """
    tier, why = (None, "asked for") if engine == "numpy" else tier_of(start, engine == "native")
    while True:
        if tier and tier.due() and (ended := tier.run(written)) is not None:
            return ended, "native", ""
        why = tier.why if tier else why
        if engine == "native" and not (tier and tier.code):
            raise Refused(f'engine="native" cannot run this launch: {why}; leave engine= out')
        begun = time.thread_time()
        ended = lockstep.run(start.assembled(), written, tier.due if tier else lambda: False)
        if tier:
            tier.spent(time.thread_time() - begun)
        if ended is not None:
            return ended, "numpy", why


def typed(text: str, num_warps: int, assembled: Callable[[], Any]) -> Any:
    """A kernel in typed form, or as much of it as machine code on the disk needs."""
    try:
        from .native import tiers
    except (ImportError, OSError):  # as tier_of says
        return assembled()
    return tiers.typed(text, num_warps, assembled)


def tier_of(start: Start, at_once: bool) -> tuple[Any, str]:
    """What decides when a launch is compiled, or None and why nothing is."""
    try:
        from .native.tiers import Tier
    except (ImportError, OSError) as error:  # an llvmlite that does not load raises OSError
        if not (getattr(error, "name", None) or "llvmlite").startswith("llvmlite"):
            raise
        why = f"llvmlite cannot be imported: {error}"
        say(f"the PTX machine runs in NumPy form, slowly; {why}")
        return None, why
    return Tier(start, at_once), ""


def engine_of_process() -> str | None:
    """What the environment asks for. Raises Refused for what is no engine."""
    found = os.environ.get("KVPROOF_PTX_ENGINE") or None
    if found not in ENGINES:
        raise Refused(f'KVPROOF_PTX_ENGINE is {found!r}; it must be "native" or "numpy", or unset')
    return found
