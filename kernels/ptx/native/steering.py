"""What steers a warp: branches, returns and barriers; lanes that part, wait, and meet again."""

from typing import Any

from ..decode import Step
from . import context as ctx
from .frames import LIMIT, SCRATCH, STEP, TRAIL, Frames
from .lanes import I1, I8, I32, I64
from .lower import Unlowered
from .memory import call, suspect
from .plan import patient
from .writer import EVERYBODY

LATER = 1 << 20  # more than instructions of a program
FRAGMENTS = 64  # places at which lanes of a warp may wait at once


class Steering(Frames):
    """A Writer of code that goes from block to block.

    enters, bodies  of each of Plan.starts: where it is entered, and where it begins once lanes have met
    """

    bodies: dict[int, Any]
    enters: dict[int, Any]
    alones: dict[int, Any]
    picking: dict[int, Any]
    finish: Any
    fragments: Any
    apart: bool
    turns: dict[int, int]
    lanes: dict[int, Any]  # of each of Plan.events: where some lanes do it

    def go(self, n: int) -> None:
        self.b.branch(self.enters[n] if n < len(self.decoded.steps) else self.leaving())

    def pending(self) -> Any:
        """Whether some lanes wait at another instruction."""
        return self.b.icmp_unsigned("!=", self.b.load(self.fragments, typ=I32), I32(0))

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
        """Set `running`; the predicate under which an instruction runs, or None."""
        masked = self.n in self.plan.masked
        self.running = self.on = self.b.load(self.running_place, typ=I32) if masked else EVERYBODY
        register = self.step.instruction.guard
        if register is None:
            return None
        value = self.read(register._replace(negated=False), "pred")
        return self.b.not_(value) if register.negated else value

    def lanes_on(self, guard: Any) -> None:
        """Set `on` and `masking` for the instruction."""
        masked = self.n in self.plan.masked
        self.guarding = guard
        if guard is None:
            self.on, self.masking = self.running, self.L.mask(self.running) if masked else None
            return
        ballot = self.L.ballot(guard) if guard.type != I1 else self.b.sext(guard, I32)
        self.on = self.b.and_(ballot, self.running) if masked else ballot
        self.masking = self.L.mask(self.on) if masked or guard.type != I1 else guard

    def branch(self, step: Step) -> None:
        guard, target, source = self.guard(), step.target, self.n
        jump = self.function.append_basic_block("jump")
        after = self.enters.get(source + 1)
        if guard is None:
            self.b.branch(jump)
        elif source not in self.plan.parting | self.plan.alike:
            self.went(self.L.lane(guard, 0))
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
        self.went(self.b.icmp_unsigned("!=", goes, I32(0)))
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
        self.b.store(I64(1), ctx.place(self.b, self.context, "parted"))
        self.part(self.waiting_at(target.constant), goes)
        self.part(self.waiting_at(self.n + 1), stays)
        self.pick(target.constant)

    def went(self, way: Any, some: Any = None) -> None:
        """Keep whether a branch leads on, for schedule.py; some: whether some lanes go, if not all need to."""
        if not self.lanes:
            return
        at, way = self.head(TRAIL), self.b.zext(way, I8)
        if some is not None:
            way = self.b.sub(self.b.shl(self.b.zext(some, I8), I8(1)), way)  # 0, all: 1, some: 2
        self.bail(self.b.icmp_unsigned("==", at, self.head(LIMIT)))
        scratch = self.b.gep(self.frame, [I64(8 * SCRATCH)], source_etype=I8)
        self.b.store(way, self.b.gep(scratch, [at], source_etype=I8))
        self.set_head(TRAIL, self.b.add(at, self.head(STEP)))

    def together(self, some: Any, others: Any) -> None:
        """Lanes that part are a suspicion."""
        one, other = (self.b.icmp_unsigned("!=", x, I32(0)) for x in (some, others))
        self.bail(self.b.and_(one, other))

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
            n = call(self, "fragments_next", self.fragments, self.running_place)
            switch = self.b.switch(self.b.trunc(n, I32), self.suspect)
            for start in self.plan.starts:
                if self.plan.groups.get(start) == group:
                    switch.add_case(self.waiting_at(start), self.alone_at(start))

    def waiting_at(self, n: int) -> Any:
        """The number by which lanes wait at an instruction: behind all others where they do so for these."""
        return I32(n + LATER * patient(self.decoded.steps[n].instruction))

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
        if self.turns:
            suspect(self, "frame_jumped", self.frame, source)

    def leave(self, step: Step) -> None:
        guard, leaving = self.guard(), self.leaving()
        after = self.enters.get(self.n + 1) or leaving
        if guard is None:
            self.b.branch(leaving)
        elif self.n not in self.plan.parting | self.plan.alike:
            self.went(self.L.lane(guard, 0))
            self.b.cbranch(self.L.lane(guard, 0), leaving, after)
        else:
            running = self.b.load(self.running_place, typ=I32)
            stays = self.b.and_(running, self.b.not_(self.L.ballot(guard)))
            self.went(self.b.icmp_unsigned("==", stays, I32(0)), self.b.icmp_unsigned("!=", stays, running))
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
        if step.threads not in (0, self.T):
            raise Unlowered("barriers of a part of the program")
        guard = self.guard()
        if guard is not None:  # all lanes must come
            self.bail(self.b.not_(self.L.all(guard)))
        running = self.b.load(self.running_place, typ=I32)
        self.bail(self.b.icmp_unsigned("!=", running, EVERYBODY))
        if self.apart:
            self.bail(self.pending())
        if self.T > 32:
            return self.stop(self.n + 1, ctx.BARRIER, step.target)
        self.passed()
        return self.go(self.n + 1)

    def arrival(self, step: Step) -> None:
        raise Unlowered(step.instruction.opcode)
