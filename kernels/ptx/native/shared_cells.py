"""Who touched each cell of shared memory since the last barrier, in compiled code; the rules are those of ../shared.py.

Warps run one after another here and in lockstep there. So that neither order hides what the other finds, a cell knows
more: its writer is ALL once several warps have stored one value, and the instruction `by` which it was written is MIXED
once a warp has written it twice between two barriers, unless it was the same value by the same instruction. A cell that
nothing has written has a writer below 0; one that a cp.async is still writing has COPYING in it.

`tag` is that of lane 0; `step` is -1 if the others follow, or 0 if all have the same. `log` is log2 of a cell's bytes.
What returns a number returns 0 if all is well, and 1 for a suspicion.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F821, RET503

from ..tags import ALL, ATOMIC, PROGRAM, SEVERAL, WARP, WHO
from . import shared_lines
from .routine import routines

COPYING, MIXED = 1 << 62, 1 << 30
MOST, COPY = 512, 35  # copies of a warp under way; u32 of each: 32 addresses, the lanes, bytes of each, the group
ON, SIZE, GROUP = 32, 33, 34
COPIES = 2 + MOST * COPY  # u32 of a warp: groups that it has committed, copies under way, and these


def shared_warp(tag):
    who = tag & WHO
    return who >> 5 if who < SEVERAL else who - SEVERAL if who < ALL else -1


def shared_unordered(tag, mine):
    """shared.unordered."""
    who = tag & WHO
    if tag < 0 or tag >> PROGRAM != mine >> PROGRAM or (who == mine & WHO and who < SEVERAL):
        return 0
    return shared_warp(tag) != shared_warp(mine) or tag >> WARP >= mine >> WARP


def shared_read(place, writer, mine):
    """A read of a cell that was accessed since the last barrier; it is noted at `place` as by shared.both."""
    reader, ours = u64[place, 0], shared_warp(mine)
    us = shared_warp(reader) == ours
    u64[place, 0] = mine
    if reader >= mine >> PROGRAM << PROGRAM and (not us or reader >> WARP >= mine >> WARP):
        who = SEVERAL + ours if reader & WHO != mine & WHO else mine & WHO
        u64[place, 0] = (mine if mine > reader else reader) & ~WHO | (who if us else ALL)
    return writer < 0 or writer >= COPYING or shared_unordered(writer, mine)


def shared_plain(writer):
    return writer if writer < 0 else writer & ~COPYING


def shared_write(context, k, mine, n, differs):
    """A store to a cell that was accessed since the last barrier."""
    writer, by = shared_plain(u64[context.shared_writer, k]), u32[context.shared_by, k]
    if shared_unordered(u64[context.shared_reader, k], mine):
        return 1
    if not shared_unordered(writer, mine):
        return 0
    return differs or by & ~MIXED != n or (by != n and shared_warp(writer) != shared_warp(mine))


def shared_claim(context, k, mine, n, differs):
    """Note a store."""
    before = u64[context.shared_writer, k]
    writer = shared_plain(before)
    now = writer >= mine >> PROGRAM << PROGRAM
    tag = mine & ~WHO | ALL if now and shared_warp(writer) != shared_warp(mine) else mine
    u64[context.shared_writer, k] = tag | (before - writer)
    u32[context.shared_by, k] = n | (MIXED if now and (differs or u32[context.shared_by, k] != n) else 0)


def shared_strays(context, where, size, bytes):
    """Whether an address is no multiple of the size, or `bytes` from there on are out of bounds."""
    return where + bytes > context.shared_size or where & size - 1 != 0


def shared_words(context, at, on, size, room, stores):
    """Move the words of lanes, of 1, 2, 4, 8 or 16 bytes, to shared memory or from there."""
    for lane in lanes(on):
        here, there = context.shared_bytes + u32[at, lane], room + size * lane
        to, source = here if stores else there, there if stores else here
        if size == 4:
            u32[to, 0] = u32[source, 0]
        elif size >= 8:
            u64[to, 0], u64[to, size - 8 >> 3] = u64[source, 0], u64[source, size - 8 >> 3]
        else:
            u8[to, 0], u8[to, size - 1] = u8[source, 0], u8[source, size - 1]


def shared_load(context, at, on, line, tag, step, log, size, room):
    """-> the address of the words, lane by lane, or 0 for a suspicion. line: what shared_run found."""
    start, width, first = tag >> PROGRAM << PROGRAM, size >> log, u32[at, 0]
    writers, readers, times = context.shared_writer, context.shared_reader, bits(on) // (line if line else 1)
    if line and not shared_strays(context, first, size, line * size):
        cell = 8 * (first >> log)
        if not shared_late(writers + cell, readers + cell, line * width, tag, 0):
            several = tag & ~WHO | SEVERAL + shared_warp(tag)
            who, each = several if times > 1 else tag, 0 if times > 1 else step
            shared_fill(readers + cell, 0, line * width, who, each, lowest(width), 0)
            if line == 32:
                return context.shared_bytes + first
            for k in range(times):
                memcpy(room + k * line * size, context.shared_bytes + first, line * size)
            return room
    for lane in lanes(on):
        where, mine = u32[at, lane], tag + (lane & step)
        if shared_strays(context, where, size, size):
            return 0
        for k in range(where >> log, (where >> log) + width):
            writer = u64[writers, k]
            if 0 <= writer < start and u64[readers, k] < start:
                u64[readers, k] = mine
            elif shared_read(readers + 8 * k, writer, mine):
                return 0
    shared_words(context, at, on, size, room, 0)
    return room


def shared_early(context, n, at, on, tag, step, log, size):
    """Note a store; -> its lanes that are the first at their place since the last barrier, as most are, or -1."""
    start, left = tag >> PROGRAM << PROGRAM, on
    writers, readers, names = context.shared_writer, context.shared_reader, context.shared_by
    for lane in lanes(on):
        where, mine = u32[at, lane], tag + (lane & step)
        if shared_strays(context, where, size, size):
            return -1
        for k in range(where >> log, (where >> log) + (size >> log)):
            if u64[writers, k] < start and u64[readers, k] < start:
                u64[writers, k], u32[names, k] = mine, n
            else:
                left = left & ~(1 << lane)
    return left


def shared_store(context, n, at, on, line, tag, step, log, size, room):
    """Of lanes that are not the first: check all, then note them; copies that meet at one place must be what stays."""
    start, width, first, changes = tag >> PROGRAM << PROGRAM, size >> log, u32[at, 0], 0
    writers, readers, others = context.shared_writer, context.shared_reader, bits(on) - line
    if line and not shared_strays(context, first, size, line * size):
        cell, differ = first >> log, others > 0 and memcmp(room, room + line * size, others * size)
        if not differ and not shared_late(writers + 8 * cell, readers + 8 * cell, line * width, tag, -1):
            last, names = tag + (others & step), context.shared_by + 4 * cell
            shared_fill(writers + 8 * cell, names, line * width, last, step, lowest(width), n)
            memcpy(context.shared_bytes + first, room, line * size)
            return 0
    early = shared_early(context, n, at, on, tag, step, log, size)
    if early >= 0:
        shared_words(context, at, early, size, room, 1)
    if early < 0 or early == on:
        return early < 0
    for phase in range(3):
        for lane in lanes(on):
            where, mine, words = u32[at, lane], tag + (lane & step), room + size * lane
            for k in range(where >> log, (where >> log) + width):
                writer = u64[writers, k]
                if phase == 0 and (writer >= start or u64[readers, k] >= start):
                    differs = memcmp(context.shared_bytes + where, words, size) != 0
                    changes |= differs << lane
                    if shared_write(context, k, mine, n, differs):
                        return 1
                if phase == 1:
                    shared_claim(context, k, mine, n, changes >> lane & 1)
                if phase == 2 and (writer != mine or step == 0) and memcmp(context.shared_bytes + where, words, size):
                    return 1
        if phase == 1:
            shared_words(context, at, on, size, room, 1)


def shared_change(context, at, on, tag, log, size, code):
    """Atomics. code: which others they commute with, -1: none; several warps change a cell between two barriers only if
    their order cannot matter."""
    for phase in range(2):
        for lane in lanes(on):
            where, mine = u32[at, lane], tag + lane
            if shared_strays(context, where, size, size):
                return 1
            for k in range(where >> log, (where >> log) + (size >> log)):
                writer, like = u64[context.shared_writer, k], u32[context.shared_by, k] == code & 0xFFFFFFFF
                now = writer >= tag >> PROGRAM << PROGRAM
                atomic = now and writer & ATOMIC != 0
                other = atomic and shared_warp(writer & ~ATOMIC) != shared_warp(mine)
                if phase == 0:
                    if writer < 0 or writer >= COPYING or shared_unordered(u64[context.shared_reader, k], mine):
                        return 1
                    if (code == -1 or not like) if other else not atomic and shared_unordered(writer, mine):
                        return 1
                else:
                    u64[context.shared_writer, k] = (mine & ~WHO | ALL if other else mine) | ATOMIC
                    u32[context.shared_by, k] = code if not now or (atomic and like) else -1


def shared_copies(context, warp):
    return context.shared_copies + 4 * COPIES * warp


def copies_note(context, at, on, warp, size):
    """Note a cp.async, whose bytes have been written."""
    row = shared_copies(context, warp)
    new = row + 8 + 4 * COPY * u32[row, 1]
    if u32[row, 1] == MOST:
        return 1
    memcpy(new, at, 128)
    u32[new, ON], u32[new, SIZE], u32[new, GROUP] = on, size, u32[row, 0]
    u32[row, 1] += 1


def copies_begin(context, at, on, log, size):
    for lane in lanes(on):
        cell = u32[at, lane] >> log
        for k in range(cell, cell + (size >> log)):
            u64[context.shared_writer, k] |= COPYING


def copies_commit(context, warp):
    u32[shared_copies(context, warp), 0] += 1


def copies_end(context, lanes, warp, tag, log, left):
    """All groups but the latest `left` have arrived, of some lanes; those of the others stay under way."""
    row, kept = shared_copies(context, warp), 0
    for n in range(u32[row, 1]):
        old = row + 8 + 4 * COPY * n
        here = u32[old, ON] & lanes if u32[old, GROUP] + left < u32[row, 0] else 0
        u32[old, ON] ^= here
        for lane in lanes(here):
            mine, cell = tag + lane, u32[old, lane] >> log
            for k in range(cell, cell + (u32[old, SIZE] >> log)):
                writer = shared_plain(u64[context.shared_writer, k])
                if shared_unordered(writer, mine) or shared_unordered(u64[context.shared_reader, k], mine):
                    return 1
                u64[context.shared_writer, k] = mine
        if u32[old, ON] != 0:
            memcpy(row + 8 + 4 * COPY * kept, old, 4 * COPY)
            kept += 1
    u32[row, 1] = kept


def shared_reset(context):
    """Shared memory as a program finds it."""
    memset(context.shared_writer, 255, 8 * context.shared_cells)
    memset(context.shared_reader, 255, 8 * context.shared_cells)
    for warp in range(context.warps):
        u64[shared_copies(context, warp), 0] = 0


RUNTIME = shared_lines.RUNTIME | routines(
    shared_warp, shared_unordered, shared_read, shared_plain, shared_write, shared_claim, shared_strays, shared_words,
    shared_load, shared_early, shared_store, shared_change, shared_copies, copies_note, copies_begin, copies_commit,
    copies_end, shared_reset,
)  # fmt: skip
