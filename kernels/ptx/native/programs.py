"""Whole programs: what starts them, runs their warps from barrier to barrier, and goes from one program to the next.

`frames` are the warps', see frames.py; BESIDE, whether something works beside the threads of the programs.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F401, F821, RET503

from .context import BARRIER, DONE, EVENT, FIELDS, GROUP, PAUSED, SUSPECT, TURN
from .frames import AT, DEEPEST, DEPTH, PATH, RESUME, RUNNING, STATE, WARP_EPOCH
from .routine import routines

READY = -1  # a warp that may run, as its STATE; else what it returned
ALL, NOWHERE, WORDS = 0xFFFFFFFF, 0x7FFFFFFF, len(FIELDS)


def fragments_next(fragments, running):
    """-> the lowest instruction that lanes wait at; all who do are taken out, and run."""
    count, first, together, kept = u32[fragments, 0], NOWHERE, 0, 0
    for k in range(count):
        first = least(first, u32[fragments, 2 * k + 1])
    for k in range(count):
        n, here = u32[fragments, 2 * k + 1], u32[fragments, 2 * k + 2]
        if n == first:
            together |= here
        else:
            u32[fragments, 2 * kept + 1], u32[fragments, 2 * kept + 2] = n, here
            kept += 1
    u32[fragments, 0], u32[running, 0] = kept, together
    return first


def frame_jumped(frame, jump):
    """Note a jump back from an instruction. Of those before it only higher ones still count: the lowest goes first, so
    a warp had to wait at the highest for all others to come there. 1: too many to keep."""
    while frame.DEPTH > 0 and u64[frame, PATH - 1 + frame.DEPTH] <= jump:
        frame.DEPTH -= 1
    if frame.DEPTH >= DEEPEST:
        return 1
    u64[frame, PATH + frame.DEPTH] = jump
    frame.DEPTH += 1


def program_frame(context, k):
    return context.frames + context.frame_size * k


def program_start(context, program):
    """Its coordinates, its memory and its warps as a program finds them."""
    context.program, context.epoch = program, 0
    context.ctaid_x, context.ctaid_y = program % context.grid_x, program // context.grid_x % context.grid_y
    context.ctaid_z = program // (context.grid_x * context.grid_y)
    if context.shared_size != 0:
        shared_reset(context)
    if BESIDE:
        order_reset(context)
        clock_reset(context)
    for k in range(context.warps):
        frame = program_frame(context, k)
        frame.RESUME, frame.WARP_EPOCH, frame.RUNNING, frame.STATE, frame.DEPTH = 0, 0, ALL, READY, 0


def program_round(context):
    """Run the warps that are READY -> BARRIER if all have met at one; TURN if others are READY now; or how it ends."""
    done, waits, events, turns, groups, at = 0, 0, 0, 0, 0, -1
    for k in range(context.warps):
        frame = program_frame(context, k)
        if frame.STATE == READY:
            frame.STATE = invoke(context.warp_code, context, k, frame)
        status = frame.STATE
        if status >= SUSPECT:
            return status
        if status == BARRIER:
            if waits > 0 and frame.AT != at:
                return SUSPECT
            waits, at = waits + 1, frame.AT
        done, events = done + (status == DONE), events + (status == EVENT) + (status == PAUSED)
        turns, groups = turns + (status == TURN), groups + (status == GROUP)
    if events > 0:
        return EVENT
    if BESIDE:
        if groups > 0 and groups_take(context) > 0:
            return TURN
        if turns > 0:
            turns_take(context)
            return TURN
        if done == context.warps and clock_over(context):
            return SUSPECT
    if done == context.warps:
        return DONE
    return BARRIER if waits == context.warps else SUSPECT  # some have returned, and others wait for them


def program_run(context):
    """-> status: run the warps that are READY, past barriers at which all have met, as far as they come."""
    while 1:
        status = program_round(context)
        if status == BARRIER:
            program_passed(context)
        elif status != TURN:
            return status


def program_passed(context):
    """All warps have met at a barrier of the program."""
    if BESIDE:
        clock_meet(context)
    context.epoch += 1
    for k in range(context.warps):
        frame = program_frame(context, k)
        frame.STATE = READY
        if BESIDE:
            frame.DEPTH = 0


def launch_run(context):
    """-> status: take one program after another, until none is left or one does not end by itself."""
    program = advance(u64[context.next_program, 0], 1)
    while program < context.last_program:
        program_start(context, program)
        status = program_run(context)
        if status != DONE:
            u64[context.next_program, 0] = context.last_program  # the other threads need begin no more
            return status
        program = advance(u64[context.next_program, 0], 1)
    return DONE


def rows_run(rows, listed, n, begin):
    """-> status: run the programs of a list as far as they come, in its order.

    rows   a record for each program of the launch
    begin  whether at the beginning; else their warps that are READY go on
    """
    for k in range(n):
        context = rows + 8 * WORDS * u64[listed, k]
        if begin:
            program_start(context, u64[listed, k])
        status = program_run(context)
        if status > PAUSED:
            return status
    return DONE


PROGRAM = program_frame, program_start, program_round, program_passed, program_run, launch_run
RUNTIME = routines(fragments_next, frame_jumped, *PROGRAM, rows_run, BESIDE=0)
ASYNCHRONOUS = routines(*PROGRAM, BESIDE=1)
