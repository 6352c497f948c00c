"""What is known of a program before its code is written: blocks, which values all lanes share, what to keep at a stop.

A value is uniform if all lanes of a warp hold the same; its code is that of one number. Where a branch can part the
lanes, whatever may run before they have met again is under a mask, and nothing written there is uniform.
"""

import re
from collections import defaultdict
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

from ..decode import CLUSTER, Decoded, Step
from ..paths import follows, liveness, reachable
from ..syntax import Address, Immediate, Instruction, Register, Symbol, Vector
from .lower import Unlowered

VARIES = re.compile(r"(atom|elect|ldmatrix|w?g?mma|match\.any)\.")  # whatever its operands
SHARED = re.compile(r"(vote|redux|match\.all)\.|activemask")  # the same in all lanes, whatever its operands
STORES = re.compile(r"(st|atom|red)\.(?!(\w+\.)*(shared|local|param))|cp\.async\.bulk\..*bulk_group")
TOGETHER, ALL = re.compile(r"(shfl|vote|match|redux)\.|bar\.warp"), 0xFFFFFFFF
LANES = ("%tid.x", "%laneid")
WIDEST = 1 << 14  # instructions of a program that is compiled
APART = 256  # the most that run while lanes are apart; Triton's own branches part them in slow paths of functions alone


class Plan(NamedTuple):
    """
    starts     instructions that code jumps to, or goes on at after a stop, in order
    events     atomics that other programs may see, or all accesses: a warp stops before each, for its turn
    mbarriers  how many instructions make one
    turns      instructions that the warps of a program take turns at, or four of them come to together -> context.py's
    stops      where a warp's state is kept: these, what follows events, and what follows a barrier
    varying    slots whose value differs from lane to lane, as bits
    parting    branches and returns whose lanes may part
    alike      others, at which lanes that part are a suspicion, for too much would run until they meet again
    masked     instructions that may run while lanes are apart
    groups     by instruction that lanes may wait at, the number of the group of those that they wait at together; where
               it is not masked, they go on only once all are there
    live       by instruction, the slots that may be read from it on, as bits
    doubtful   slots that may be read before anything is written there
    """

    starts: list[int]
    events: frozenset[int]
    stops: frozenset[int]
    varying: int
    parting: frozenset[int]
    alike: frozenset[int]
    masked: frozenset[int]
    groups: dict[int, int]
    live: list[int]
    doubtful: int
    turns: dict[int, int]
    mbarriers: int


def bits(slots: Any) -> int:
    return reduce(or_, (1 << s for s in slots), 0)


def registers(operand: Any) -> list[str]:
    """The names of the registers in an operand, cluster's as the grid's."""
    if isinstance(operand, Vector):
        return [name for part in operand.parts for name in registers(part)]
    operand = operand.base if isinstance(operand, Address) else operand
    if not isinstance(operand, Register):
        return []
    name, dot, axis = operand.name.partition(".")
    return [CLUSTER.get(name, name) + dot + axis]


def uses(decoded: Decoded, step: Step) -> int:
    """The slots that an instruction reads; not those that its guard leaves as they are."""
    if step.guard or not step.instruction.guard:
        return step.reads
    named = {name for x in step.instruction.operands[1:] for name in registers(x)} | {step.instruction.guard.name}
    return step.reads & (~step.writes | bits(decoded.slots[name] for name in named if name in decoded.slots))


def uniform(i: Instruction) -> bool | None:
    """Whether the results are the same in all lanes that execute it, whatever its operands; None: if these are."""
    if not i.opcode.startswith("shfl."):
        return True if SHARED.match(i.opcode) else False if VARIES.match(i.opcode) else None
    if ".idx." in i.opcode and all(isinstance(x, Immediate) for x in i.operands[2:4]):
        b, c = (x.bits for x in i.operands[2:4])
        if not c >> 8 & 31 and b & 31 <= c & 31:  # one lane for all, and in range
            return True
    return False if isinstance(i.operands[0], Vector) else None  # whether a lane is in range varies


def patient(i: Instruction) -> bool:
    """Whether lanes wait at an instruction until all others have come to it."""
    return bool(TOGETHER.match(i.opcode)) and not i.guard and getattr(i.operands[-1], "bits", 0) & ALL == ALL


def apart(steps: list[Step], n: int) -> tuple[set[int], set[int]]:
    """What may run after an instruction parts lanes, the lowest first, until they have met again; and where they may:
    at one of these places, all of them, or else something is wrong."""
    found, todo, waiting, highest = set(), {*follows(steps, n)}, set(), n
    while todo:
        m = min(todo)
        if m == len(steps) or steps[m].control == "leave" or steps[n].control == "leave":
            return reachable(steps, follows(steps, n)), set()  # some may have returned
        todo.remove(m)
        if patient(steps[m].instruction):
            waiting.add(m)
            continue
        if not todo and m > highest and not (waiting and waiting & reachable(steps, [m])):
            return found, waiting | {m}
        found.add(m)
        highest = max(highest, m)
        todo |= {*follows(steps, m)} - found - waiting
    return found, waiting


def spread(decoded: Decoded, used: list[int]) -> tuple:
    """(varying, parting, alike, masked, groups) of a Plan: the least that is consistent."""
    steps = decoded.steps
    varying = bits(slot for name, slot in decoded.slots.items() if name in LANES)
    ways: dict[int, tuple[set[int], set[int]]] = {}  # of branches and returns whose guard varies
    masked: set[int] = set()
    while True:
        before = varying, len(ways)
        for n, s in enumerate(steps):
            guard = decoded.slots[s.instruction.guard.name] if s.instruction.guard else None
            one = guard is not None and varying >> guard & 1
            if one and s.control in ("branch", "leave") and n not in ways:
                ways[n] = apart(steps, n)
            same = uniform(s.instruction)
            if n in masked or one or same is False or (used[n] & varying and not same):
                varying |= s.writes
        parting = {n: found for n, (found, _) in ways.items() if len(found) <= APART}
        masked = set().union(*parting.values())
        if before == (varying, len(ways)):
            groups = joined([ways[n][0] | ways[n][1] for n in parting])
            return varying, frozenset(parting), frozenset(ways.keys() - parting), frozenset(masked), groups


def joined(sets: list[set[int]]) -> dict[int, int]:
    """The number of the set that each element is in, of sets of which those that share one are joined."""
    groups: list[set[int]] = []
    for new in sets:
        for other in [x for x in groups if x & new]:
            groups.remove(other)
            new = new | other
        groups.append(new)
    return {x: n for n, group in enumerate(groups) for x in group}


def plan(decoded: Decoded, T: int, is_event: Any, is_turn: Any, pauses: bool = True) -> Plan:
    """pauses: whether warps stop behind events, too.  Raises Unlowered for what no native code is written for."""
    steps = decoded.steps
    if len(steps) > WIDEST:
        raise Unlowered(f"{len(steps)} instructions")
    used = [uses(decoded, s) for s in steps]
    varying, parting, alike, masked, groups = spread(decoded, used)
    live = liveness(steps, used)
    events = {n for n, s in enumerate(steps) if is_event(s.instruction)}
    turns = {n: turn for n, s in enumerate(steps) if T > 32 and (turn := is_turn(s.instruction))}
    inits = sum(s.instruction.opcode.startswith("mbarrier.init") for s in steps)
    if decoded.asynchronous and events:
        raise Unlowered("atomics beside what works beside the threads")
    stops = {*turns, *events} | {n + 1 for n in events if pauses and n + 1 < len(steps) and n not in masked}
    waits = {n + 1 for n, s in enumerate(steps) if s.control == "barrier" and T > 32}
    jumps = {m for n, s in enumerate(steps) if s.control for m in follows(steps, n) if m < len(steps)}
    starts = sorted({0} | stops | waits | jumps | groups.keys() - masked)
    known = bits([*decoded.given.values(), *decoded.fixed, *decoded.undefined])
    at, kept = frozenset(events), frozenset(stops | waits)
    return Plan(starts, at, kept, varying, parting, alike, masked, groups, live, live[0] & ~known, turns, inits)


def loops_by(decoded: Decoded, is_event: Any, loads: bool = False) -> bool:
    """Whether what an event returns may decide how often a loop goes round: then threads wait for one another.

    loads  those of global memory are events, too: what they return is known by that, and many are no waits
    """
    steps = decoded.steps
    events = [n for n, s in enumerate(steps) if is_event(s.instruction)]
    inside = [n for n in events if n in reachable(steps, follows(steps, n))]
    if not inside:
        return False
    memory, space = 1 << len(decoded.slots), ".shared" if loads else ""  # what is stored comes back by a load
    tainted, before = reduce(or_, (steps[n].writes for n in inside), 0), -1
    while tainted != before:
        before = tainted
        for s in steps:
            opcode = s.instruction.opcode
            if (s.reads | memory * (opcode.startswith("ld.") and space in opcode)) & tainted:
                tainted |= s.writes | memory * opcode.startswith("st.")
    decided = [n for n, s in enumerate(steps) if s.control in ("branch", "leave") and s.guard]
    decided = [n for n in decided if tainted >> steps[n].guard[0] & 1]  # pyright: ignore[reportOptionalSubscript]
    if not loads:
        return bool(decided)
    return any(n in x and {*follows(steps, n)} - x for x in uncounted(steps) for n in decided)


def uncounted(steps: list[Step]) -> list[set[int]]:
    """Loops that may come round with the same registers: by jump back, the instructions between its target and it,
    unless each round adds a number to a register that nothing else there writes."""
    before: dict[int, list[int]] = defaultdict(list)
    for n in range(len(steps)):
        for m in follows(steps, n):
            before[m].append(n)

    def until(jump: int, *stops: int) -> set[int]:
        """From where it is reached without these."""
        found, todo = {*stops}, [jump]
        while todo:
            if (n := todo.pop()) not in found:
                found.add(n)
                todo += before[n]
        return found - {*stops}

    found = []
    for head, jump in ((s.target, n) for n, s in enumerate(steps) if s.control == "branch" and s.target <= n):
        body = until(jump, head) & reachable(steps, [head]) | {head}
        adds = [n for n in body if counts(steps[n].instruction)]
        adds = [n for n in adds if not any(steps[m].writes & steps[n].writes for m in body - {n})]
        if not any(n == head or not until(jump, head, n) & {*follows(steps, head)} for n in adds):
            found.append(body)
    return found


def counts(i: Instruction) -> bool:
    """Whether it adds a number to a register."""
    adds = re.match(r"add\.[su](32|64)$", i.opcode) and not i.guard and i.operands[0] == i.operands[1]
    return bool(adds and isinstance(i.operands[2], Immediate) and i.operands[2].bits)


def may_write(decoded: Decoded) -> set[str] | None:
    """The parameters from which an address may come that something is stored at; None: any array's, by a loaded one."""
    loaded, half = 1 << len(decoded.parameters), 2 << len(decoded.parameters)  # an address, or what may be half of one
    parameters = {name: 1 << n for n, (name, _) in enumerate(decoded.parameters)}
    origin = dict.fromkeys(decoded.slots, 0) | parameters  # of each register, by name
    before = None
    while before != origin:
        before = dict(origin)
        for s in decoded.steps:
            i = s.instruction
            results, sources = named(i.operands[:1]), named(i.operands[1:])
            found = reduce(or_, (origin.get(x, 0) for x in sources), 0)
            if i.opcode.startswith(("ld.", "atom.")) and not i.opcode.startswith("ld.param"):
                found = loaded if "64" in i.opcode.split(".")[-1] else half
            elif i.opcode == "mov.b64" and isinstance(i.operands[1], Vector) and found & half:
                found |= loaded
            origin |= {x: origin.get(x, 0) | found for x in results}
    stores = (s.instruction for s in decoded.steps if STORES.match(s.instruction.opcode))
    places = [x for i in stores for y in i.operands for x in getattr(y, "parts", (y,)) if isinstance(x, Address)]
    stored = reduce(or_, (origin.get(x, 0) for x in named(places)), 0)
    return None if stored & loaded else {name for name, bit in parameters.items() if stored & bit}


def named(operands: Any) -> list[str]:
    """The names in some operands: of registers, parameters and variables."""
    found = []
    for x in operands:
        x = x.base if isinstance(x, Address) else x
        found += named(x.parts) if isinstance(x, Vector) else [x.name] if isinstance(x, (Register, Symbol)) else []
    return found
