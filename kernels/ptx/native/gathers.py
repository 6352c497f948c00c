"""A warp's loads and stores of global memory, lane by lane: counted, done, and its copies of values compared.

Triton lets one of the threads that hold a copy of a value store it. Those that its guard keeps from it are compared
with what lies there, if it was stored, and with one another in a table of the thread of the CPU (REPLICAS) before.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F401, F821

from .accesses import ATOMIC, MIXED, MOMENT, ONE, SEVERAL, THREADS
from .arrays import BASE, CELLS, CHUNK, DATA, FIRST, HEAD, LAST, READ, REPLICA, REPLICAS, SHIFT, STATE
from .context import TRAFFIC
from .routine import routines


def access_copy(context, address, size, now, words, insert):
    """What a thread would store, whom its guard keeps from it: whether others hold another word for that place.

    insert  0: whether one that stores does
    """
    rows, since = context.replicas, access_since(context)
    owner = (since << MOMENT) + (now & MIXED)
    n, tries = address * 0x9E3779B97F4A7C15 >> 52, 0
    row = rows + 8 * (HEAD + REPLICA * n)
    while u64[row, 1] >> MOMENT == since and tries < REPLICAS:
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
    base, low, high, shift, read, data = row.BASE, row.FIRST, row.LAST - size, row.SHIFT, row.READ, row.DATA
    if size >> shift == 0:
        return 1
    for lane in range(32):
        if on >> lane & 1:
            off = u64[addresses, lane] - base
            if off < low or off > high or off & size - 1 != 0:
                return 1
            if size == 4 and shift == 2:
                u8[read, off >> 2] = 1
                u32[words, lane] = u32[data + off, 0]
            else:
                memset(read + (off >> shift), 1, size >> shift)
                memcpy(words + lane * size, data + off, size)
    return 0


def access_lanes(context, n, size, on, together, who, addresses, words, stores):
    """An instruction's loads into `words`, `size` bytes for each lane, or its stores from there.

    addresses  32 words;  together  whether all lanes are on and side by side
    """
    first, now = lowest(on), access_now(context, who)
    row = access_segment(context, u64[addresses, first])
    if row == 0:
        return 1
    off = u64[addresses, first] - row.BASE
    end = off + 32 * size - 1
    if together and (not stores or off >> CHUNK == end >> CHUNK):
        traffic = context.traffic + 8 * TRAFFIC * n
        u64[traffic, 0] += 32
        u64[traffic, 1] += (end >> 5) - (off >> 5) + 1
        if stores:
            return access_store(context, row, off, size, 32, now, words)
        if access_load(context, row, off, size, 32, now):
            return 1
        memcpy(words, row.DATA + off, 32 * size)
        return 0
    access_count(context, n, on, addresses)
    if not stores and row.CELLS | row.STATE == 0:
        return access_gather(row, size, on, addresses, words)
    for lane in range(32):
        if on >> lane & 1:
            off = u64[addresses, lane] - row.BASE
            if stores:
                if access_store(context, row, off, size, 1, now + lane * ONE, words + lane * size):
                    return 1
            else:
                if access_load(context, row, off, size, 1, now + lane * ONE):
                    return 1
                memcpy(words + lane * size, row.DATA + off, size)
    return 0


def access_one(context, n, size, on, address, who, words):
    """A load of one place by all lanes that are on."""
    row = access_segment(context, address)
    if row == 0:
        return 1
    access_count(context, n, on, 0)
    now = access_now(context, who) + lowest(on) * ONE | (SEVERAL if bits(on) > 1 else 0)
    if access_load(context, row, address - row.BASE, size, 1, now):
        return 1
    memcpy(words, row.DATA + (address - row.BASE), size)
    return 0


def access_copies(context, size, on, off, now, addresses, words):
    """Whether copies of what the lanes `on` have stored disagree, in lanes `off` and in other warps."""
    if on != 0 and u64[context.replicas, 0] > 0:
        for lane in range(32):
            if on >> lane & 1 and access_copy(context, u64[addresses, lane], size, now, words + lane * size, 0):
                return 1
    apart = context.warps == 1
    for lane in range(31):
        apart = apart and u64[addresses, lane] < u64[addresses, lane + 1]
    if apart:
        return 0
    for lane in range(32):
        if off >> lane & 1 and access_replica(context, u64[addresses, lane], size, now, words + lane * size):
            return 1
    return 0


def access_stores(context, n, size, on, off, together, who, addresses, words):
    """A store by the lanes `on`; `off` run, but their guard keeps them from it."""
    if on != 0 and access_lanes(context, n, size, on, together, who, addresses, words, 1):
        return 1
    if off == 0 and u64[context.replicas, 0] == 0:
        return 0
    return access_copies(context, size, on, off, access_now(context, who), addresses, words)


RUNTIME = routines(access_copy, access_replica, access_count, access_gather, access_lanes,
    access_one, access_copies, access_stores,
)  # fmt: skip
