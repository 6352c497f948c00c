"""Frames: what a warp keeps while it is stopped, at a barrier or before an event.

A frame is HEADER bytes, and then the registers that are live at some stop, each at a place of its own.
"""

from typing import Any

from llvmlite import ir

from . import context as ctx
from .lanes import I1, I8, I32, I64, vector
from .writer import Writer

# Words at the head of a frame: where to go on, bar.warp.syncs passed, lanes that have not returned, how the warp
# stopped, the barrier or event it stopped at, and the jumps back since its last event, see flow.jumped.
RESUME, WARP_EPOCH, RUNNING, STATE, AT, DEPTH = range(6)
PATH, DEEPEST = 6, 9
HEADER = 16 * 8  # bytes


class Frames(Writer):
    """A Writer of code that stops and goes on."""

    offsets: dict[int, int]
    running_place: Any

    @property
    def warp_epoch(self) -> Any:
        return self.head(WARP_EPOCH)

    def passed(self) -> None:
        """All threads of a program of one warp have met."""
        self.b.store(self.b.add(self.epoch, I64(1)), ctx.place(self.b, self.context, "epoch"))

    def head(self, word: int) -> Any:
        return self.b.load(self.b.gep(self.frame, [I64(word)], source_etype=I64), typ=I64)

    def set_head(self, word: int, value: Any) -> None:
        self.b.store(value, self.b.gep(self.frame, [I64(word)], source_etype=I64))

    def layout(self) -> tuple[dict[int, int], int]:
        """Where each register that outlives a stop lies in the frame, and the frame's bytes."""
        offsets, at = {}, HEADER
        for slot in range(len(self.decoded.slots)):
            if any(self.plan.live[n] >> slot & 1 for n in self.plan.stops) and self.kept(slot):
                offsets[slot] = at
                at += 320 if self.plan.varying >> slot & 1 else 16  # at most 256 bytes, and where it is written
        return offsets, -(-at // 64) * 64

    def kept(self, slot: int) -> bool:
        fixed = slot in self.decoded.fixed or slot in self.decoded.given.values() or slot in self.decoded.undefined
        return not fixed

    def moved(self, n: int, save: bool) -> None:
        """Store the registers that live at a stop into the frame, or load them from it."""
        for slot, offset in self.offsets.items():
            if not self.plan.live[n] >> slot & 1:
                continue
            place, kind = self.variable(slot), self.slot_type(slot)
            there = self.b.gep(self.frame, [I64(offset)], source_etype=I8)
            flag = self.b.gep(there, [I64(8 if kind.__class__ is ir.IntType else 256)], source_etype=I8)
            ballot = kind == vector(I1)
            if save:
                value = self.b.load(place, typ=kind)
                self.b.store(self.L.ballot(value) if ballot else value, there, align=4)
            else:
                value = self.b.load(there, typ=I32 if ballot else kind, align=4)
                self.b.store(self.L.mask(value) if ballot else value, place)
            if slot in self.written:
                one, other = (self.written[slot], flag) if save else (flag, self.written[slot])
                self.b.store(self.b.load(one, typ=I32), other)

    def stop(self, n: int, status: int, at: int) -> None:
        """Return; the warp goes on at instruction n."""
        self.moved(n, True)
        self.set_head(RESUME, I64(1 + 2 * sorted(self.plan.stops).index(n) + (status == ctx.EVENT)))
        self.set_head(AT, I64(at))
        running = self.b.load(self.running_place, typ=I32)
        self.set_head(RUNNING, self.b.zext(running, I64))
        self.b.ret(I64(status))
