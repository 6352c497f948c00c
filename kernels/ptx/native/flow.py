"""A program -> the LLVM function that runs one warp of it, from where it stopped to where it stops next.

`warp(context, index, frame)` returns how it stopped, see context.py. A frame keeps what outlives a stop: HEADER bytes,
then the registers that are live there. Lanes that a branch parts run in turn, those at the lowest instruction first, as
in machine.py; they meet again where they come to the same instruction.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from ..decode import Decoded, Step
from ..isa import IDLE
from ..syntax import Vector
from . import context as ctx
from . import ir
from .frames import LANES, ON, RESUME, RUNNING
from .lanes import I1, I32, I64
from .others import nothing
from .plan import Plan
from .steering import FRAGMENTS, Steering
from .table import pure
from .writer import EVERYBODY


class Warp(Steering):
    """Writes the code of one warp.

    families  the emitters of instructions that are not in the table of isa.py
    anyway    those that do something even where their guard holds for no lane
    """

    def __init__(
        self, decoded: Decoded, plan: Plan, T: int, module: ir.Module, families: list[dict[str, Callable]],
        anyway: tuple[str, ...] = (),
    ):  # fmt: skip
        super().__init__(decoded, plan, T, module)
        self.families, self.anyway = families, anyway
        block = self.function.append_basic_block
        self.bodies = {n: block(f"body_{n}") for n in plan.starts}
        self.enters = {n: block(f"enter_{n}") for n in plan.starts}
        self.lanes = {n: block(f"lanes_{n}") for n in plan.events}
        self.finish = block("finish")
        self.picking = {group: block("picking") for group in {*plan.groups.values()}}
        self.offsets, self.frame_size = self.layout()
        self.alones: dict[int, Any] = {}
        self.apart = bool(plan.parting)
        self.turns = dict.fromkeys(plan.events, ctx.EVENT) | plan.turns
        self.running_place = self.b.alloca(I32)
        self.fragments = self.b.alloca(I32, 2 * FRAGMENTS + 1) if self.apart else None

    def emit(self) -> None:
        self.b.position_at_end(self.suspect)
        self.b.ret(I64(ctx.SUSPECT))
        self.b.position_at_end(self.finish)
        self.b.ret(I64(ctx.DONE))
        begin = self.function.append_basic_block("begin")
        self.choose()
        for n, stop in zip(self.plan.starts, [*self.plan.starts[1:], len(self.decoded.steps)], strict=True):
            self.enter(n)
            self.b.position_at_end(self.bodies[n])
            self.block(n, stop)
        self.b.position_at_end(begin)
        self.begin()
        self.b.position_at_end(self.entry)
        self.b.branch(begin)

    def begin(self) -> None:
        self.b.store(self.b.trunc(self.head(RUNNING), I32), self.running_place)
        if self.apart:
            self.b.store(I32(0), self.fragments)
        stops, first = sorted(self.plan.stops), self.function.append_basic_block("first")
        switch = self.b.switch(self.head(RESUME), first)
        for k, n in enumerate(stops):
            ways = self.enters, self.bodies, self.lanes  # to come there; its turn has come, or that of some lanes
            for turn, blocks in enumerate(ways[: 3 if n in self.lanes else 2 if n in self.turns else 1]):
                switch.add_case(I64(1 + 3 * k + turn), blocks[n])
        self.b.position_at_end(first)
        self.clear()
        self.b.branch(self.enters[0])
        self.settle()

    def enter(self, n: int) -> None:
        """Flowing into a block: meet other lanes, or stop before an event."""
        self.b.position_at_end(self.enters[n])
        if n in self.plan.groups:
            alone = self.alone_at(n)
            meets = self.function.append_basic_block("meets")
            self.b.cbranch(self.pending(), meets, alone)
            self.b.position_at_end(meets)
            self.part(self.waiting_at(n), self.b.load(self.running_place, typ=I32))
            self.pick(n)
            self.b.position_at_end(alone)
            if n not in self.plan.masked:
                self.bail(self.pending())
        if n in self.turns:
            if self.apart:
                self.bail(self.pending())
            if n in self.lanes:
                self.n, self.step = n, self.decoded.steps[n]
                self.lanes_on(self.guard())
                self.set_head(ON, self.b.zext(self.on, I64))
            self.stop(n, self.turns[n], n)
        else:
            self.b.branch(self.bodies[n])

    def block(self, n: int, stop: int) -> None:
        count = self.b.gep(self.fixed("blocks"), [I64(self.plan.starts.index(n))], source_etype=I64)
        self.b.store(self.b.add(self.b.load(count, typ=I64), I64(1)), count)
        if n in self.lanes:
            self.b.branch(self.lanes[n])
            self.b.position_at_end(self.lanes[n])
        for self.n in range(n, stop):
            self.step = self.decoded.steps[self.n]
            if self.n in self.decoded.faulty:
                self.bail(I1(1))
            if self.step.control:
                getattr(self, self.step.control)(self.step)
                return
            self.instruction(self.step)
            if self.n in self.lanes:
                self.give(self.alone(), I64(ctx.EVENT))
        if self.n in self.plan.events and stop in self.plan.stops - self.plan.events:
            self.stop(stop, ctx.PAUSED, stop)  # its turn is over, and what follows can run beside other programs
        else:
            self.go(stop)

    def instruction(self, step: Step) -> None:
        self.taken.clear()
        guard = self.guard()
        self.lanes_on(guard)
        some = self.on
        if self.n in self.lanes:
            self.some_lanes()
        i = step.instruction
        family = self.family(i.opcode)
        if family is None:
            self.pure(i)
        elif guard is None:
            family(self, i)
        else:
            # what a load leaves out is no matter in a right kernel, and often computed with
            for slot in (s for s in self.decoded.slots.values() if step.writes >> s & 1 and i.opcode.startswith("ld.")):
                self.note_written(slot, self.running)
            anyway = any(i.opcode.startswith(name) for name in self.anyway)
            with nullcontext() if anyway else self.b.if_then(self.b.icmp_unsigned("!=", some, I32(0))):
                if guard.type == I1 and self.masking is guard and not anyway:
                    self.masking = self.guarding = None
                    self.on = EVERYBODY
                family(self, i)
        self.masking = self.guarding = None

    def some_lanes(self) -> None:
        """Of an event, do those whose turn it is; `counted` are all, but nobody where these are alone."""
        self.counted = self.b.select(self.alone(), I32(0), self.on)
        self.on = self.b.and_(self.on, self.b.trunc(self.head(LANES), I32))
        self.masking = self.guarding = self.L.mask(self.on)

    def alone(self) -> Any:
        return self.b.icmp_unsigned(">", self.head(LANES), I64(0xFFFFFFFF))

    def family(self, opcode: str) -> Any:
        """What writes an instruction that is not in the table of isa.py."""
        parts = opcode.split(".")
        names = [".".join(parts[:n]) for n in (3, 2, 1)]
        found = (table[name] for table in self.families for name in names if name in table)
        return next(found, nothing if IDLE.match(opcode) else None)

    def pure(self, i: Any) -> None:
        meaning, write = pure(i.opcode, len(i.operands) - 1)
        values = [self.read(x, kind) for x, kind in zip(i.operands[1:], meaning.sources, strict=True)]
        carry = self.decoded.slots.get("carry", -1)
        if "in" in meaning.carry:
            values.append(self.load(carry))
        results = write(self.L, self.L.alike(*values))
        first = i.operands[0]
        targets = first.parts if isinstance(first, Vector) else (first,)
        for target, kind, value in zip(targets, meaning.results, results, strict=False):
            self.write(target, kind, value)
        if "out" in meaning.carry:
            self.store(carry, results[-1])
