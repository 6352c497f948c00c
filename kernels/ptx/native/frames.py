"""Frames: what a warp keeps while it is stopped, at a barrier or before an event.

A frame is HEADER bytes, and then the registers that are live at some stop, each at a place of its own, where code works
on them: to stop and to go on they need not move.
"""

from functools import reduce
from operator import or_
from typing import Any

from . import context as ctx
from . import ir
from .lanes import I32, I64, element
from .writer import Writer

# Words at the head of a frame: where to go on, bar.warp.syncs passed, lanes that have not returned, how the warp
# stopped, the barrier or event it stopped at, and the jumps back since its last event, see steering.jumped.
RESUME, WARP_EPOCH, RUNNING, STATE, AT, DEPTH = range(6)
PATH, DEEPEST = 6, 9
# And for a random schedule, see schedule.py: the lanes that an event is for, and those that do it now; where the way of
# the next branch is kept, from SCRATCH on, how many bytes farther that of the one after, and where there is no room.
ON, LANES, TRAIL, STEP, LIMIT, SEEN, SCRATCH = range(16, 23)
HEADER = 24 * 8  # bytes


class Frames(Writer):
    """A Writer of code that stops and goes on."""

    running_place: Any

    @property
    def warp_epoch(self) -> Any:
        return self.head(WARP_EPOCH)

    def passed(self) -> None:
        """All threads of a program of one warp have met."""
        if self.decoded.asynchronous:
            self.L.call("clock_meet", I64, self.b.ptrtoint(self.context, I64))
        self.b.store(self.b.add(self.epoch, I64(1)), ctx.place(self.b, self.context, "epoch"))

    def head(self, word: int) -> Any:
        return self.b.load(self.b.gep(self.frame, [I64(word)], source_etype=I64), typ=I64)

    def set_head(self, word: int, value: Any) -> None:
        self.b.store(value, self.b.gep(self.frame, [I64(word)], source_etype=I64))

    def layout(self) -> tuple[dict[int, int], int]:
        """Where each register that outlives a stop lies in the frame, and the frame's bytes.

        64 bytes before one that may be read before it is written it is kept in which lanes that is so.
        """
        live = reduce(or_, (self.plan.live[n] for n in self.plan.stops), 0)
        live = reduce(or_, (self.decoded.steps[n].writes for n in self.plan.events), live)  # lanes do an event in turns
        offsets, at = {}, HEADER
        for slot in (x for x in range(len(self.decoded.slots)) if live >> x & 1 and self.kept(x)):
            at += 64 if self.plan.doubtful >> slot & 1 else 0
            kind = self.slot_type(slot)
            offsets[slot], at = at, at + -(-element(kind).width * getattr(kind, "count", 1) // 512) * 64
        return offsets, at

    def kept(self, slot: int) -> bool:
        fixed = slot in self.decoded.fixed or slot in self.decoded.given.values() or slot in self.decoded.undefined
        return not fixed

    def clear(self) -> None:
        """What a register of the frame holds before all its lanes are written: as on the stack."""
        partly = reduce(or_, (s.writes for s in self.decoded.steps if s.instruction.guard), self.plan.doubtful)
        for slot in (x for x in self.offsets if partly >> x & 1):
            self.put(slot, ir.Constant(self.slot_type(slot), None))
            if self.plan.doubtful >> slot & 1:
                self.b.store(I32(0), self.lanes_written(slot))

    def stop(self, n: int, status: int, at: int) -> None:
        """Return; the warp goes on at instruction n."""
        again = status in (ctx.EVENT, ctx.TURN, ctx.GROUP)
        self.set_head(RESUME, I64(1 + 3 * sorted(self.plan.stops).index(n) + again))
        self.set_head(AT, I64(at))
        running = self.b.load(self.running_place, typ=I32)
        self.set_head(RUNNING, self.b.zext(running, I64))
        self.b.ret(I64(status))
