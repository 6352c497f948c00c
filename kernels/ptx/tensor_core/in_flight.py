"""Registers of a wgmma or a tcgen05.ld that is under way: what may not be touched before its wait, found beforehand.

Forward dataflow over all paths. A register of D or of A is in flight from its wgmma on until a wait_group for its
group; what ordinary instructions have written since the last wgmma.fence is not yet visible to the next wgmma. A mov
passes both on to its result, for ptxas gives a copy the same register: Triton's own programs copy between the two. An
instruction that is at fault raises when it is run, so a program that is right pays nothing. What a tcgen05.ld brings is
in flight likewise until tcgen05.wait::ld.
Source: PTX ISA 8.7, wgmma.fence, mma_async, commit_group and wait_group; tcgen05.ld and tcgen05.wait.
"""

from typing import Any, NamedTuple

from ..arrays import first_of
from ..decode import Step
from ..errors import Race
from ..forms import parts_of
from ..parse import Register, Vector
from ..paths import follows

MMA, FENCE, COMMIT, WAIT = (f"wgmma.{x}" for x in ("mma_async", "fence", "commit_group", "wait_group"))
LOAD, LOADED = "tcgen05.ld", "tcgen05.wait::ld"
OLDEST = 64  # groups: older ones are not told apart
ENTRY = -1  # in place of an instruction: the kernel's begin


class Flight(NamedTuple):
    """A register in flight: how many groups have been committed since, its own among them, and of which wgmma."""

    age: int
    by: int
    role: str  # "D" or "A", or "load" of a tcgen05.ld


class State(NamedTuple):
    flights: dict[int, Flight]  # by slot
    unfenced: dict[int, int]  # slot -> the instruction that wrote it, with no wgmma.fence since; ENTRY: before any


def merged(a: State | None, b: State) -> State:
    """What holds on one of two paths; the latest wgmma of each register."""
    if a is None:
        return b
    flights, unfenced = dict(b.flights), dict(b.unfenced)
    for slot, flight in a.flights.items():
        flights[slot] = min(flight, flights.get(slot, flight))
    for slot, by in a.unfenced.items():
        unfenced[slot] = min(by, unfenced.get(slot, by))
    return State(flights, unfenced)


def names(operand: Any) -> list[str]:
    """The registers of an operand."""
    return [x.name for x in parts_of(operand) if isinstance(x, Register)]


def copied(step: Step) -> tuple[list[str], list[str]] | None:
    """A mov: the registers that it writes, and those that it copies, or whose halves it parts or joins."""
    i = step.instruction
    return (names(i.operands[0]), names(i.operands[1])) if i.opcode.startswith("mov.") else None


def begins(step: Step) -> bool:
    """Whether registers are in flight from this instruction on."""
    return step.instruction.opcode.startswith((MMA, LOAD))


class Flow:
    """The analysis of one program."""

    def __init__(self, steps: list[Step], slots: dict[str, int]):
        self.steps, self.slots = steps, slots
        self.names = {slot: name for name, slot in slots.items()}
        self.faults: dict[int, str] = {}  # instruction -> what is wrong with it
        self.relevant = self.closure()
        self.fragments = {n: self.operands(s) for n, s in enumerate(steps) if begins(s)}

    def operands(self, step: Step) -> tuple[list[int], list[int]]:
        """The slots of D and of A."""
        d, a = step.instruction.operands[:2]
        return [self.slots[x] for x in names(d)], [self.slots[x] for x in names(a)] if isinstance(a, Vector) else []

    def closure(self) -> int:
        """Slots of matrices in registers, and those that they are copied to and from, as bits."""
        of_matrices = (x for s in self.steps if begins(s) for x in self.operands(s))
        found = sum(1 << slot for slot in {slot for slots in of_matrices for slot in slots})
        copies = [[*pair[0], *pair[1]] for s in self.steps if (pair := copied(s))]
        bits = [sum(1 << slot for slot in {self.slots[x] for x in pair if x in self.slots}) for pair in copies]
        before = 0
        while before != found:
            before = found
            for pair in bits:
                found |= pair if pair & found else 0
        return found

    def fault(self, n: int, what: str) -> None:
        self.faults.setdefault(n, what)

    def line(self, n: int) -> int:
        return self.steps[n].instruction.line

    def after(self, n: int, state: State) -> State:
        """The state after an instruction; its faults are noted."""
        step, opcode = self.steps[n], self.steps[n].instruction.opcode
        if n in self.fragments:
            return self.multiplied(n, state) if opcode.startswith(MMA) else self.loaded(n, state)
        if opcode.startswith(LOADED):
            return state._replace(flights={x: f for x, f in state.flights.items() if f.role != "load"})
        if opcode.startswith(FENCE):
            return state._replace(unfenced={})
        if opcode.startswith(COMMIT):
            flights = {x: f._replace(age=min(f.age + 1, OLDEST)) for x, f in state.flights.items()}
            return state._replace(flights=flights)
        if opcode.startswith(WAIT):
            left = step.instruction.operands[0].bits
            done = {x for x, f in state.flights.items() if f.role != "load" and f.age > left}
            return state._replace(flights={x: f for x, f in state.flights.items() if x not in done})
        if (step.reads | step.writes) & self.relevant:
            return self.touched(n, state)
        return state

    def touched(self, n: int, state: State) -> State:
        """An ordinary instruction reads or writes registers that matter."""
        step, pair = self.steps[n], copied(self.steps[n])
        if pair:
            return self.moved(n, state, *([self.slots[x] for x in part if x in self.slots] for part in pair))
        flights, unfenced = dict(state.flights), dict(state.unfenced)
        for slot in [x for x in flights if (step.reads | step.writes) >> x & 1]:
            if step.writes >> slot & 1 or flights[slot].role != "A":
                self.fault(n, self.early(slot, flights[slot], "written" if step.writes >> slot & 1 else "read"))
        for slot in range(step.writes.bit_length()):
            if step.writes >> slot & 1 and self.relevant >> slot & 1:
                flights.pop(slot, None)
                unfenced[slot] = n
        return State(flights, unfenced)

    def moved(self, n: int, state: State, results: list[int], sources: list[int]) -> State:
        """A mov passes on what holds of its sources; one of a constant is visible wherever it stands, as to ptxas."""
        flights, unfenced = dict(state.flights), dict(state.unfenced)
        flying = [flights[x] for x in sources if x in flights]
        late = [unfenced[x] for x in sources if x in unfenced]
        for slot in results:
            if slot in flights and flights[slot].role != "A" and not flying and not self.is_copy(slot, flights):
                self.fault(n, self.early(slot, flights[slot], "written"))
            flights.pop(slot, None)
            unfenced.pop(slot, None)
            if flying:
                flights[slot] = min(flying)
            if late:
                unfenced[slot] = min(late)
        return State(flights, unfenced)

    def is_copy(self, slot: int, flights: dict[int, Flight]) -> bool:
        """Whether a register in flight is none of its wgmma's own, but has been copied from one."""
        return slot not in self.fragments[flights[slot].by][0]

    def early(self, slot: int, flight: Flight, verb: str) -> str:
        if flight.role == "load":
            what = f"register {self.names[slot]}, which the tcgen05.ld at PTX line {self.line(flight.by)} brings, "
            return f"{what}is {verb} before a tcgen05.wait::ld"
        what = f"register {self.names[slot]}, part of {flight.role} of the wgmma at PTX line {self.line(flight.by)}, "
        return f"{what}is {verb} before a wgmma.wait_group has ended that wgmma"

    def loaded(self, n: int, state: State) -> State:
        """A tcgen05.ld: its registers are in flight."""
        state, (results, _) = self.touched(n, state), self.fragments[n]
        return state._replace(flights=state.flights | {slot: Flight(0, n, "load") for slot in results})

    def multiplied(self, n: int, state: State) -> State:
        step, (d, a) = self.steps[n], self.fragments[n]
        flights, opcode = dict(state.flights), step.instruction.opcode
        for slot, flight in flights.items():
            if slot in d:
                if flight.role != "D" or self.steps[flight.by].instruction.opcode != opcode:
                    self.fault(n, self.early(slot, flight, "written by another wgmma"))
            elif flight.role != "A" and step.reads >> slot & 1:
                self.fault(n, self.early(slot, flight, "read"))
        self.fenced(n, state.unfenced, [*d, *a])
        flights |= {slot: Flight(0, n, "A") for slot in a} | {slot: Flight(0, n, "D") for slot in d}
        return State(flights, state.unfenced)

    def fenced(self, n: int, unfenced: dict[int, int], slots: list[int]) -> None:
        """Note a fault if a wgmma reads or writes what no wgmma.fence has made visible to it."""
        if ENTRY in unfenced:
            self.fault(n, "no wgmma.fence comes before this wgmma, the first of its registers")
        for slot in slots:
            if slot in unfenced:
                what = f"register {self.names[slot]}, written at PTX line {self.line(unfenced[slot])}, "
                self.fault(n, f"{what}has no wgmma.fence between that and this wgmma")

    def follow(self) -> dict[int, str]:
        """Go round until no state changes; the faults, by instruction."""
        states: dict[int, State] = {0: State({}, {ENTRY: ENTRY})}
        todo = [0]
        while todo:
            n = todo.pop()
            state = self.after(n, states[n])
            for to in follows(self.steps, n):
                new = merged(states.get(to), state)
                if to < len(self.steps) and new != states.get(to):
                    states[to] = new
                    todo.append(to)
        return self.faults


def guarded(steps: list[Step], slots: dict[str, int]) -> list[Step]:
    """The steps, those at fault replaced by ones that raise Race."""
    if not any(map(begins, steps)):
        return steps
    faults = Flow(steps, slots).follow()
    return [s._replace(run=raiser(s, faults[n])) if n in faults else s for n, s in enumerate(steps)]


def raiser(step: Step, what: str) -> Any:
    def run(block, active):
        block.instruction = step.instruction
        row, thread = (0, 0) if active is None else first_of(active)
        raise block.error(Race, what, row, thread)

    return run
