"""A launch in NumPy form, from its memory before the first instruction to races and results."""

from typing import Any

import numpy as np

from .block import World, coordinates
from .counters import Counters
from .errors import PtxError, Race, WarpRace, location
from .locations import described
from .machine import Machine
from .memory import GlobalMemory
from .printed import Printed
from .progress import Stop
from .races import find_races
from .start import Start
from .tma import global_side, host
from .uninitialised import verdict

ENDS = "neither a release and acquire nor the end of a launch"


def world(start: Start, filler: int | None, prints: bool) -> World:
    """The launch before its first instruction; unwritten bytes hold `filler`, or what the arrays do if None."""
    decoded, grid, checks = start.decoded, start.grid, start.checks
    constants, blank = decoded.constants | host.room(start.parameters), start.blank if checks else None
    memory = GlobalMemory(start.buffers, constants, start.readable, checks, blank, filler)
    host.write(memory, start.parameters)
    values = start.values(memory.pointers, memory.segments)
    T, random = 32 * start.num_warps, start.random()
    registers = decoded.registers(memory.pointers, values, T, grid, random)
    size, counters, printed = start.shared + decoded.shared, Counters(decoded, T), Printed(prints)
    lenient = start.warp_races == "warn"
    made = World(decoded, memory, counters, registers, grid, T, size, checks, random, printed, lenient, {}, {})
    return made._replace(shadow=start.shadow.begun(made, start.parameters)) if start.shadow else made


def run(start: Start, written: dict[str, np.ndarray] | None, stop: Stop) -> World | None:
    """Run a launch to its end, or until `stop` says so: then None, and the arrays are as they came.

    Raises what the machine finds; whatever was written until then is in the arrays.
    """

    def again(filler: int) -> tuple[GlobalMemory, PtxError | None]:
        other = world(start, filler, prints=False)
        return other.memory, ended(Machine(other, limit=start.max_steps))

    usual = world(start, None, start.prints)
    machine = Machine(
        usual, limit=start.max_steps, stop=lambda: not usual.printed.lines and not usual.lenient and stop()
    )
    stopped = False
    try:
        error = ended(machine)
        stopped = error is None and bool(machine.blocks)
        if stopped:
            return None
        error = verdict((usual.memory, error), again)
    finally:
        if not stopped:
            usual.printed.close()
            usual.memory.write_back(written)
    if error is not None:
        raise error
    for race in find_races(usual.memory.log):
        usual.complain(as_error(race, start.grid, usual.memory))
    return usual


def ended(machine: Machine) -> PtxError | None:
    """Run a launch to its end; what it fails with."""
    try:
        machine.run()
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
