"""The order in which the warps of a program come to what others wait for: that of machine.py.

There the fragment at the lowest instruction goes first, and all that are at one go at once. A warp that has jumped back
from a higher one on its way has waited there for all the others.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F821, RET503

from .clocks import TAKEN
from .context import GROUP, TURN
from .frames import AT, DEEPEST, DEPTH, PATH, STATE
from .programs import READY
from .routine import routines


def turn_key(frame, d):
    """The d-th of the instructions by which warps are ordered: the jumps that count, and then where it is."""
    at, ways = u64[frame, AT], 0
    while ways < u64[frame, DEPTH] and u64[frame, PATH + ways] > at:
        ways += 1
    return u64[frame, PATH + d] if d < ways else at if d == ways else -1


def turn_before(one, other):
    for d in range(DEEPEST + 2):
        a, b = turn_key(one, d), turn_key(other, d)
        if a != b:
            return a < b


def turns_take(context):
    """Let those warps go on whose turn it is."""
    first = 0
    for warp in range(context.warps):
        frame = context.frames + context.frame_size * warp
        if u64[frame, STATE] == TURN and (first == 0 or turn_before(frame, first)):
            first = frame
    for warp in range(context.warps):
        frame = context.frames + context.frame_size * warp
        if u64[frame, STATE] == TURN and not turn_before(first, frame):
            u64[frame, STATE] = READY
    for warp in range(context.warps):
        frame = context.frames + context.frame_size * warp
        if u64[frame, STATE] == READY:
            u64[frame, DEPTH] = 0
    u64[clock_row(context, 3 * context.warps + 1), TAKEN] += 1


def groups_take(context):
    """Let four warps go on that have come to one place, and had the same wgmmas -> how many do."""
    ready = 0
    for group in range(context.warps >> 2):
        frames, met = context.frames + 4 * context.frame_size * group, 0
        for n in range(4):
            frame = frames + context.frame_size * n
            met += u64[frame, STATE] == GROUP and u64[frame, AT] == u64[frames, AT]
        if met == 4 and not clock_apart(context, 4 * group):
            for n in range(4):
                u64[frames + context.frame_size * n, STATE] = READY
            ready += 4
    return ready


RUNTIME = routines(turn_key, turn_before, turns_take, groups_take)
