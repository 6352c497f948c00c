"""A warp's loads and stores of global memory, lane by lane: counted, done, and its copies of values compared.

Triton lets one of the threads that hold a copy of a value store it. Those that its guard keeps from it are compared
with one another: in a program of one warp at once, else with what lies there, if it was stored, and in a table of the
thread of the CPU (REPLICAS) before.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F401, F821

from ..segments import BITS
from .accesses import ATOMIC, MIXED, MOMENT, ONE, SEVERAL, THREADS
from .context import TRAFFIC
from .pieces import BASE, CELLS, CHUNK, DATA, FIRST, HEAD, LAST, LINE, REPLICA, REPLICAS, SHIFT, STATE
from .routine import routines

AHEAD = 1024  # bytes: a loop that goes through an array may come there next


def access_copy(context, address, size, now, words, insert):
    """What a thread would store, whom its guard keeps from it: whether others hold another word for that place.

    A row that was another program's is free, but where programs take turns.

    insert  0: whether one that stores does
    """
    rows, since, turns = context.replicas, access_since(context), u64[context.replicas, 1]
    owner = (since << MOMENT) + (now & MIXED)
    n, tries = address * 0x9E3779B97F4A7C15 >> 52, 0
    row = rows + 8 * (HEAD + REPLICA * n)
    while (u64[row, 1] >> MOMENT == since or turns * u64[row, 1] != 0) and tries < REPLICAS:
        if u64[row, 0] == address and u64[row, 1] == owner:
            return memcmp(row + 16, words, size) != 0
        n, tries = (n + 1) % REPLICAS, tries + 1
        row = rows + 8 * (HEAD + REPLICA * n)
    if insert and tries < REPLICAS:
        u64[row, 0], u64[row, 1] = address, owner
        memcpy(row + 16, words, size)
        u64[rows, 0] += 1
    return tries == REPLICAS


def access_replica(context, address, size, now, words):
    """The same, of one that does not store: beside what is stored there already."""
    row = access_segment(context, address)
    if row != 0:
        off = address - row.BASE
        if row.CELLS != 0 and access_fits(row, off, size, size):
            cell = u64[row.CELLS, off >> row.SHIFT]
            if access_near(context, cell) and cell & (ATOMIC | MIXED) == now & MIXED:
                return memcmp(row.DATA + off, words, size) != 0
            if access_near(context, cell) and cell & MIXED == MIXED:
                return 1
    return access_copy(context, address, size, now, words, 1)


def access_count(context, n, on, addresses):
    """Count an instruction's threads and sectors; addresses: 32 words, or 0 where all have the same."""
    traffic = context.traffic + 8 * TRAFFIC * n
    u64[traffic, 0] += bits(on)
    if addresses == 0:
        u64[traffic, 1] += 1
        return 0
    last = -1
    for lane in range(32):
        if on >> lane & 1:
            sector = u64[addresses, lane] >> 5
            new = sector != last
            if sector < last:
                for other in range(lane):
                    if on >> other & 1 and u64[addresses, other] >> 5 == sector:
                        new = 0
            last = sector if sector > last else last
            u64[traffic, 1] += new
    return 0


def access_gather(row, size, on, addresses, words):
    """Loads by some lanes of what nobody writes, and all may read."""
    base, low, high, shift, data = row.BASE, row.FIRST, row.LAST - size, row.SHIFT, row.DATA
    if size >> shift == 0:
        return 1
    for lane in range(32):
        if on >> lane & 1:
            off = u64[addresses, lane] - base
            if off < low or off > high or off & size - 1 != 0:
                return 1
            access_mark(row, off, size)
            if size == 4:
                u32[words, lane] = u32[data + off, 0]
            else:
                memcpy(words + lane * size, data + off, size)
    return 0


def access_side(context, n, size, address, who):
    """A load by all lanes, side by side from `address` on: where that lies, or 0."""
    row, traffic = access_segment(context, address), context.traffic + 8 * TRAFFIC * n
    if row == 0:
        return 0
    off, bytes = address - row.BASE, 32 * size
    u64[traffic, 0] += 32
    u64[traffic, 1] += (off + bytes - 1 >> 5) - (off >> 5) + 1
    if row.CELLS == 0 and row.STATE == 0 and access_fits(row, off, size, bytes):
        for k in range(bytes >> LINE):
            prefetch(row.DATA + off + AHEAD + (k << LINE))
        access_mark(row, off, bytes)
        return row.DATA + off
    return 0 if access_load(context, row, off, size, 32, access_now(context, who)) else row.DATA + off


def access_loads(context, n, size, on, who, addresses, words):
    """Loads of any lanes into `words`, `size` bytes for each lane; addresses: 32 words. Returns `words`, or 0."""
    now, row = access_now(context, who), access_segment(context, u64[addresses, lowest(on)])
    if row == 0:
        return 0
    access_count(context, n, on, addresses)
    if row.CELLS | row.STATE == 0 and access_gather(row, size, on, addresses, words) == 0:
        return words
    for lane in range(32):
        if on >> lane & 1:
            if (u64[addresses, lane] ^ row.BASE) >> BITS != 0:  # lanes may read of several arrays
                row = access_segment(context, u64[addresses, lane])
                if row == 0:
                    return 0
            off = u64[addresses, lane] - row.BASE
            if access_load(context, row, off, size, 1, now + lane * ONE):
                return 0
            memcpy(words + lane * size, row.DATA + off, size)
    return words


def access_one(context, n, size, on, address, who):
    """A load of one place by all lanes that are on: where it lies, or 0."""
    row = access_segment(context, address)
    if row == 0:
        return 0
    access_count(context, n, on, 0)
    now = access_now(context, who) + lowest(on) * ONE | (SEVERAL if bits(on) > 1 else 0)
    off = address - row.BASE
    return 0 if access_load(context, row, off, size, 1, now) else row.DATA + off


def access_writes(context, n, size, on, together, who, addresses, words):
    """Stores from `words` by the lanes that are on; together: by all, side by side."""
    first, now = lowest(on), access_now(context, who)
    row = access_segment(context, u64[addresses, first])
    if row == 0:
        return 1
    off = u64[addresses, first] - row.BASE
    end = off + 32 * size - 1
    if together and off >> CHUNK == end >> CHUNK:
        traffic = context.traffic + 8 * TRAFFIC * n
        u64[traffic, 0] += 32
        u64[traffic, 1] += (end >> 5) - (off >> 5) + 1
        return access_store(context, row, off, size, 32, now, words)
    access_count(context, n, on, addresses)
    for lane in range(32):
        off = u64[addresses, lane] - row.BASE
        if on >> lane & 1 and access_store(context, row, off, size, 1, now + lane * ONE, words + lane * size):
            return 1
    return 0


def access_disagree(context, size, running, addresses, words):
    """Count the lanes that hold another word than the last lane before them with the same address."""
    apart = 1
    for lane in range(31):
        apart = apart and u64[addresses, lane] < u64[addresses, lane + 1]
    for lane in range(0 if apart else 32):
        before = lane - 1
        while before >= 0 and (running >> before & 1 == 0 or u64[addresses, before] != u64[addresses, lane]):
            before -= 1
        if before >= 0 and running >> lane & 1:
            context.disagreeing += memcmp(words + before * size, words + lane * size, size) != 0


def access_copies(context, size, on, off, now, addresses, words):
    """What the lanes `off` hold, in a program of several warps: whether it disagrees with what `on` have stored, or
    others hold, at all."""
    if on != 0 and u64[context.replicas, 0] > 0:
        for lane in range(32):
            if on >> lane & 1 and access_copy(context, u64[addresses, lane], size, now, words + lane * size, 0):
                return 1
    for lane in range(32):
        if off >> lane & 1 and access_replica(context, u64[addresses, lane], size, now, words + lane * size):
            return 1
    return 0


def access_stores(context, n, size, on, off, together, who, addresses, words):
    """A store by the lanes `on`; `off` run, but their guard keeps them from it."""
    if on != 0 and access_writes(context, n, size, on, together, who, addresses, words):
        return 1
    if off == 0 and u64[context.replicas, 0] == 0:
        return 0
    if context.warps == 1:
        before = context.disagreeing
        access_disagree(context, size, on | off, addresses, words)
        return on == 0 and context.disagreeing != before  # which counts if another program's lanes store
    return access_copies(context, size, on, off, access_now(context, who), addresses, words)


RUNTIME = routines(
    access_copy, access_replica, access_count, access_side, access_gather, access_loads, access_one, access_writes,
    access_disagree, access_copies, access_stores,
)  # fmt: skip
