"""mbarriers in compiled code; the rules are those of ../asynchronous/mbarrier.py and instructions.py.

Each has a place, by its address, as long as its program runs, and five rows in the table of clocks.py: its STATE, what
those know who have arrived in the present phase, likewise through a proxy fence, and both as of the last phase. Its
instructions are turns, see turns.py, so what waits in vain here does so in NumPy form, too: it is a suspicion.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F821, RET503

from typing import Any

from ..asynchronous.mbarrier import MARK, MOST
from ..syntax import Instruction
from .clocks import MBARRIERS, TAKEN
from .lanes import I1, I32, I64
from .memory import spilled, suspect
from .ordered_cells import SEVERAL
from .routine import routines
from .shared import log

PLACE, LIVE, PHASE, EXPECTED, PENDING, BYTES, DONE = range(7)  # words of STATE; DONE: the last turn that ended a phase
GIVEN, READY = 1, 3  # rows: known and fenced
RELAXED, EXPECTS, PARITY, MORE = 1, 2, 4, 8  # MORE: an arrival is one more than expected


def mbarrier_place(context, at, make):
    """The rows of the mbarrier at an address, or 0."""
    head = clock_row(context, 3 * context.warps + 1)
    for m in range(u64[head, MBARRIERS]):
        row = clock_row(context, 3 * context.warps + 2 + 5 * m)
        if u64[row, PLACE] == at:
            return row
    row = clock_row(context, 3 * context.warps + 2 + 5 * u64[head, MBARRIERS])
    if not make or u64[head, MBARRIERS] == context.mbarriers:
        return 0
    memset(row, 0, 5 * 8 * context.agents)
    u64[row, PLACE] = at
    u64[head, MBARRIERS] += 1
    return row


def mbarrier_agent(context, row):
    """Its column."""
    n = (row - clock_row(context, 3 * context.warps + 2)) // (5 * 8 * context.agents)
    return 2 * context.warps + 1 + (context.warps >> 2) + n


def mbarrier_of(context, at):
    """The rows of one that may be used, or 0."""
    row = mbarrier_place(context, at, 0) if at & 7 == 0 and at + 8 <= context.shared_size else 0
    if row != 0 and (u64[row, LIVE] == 0 or u64[context.shared_bytes + at, 0] != MARK):
        return 0
    return row


def mbarrier_init(context, n, at, on, counts, warp, log):
    lane, columns = lowest(on), 8 * context.agents
    row, count = mbarrier_place(context, u32[at, lane], 1), u32[counts, lane]
    if on & on - 1 != 0 or row == 0 or count < 1 or count > MOST:
        return 1
    if u64[row, LIVE] != 0 or mbarrier_mark(context, n, at, on, warp, log, MARK):
        return 1
    memset(row + 8, 0, 5 * columns - 8)
    u64[row, LIVE], u64[row, EXPECTED], u64[row, PENDING] = 1, count, count


def mbarrier_mark(context, n, at, on, warp, log, mark):
    """Store all of its bytes; its third row is free meanwhile, or about to be."""
    room = clock_row(context, 3 * context.warps + 2 + 5 * context.mbarriers)
    lane = lowest(on)
    u64[room, lane] = mark
    return order_store(context, n, at, on, warp, 0, -1, log, 8, room)


def mbarrier_inval(context, n, at, on, warp, log):
    for lane in lanes(on):
        row = mbarrier_of(context, u32[at, lane])
        if row == 0 or mbarrier_mark(context, n, at, 1 << lane, warp, log, 0):
            return 1
        u64[row, LIVE] = 0


def mbarrier_settled(context, row):
    """After a change: go on to the next phase if nothing is missing."""
    turn, columns = u64[clock_row(context, 3 * context.warps + 1), TAKEN], 8 * context.agents
    bytes = u64[row, BYTES]
    if u64[row, PENDING] < 0 or bytes > MOST or bytes < 0 - MOST:
        return 1
    if u64[row, LIVE] != 0 and u64[row, PENDING] == 0 and bytes == 0:
        u64[row, PHASE] += 1
        u64[row, PENDING], u64[row, DONE] = u64[row, EXPECTED], turn
        agent = mbarrier_agent(context, row)
        u64[row + columns * GIVEN, agent] = u64[row, PHASE]
        memcpy(row + columns * READY, row + columns * GIVEN, 2 * columns)


def mbarrier_change(context, row, arrivals, bytes, warp, silent):
    """Arrivals of a warp, with what it knows, and bytes that are still to come. In NumPy form those of all warps that
    take this turn come at once, so none may end a phase before the others."""
    if context.warps > 1 and u64[row, DONE] == u64[clock_row(context, 3 * context.warps + 1), TAKEN]:
        return 1
    if arrivals > 0 and not silent:
        columns = context.agents
        clock_merge(row + 8 * columns * GIVEN, clock_row(context, warp), columns)
        clock_merge(row + 8 * columns * (GIVEN + 1), clock_row(context, context.warps + warp), columns)
        clock_tick(context, warp)
    u64[row, PENDING] -= arrivals
    u64[row, BYTES] += bytes
    return mbarrier_settled(context, row)


def mbarrier_arrive(context, n, at, on, numbers, warp, log, flags, arrives, states):
    """arrive, expect_tx (arrives: 0) and complete_tx (-1), by one address after the other."""
    while on:
        address, here, total = u32[at, lowest(on)], 0, 0
        row = mbarrier_of(context, address)
        if row == 0:
            return 1
        for other in lanes(on):
            if u32[at, other] == address:
                here |= 1 << other
                total += u32[numbers, other]
                u64[states, other] = u64[row, PHASE]
                if order_touch(context, address, n, warp, other, log):
                    return 1
        expects = flags & EXPECTS != 0
        u64[row, PENDING] += bits(here) if flags & MORE else 0
        arrivals = (bits(here) if expects else total) if arrives > 0 else 0
        total = (total if expects else 0) if arrives > 0 else total * (1 if arrives == 0 else -1)
        if mbarrier_change(context, row, arrivals, total, warp, flags & RELAXED):
            return 1
        on = on & ~here


def mbarrier_wait(context, n, at, on, asked, warp, log, flags):
    """Lanes that ask for the same are as one; what has not come to pass is a suspicion."""
    columns = 8 * context.agents
    while on:
        lane = lowest(on)
        address, phase = u32[at, lane], u64[asked, lane]
        for other in lanes(on):
            on = on & ~(1 << other) if u32[at, other] == address and u64[asked, other] == phase else on
            several = SEVERAL if other != lane else lane
        row = mbarrier_of(context, address)
        if row == 0 or order_touch(context, address, n, warp, several, log):
            return 1
        if ((phase ^ u64[row, PHASE]) & 1 if flags & PARITY else phase != u64[row, PHASE]) == 0:
            return 1
        if flags & RELAXED == 0:
            clock_merge(clock_row(context, warp), row + columns * READY, context.agents)
            clock_merge(clock_row(context, context.warps + warp), row + columns * (READY + 1), context.agents)
    if flags & RELAXED == 0:
        clock_met(context, warp)


RUNTIME = routines(
    mbarrier_place, mbarrier_agent, mbarrier_of, mbarrier_mark, mbarrier_init, mbarrier_inval, mbarrier_settled,
    mbarrier_change, mbarrier_arrive, mbarrier_wait,
)  # fmt: skip


def flags(i: Instruction) -> int:
    each = {"relaxed": RELAXED, "expect_tx": EXPECTS, "parity": PARITY}
    return sum(flag for name, flag in each.items() if name in i.opcode.split("."))


def operands(w: Any, i: Instruction, n: int) -> tuple[Any, ...]:
    """What routines take: context, instruction, addresses, lanes; the mbarrier is operand n."""
    return w.context, w.n, spilled(w, w.read(i.operands[n], "b32")), w.on


def init(w: Any, i: Instruction) -> None:
    counts = spilled(w, w.read(i.operands[1], "u32"))
    suspect(w, "mbarrier_init", *operands(w, i, 0), counts, w.warp, log(w))


def inval(w: Any, i: Instruction) -> None:
    suspect(w, "mbarrier_inval", *operands(w, i, 0), w.warp, log(w))


def arrive(w: Any, i: Instruction) -> None:
    target, _, *count = i.operands
    numbers, states = spilled(w, w.read(count[0], "u32") if count else I32(1)), spilled(w, I64(0))
    suspect(w, "mbarrier_arrive", *operands(w, i, 1), numbers, w.warp, log(w), flags(i), 1, states)
    w.write(target, "b64", w.b.load(states, typ=w.L.splat(I64(0)).type, align=8))


def arrive_with_copies(w: Any, i: Instruction) -> None:
    """cp.async.mbarrier.arrive: the copies are taken to be there at once, as in NumPy form."""
    more = 0 if ".noinc" in i.opcode else MORE
    suspect(w, "order_copied", w.context, w.on, w.warp, log(w), -1)
    numbers, states = spilled(w, I32(1)), spilled(w, I64(0))
    suspect(w, "mbarrier_arrive", *operands(w, i, 0), numbers, w.warp, log(w), more, 1, states)


def count_bytes(w: Any, i: Instruction) -> None:
    numbers, states = spilled(w, w.read(i.operands[1], "u32")), spilled(w, I64(0))
    arrives = 0 if ".expect_tx" in i.opcode else -1
    suspect(w, "mbarrier_arrive", *operands(w, i, 0), numbers, w.warp, log(w), flags(i), arrives, states)


def wait(w: Any, i: Instruction) -> None:
    asked = spilled(w, w.L.resize(w.read(i.operands[2], "u32" if ".parity" in i.opcode else "b64"), 64))
    suspect(w, "mbarrier_wait", *operands(w, i, 1), asked, w.warp, log(w), flags(i))
    w.write(i.operands[0], "pred", I1(1))


LOWER = {
    "mbarrier.init": init, "mbarrier.inval": inval, "mbarrier.arrive": arrive, "mbarrier.expect_tx": count_bytes,
    "mbarrier.complete_tx": count_bytes, "mbarrier.test_wait": wait, "mbarrier.try_wait": wait,
    "cp.async.mbarrier": arrive_with_copies,
}  # fmt: skip
