"""Who touched each cell of shared memory, in programs with asynchronous instructions: ../asynchronous/ordering.py.

One word says who wrote a cell last: the agent, and one more; the lane of a warp, or SEVERAL; whether a cp.async is
still writing (COPYING), or an mbarrier's own instructions did (ATOMIC); the agent's moment, see clocks.py; in which ERA
of its warp, between two meetings of its lanes; after how many barriers (EPOCH). A word like it says of each agent when
it read the cell last. What warps may write alike, all of them have written: nobody knows of that before a barrier.
As in shared_cells.py, `by` is MIXED once a cell was written twice between two barriers, unless it was the same value by
the same instruction.

What returns a number returns 0 if all is well, and 1 for a suspicion.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F821, RET503

from .clocks import ERA
from .routine import routines
from .shared_cells import COPY, GROUP, MIXED, ON, SIZE

AGENT, LANE, COPYING, ATOMIC, MOMENT, LATER, EPOCH = 127, 7, 1 << 13, 1 << 14, 15, 32, 48  # LATER: the era's place
SEVERAL, LANES, WHEN = 32, 63 << 7, (1 << 17) - 1
MOMENTS, ERAS, EPOCHS = 1 << 17, 1 << 16, 1 << 15


def order_mine(context, warp):
    """A warp, and its present moment; -1 if that is beyond all counting."""
    moment, era, epoch = u64[clock_row(context, warp), warp], u64[clock_facts(context, warp), ERA], context.epoch
    if moment >= MOMENTS or era >= ERAS or epoch >= EPOCHS - 1:
        return -1
    return (epoch << EPOCH) + (era << LATER) + (moment << MOMENT) + warp + 1


def order_all(context, mine):
    """The same of all warps together."""
    epoch = mine >> EPOCH
    return (epoch << EPOCH) + (epoch + 1 << MOMENT) + (SEVERAL << LANE) + context.warps + 1


def order_after(context, word, warp, proxy):
    """Whether a warp knows that an access is over; proxy: as the async proxy sees it for that warp."""
    agent = (word & AGENT) - 1
    fenced = proxy and agent <= context.warps
    return u64[clock_row(context, warp + context.warps if fenced else warp), agent] >= word >> MOMENT & WHEN


def order_lanes(word, mine):
    """Whether other lanes of the same warp did it, and have not met since."""
    near = (word ^ mine) & AGENT == 0 and (word ^ mine) >> LATER & ERAS - 1 == 0 and word & ATOMIC == 0
    return near and (word & LANES != mine & LANES or word & SEVERAL << LANE != 0)


def order_written(context, writer, warp, mine, proxy):
    """Whether the last write is not ordered before an access."""
    if (proxy or writer & AGENT != warp + 1) and not order_after(context, writer, warp, proxy):
        return 1
    return order_lanes(writer, mine)


def order_reads(context, k):
    """The words of who has read a cell, of this program alone; after them, of which program they are."""
    agents = context.agents
    reads = context.shared_reads + 8 * (agents + 1) * k
    if u64[reads, agents] != context.generation:
        memset(reads, 0, 8 * agents)
        u64[reads, agents] = context.generation
    return reads


def order_unread(context, k, warp, mine, proxy):
    """Whether some read is not ordered before a write."""
    reads, agents = order_reads(context, k), context.agents
    for agent in range(agents):
        word = u64[reads, agent]
        if word != 0:
            if (proxy or agent != warp) and not order_after(context, word, warp, proxy):
                return 1
            if agent == warp and order_lanes(word, mine):
                return 1


def order_load(context, at, on, warp, lanes, step, log, size, room):
    """-> the address of the words, lane by lane, or 0 for a suspicion. lanes: to add to a lane masked by `step`."""
    width, first = size >> log, order_mine(context, warp)
    if first < 0:
        return 0
    for lane in lanes(on):
        where, mine = u32[at, lane], first + ((lane & step) + lanes << LANE)
        if shared_strays(context, where, size, size):
            return 0
        for k in range(where >> log, (where >> log) + width):
            writer = u64[context.shared_writer, k]
            if writer & AGENT == 0 or writer & COPYING != 0 or order_written(context, writer, warp, mine, 0):
                return 0
            reads = order_reads(context, k)
            before = u64[reads, warp]
            near = before != 0 and (before ^ mine) >> LATER & ERAS - 1 == 0 and (before ^ mine) & LANES != 0
            u64[reads, warp] = mine & ~LANES | SEVERAL << LANE if near else mine
    shared_words(context, at, on, size, room, 0)
    return room


def order_store(context, n, at, on, warp, lanes, step, log, size, room):
    """Lane after lane; one that meets another's store must leave it as it is."""
    first = order_mine(context, warp)
    for lane in lanes(on):
        where, mine, words = u32[at, lane], first + ((lane & step) + lanes << LANE), room + size * lane
        if first < 0 or shared_strays(context, where, size, size):
            return 1
        differs = memcmp(context.shared_bytes + where, words, size) != 0
        for k in range(where >> log, (where >> log) + (size >> log)):
            if order_claim(context, k, n, warp, mine, differs):
                return 1
        shared_words(context, at, 1 << lane, size, room, 1)


def order_claim(context, k, n, warp, mine, differs):
    """Note a store, if it may be."""
    writer, by = u64[context.shared_writer, k], u32[context.shared_by, k]
    changes, now = differs or by != n, writer & AGENT != 0 and writer >> EPOCH == mine >> EPOCH
    if writer & COPYING != 0 or order_unread(context, k, warp, mine, 0):
        return 1
    if writer & AGENT != 0 and order_written(context, writer, warp, mine, 0):
        if changes:
            return 1
        mine = mine | SEVERAL << LANE if writer & AGENT == warp + 1 else order_all(context, mine)
    u64[context.shared_writer, k] = mine
    u32[context.shared_by, k] = n | (MIXED if now and changes else 0)


def order_touch(context, at, n, warp, lane, log):
    """What an mbarrier's own instructions do to its bytes."""
    mine = order_mine(context, warp)
    if mine < 0:
        return 1
    mine = mine + (lane << LANE)
    for k in range(at >> log, at + 8 >> log):
        writer = u64[context.shared_writer, k]
        atomic = writer & ATOMIC != 0
        if writer & AGENT == 0 or writer & COPYING != 0 or order_unread(context, k, warp, mine, 0):
            return 1
        if not atomic and order_written(context, writer, warp, mine, 0):
            return 1
        other = atomic and writer & AGENT != warp + 1 and not order_after(context, writer, warp, 0)
        u64[context.shared_writer, k] = (order_all(context, mine) if other else mine) | ATOMIC
        u32[context.shared_by, k] = n | MIXED


def order_copy(context, at, on, warp, log, size, done):
    """A cp.async whose bytes order_store has written begins, or has arrived."""
    first = order_mine(context, warp)
    for lane in lanes(on):
        for k in range(u32[at, lane] >> log, u32[at, lane] + size >> log):
            writer = u64[context.shared_writer, k]
            if writer & AGENT != warp + 1 or (writer & COPYING != 0) != done or writer & LANES != lane << LANE:
                return 1
            u64[context.shared_writer, k] = first + (lane << LANE) + (0 if done else COPYING)
            u32[context.shared_by, k] |= MIXED if done else 0


def order_copied(context, lanes, warp, log, left):
    """All groups of cp.async but the latest `left` have arrived, of some lanes; those of the others stay under way."""
    row, kept = shared_copies(context, warp), 0
    if order_mine(context, warp) < 0:
        return 1
    for n in range(u32[row, 1]):
        old = row + 8 + 4 * COPY * n
        here = u32[old, ON] & lanes if u32[old, GROUP] + left < u32[row, 0] else 0
        u32[old, ON] ^= here
        if order_copy(context, old, here, warp, log, u32[old, SIZE], 1):
            return 1
        if u32[old, ON] != 0:
            memcpy(row + 8 + 4 * COPY * kept, old, 4 * COPY)
            kept += 1
    u32[row, 1] = kept


def order_reset(context):
    memset(context.shared_writer, 0, 8 * context.shared_cells)
    context.generation += 1


RUNTIME = routines(
    order_mine, order_all, order_after, order_lanes, order_written, order_reads, order_unread, order_load, order_claim,
    order_store, order_touch, order_copy, order_copied, order_reset,
)  # fmt: skip
