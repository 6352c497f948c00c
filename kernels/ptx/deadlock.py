"""The error of a launch in which no thread can go on: an endless loop, a deadlock, or a barrier that some miss."""

from typing import Any

import numpy as np

from .arrays import first_of
from .errors import Deadlock, DivergentBarrier, Endless, PtxError
from .termination import READ


def deadlock(machine: Any) -> PtxError:
    """The error of a thread that spins, or else of one that waits at a barrier or for its warp."""
    waits = [(b, f) for b in machine.blocks for f in b.fragments]
    spins = [(b, f) for b, f in waits if f.barrier is None and f.looped]
    block, f = (spins or [(b, f) for b, f in waits if f.barrier is not None] or waits)[0]
    steps = machine.decoded.steps
    at = lambda f: steps[f.pc - (f.barrier is not None)].instruction  # noqa: E731
    block.instruction = at(f)
    row, thread = first_of(block.mask(f))
    if spins:
        loop, executed = f.looped, machine.most - machine.limit
        if missing := list(dict.fromkeys(x for b, g in spins for x in lacking(b, g, steps))):
            return block.error(Deadlock, f"threads wait for ever: {'; '.join(missing)}", row, thread)
        if loop.found == "still" and any(READ.match(s.instruction.opcode) for s in steps[loop.head : loop.jump]):
            what = "a loop waits for memory to change, and nobody is left to change it"
            return block.error(Deadlock, what, row, thread)
        what = "this loop never ends: it comes round with the same registers and the same memory"
        return block.error(Endless, f"{what}, after {executed:,} instructions", row, thread)
    if f.barrier is None:
        return block.error(DivergentBarrier, "a warp-wide instruction that not all of its lanes reach", row, thread)
    others = [f"at PTX line {i.line} ({i.opcode})" for i in (at(g) for g in block.fragments if g is not f)]
    others += [] if block.together(block.fragments).all() else ["returned"]
    what = f"a barrier that not all threads reach; others are {', '.join(others)}"
    return block.error(DivergentBarrier, what, row, thread)


def lacking(block: Any, fragment: Any, steps: list) -> list[str]:
    """What the mbarriers lack that a loop asks for, in words."""
    loop, waits = fragment.looped, block.mbarriers.waits if block.mbarriers else {}
    warps = np.flatnonzero(block.warps(block.mask(fragment)).any(0)).tolist()
    keys = ((id(s.instruction), warp) for s in steps[loop.head : loop.jump] for warp in warps)
    asked = sorted({waits[key] for key in keys if key in waits})
    return [block.mbarriers.missing(at, first_of(block.mask(fragment))[0]) for at in asked]
