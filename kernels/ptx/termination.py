"""Loops that never end, and loops that show no end.

Endless for certain: a loop that comes back to its head with the same registers and memory. Brent's method finds any
period: each state at a jump back is compared with one kept at the 1st, 2nd, 4th, 8th ... jump; memory's bytes, too,
where the loop stores.

Stopped, though nobody can know: a launch that has done much, in loops none of which counts. A loop counts if an integer
comparison that can end it comes closer to equality from round to round: its end can be predicted. "Much" is a sum of
weights, one for each instruction, about as large as its time, and no clock.
"""

import re
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from .decode import Decoded, Step, immediate
from .parse import Immediate

BUDGET = 4_000_000  # of weights, each about a microsecond on a core of a server
LONGEST = 200  # budgets that a loop which counts may still need
LARGE = 1 << 20  # bytes of memory from which on it is not compared every time
ACCESS = re.compile(r"(?!ld\.param)(ld|st|atom|red|cp|ldmatrix|stmatrix)\.")
READ = re.compile(r"(?!ld\.param)(ld|atom|ldmatrix)\.")
STRETCH = 30  # what straight code up to a jump weighs, beside its instructions
WEIGHTS = ((re.compile(r"(atom|red)\."), 200), (ACCESS, 50), (re.compile(""), 5))  # the first that an opcode matches
WIDE = 1 << 14  # threads that run together: an instruction takes half as long again for each so many
COMPARE = re.compile(r"setp\.(lt|le|gt|ge|ne|eq)\.([usb])(16|32|64)$")


class Kept:
    """A state of a fragment at a jump back that later ones are compared with."""

    def __init__(self, pc: int, version: int, registers: list):
        self.pc, self.version, self.registers = pc, version, registers
        self.hits = 0  # how often its registers came again, with memory changed
        self.image: list[np.ndarray] = []  # memory at an earlier hit

    def again(self, block: Any, registers: list) -> str:
        """Whether this state is the same: "still" with no byte written since, "same" with the same ones, or ""."""
        if not equal(self.registers, registers):
            return ""
        memory = block.world.memory
        if memory.version == self.version:
            return "still"
        self.hits += 1
        now = contents(block)
        if self.image and equal(self.image, now):
            return "same"
        if self.hits & (self.hits - 1) == 0:
            self.image = [x.copy() for x in now]
        elif sum(x.size for x in now) > LARGE:
            self.image = []
        return ""


def contents(block: Any) -> list[np.ndarray]:
    """All memory that a block's programs can read, and what their mbarriers have counted.

    In a random schedule an mbarrier may answer otherwise next time: there no two states are the same.
    """
    local, barriers = [] if block.local is None else [block.local.bytes], block.mbarriers
    counted = [] if barriers is None else [barriers.phase, barriers.pending, barriers.bytes]
    if barriers is not None and block.world.random is not None:
        counted.append(np.array([block.world.memory.version]))
    return [block.world.memory.bytes, block.shared.bytes, *local, *counted]


def equal(one: list, other: list) -> bool:
    same = lambda x, y: x is y or (x.shape == y.shape and (x == y).all())  # noqa: E731
    return len(one) == len(other) and all(map(same, one, other))


class Exit(NamedTuple):
    """The operands of a comparison of whole numbers that can end a loop."""

    a: int  # slots
    b: int
    signed: bool

    def distance(self, R: list) -> float:
        """How far the threads are from equality, the farthest of them."""
        if R[self.a] is None or R[self.b] is None:  # not in the first round
            return float("inf")
        a, b = (R[slot].view(f"{'i' if self.signed else 'u'}{R[slot].itemsize}") for slot in (self.a, self.b))
        return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


class Loop:
    """What was seen of one loop of one block at its jumps back."""

    def __init__(self, exits: list[Exit], work: float):
        self.exits, self.rounds, self.begun, self.work = exits, 0, work, work
        self.last: list[float] = []
        self.falls, self.rises, self.pace = [0] * len(exits), [0] * len(exits), [0.0] * len(exits)

    def look(self, R: list, work: float) -> None:
        """Note how far each comparison is from equality, and how much work was done until now."""
        now = [e.distance(R) for e in self.exits]
        for i, (before, after) in enumerate(zip(self.last, now, strict=False)):
            if after < before:
                self.falls[i], self.pace[i] = self.falls[i] + 1, before - after
            self.rises[i] += after > before
        self.last, self.rounds, self.work = now, self.rounds + 1, work

    def left(self) -> float:
        """How much work is left, by the comparison that comes closer soonest; infinite if none does."""
        each = (self.work - self.begun) / max(self.rounds - 1, 1)
        # Each time that an inner loop is entered anew, its distance rises.
        counts = [n for n in range(len(self.exits)) if self.falls[n] and 2 * self.falls[n] >= self.rises[n]]
        return min((self.last[n] / self.pace[n] * each for n in counts), default=float("inf"))

    def alive(self, work: float) -> bool:
        """Whether it came round lately, and often enough to judge it."""
        return self.rounds >= 3 and work - self.work <= max(BUDGET, 4 * (self.work - self.begun) / self.rounds)


class Budget:
    """How much a launch may do before its loops are asked whether they end."""

    def __init__(self, decoded: Decoded):
        self.decoded, self.work, self.allowed = decoded, 0.0, float(BUDGET)
        self.loops: dict[tuple[int, int, int], Loop] | None = None  # by (program, head, jump), once work is much

    def cost(self, start: int, end: int, threads: int) -> float:
        """The weight of instructions start..end of so many threads."""
        weights = self.decoded.weights
        return STRETCH + (weights[end] - weights[start]) * (1 + threads / WIDE / 2)

    def look(self, block: Any, head: int, jump: int) -> None:
        """A fragment of a block jumps back."""
        if self.loops is not None:
            key = int(block.programs[0]), head, jump
            if key not in self.loops:
                self.loops[key] = Loop(self.exits(head, jump), self.work)
            self.loops[key].look(block.R, self.work)

    def shows_no_end(self, block: Any, pc: int) -> bool:
        """Whether the loop that a block is in, the outermost that goes round, is none that counts; else grant more."""
        first, self.loops = self.loops is None, self.loops or {}
        mine = [(head, jump, loop) for (p, head, jump), loop in self.loops.items() if p == int(block.programs[0])]
        around = [(jump - head, x) for head, jump, x in mine if head <= pc <= jump and x.alive(self.work)]
        self.allowed = self.work + BUDGET * (0.5 if first or not around else 1)
        return bool(around) and max(around, key=lambda x: x[0])[1].left() > LONGEST * BUDGET

    def exits(self, head: int, jump: int) -> list[Exit]:
        """The comparisons of whole numbers that decide whether the loop from `head` to `jump` goes on."""
        found = []
        for n in range(head, jump + 1):
            s = self.decoded.steps[n]
            leaves = n == jump or s.control == "leave" or not head <= s.target <= jump
            if s.control in ("branch", "leave") and s.guard and leaves:
                found += self.comparisons(s.guard[0], head, n)
        return found

    def comparisons(self, predicate: int, head: int, n: int, depth: int = 3) -> list[Exit]:
        """Those that a predicate (a slot) at instruction n is made of, within the loop that begins at `head`."""
        at = next((w for w in range(n - 1, head - 1, -1) if self.decoded.steps[w].writes >> predicate & 1), None)
        if at is None:
            return []
        i = self.decoded.steps[at].instruction
        if match := COMPARE.match(i.opcode):
            a, b = (slot_of(self.decoded, x, f"{match[2]}{match[3]}") for x in i.operands[1:3])
            return [] if a is None or b is None else [Exit(a, b, match[2] == "s")]
        if not depth or i.opcode not in ("and.pred", "or.pred", "not.pred", "mov.pred"):
            return []
        parts = [slot_of(self.decoded, x, "pred") for x in i.operands[1:]]
        return [e for x in parts if x is not None for e in self.comparisons(x, head, at, depth - 1)]


def weights(steps: list[Step]) -> list[int]:
    """What all instructions before each weigh."""
    return list(accumulate((weight(s.instruction.opcode) for s in steps), initial=0))


@lru_cache(maxsize=1 << 12)
def weight(opcode: str) -> int:
    return next(w for kind, w in WEIGHTS if kind.match(opcode))


def slot_of(decoded: Decoded, operand: Any, kind: str) -> int | None:
    """Where an operand's value lies."""
    if isinstance(operand, Immediate):
        return decoded.slots.get(immediate(operand.bits, kind))
    return decoded.slots.get(getattr(operand, "name", ""))
