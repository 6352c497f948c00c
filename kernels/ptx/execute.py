"""One launch from start to end: lay out memory, run the machine, look for races, give back results and a report."""

from collections.abc import Sequence
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np

from .assemble import assemble
from .block import World, coordinates
from .calls import Printed
from .counters import CLASSES, Counters, Traffic, class_of
from .decode import Decoded, dtype
from .errors import PtxError, Race, WarpRace, location
from .locations import described
from .machine import Machine
from .memory import GlobalMemory
from .parse import Instruction
from .races import Access, find_races
from .segments import Buffer, Region, number, span
from .shadow.launch import Asked, Shadow, ShadowReport
from .tma import global_side, host
from .uninitialised import verdict

ENDS = "neither a release and acquire nor the end of a launch"
LIBRARY = ("standard.py", "core.py", "math.py")


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
    printed      what the kernel printed, see calls.Printed
    log          with trace=True, every access to global memory in order, see races.Access; else empty
    regions      where the arrays lie in the log's addresses
    config       the triton.Config of a kernel under triton.autotune that ran; else None

    What Triton's CompiledKernel has, it has too, if a Triton kernel was launched: n_regs, n_spills, asm, metadata, ...
    """

    compiled: Any = None  # the compiled.Kernel
    shadow: Any = None  # with shadow="float64", a shadow.launch.ShadowReport
    config: Any = None

    def __init__(self, name: str, target: str, world: World, trace: bool):
        self.name, self.target, self.grid, self.num_warps = name, target, world.grid, world.T // 32
        self.counters, memory = world.counters, world.memory
        self.disagreeing, self.printed = self.counters.disagreeing, world.printed
        self.unwritten = memory.unwritten()
        self.unique = memory.read_bytes()
        self.stored_to = {r.buffer.name: span(r.buffer.array) for r in memory.stored_to()}
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
        for instruction, line in self.by_instruction:
            # the innermost line that is not of Triton's library
            where = next((at for at in instruction.where if at[0] not in LIBRARY), ("?", 0))
            lines[where] = lines.get(where, Line()).plus(line)
        return dict(sorted(lines.items()))

    @cached_property
    def classes(self) -> dict[str, int]:
        classes = dict.fromkeys(CLASSES, 0)
        for instruction, line in self.by_instruction:
            classes[class_of(instruction.opcode)] += line.instructions
        return {name: n for name, n in classes.items() if n}


def scalar(value: Any, kind: str) -> np.ndarray:
    """A number argument as the bits of its parameter."""
    if kind[0] == "f":
        return np.full((1, 1), value, f"f{int(kind[1:]) // 8}").view(dtype(kind))
    bits = int(kind[1:])
    return np.full((1, 1), int(value) & ((1 << bits) - 1), dtype(kind))


class Start(NamedTuple):
    """What a launch starts from; see `execute`."""

    decoded: Decoded
    grid: tuple[int, int, int]
    parameters: dict[str, Any]  # of the module, by name
    buffers: list[Buffer]
    shared: int
    num_warps: int
    checks: bool
    seed: int | None
    readable: dict[str, Any]
    blank: dict[str, np.ndarray] | None
    shadow: Any = None  # a shadow.launch.Asked

    def world(self, filler: int | None, prints: bool, lenient: bool) -> World:
        """The launch before its first instruction; unwritten bytes hold `filler`, or what the arrays do if None."""
        decoded, grid, checks = self.decoded, self.grid, self.checks
        constants, blank = decoded.constants | host.room(self.parameters), self.blank if checks else None
        memory = GlobalMemory(self.buffers, constants, self.readable, checks, blank, filler)
        host.write(memory, self.parameters)
        values = {}
        for parameter, kind in decoded.parameters:
            value = self.parameters[parameter]
            if isinstance(value, host.Descriptor):
                continue  # the parameter's name stands for the address of its map
            bits = memory.pointers[value.name] if isinstance(value, Buffer) else number(value, memory.segments)
            values[parameter] = scalar(bits or 0, kind)
        T, random = 32 * self.num_warps, None if self.seed is None else np.random.default_rng(self.seed)
        registers = decoded.registers(memory.pointers, values, T, grid, random)
        size, counters, printed = self.shared + decoded.shared, Counters(decoded, T), Printed(prints)
        world = World(decoded, memory, counters, registers, grid, T, size, checks, random, printed, lenient, {}, {})
        return world._replace(shadow=Shadow(self.shadow, world, self.parameters)) if self.shadow else world


def execute(
    text: str, grid: tuple[int, int, int], arguments: list[tuple[str, Any]], *, name: str, target: str, shared: int,
    num_warps: int, checks: bool = True, seed: int | None = None, readable: dict[str, Any] | None = None,
    approximation_ulps: int = 0, trace: bool = False, reachable: Sequence[Buffer] = (), prints: bool = True,
    blank: dict[str, np.ndarray] | None = None, warp_races: str = "raise", max_steps: int | None = None,
    written: dict[str, np.ndarray] | None = None, shadow: Asked | None = None,
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
    lenient = warp_races == "warn"
    hints = shadow[:2] if shadow else None
    decoded = assemble(text, approximation_ulps, seed or 0 if approximation_ulps else 0, seed is not None, hints)
    if len(arguments) != len(decoded.parameters):
        raise ValueError(f"{name} takes {len(decoded.parameters)} arguments in its PTX; {len(arguments)} came")
    parameters = {name: value for (name, _), (_, value) in zip(decoded.parameters, arguments, strict=True)}
    buffers = [*host.arrays([*parameters.values()]), *reachable]
    start = Start(decoded, grid, parameters, buffers, shared, num_warps, checks, seed, readable or {}, blank, shadow)
    came = [b.array.copy() for b in buffers] if shadow else []

    def again(filler: int) -> tuple[GlobalMemory, PtxError | None]:
        other = start.world(filler, prints=False, lenient=lenient)
        return other.memory, ended(other, max_steps)

    usual = start.world(None, prints, lenient)
    try:
        error = verdict((usual.memory, ended(usual, max_steps)), again)
    finally:
        usual.printed.close()
        usual.memory.write_back(written)
    if error is not None:
        raise error
    for race in find_races(usual.memory.log):
        usual.complain(as_error(race, grid, usual.memory))
    report = Report(name, target, usual, trace)
    report.shadow = ShadowReport(start, came, usual) if shadow else None
    return report


def ended(world: World, max_steps: int | None) -> PtxError | None:
    """Run a launch to its end; what it fails with."""
    try:
        Machine(world, **({} if max_steps is None else {"limit": max_steps})).run()
    except PtxError as error:
        return error
    return None


def as_error(race: Any, grid: tuple[int, int, int], memory: GlobalMemory) -> Race:
    """A race of races.py as an error at its second access."""
    (one, first, p, t), (two, second, q, u), address = race.first, race.second, race.address
    X, Y, Z = grid
    warp = race.level == "warp"
    what = f"a race {'within one warp ' if warp else ''}at {described(address, memory.regions)}: "
    own = X * Y * Z  # programs from here on are bulk copies, beside the programs
    if warp and one is two and first == second == "store":
        what += f"threads {t} and {u} store two values, and PTX does not say which stays"
    else:
        group, missing = {
            "warp": ("the same warp", "no barrier, for lanes need not be in step,"),
            "program": ("the same program", "no barrier"),
            "launch": (f"program {coordinates(p % own, grid)}", ENDS),
        }[race.level]
        if p % own == q % own and not race.within:
            group, missing = "the same program", global_side.missing(memory.log, race, own)
        where = f", {location(one.where)}" if one.where else ""
        what += f"this {words(second, q >= own)} and {'an' if first == 'atomic' else 'a'} {words(first, p >= own)} by "
        what += f"thread {t} of {group}{where}, "
        what += f"PTX line {one.line}, with {missing} between them"
    return (WarpRace if warp else Race)(what, two, coordinates(q % own, grid), u)


def words(kind: str, bulk: bool) -> str:
    return f"{kind} by a bulk copy" if bulk else kind
