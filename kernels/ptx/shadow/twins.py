"""Following instructions in float64: the twin of each register that holds numbers lies in a slot of its own, "%r5'".

A twin is float64 (P or 1, T or 1), or complex128 of a pair: the value that float64 would have there, from exact inputs,
where branches, addresses and integers are those of the real run. Of an instruction that computes f,

    y' = f(x') + w (y - f(x))

where w is 1 if the launch keeps the rounding of its line, else 0. What is not followed is its real value, exactly.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..decode import Decoder, Run, assign
from ..forms import parts_of
from ..parse import Immediate, Instruction, Register
from . import formats as fm
from .acts import RAW, Act, Followed, Number, line, twins
from .constants import Numbers, meant
from .formats import KINDS, exact
from .functions import choice, chooses, differs, function
from .moving import RULES

Get = Callable[[list], Any]  # of the register file
# What moves numbers beside the threads, and is not followed.
BESIDE = re.compile(r"cp\.(reduce\.)?async\.bulk\.(?!commit|wait|prefetch)|wgmma\.mma|tcgen05\.(ld|st|mma|cp)")


def registers(i: Instruction) -> Any:
    return fm.registers(i.operands[1:])


def based(i: Instruction) -> set[str]:
    """The registers that an instruction's addresses are made of."""
    return {getattr(getattr(x, "base", None), "name", "") for x in i.operands}


class Follower:
    """Follows the instructions of one program, while it is decoded.

    doubts  whether what is not followed is NaN, and not its real value
    marked  those of `lost` whose results are NaN if it doubts, or predicates that choose between numbers
    unsure  such predicates
    lost    the indices of those that compute with a float's bits, or beside the threads, and are not followed
    acts    by index, what is done beside an instruction
    """

    def __init__(self, d: Decoder, numbers: Numbers, pointers: tuple[str, ...], doubts: bool):
        self.d, (self.numbers, self.rounded), self.doubts = d, numbers, doubts
        self.formats, self.matched = fm.formats(d.program, pointers), set()
        self.marked, self.unsure = set(), set()
        self.tainted = self.formats.keys() | fm.bits_used(d.program, self.formats)
        self.index = {id(i): n for n, i in enumerate(d.program.instructions)}
        self.acts: dict[int, list[Act]] = {}
        self.lost: set[int] = set()
        self.twins = 0  # slots, as bits

    def __call__(self, i: Instruction, run: Run) -> Run:
        """The instruction's run, followed; the same one where it has nothing to do with numbers."""
        name, reads = i.opcode.split(".")[0], self.d.reads
        self.n = self.index[id(i)]
        written = i.operands[:1] if name not in ("st", "red", "stmatrix", "cp") else ()
        self.targets = [x for operand in written for x in parts_of(operand) if self.format(x)]
        if f := choice(i):
            run = self.chosen(i, run, f)
        else:
            self.decides(i)
        if self.targets or not written or name in ("ld", "ldmatrix", "atom"):
            run = (RULES[name](self, i, run) if name in RULES else None) or self.computed(i, run)
        if BESIDE.match(i.opcode) or self.tainted.difference(self.formats).intersection(based(i)):
            self.lost.add(self.n)
        if i.guard and i.guard.name in self.unsure:
            self.lost.add(self.n)
            self.marked.discard(self.n)
        self.d.reads = reads | (self.d.reads & self.twins)  # results are looked at, and not read
        return run

    def followed(self) -> Followed:
        """What is known of the program, once it is decoded."""
        lines = [line(i.where) for i in self.d.program.instructions]
        return Followed(self.acts, self.lost, self.marked, frozenset(self.rounded - self.matched), lines)

    def decides(self, i: Instruction) -> None:
        """Note an instruction that makes a predicate of a float's bits, or of such a predicate."""
        _, results = fm.pure(i)
        if results and results[0][0] == "e":  # a format of 8 bits, which has no twins
            self.lost.add(self.n)
        doubtful = self.unsure if "pred" in i.opcode else self.tainted | self.unsure
        if "pred" in results and doubtful.intersection(registers(i)):
            self.lost.add(self.n)
            self.marked.add(self.n)
            self.unsure |= set(fm.registers(i.operands[:1]))

    def format(self, x: Any) -> str:
        return self.formats.get(x.name, "") if isinstance(x, Register) else ""

    def twin(self, x: Any) -> int:
        """The slot of a register's twin. Of a pair machine code has the upper number's in another."""
        for name in twins(x.name, self.format(x)):
            self.d.program.registers[name] = "b64"
            self.twins |= 1 << self.d.slot(name)
        return self.d.slot(f"{x.name}'")

    def slots(self, x: Any) -> int:
        return sum(1 << self.d.slot(name) for name in twins(x.name, self.format(x)))

    def number(self, x: Any, kind: str) -> Number:
        """A source operand that is read as a type."""
        if not isinstance(x, Immediate) or kind in RAW:
            return Number(x, kind, self.format(x) == kind)
        value, found = meant(x.bits, kind, self.numbers)
        self.matched |= found
        if value is None:
            self.lost.add(self.n)
            self.marked.add(self.n)
            value = meant(x.bits, kind, None)[0] * (np.nan if self.doubts else 1)
        return Number(x, kind, value=value)

    def get(self, x: Number) -> Get:
        """What gives a number's twin, or else the number."""
        if not x.twin:
            return self.own(x)
        slot = self.twin(x.operand)
        self.d.reads |= self.slots(x.operand)
        return lambda R: R[slot]

    def own(self, x: Number) -> Get:
        """What gives the number itself."""
        if x.value is not None:
            return lambda R: x.value
        bits = self.bits(x.operand, x.kind)
        return bits if x.kind in RAW else lambda R: exact(bits(R), x.kind)

    def bits(self, x: Any, kind: str) -> Get:
        slot, narrow = self.d.source(x, kind)
        return lambda R: narrow(R[slot]) if narrow else R[slot]

    def put(self, x: Any) -> Callable[[list, np.ndarray, Any], None]:
        """What puts a result's twin into its place."""
        slot = self.twin(x)
        self.d.writes |= self.slots(x)
        return lambda R, value, active: assign(R, slot, value, active)

    def note(self, how: str, f: Any = None, numbers: Any = (), targets: Any = (), *facts: Any) -> None:
        targets = tuple(Number(x, self.format(x)) for x in targets)
        self.acts.setdefault(self.n, []).append(Act(how, f, tuple(numbers), targets, facts))

    def computed(self, i: Instruction, run: Run) -> Run:
        """An instruction that computes: in float64 if it is one of floats, else its real results stand."""
        f, (sources, results) = function(i, self.doubts), fm.pure(i)
        if f is None or [self.format(x) for x in self.targets] != [KINDS.get(x) for x in results[:1]]:
            return self.stands(i, run)
        numbers = [self.number(x, KINDS[kind]) for x, kind in zip(i.operands[1:], sources, strict=True)]
        return self.follow(run, lambda *x: [f(*x)], numbers)

    def follow(self, run: Run, f: Callable[..., list], numbers: list[Number], how: str = "compute") -> Run:
        """A run that also computes f of the twins of some numbers, or of the numbers themselves."""
        n = self.n
        self.note(how, f, numbers, self.targets)
        gets, own = [self.get(x) for x in numbers], [self.own(x) for x in numbers]
        places = [(self.put(x), self.own(Number(x, self.format(x)))) for x in self.targets]

        def followed(block, active):
            R, shadow = block.R, block.world.shadow
            values = f(*[get(R) for get in gets])
            rounded = f(*[x(R) for x in own]) if n in shadow.keeps else None
            run(block, active)
            for k, (put, now) in enumerate(places):
                kept = 0 if rounded is None else shadow.entered(n, now(R), rounded[k], active)
                put(R, values[k] if rounded is None else values[k] + kept, active)

        return followed

    def stands(self, i: Instruction, run: Run) -> Run:
        """An instruction whose real results stand; lost if it has computed with a float's bits."""
        n, doubtful = self.n, self.tainted.intersection(registers(i))
        if doubtful and not chooses(i):
            self.lost.add(n)
        self.marked |= {n} if self.targets else set()
        places = [(self.put(x), self.own(Number(x, self.format(x)))) for x in self.targets]
        if places:
            self.note("stand", None, (), self.targets, self.doubts)

        def followed(block, active):
            run(block, active)
            unknown = np.nan if self.doubts and n in self.lost else 1
            for put, own in places:
                put(block.R, own(block.R) * unknown, active)

        return followed if places else run

    def chosen(self, i: Instruction, run: Run, f: Callable) -> Run:
        """A run that notes where the twins would decide otherwise than the numbers themselves."""
        n, sources = self.n, fm.pure(i)[0]
        numbers = [self.number(x, KINDS[k]) for x, k in zip(i.operands[1:], sources, strict=True) if k in KINDS]
        self.note("choose", f, numbers)
        gets, own = [self.get(x) for x in numbers], [self.own(x) for x in numbers]

        def followed(block, active):
            differ = differs(f, *([get(block.R) for get in some] for some in (gets, own)))
            if (differ & (True if active is None else active)).any():
                block.world.shadow.choices.add(n)
            run(block, active)

        return followed
