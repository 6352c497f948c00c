"""What accesses to global memory must hold, checked and noted element by element: routines of compiled code.

Who did what last to an element is one word: program + 1 << PROGRAM | when << MOMENT | thread << THREAD | SEVERAL if
other threads did the same | ALONE if none may | ATOMIC if atomics followed | the instruction, or MIXED for several of
them or of values.
Moments count a program's barriers and atomics; `now` is that of the access itself. A segment that is `fine` keeps such
words of its READERS, too; others keep the program alone that read of each line, or ALL. So no access goes by without a
trace: what nothing orders within a program is a suspicion (1), what two programs did is a conflict, for order.py to
judge after the launch.

Threads of the CPU: a write holds the lock of its chunk and notes itself before it looks who has read; a read notes
itself before it looks who has written. A fence between lets one of them see the other.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F401, F821, I001, RET503

from .pieces import (
    BACKUP, BASE, CELLS, CHUNK, CONFLICT, CONFLICTS, DATA, DIRTY, FIRST, HEAD, LAST, LINE, LINES, READ, READERS,
    RECORD, SHIFT, STATE, SYNC, SYNCS, WRITTEN,
)  # fmt: skip
from .routine import routines

PROGRAM, MOMENT, THREAD, SEVERAL, ALONE, ATOMIC, MIXED = 41, 27, 17, 1 << 16, 1 << 15, 1 << 14, (1 << 14) - 1
ONE, THREADS, LANES = 1 << THREAD, 0x3FF << THREAD, 31 << THREAD
LATEST = (1 << PROGRAM - MOMENT) - 1  # moments from here on count as one
ALL = WORD = 0xFFFFFFFF  # programs have read a line
PROGRAMS = (1 << 22) - 1 << PROGRAM  # the same of an element
PLAIN, READS_ATOMICS, WRITES_ATOMICS = 0, 1, 2  # kinds of conflict: with one access before, or with all atomics


def access_now(context, who):
    """Who accesses what, and when; `who` is a thread and an instruction."""
    return (context.program + 1 << PROGRAM) + (least(context.epoch + context.synced, LATEST) << MOMENT) + who


def access_since(context):
    """The moment of the program's last barrier, above its number."""
    synced = context.synced_before if context.epoch == context.synced_epoch else context.synced
    return (context.program + 1 << PROGRAM - MOMENT) + least(context.epoch + synced, LATEST)


def access_near(context, before):
    """Whether no barrier of this program is between an access and now."""
    return before >> PROGRAM == context.program + 1 and before >> MOMENT >= access_since(context)


def access_segment(context, address):
    """The record of the segment that an address points into, or 0."""
    n = (address >> 48) - 1
    return context.segments + 8 * RECORD * n if 0 <= n < context.segment_count else 0


def access_fits(row, off, size, bytes):
    """Whether accesses of `size` bytes, `bytes` in all, are in bounds, aligned and of whole elements."""
    return row.FIRST <= off <= row.LAST - bytes and off & size - 1 == 0 and size >> row.SHIFT != 0


def access_lacks(row, n, count, bits):
    """Whether some of `count` elements have not all these bits of STATE."""
    if row.STATE != 0:
        for k in range(n, n + count):
            if u8[row.STATE, k] & bits != bits:
                return 1


def access_conflict(context, before, now, address, kind):
    """Note an access after another program's, or after all atomics there were; one that is like the last noted, once.

    Of the threads of a warp the first alone keeps its number.
    """
    rows, since = context.conflicts, access_since(context)
    before = before | (SEVERAL if before & LANES != 0 else 0)
    now = now | (SEVERAL if now & LANES != 0 and kind == PLAIN else 0)
    before = before & ~(ALONE | ATOMIC | MIXED | (THREADS if before & SEVERAL != 0 else 0))
    now = now & ~(ALONE | ATOMIC | MIXED | (THREADS if now & SEVERAL != 0 else 0))
    row = rows + 8 * (HEAD + CONFLICT * (u64[rows, 0] - 1))
    same = u64[rows, 0] > 0 and u64[row, 0] == before and u64[row, 1] == now and u64[row, 5] == since
    if same and kind == PLAIN:
        return 0
    if u64[rows, 0] == CONFLICTS:
        return 1
    u64[rows, 0] += 1
    row = row + 8 * CONFLICT
    u64[row, 0], u64[row, 1], u64[row, 2], u64[row, 4], u64[row, 5] = before, now, address, kind, since
    u64[row, 3] = u64[context.syncs, 0]


def access_elsewhere(context, before, now, address):
    """Note a conflict if what was before is another program's."""
    if before >> PROGRAM != 0 and before >> PROGRAM != now >> PROGRAM:
        return access_conflict(context, before, now, address, PLAIN)


def access_alone(one, other):
    """Whether two accesses of one program are by one thread and no other."""
    return (one ^ other) & THREADS == 0 and (one | other) & SEVERAL == 0


def access_read(context, cell, now, address):
    """A plain read of what somebody has written."""
    if access_near(context, cell) and not access_alone(cell, now):
        return 1
    if cell & ATOMIC != 0 and access_conflict(context, 0, now, address, READS_ATOMICS):
        return 1
    return access_elsewhere(context, cell, now, address)


def access_reader(context, place, now):
    """Note who reads an element, beside who did before: of several threads the first."""
    before = u64[place, 0]
    new = now
    if access_near(context, before):
        new = before if before & THREADS < now & THREADS else now
        new = new | (0 if access_alone(before, now) else SEVERAL) | (MIXED if (before ^ now) & MIXED != 0 else 0)
    if before != 0 and before >> PROGRAM != now >> PROGRAM:
        new = PROGRAMS
    if new != before and not swap(u64[place, 0], before, new):
        exchange(u64[place, 0], PROGRAMS)


def access_line(lines, off, bytes, program):
    """Note which program reads lines."""
    for n in range(off >> LINE, (off + bytes - 1 >> LINE) + 1):
        before = u32[lines, n]
        if before != program and before != ALL and not swap(u32[lines, n], 0, program):
            exchange(u32[lines, n], ALL)


def access_mark(row, off, bytes):
    """Note that elements have been read. Other threads set other bits of a word; all bits at once is no race."""
    n, count = off - row.FIRST >> row.SHIFT, bytes >> row.SHIFT
    if (n | count) & 63 == 0:
        for k in range(n >> 6, n + count >> 6):
            u64[row.READ, k] = -1
        return 0
    last = n + count - 1
    for k in range(n >> 5, (last >> 5) + 1):
        mask = (WORD << (n & 31 if k == n >> 5 else 0)) & (WORD >> (31 - (last & 31) if k == last >> 5 else 0))
        before = u32[row.READ, k]
        while before & mask != mask and not swap(u32[row.READ, k], before, before | mask):
            before = u32[row.READ, k]


def access_load(context, row, off, size, threads, now):
    """Threads read side by side, `now` the first of them."""
    bytes = size * threads
    if not access_fits(row, off, size, bytes):
        return 1
    n, count = off >> row.SHIFT, bytes >> row.SHIFT
    if access_lacks(row, n, count, 3):
        return 1
    if row.CELLS != 0:
        step = lowest(size) - row.SHIFT
        if row.READERS != 0:
            for k in range(count):
                access_reader(context, row.READERS + 8 * (n + k), now + (k >> step) * ONE)
        else:
            access_line(row.LINES, off, bytes, now >> PROGRAM)
        dirty = u8[row.DIRTY, off >> CHUNK] | u8[row.DIRTY, off + bytes - 1 >> CHUNK]  # else nobody has written here
        cells = row.CELLS
        for k in range(count if dirty != 0 else 0):
            cell = u64[cells, n + k]
            if cell != 0 and access_read(context, cell, now + (k >> step) * ONE, row.BASE + (n + k << row.SHIFT)):
                return 1
    access_mark(row, off, bytes)


def access_cell(context, place, now, address, same):
    """A plain write over another; same: of the same bytes."""
    cell = u64[place, 0]
    again = same and (cell ^ now) & (ALONE | ATOMIC | MIXED) == 0 and cell & MIXED != MIXED
    if cell & ATOMIC != 0 and access_conflict(context, 0, now, address, WRITES_ATOMICS):
        return 1
    if not access_near(context, cell):
        # an order that this thread knows of, no other does
        u64[place, 0] = now | (ALONE if cell >> PROGRAM != now >> PROGRAM or cell & ATOMIC != 0 else 0)
        return access_elsewhere(context, cell, now, address)
    if access_alone(cell, now):
        u64[place, 0] = now | cell & ALONE | (0 if again else MIXED)
        return 0
    u64[place, 0] = cell | SEVERAL
    return not again


def access_over(context, reader, place, now, address):
    """A write of what somebody has read. One that read a copy as others did, by one instruction, may write."""
    if reader == PROGRAMS:
        return 1
    if now & ATOMIC == 0:
        u64[place, 0] = u64[place, 0] | ALONE
    if not access_near(context, reader):
        return access_elsewhere(context, reader, now, address)
    if access_alone(reader, now):
        return 0
    return (reader ^ now) & THREADS != 0 or now & (ATOMIC | SEVERAL) != 0 or reader & MIXED == MIXED


def access_unread(context, row, off, bytes, step, now):
    """Whether reads of elements that are written now may be unordered with that."""
    n, count = off >> row.SHIFT, bytes >> row.SHIFT
    if row.READERS == 0:
        for k in range(off >> LINE, (off + bytes - 1 >> LINE) + 1):
            if u32[row.LINES, k] != 0:
                context.wants_fine = row.BASE >> 48
                return 1
        return 0
    for k in range(n, n + count):
        reader = u64[row.READERS, k]
        if reader != 0:
            mine = now + (k - n >> step) * ONE
            if access_over(context, reader, row.CELLS + 8 * k, mine, row.BASE + (k << row.SHIFT)):
                return 1
            if now & ATOMIC == 0:
                u64[row.READERS, k] = 0


def access_lock(row, off):
    """Take the lock of a chunk, of which there is a copy then."""
    dirty, chunk = row.DIRTY, off >> CHUNK
    while not swap(u8[dirty, chunk], 2, 1):
        if swap(u8[dirty, chunk], 0, 1):
            low, high = chunk << CHUNK, least((chunk << CHUNK) + (1 << CHUNK), row.LAST)
            low = row.FIRST if low < row.FIRST else low
            memcpy(row.BACKUP + low, row.DATA + low, high - low)
            return 0


def access_put(context, row, off, size, bytes, now, words):
    """Write under the chunk's lock."""
    n, count, step = off >> row.SHIFT, bytes >> row.SHIFT, lowest(size) - row.SHIFT
    if access_lacks(row, n, count, 1):
        return 1
    cells, unit, data = row.CELLS, 1 << row.SHIFT, row.DATA + off
    for k in range(count if cells != 0 else 0):
        if u64[cells, n + k] == 0:
            u64[cells, n + k] = now + (k >> step) * ONE
        else:
            same = memcmp(data + k * unit, words + k * unit, unit) == 0
            address = row.BASE + off + k * unit
            if access_cell(context, cells + 8 * (n + k), now + (k >> step) * ONE, address, same):
                return 1
    fence()
    if cells != 0 and access_unread(context, row, off, bytes, step, now):
        return 1
    if row.STATE != 0:
        memset(row.STATE + n, 3, count)
    memset(row.WRITTEN + n, 1, count)
    memcpy(data, words, bytes)


def access_store(context, row, off, size, threads, now, words):
    """Threads write side by side, within one chunk."""
    if row.DIRTY == 0 or not access_fits(row, off, size, size * threads):
        return 1
    access_lock(row, off)
    suspect = access_put(context, row, off, size, size * threads, now, words)
    exchange(u8[row.DIRTY, off >> CHUNK], 2)
    return suspect


def access_atomic(context, size, address, who, flags):
    """Where an atomic works, or 0 on suspicion: checked and noted as a write, and in the log."""
    row = access_segment(context, address)
    if row == 0:
        return 0
    off, syncs, now = address - row.BASE, context.syncs, access_now(context, who)
    n, count = off >> row.SHIFT, size >> row.SHIFT
    if row.DIRTY == 0 or not access_fits(row, off, size, size) or u64[syncs, 0] + count > SYNCS:
        return 0
    if access_lacks(row, n, count, 3):
        return 0
    access_lock(row, off)
    exchange(u8[row.DIRTY, off >> CHUNK], 2)
    for k in range(n, n + (count if row.CELLS != 0 else 0)):
        cell = u64[row.CELLS, k]
        if access_near(context, cell) and not access_alone(cell, now):
            return 0
        if access_elsewhere(context, cell, now, row.BASE + (k << row.SHIFT)):
            return 0
        u64[row.CELLS, k] = cell | ATOMIC
    if row.CELLS != 0 and access_unread(context, row, off, size, lowest(size) - row.SHIFT, now | ATOMIC):
        return 0
    memset(row.WRITTEN + n, 1, count)
    for k in range(count):
        entry = syncs + 8 * (HEAD + SYNC * u64[syncs, 0])
        u64[entry, 0], u64[entry, 1] = now, address + (k << row.SHIFT)
        u64[entry, 2], u64[entry, 3] = flags if k == 0 else 0, access_since(context)
        u64[syncs, 0] += 1
    if context.epoch != context.synced_epoch:
        context.synced_epoch, context.synced_before = context.epoch, context.synced
    context.synced += 1
    return row.DATA + off


RUNTIME = routines(
    access_now, access_since, access_near, access_segment, access_fits, access_lacks, access_conflict, access_elsewhere,
    access_alone, access_read, access_reader, access_line, access_mark, access_load, access_cell, access_over,
    access_unread, access_lock, access_put, access_store, access_atomic,
)  # fmt: skip
