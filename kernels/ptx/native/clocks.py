"""What the warps of a program with asynchronous instructions know of one another: ../asynchronous/clocks.py, compiled.

`context.clocks` is a table of 64-bit words, `context.agents` columns wide. Its rows: what each of W warps knows, and
what it knows through a proxy fence; each warp's own facts; the latest moment of each agent that was begun; one with
how many turns were TAKEN and how many mbarriers there are; and five of each mbarrier, see mbarriers.py.
Columns, or agents: W warps; all of them together, whose moments are the program's barriers; the wgmmas of each four of
them; the bulk copies of each; the mbarriers.

Warps run one after another here and in lockstep there, in the same order wherever one can wait for another: see
turns.py. So both find the same accesses unordered, however each comes to them.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F821, RET503

import math

import numpy as np

from .lower import Unlowered
from .routine import routines

ERA, WGMMAS, BULKS, HISTORY, ISSUERS = range(5)  # a warp's: lanes met; groups committed; what its wgmmas were; lanes
TAKEN, MBARRIERS = range(2)
NARROWEST, MOST = 10, 126  # columns: the state of an mbarrier is a row; an agent is 7 bits, see ordered_cells.py


def columns(warps: int, mbarriers: int) -> int:
    """How many agents a program may have. Raises Unlowered for more than there are numbers for."""
    found = max(2 * warps + 1 + warps // 4 + mbarriers, NARROWEST)
    if found > MOST:
        raise Unlowered(f"{mbarriers} mbarriers")
    return found


def shapes(cells: int, warps: int, mbarriers: int) -> dict[str, tuple[int, ...]]:
    """How many words a program has, by their field."""
    agents = columns(warps, mbarriers)
    table = agents * (3 * warps + 2 + 5 * mbarriers) + 32  # and the words of a store, see mbarriers.py
    return {"clocks": (table,), "shared_reads": (cells, agents + 1)}


def room(*sizes: int) -> int:
    """Bytes of a program, of `shapes`."""
    return 8 * sum(map(math.prod, shapes(*sizes).values()))


def state(rows: int, *sizes: int) -> dict[str, np.ndarray]:
    """Memory for so many programs at a time, by its field: a row for each, of `shapes`."""
    return {name: np.zeros((rows, *shape), np.int64) for name, shape in shapes(*sizes).items()}


def clock_row(context, row):
    return context.clocks + 8 * context.agents * row


def clock_facts(context, warp):
    """A warp's own facts."""
    return clock_row(context, 2 * context.warps + warp)


def clock_begun(context):
    return clock_row(context, 3 * context.warps)


def clock_merge(to, given, columns):
    """Learn what others know."""
    for c in range(columns):
        u64[to, c] = most(u64[to, c], u64[given, c])


def clock_tick(context, warp):
    """After a warp has released what it did: what it does from now on is later."""
    u64[clock_row(context, warp), warp] += 1


def clock_reset(context):
    """As a program finds it."""
    memset(context.clocks, 0, 8 * context.agents * (3 * context.warps + 2))
    for warp in range(context.warps):
        u64[clock_row(context, warp), warp] = 1


def clock_meet(context):
    """All warps of the program have met."""
    warps, columns = context.warps, context.agents
    for half in range(2):
        top = clock_row(context, half * warps)
        for warp in range(1, warps):
            clock_merge(top, clock_row(context, half * warps + warp), columns)
        for warp in range(1, warps):
            memcpy(clock_row(context, half * warps + warp), top, 8 * columns)
    for warp in range(warps):
        clock_tick(context, warp)
        u64[clock_row(context, warp), warps] += 1
        u64[clock_facts(context, warp), ERA] += 1


def clock_met(context, warp):
    """The lanes of a warp have met, or learned what others did."""
    u64[clock_facts(context, warp), ERA] += 1


def clock_fence(context, warp):
    """fence.proxy.async."""
    clock_merge(clock_row(context, context.warps + warp), clock_row(context, warp), context.agents)
    clock_tick(context, warp)


def clock_issue(context, agent, moment):
    """An asynchronous access has begun."""
    begun = clock_begun(context)
    u64[begun, agent] = most(u64[begun, agent], moment)


def clock_over(context):
    """At a program's end: whether something was begun that nobody has waited for, or warps had different wgmmas."""
    begun, warps = clock_begun(context), context.warps
    for agent in range(warps + 1, context.agents):
        known = 0
        for warp in range(warps):
            known = most(known, u64[clock_row(context, warp), agent])
        if u64[begun, agent] > known:
            return 1
    for warp in range(warps & ~3):
        if clock_apart(context, warp & ~3):
            return 1


def clock_apart(context, first):
    """Whether four warps have not had the same wgmmas."""
    for warp in range(first + 1, first + 4):
        if u64[clock_facts(context, warp), HISTORY] != u64[clock_facts(context, first), HISTORY]:
            return 1


RUNTIME = routines(
    clock_row, clock_facts, clock_begun, clock_merge, clock_tick, clock_reset, clock_meet, clock_met, clock_fence,
    clock_issue, clock_apart, clock_over,
)  # fmt: skip
