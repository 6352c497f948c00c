"""Bulk copies in compiled code: plain bytes, and boxes of tensors; the rules are those of ../tma.

What a copy writes in global memory is as if it were never over: whoever touches it later in the launch is a suspicion,
but for the same instruction of the same program that brings the same bytes, where nothing else came before.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F401, F821, RET503

import re
from typing import Any

from ..syntax import Instruction
from ..tma.opcodes import form
from .accesses import LATEST, MOMENT, ONE, SEVERAL
from .clocks import BULKS, ISSUERS
from .context import GLOBAL_THREADS, SECTORS, SHARED_THREADS, TRAFFIC
from .lanes import I32, I64
from .lower import Unlowered
from .mbarriers import PHASE
from .memory import call, spilled, suspect, who
from .pieces import BASE, CELLS, DATA, SHIFT, STATE
from .routine import routines
from .shared import log
from .tensor_maps import ADDRESS, DIMENSION, FILL, RANK, SIZE, SPAN, map_row

LONGEST = 2048  # bytes of a box's line: 256 elements of 8


def bulk_global(context, n, address, bytes, word, now, room, loads):
    """Bytes that lie side by side in global memory, to `room` or from there, in words that are moved as one."""
    row, counts = access_segment(context, address), context.traffic + 8 * TRAFFIC * n
    if row == 0:
        return 1
    off = address - row.BASE
    u64[counts, SHARED_THREADS] += bytes
    u64[counts, SECTORS] += (address + bytes - 1 >> 5) - (address >> 5) + 1
    if loads and row.CELLS | row.STATE == 0:
        if not access_fits(row, off, word, bytes):
            return 1
        access_mark(row, off, bytes)
        memcpy(room, row.DATA + off, bytes)
        return 0
    for k in range(bytes // word):
        here = off + k * word
        if loads and access_load(context, row, here, word, 1, now):
            return 1
        if not loads:
            if access_store(context, row, here, word, 1, now, room + k * word):
                return 1
            for cell in range(here >> row.SHIFT, here + word >> row.SHIFT):
                u64[row.CELLS, cell] |= (LATEST << MOMENT) | SEVERAL
    if loads:
        memcpy(room, row.DATA + off, bytes)


def bulk_pieces(context, n, at, span, first, count, bar, warp, lane, log, room):
    """Pieces of 16 bytes to shared memory or, where `bar` is 0, from there: of what lies at `at`, swizzled."""
    facts = clock_facts(context, warp)
    for k in range(first, first + count):
        place = at + 16 * k
        place = place ^ (place >> 7 & span - 1) << 4 if span else place
        if bar == 0:
            agent = context.warps + 1 + (context.warps >> 2) + warp
            if proxy_read(context, place, 16, warp, lane, agent, u64[facts, BULKS] + 1, log):
                return 1
            memcpy(room + 16 * k, context.shared_bytes + place, 16)
        else:
            agent = mbarrier_agent(context, bar)
            if proxy_write(context, n, place, 16, warp, lane, agent, u64[bar, PHASE] + 1, log):
                return 1
            memcpy(context.shared_bytes + place, room + 16 * k, 16)


def bulk_plain(context, n, at, address, bytes, bar, warp, lane, log, now, room):
    """cp.async.bulk; bar: the rows of its mbarrier, or 0."""
    if (at | address | bytes) & 15 != 0 or at + bytes > context.shared_size:
        return 1
    if bytes == 0:
        return 0
    u64[context.traffic + 8 * TRAFFIC * n, GLOBAL_THREADS] += 1
    for first in range(bytes >> 4):
        if bar != 0 and bulk_global(context, n, address + 16 * first, 16, 16, now, room, 1):
            return 1
        if bulk_pieces(context, n, at + 16 * first, 0, 0, 1, bar, warp, lane, log, room):
            return 1
        if bar == 0 and bulk_global(context, n, address + 16 * first, 16, 16, now, room, 0):
            return 1
    counts, twice = context.traffic + 8 * TRAFFIC * n, (bytes >> 4) - (address + bytes - 1 >> 5) + (address >> 5) - 1
    u64[counts, SECTORS] -= twice  # two pieces share one
    return bar != 0 and mbarrier_change(context, bar, 0, 0 - bytes, warp, 0)


def bulk_where(d, coordinates, lane, line):
    """Where a line of a box begins, in bytes from the tensor's first, but for the innermost coordinate; -1: outside."""
    rest, at = line, 0
    for k in range(1, d.RANK):
        dimension = d + 8 * (DIMENSION + 3 * k)
        x = (u32[coordinates + 128 * k, lane] ^ 0x80000000) - 0x80000000 + rest % u64[dimension, 2]
        rest = rest // u64[dimension, 2]
        at = at + x * u64[dimension, 1] if 0 <= x < u64[dimension, 0] and at >= 0 else -1
    return at


def bulk_box(context, n, at, d, coordinates, bar, warp, lane, log, now, room):
    """cp.async.bulk.tensor: lines of a box, one after the other; d: a row of tensor_maps.py."""
    inner, last = u64[d, DIMENSION + 2] << d.SIZE, -1
    start, end = ((u32[coordinates, lane] ^ 0x80000000) - 0x80000000) << d.SIZE, u64[d, DIMENSION] << d.SIZE
    lines, word = 1, (end | 16) & 0 - (end | 16)
    for k in range(1, d.RANK):
        lines = lines * u64[d, DIMENSION + 3 * k + 2]
    if at & 127 != 0 or start & 15 != 0 or inner > LONGEST:
        return 1
    low, high = 0 - start if start < 0 else 0, least(inner, end - start)
    for line in range(lines):
        place, here = bulk_where(d, coordinates, lane, line), at + line * inner
        address, some = d.ADDRESS + place + start + low, place >= 0 and low < high
        if some and bar == 0:
            if high & 15 != 0 and high < inner:  # a piece is written whole
                return 1
            if bulk_pieces(context, n, here, d.SPAN, low >> 4, high + 15 - low >> 4, 0, warp, lane, log, room):
                return 1
        for k in range(inner >> 3 if bar != 0 else 0):
            u64[room, k] = d.FILL
        if some:
            if bulk_global(context, n, address, high - low, word, now, room + low, bar != 0) or address >> 5 < last:
                return 1  # or lines lie in another order than that of memory, and might share sectors
            u64[context.traffic + 8 * TRAFFIC * n, SECTORS] -= address >> 5 == last
            u64[context.traffic + 8 * TRAFFIC * n, GLOBAL_THREADS] += last < 0
            last = address + high - low - 1 >> 5
        if bar != 0 and bulk_pieces(context, n, here, d.SPAN, 0, inner >> 4, bar, warp, lane, log, room):
            return 1
    return bar != 0 and mbarrier_change(context, bar, 0, 0 - lines * inner, warp, 0)


def bulk_copy(context, n, on, at, other, more, bars, warp, log, who, room):
    """A copy by each lane that is on. more: the coordinates of each, and how many they are in the lowest
    bits of their address; or how many bytes. bars: mbarriers, or 0."""
    rank, facts = more & 7, clock_facts(context, warp)
    for lane in lanes(on):
        bar, now = 0, access_now(context, who) + lane * ONE
        if bars == 0:
            u64[facts, ISSUERS] |= 1 << lane
        else:
            bar = mbarrier_of(context, u32[bars, lane])
            if bar == 0:
                return 1
        if rank:
            d = map_row(context, u64[other, lane])
            if d == 0:
                return 1
            if d.RANK != rank or bulk_box(context, n, u32[at, lane], d, more - rank, bar, warp, lane, log, now, room):
                return 1
        else:
            bytes = u32[more, lane]
            if bulk_plain(context, n, u32[at, lane], u64[other, lane], bytes, bar, warp, lane, log, now, room):
                return 1


def bulk_issuing(context, on, warp):
    """Whether all lanes of a warp that begin bulk copies are on: groups of these are a thread's own."""
    issuers = u64[clock_facts(context, warp), ISSUERS]
    return issuers & ~on == 0


def bulk_commit(context, on, warp):
    facts = clock_facts(context, warp)
    u64[facts, BULKS] += bulk_issuing(context, on, warp)


def bulk_wait(context, on, warp, left):
    agent, known = context.warps + 1 + (context.warps >> 2) + warp, clock_row(context, warp)
    if bulk_issuing(context, on, warp):
        u64[known, agent] = most(u64[known, agent], u64[clock_facts(context, warp), BULKS] - left)


RUNTIME = routines(
    map_row, bulk_global, bulk_pieces, bulk_plain, bulk_where, bulk_box, bulk_copy, bulk_issuing,
    bulk_commit, bulk_wait,
)  # fmt: skip


def copy(w: Any, i: Instruction) -> None:
    """cp.async.bulk, of bytes and of boxes, and its groups."""
    if ".prefetch." in i.opcode:
        return
    if found := re.fullmatch(r"cp\.async\.bulk\.(commit_group|wait_group)(\.read)?", i.opcode):
        left = () if found[1] == "commit_group" else (i.operands[0].bits,)
        call(w, "bulk_wait" if left else "bulk_commit", w.context, w.on, w.warp, *left)
        return
    f = form(i)
    if f.operation or f.multicast or f.mode != "tile":
        raise Unlowered(i.opcode)
    inner, other, *rest = i.operands if f.loads else (i.operands[1], i.operands[0], *i.operands[2:])
    if f.rank:
        other, coordinates = other.parts
        more, first = w.room(128 * 5), [w.read(x, "b32") for x in coordinates.parts]
        for n, x in enumerate(first):
            w.b.store(w.L.splat(x), w.L.at(more, n, w.L.splat(I32(0)).type), align=64)
        more = w.b.or_(w.b.ptrtoint(more, I64), I64(f.rank))
    else:
        more = spilled(w, w.read(rest.pop(0), "b32"))
    at, bars = spilled(w, w.read(inner, "b32")), spilled(w, w.read(rest[0], "b32")) if f.loads else 0
    suspect(
        w, "bulk_copy", w.context, w.n, w.on, at, spilled(w, w.read(other, "b64")), more, bars, w.warp, log(w), who(w),
        w.room(LONGEST),
    )  # fmt: skip


LOWER = {"cp.async.bulk": copy}
