"""A random schedule, replayed: the rules of machine.py, as routines.

A part is a Fragment: it goes through straight code and one jump each time that it is drawn. Where it comes to an atomic
the threads of its warps do it in a drawn order, and the warps run ahead again.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F401, F821, SIM109

from .accesses import WORD
from .context import EVENT, PAUSED, SUSPECT
from .frames import AT, DEPTH, LANES, ON, RESUME, SCRATCH, SEEN, STATE, TRAIL
from .programs import READY
from .routine import routines

# Words of the record of a schedule: the programs' records and how long each is; warps of the launch and of a program;
# their frames; the kernel's table, and its instructions; NumPy's generator; program_run. Then what changes: how many
# parts there are, their numbers in order and behind them free ones, their records, and how many blocks there have been;
# by warp, its part's number + 1, or 0 once it has returned, and which way it goes; threads in the order of their turns.
ROWS, WIDTH, ALL, WARPS, FRAMES, SIZE, TABLE, LAST, DRAW, GENERATOR, RUN, TRAILS, LENGTH = range(13)
COUNT, LIST, PARTS, BLOCKS, OF, WAYS, TURNS = range(13, 20)
WORDS = 20
BLOCK, PC, WHOLE, WAITS = range(4)  # words of a part: WHOLE if it is all of its block; the barrier it waits at, + 1
PART = 4
END, KIND, TARGET, GUARDED = range(4)  # of an instruction: where straight code ends from there, what it is, its guard
STRAIGHT, ATOMIC, BRANCH, LEAVE, BARRIER = range(5)
ALONE = 1 << 32  # of LANES: these do the atomic, and then the warp stops again


def schedule_draw(s, n):
    """One of n numbers: Generator.integers, by Lemire's method (arXiv:1805.10941)."""
    if n == 1:
        return 0
    m = (invoke(s.DRAW, s.GENERATOR) & WORD) * n
    if m & WORD < n:
        while m & WORD < (WORD + 1 - n) % n:
            m = (invoke(s.DRAW, s.GENERATOR) & WORD) * n
    return m >> 32


def schedule_shuffle(s, count):
    """Generator.permutation, of the threads whose turns there are: it rejects numbers beyond, under a mask."""
    mask = 1
    while mask < count:
        mask = mask << 1
    while count > 1:
        count -= 1
        mask = mask >> 1 if count < mask >> 1 else mask
        k = invoke(s.DRAW, s.GENERATOR) & mask - 1
        while k > count:
            k = invoke(s.DRAW, s.GENERATOR) & mask - 1
        u32[s.TURNS, k], u32[s.TURNS, count] = u32[s.TURNS, count], u32[s.TURNS, k]


def schedule_part(s, k):
    return s.PARTS + 8 * PART * u64[s.LIST, k]


def schedule_gone(s, k):
    """The warps of a part have returned."""
    part, number = schedule_part(s, k), u64[s.LIST, k]
    for n in range(s.ALL):
        if u64[s.OF, n] == number + 1:
            u64[s.OF, n] = 0
    s.COUNT -= 1
    for at in range(k, s.COUNT):
        u64[s.LIST, at] = u64[s.LIST, at + 1]
    u64[s.LIST, s.COUNT] = number
    schedule_release(s, part.BLOCK)


def schedule_met(s, block, barrier):
    """Whether all warps of a block's programs have come to a barrier, but for programs that have returned."""
    for first in range(s.ALL // s.WARPS):
        live, came = 0, 0
        for n in range(first * s.WARPS, first * s.WARPS + s.WARPS):
            part = s.PARTS + 8 * PART * (u64[s.OF, n] - 1)
            if u64[s.OF, n] != 0 and part.BLOCK == block:
                live += 1
                came += part.WAITS == barrier
        if live != 0 and came != s.WARPS:
            return 0
    return 1


def schedule_release(s, block):
    """Let a block's warps pass a barrier once all of them wait at it."""
    for k in range(s.COUNT):
        barrier = u64[schedule_part(s, k), WAITS]
        if barrier != 0 and u64[schedule_part(s, k), BLOCK] == block and schedule_met(s, block, barrier):
            for other in range(s.COUNT):
                part = schedule_part(s, other)
                if part.BLOCK == block and part.WAITS == barrier:
                    part.WAITS = 0


def schedule_way(s, n):
    """Which way the n-th warp went at its next branch: 0 on, 1 where this leads, and more where that is not known."""
    frame = s.FRAMES + s.SIZE * n
    if frame.SEEN == frame.TRAIL:
        return 2
    frame.SEEN += 1
    return u8[frame + 8 * SCRATCH + frame.SEEN - 1, 0]


def schedule_divide(s, k, kind, target):
    """Send a part's warps where each goes; whole programs get a block of their own."""
    part, number, goes, stays, mixed = schedule_part(s, k), u64[s.LIST, k], 0, 0, 0
    for n in range(s.ALL):
        if u64[s.OF, n] == number + 1:
            way = schedule_way(s, n)
            if way > 1:
                return SUSPECT
            u8[s.WAYS, n] = way
            goes, stays = goes + way, stays + 1 - way
            mixed = mixed | (way != u8[s.WAYS, n - n % s.WARPS])
    if stays == 0:
        if kind == LEAVE:
            schedule_gone(s, k)
        else:
            part.PC = target
        return 0
    if goes == 0:
        return 0
    part.WHOLE = part.WHOLE != 0 and mixed == 0
    other = 0
    if kind == BRANCH:
        other = schedule_parted(s, k, target) + 1
    for n in range(s.ALL):
        if u64[s.OF, n] == number + 1 and u8[s.WAYS, n] != 0:
            u64[s.OF, n] = other
    return 0


def schedule_parted(s, k, target):
    """A new part beside the k-th: last of its block, or if that is whole a block of its own, the last -> its number."""
    part, number, at = schedule_part(s, k), u64[s.LIST, s.COUNT], s.COUNT
    new, block = s.PARTS + 8 * PART * number, part.BLOCK
    if part.WHOLE:
        block = s.BLOCKS
        s.BLOCKS += 1
    else:
        while u64[schedule_part(s, at - 1), BLOCK] != block:
            u64[s.LIST, at] = u64[s.LIST, at - 1]
            at -= 1
    u64[s.LIST, at] = number
    s.COUNT += 1
    new.BLOCK, new.PC, new.WHOLE, new.WAITS = block, target, part.WHOLE, 0
    return number


def schedule_ahead(s, first):
    """Run a program's warps as far as they come without an atomic."""
    context, again = s.ROWS + s.WIDTH * (first // s.WARPS), 1
    while again:
        status = invoke(s.RUN, context)
        if status >= SUSPECT or context.parted != 0:
            return status if status >= SUSPECT else SUSPECT
        again = 0
        for n in range(first, first + s.WARPS):
            frame = s.FRAMES + s.SIZE * n
            if frame.STATE == PAUSED:
                frame.STATE, again = READY, 1
    return 0


def schedule_event(s, number, pc):
    """A part's threads do an atomic, one after the other, and its warps go on."""
    count = 0
    for n in range(s.ALL):
        if u64[s.OF, n] == number + 1:
            frame = s.FRAMES + s.SIZE * n
            if frame.STATE != EVENT or frame.AT != pc or frame.SEEN != frame.TRAIL:
                return SUSPECT
            on = frame.ON
            while on != 0:
                u32[s.TURNS, count] = (n << 5) + lowest(on)
                count, on = count + 1, on & on - 1
    schedule_shuffle(s, count)
    for k in range(count):
        n = u32[s.TURNS, k] >> 5
        context, frame = s.ROWS + s.WIDTH * (n // s.WARPS), s.FRAMES + s.SIZE * n
        frame.LANES, frame.RESUME = ALONE + (1 << (u32[s.TURNS, k] & 31)), frame.RESUME + 1
        if invoke(context.warp_code, context, n % s.WARPS, frame) != EVENT:
            return SUSPECT
        frame.LANES, frame.RESUME = 0, frame.RESUME - 1
    status, some = 0, 0
    for n in range(s.ALL):
        if u64[s.OF, n] == number + 1:
            frame, some = s.FRAMES + s.SIZE * n, 1
            trail = s.TRAILS + s.LENGTH * n - frame - 8 * SCRATCH
            frame.LANES, frame.STATE, frame.DEPTH, frame.TRAIL, frame.SEEN = 0, READY, 0, trail, trail
        if n % s.WARPS == s.WARPS - 1 and some != 0 and status == 0:
            status, some = schedule_ahead(s, n + 1 - s.WARPS), 0
    return status


def schedule_advance(s, k):
    """One part goes through straight code and one jump, barrier or return."""
    part, at, status = schedule_part(s, k), u64[schedule_part(s, k), PC], 0
    if u16[s.TABLE + 8 * at, KIND] == ATOMIC:
        status = schedule_event(s, u64[s.LIST, k], at)
    row = s.TABLE + 8 * u16[s.TABLE + 8 * at, END]
    kind, part.PC, crowd = u16[row, KIND], u16[s.TABLE + 8 * at, END], 0
    if status != 0:
        return status
    if part.PC == s.LAST:
        return schedule_gone(s, k)
    for other in range(s.COUNT):
        crowd += u64[schedule_part(s, other), PC] == part.PC and u64[schedule_part(s, other), BLOCK] == part.BLOCK
    if kind == STRAIGHT or kind == ATOMIC or (at < part.PC and crowd > 1):
        return 0
    part.PC += 1
    if kind == BARRIER and part.WHOLE == 0:
        part.WAITS = u16[row, TARGET] + 1
        schedule_release(s, part.BLOCK)
    if kind == BRANCH or kind == LEAVE:
        if u16[row, GUARDED]:
            return schedule_divide(s, k, kind, u16[row, TARGET])
        if kind == LEAVE:
            return schedule_gone(s, k)
        part.PC = u16[row, TARGET]
    return 0


def schedule_run(s):
    """Until no program is left -> a status."""
    while s.COUNT > 0:
        awake, at = 0, 0
        for k in range(s.COUNT):
            awake += u64[schedule_part(s, k), WAITS] == 0
        if awake == 0:
            return SUSPECT
        drawn = schedule_draw(s, awake)
        while drawn > 0 or u64[schedule_part(s, at), WAITS] != 0:
            drawn -= u64[schedule_part(s, at), WAITS] == 0
            at += 1
        status = schedule_advance(s, at)
        if status:
            return status
    return 0


RUNTIME = routines(
    schedule_draw, schedule_shuffle, schedule_part, schedule_gone, schedule_met, schedule_release, schedule_way,
    schedule_divide, schedule_parted, schedule_ahead, schedule_event, schedule_advance, schedule_run,
)  # fmt: skip
