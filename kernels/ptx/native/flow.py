"""A program -> the LLVM function that runs one warp of it, from where it stopped to where it stops next.

`warp(context, index, frame) -> DONE | BARRIER | EVENT | SUSPECT | FUEL`. A frame keeps what outlives a stop: HEADER
bytes, then the registers that are live there. Lanes that a branch parts run in turn, those at the lowest instruction
first, as in machine.py; they meet again where they come to the same instruction.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from llvmlite import ir

from ..decode import Decoded, Step
from ..isa import IDLE
from ..parse import Vector
from . import context as ctx
from .frames import RESUME, RUNNING, Frames
from .lanes import I1, I32, I64
from .lower import Unlowered, pure
from .others import nothing
from .plan import Plan
from .writer import EVERYBODY

FRAGMENTS = 64


class Warp(Frames):
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
        self.finish = block("finish")
        self.picking = {group: block("picking") for group in {*plan.groups.values()}}
        self.offsets, self.frame_size = self.layout()
        self.alones: dict[int, Any] = {}
        self.apart = bool(plan.parting)
        self.events = any(self.is_event(n) for n in plan.stops)
        self.running_place = self.b.alloca(I32)
        self.fragments = self.b.alloca(I32, 2 * FRAGMENTS + 1) if self.apart else None

    def pending(self) -> Any:
        """Whether some lanes wait at another instruction."""
        return self.b.icmp_unsigned("!=", self.b.load(self.fragments, typ=I32), I32(0))

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
        stops = sorted(self.plan.stops)
        switch = self.b.switch(self.head(RESUME), self.enters[0])
        for k, n in enumerate(stops):
            block = self.function.append_basic_block(f"resume_{n}")
            switch.add_case(I64(1 + k), block)
            self.b.position_at_end(block)
            self.moved(n, False)
            self.b.branch(self.bodies[n])

    def enter(self, n: int) -> None:
        """Flowing into a block: meet other lanes, or stop before an event."""
        self.b.position_at_end(self.enters[n])
        if n in self.plan.groups:
            alone = self.alone_at(n)
            meets = self.function.append_basic_block("meets")
            self.b.cbranch(self.pending(), meets, alone)
            self.b.position_at_end(meets)
            self.part(I32(n), self.b.load(self.running_place, typ=I32))
            self.pick(n)
            self.b.position_at_end(alone)
        if n in self.plan.stops and self.is_event(n):
            if self.apart:
                self.bail(self.pending())
            self.stop(n, ctx.EVENT, n)
        else:
            self.b.branch(self.bodies[n])

    def is_event(self, n: int) -> bool:
        return n in self.plan.stops and not (n and self.decoded.steps[n - 1].control == "barrier")

    def block(self, n: int, stop: int) -> None:
        count = self.b.gep(self.pointer("blocks"), [I64(self.plan.starts.index(n))], source_etype=I64)
        self.b.store(self.b.add(self.b.load(count, typ=I64), I64(1)), count)
        for self.n in range(n, stop):
            self.step = self.decoded.steps[self.n]
            if self.step.control:
                getattr(self, self.step.control)(self.step)
                return
            self.instruction(self.step)
        self.go(stop)

    def go(self, n: int) -> None:
        self.b.branch(self.enters[n] if n < len(self.decoded.steps) else self.leaving())

    def leaving(self) -> Any:
        """Where a warp goes whose lanes have returned."""
        if self.n not in self.plan.masked:
            return self.finish
        block = self.function.append_basic_block("leaving")
        others = self.function.append_basic_block("others")
        with self.b.goto_block(block):
            self.b.cbranch(self.pending(), others, self.finish)
        with self.b.goto_block(others):
            self.pick(self.n)
        return block

    def guard(self) -> Any:
        """The predicate under which an instruction runs, or None."""
        register = self.step.instruction.guard
        if register is None:
            return None
        value = self.read(register._replace(negated=False), "pred")
        return self.b.not_(value) if register.negated else value

    def lanes_on(self, guard: Any) -> None:
        """Set `running`, `on` and `masking` for the instruction."""
        masked = self.n in self.plan.masked
        self.running = self.b.load(self.running_place, typ=I32) if masked else EVERYBODY
        self.guarding = guard
        if guard is None:
            self.on, self.masking = self.running, self.L.mask(self.running) if masked else None
            return
        ballot = self.L.ballot(guard) if guard.type != I1 else self.b.sext(guard, I32)
        self.on = self.b.and_(ballot, self.running) if masked else ballot
        self.masking = self.L.mask(self.on) if masked or guard.type != I1 else guard

    def instruction(self, step: Step) -> None:
        guard = self.guard()
        self.lanes_on(guard)
        i = step.instruction
        family = self.family(i.opcode)
        if family is None:
            self.pure(i)
        elif guard is None:
            family(self, i)
        else:
            for slot in (s for s in self.decoded.slots.values() if step.writes >> s & 1):
                self.variable(slot)
                if slot in self.written:
                    self.b.store(I1(1), self.written[slot])
            anyway = any(i.opcode.startswith(name) for name in self.anyway)
            with nullcontext() if anyway else self.b.if_then(self.b.icmp_unsigned("!=", self.on, I32(0))):
                if guard.type == I1 and self.masking is guard and not anyway:
                    self.masking = self.guarding = None
                    self.on = EVERYBODY
                family(self, i)
        self.masking = self.guarding = None

    def family(self, opcode: str) -> Any:
        """What writes an instruction that is not in the table of isa.py."""
        parts = opcode.split(".")
        names = [".".join(parts[:n]) for n in (3, 2, 1)]
        found = (table[name] for table in self.families for name in names if name in table)
        return next(found, nothing if IDLE.match(opcode) else None)

    def pure(self, i: Any) -> None:
        meaning, write = pure(i.opcode, len(i.operands) - 1)
        values = [self.read(x, kind) for x, kind in zip(i.operands[1:], meaning.sources, strict=True)]
        carry = self.decoded.slots.get("carry")
        if "in" in meaning.carry:
            values.append(self.load(carry))
        results = write(self.L, self.L.alike(*values))
        first = i.operands[0]
        targets = first.parts if isinstance(first, Vector) else (first,)
        for target, kind, value in zip(targets, meaning.results, results, strict=False):
            self.write(target, kind, value)
        if "out" in meaning.carry:
            self.store(carry, results[-1])

    # What steers

    def branch(self, step: Step) -> None:
        guard, target, source = self.guard(), step.target, self.n
        jump = self.function.append_basic_block("jump")
        after = self.enters.get(source + 1)
        if guard is None:
            self.b.branch(jump)
        elif source not in self.plan.parting | self.plan.alike:
            self.b.cbranch(self.L.lane(guard, 0), jump, after or self.leaving())
        else:
            self.divide(guard, jump, after or self.leaving(), I32(target))
        self.b.position_at_end(jump)
        if target <= source:
            self.jumped(target, source)
        self.go(target)

    def divide(self, guard: Any, jump: Any, after: Any, target: Any) -> None:
        """Send the lanes of a predicate to one place and the others on: all go one way, or they part."""
        running = self.b.load(self.running_place, typ=I32)
        goes = self.b.and_(self.L.ballot(guard) if guard.type != I1 else self.b.sext(guard, I32), running)
        stays = self.b.xor(goes, running)
        if self.n in self.plan.alike:
            self.together(goes, stays)
            self.b.cbranch(self.b.icmp_unsigned("==", goes, I32(0)), after, jump)
            return
        some = self.function.append_basic_block("some")
        both = self.function.append_basic_block("both")
        self.b.cbranch(self.b.icmp_unsigned("==", goes, I32(0)), after, some)
        self.b.position_at_end(some)
        self.b.cbranch(self.b.icmp_unsigned("==", stays, I32(0)), jump, both)
        self.b.position_at_end(both)
        self.part(target, goes)
        self.part(I32(self.n + 1), stays)
        self.pick(target.constant)

    def together(self, some: Any, others: Any) -> None:
        """Lanes that part are a suspicion."""
        none = [self.b.icmp_unsigned("==", x, I32(0)) for x in (some, others)]
        self.bail(self.b.not_(self.b.or_(*none)))

    def part(self, n: Any, lanes: Any) -> None:
        """Let some lanes wait at an instruction."""
        count = self.b.load(self.fragments, typ=I32)
        self.bail(self.b.icmp_unsigned("==", count, I32(FRAGMENTS)))
        at = self.b.gep(self.fragments, [self.b.add(self.b.shl(count, I32(1)), I32(1))], source_etype=I32)
        self.b.store(n, at)
        self.b.store(lanes, self.b.gep(at, [I32(1)], source_etype=I32))
        self.b.store(self.b.add(count, I32(1)), self.fragments)

    def pick(self, n: int) -> None:
        """Go on with the lanes that wait at the lowest instruction, all of them; n: one of those that some wait at."""
        self.b.branch(self.picking[self.plan.groups[n]])

    def choose(self) -> None:
        """The code of `picking`, once for each group: past the meeting places, for whoever waits there has come."""
        for group, block in self.picking.items():
            self.b.position_at_end(block)
            n = self.L.call("fragments_next", I32, self.fragments, self.running_place)
            switch = self.b.switch(n, self.suspect)
            for start in self.plan.starts:
                if self.plan.groups.get(start) == group:
                    switch.add_case(I32(start), self.alone_at(start))

    def alone_at(self, n: int) -> Any:
        """A block's code past the place where lanes meet."""
        if n not in self.alones:
            self.alones[n] = self.function.append_basic_block(f"alone_{n}")
        return self.alones[n]

    def jumped(self, target: int, source: int) -> None:
        """After a jump back: there must be fuel, and events are ordered by the way that warps took to them."""
        place = ctx.place(self.b, self.context, "fuel")
        left = self.b.sub(self.b.load(place, typ=I64), I64(source - target + 1))
        self.b.store(left, place)
        empty, on = (self.function.append_basic_block(x) for x in ("empty", "on"))
        self.b.cbranch(self.b.icmp_signed("<", left, I64(0)), empty, on)
        self.b.position_at_end(empty)
        self.b.ret(I64(ctx.FUEL))
        self.b.position_at_end(on)
        if self.events:
            self.bail(self.L.call("frame_jumped", I1, self.frame, I64(source)))

    def leave(self, step: Step) -> None:
        guard, leaving = self.guard(), self.leaving()
        after = self.enters.get(self.n + 1) or leaving
        if guard is None:
            self.b.branch(leaving)
        elif self.n not in self.plan.parting | self.plan.alike:
            self.b.cbranch(self.L.lane(guard, 0), leaving, after)
        else:
            running = self.b.load(self.running_place, typ=I32)
            stays = self.b.and_(running, self.b.not_(self.L.ballot(guard)))
            if self.n in self.plan.alike:
                self.together(stays, self.b.xor(stays, running))
            self.b.store(stays, self.running_place)
            self.b.cbranch(self.b.icmp_unsigned("==", stays, I32(0)), leaving, after)

    def trap(self, step: Step) -> None:
        guard = self.guard()
        if guard is None:
            self.b.branch(self.suspect)
            return
        self.lanes_on(guard)
        self.bail(self.b.icmp_unsigned("!=", self.on, I32(0)))
        self.go(self.n + 1)

    def barrier(self, step: Step) -> None:
        guard = self.guard()
        if guard is not None:  # all lanes must come
            self.bail(self.b.not_(self.L.all(guard)))
        running = self.b.load(self.running_place, typ=I32)
        self.bail(self.b.icmp_unsigned("!=", running, EVERYBODY))
        if self.apart:
            self.bail(self.pending())
        if self.T > 32:
            return self.stop(self.n + 1, ctx.BARRIER, step.target)
        place = ctx.place(self.b, self.context, "epoch")
        self.b.store(self.b.add(self.b.load(place, typ=I64), I64(1)), place)
        return self.go(self.n + 1)

    def arrival(self, step: Step) -> None:
        raise Unlowered(step.instruction.opcode)
