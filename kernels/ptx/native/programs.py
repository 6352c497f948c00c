"""Whole programs: what starts them, runs their warps from barrier to barrier, and goes from one program to the next.

Runtime functions, compiled once; `warp` is that of flow.py, whose address the record of a launch holds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import context as ctx
from . import ir
from .context import POINTER
from .frames import AT, DEEPEST, DEPTH, PATH, RESUME, RUNNING, STATE, WARP_EPOCH
from .lanes import I1, I8, I32, I64

READY = -1  # a warp that may run, as its STATE; else what it returned


def function(module: ir.Module, name: str, to: Any, *kinds: Any) -> tuple[ir.IRBuilder, Any]:
    made = declared(module, name, to, *kinds)
    return ir.IRBuilder(made.append_basic_block("entry")), made.args


@contextmanager
def loop(b: ir.IRBuilder, count: Any, first: Any = None) -> Iterator[Any]:
    """for i in range(first, count); yields i."""
    zero = ir.Constant(count.type, 0) if first is None else first
    before, head, body, after = b.block, b.inside("head"), b.inside("body"), b.behind("after")
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(count.type)
    i.add_incoming(zero, before)
    b.cbranch(b.icmp_signed("<", i, count), body, after)
    b.position_at_end(body)
    yield i
    i.add_incoming(b.add(i, ir.Constant(count.type, 1)), b.block)
    b.branch(head)
    b.position_at_end(after)


def word(b: Any, frame: Any, index: Any) -> Any:
    return b.gep(frame, [index if isinstance(index, ir.Value) else I64(index)], source_etype=I64)


def give(b: Any, condition: Any, value: Any) -> None:
    """Return a value if it holds."""
    with b.if_then(condition):
        b.ret(value)


def fragments_next(module: ir.Module) -> None:
    """(fragments, running) -> the lowest instruction that lanes wait at; all who do are taken out, and run."""
    b, (fragments, running) = function(module, "fragments_next", I32, POINTER, POINTER)
    at = lambda i, k: b.gep(fragments, [b.add(b.shl(i, I32(1)), I32(1 + k))], source_etype=I32)  # noqa: E731
    count = b.load(fragments, typ=I32)
    lowest, lanes, kept = (b.alloca(I32) for _ in range(3))
    b.store(I32(0x7FFFFFFF), lowest)
    b.store(I32(0), lanes)
    b.store(I32(0), kept)
    with loop(b, count) as i:
        n = b.load(at(i, 0), typ=I32)
        least = b.load(lowest, typ=I32)
        b.store(b.select(b.icmp_signed("<", n, least), n, least), lowest)
    with loop(b, count) as i:
        n, here = b.load(at(i, 0), typ=I32), b.load(at(i, 1), typ=I32)
        with b.if_else(b.icmp_signed("==", n, b.load(lowest, typ=I32))) as (same, other):
            with same:
                b.store(b.or_(b.load(lanes, typ=I32), here), lanes)
            with other:
                k = b.load(kept, typ=I32)
                b.store(n, at(k, 0))
                b.store(here, at(k, 1))
                b.store(b.add(k, I32(1)), kept)
    b.store(b.load(kept, typ=I32), fragments)
    b.store(b.load(lanes, typ=I32), running)
    b.ret(b.load(lowest, typ=I32))


def frame_jumped(module: ir.Module) -> None:
    """(frame, jump) -> i1: note a jump back from an instruction. Of those before it only higher ones still count: the
    lowest goes first, so a warp had to wait at the highest for all others to come there. True: too many to keep."""
    b, (frame, jump) = function(module, "frame_jumped", I1, POINTER, I64)
    depth = b.alloca(I64)
    b.store(b.load(word(b, frame, DEPTH), typ=I64), depth)
    head, pop, done = (b.append_basic_block(x) for x in ("head", "pop", "done"))
    b.branch(head)
    b.position_at_end(head)
    d = b.load(depth, typ=I64)
    top = b.load(word(b, frame, b.add(d, I64(PATH - 1))), typ=I64)
    lower = b.and_(b.icmp_signed(">", d, I64(0)), b.icmp_signed("<=", top, jump))
    b.cbranch(lower, pop, done)
    b.position_at_end(pop)
    b.store(b.sub(d, I64(1)), depth)
    b.branch(head)
    b.position_at_end(done)
    give(b, b.icmp_signed(">=", d, I64(DEEPEST)), I1(1))
    b.store(jump, word(b, frame, b.add(d, I64(PATH))))
    b.store(b.add(d, I64(1)), word(b, frame, DEPTH))
    b.ret(I1(0))


def program_start(module: ir.Module) -> None:
    """(context, program): its coordinates, its memory and its warps as a program finds them."""
    b, (context, program) = function(module, "program_start", ir.VoidType(), POINTER, I64)
    get, put = (lambda x: ctx.field(b, context, x)), (lambda x, v: b.store(v, ctx.place(b, context, x)))
    X, Y = get("grid_x"), get("grid_y")
    put("program", program)
    put("ctaid_x", b.urem(program, X))
    put("ctaid_y", b.urem(b.udiv(program, X), Y))
    put("ctaid_z", b.udiv(program, b.mul(X, Y)))
    put("epoch", I64(0))
    with b.if_then(b.icmp_signed("!=", get("shared_size"), I64(0))):
        b.call(declared(module, "shared_reset", I64, I64), [b.ptrtoint(context, I64)])
    for name in ("order_reset", "clock_reset") if asynchronous(module) else ():
        call(b, name, context)
    frames, size = ctx.pointer(b, context, "frames"), get("frame_size")
    with loop(b, get("warps")) as i:
        frame = b.gep(frames, [b.mul(i, size)], source_etype=I8)
        for index, value in ((RESUME, 0), (WARP_EPOCH, 0), (RUNNING, 0xFFFFFFFF), (STATE, READY), (DEPTH, 0)):
            b.store(I64(value), word(b, frame, index))
    b.ret_void()


def asynchronous(module: ir.Module) -> bool:
    """Whether this runtime is for programs in which something works beside the threads."""
    return "clock_meet" in module.globals


def call(b: Any, name: str, context: Any) -> Any:
    return b.call(declared(b.module, name, I64, I64), [b.ptrtoint(context, I64)])


def declared(module: ir.Module, name: str, to: Any, *kinds: Any) -> Any:
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(to, kinds), name)


def program_run(module: ir.Module) -> None:
    """(context) -> status: run the warps that are READY, past barriers at which all have met, as far as they come."""
    b, (context,) = function(module, "program_run", I64, POINTER)
    frames, size = ctx.pointer(b, context, "frames"), ctx.field(b, context, "frame_size")
    warps, code = ctx.field(b, context, "warps"), ctx.pointer(b, context, "warp_code")
    again = b.append_basic_block("again")
    met, at = b.alloca(I64, ctx.SUSPECT), b.alloca(I64)  # how many have stopped how; at which barrier
    b.branch(again)
    b.position_at_end(again)
    for k in range(ctx.SUSPECT):
        b.store(I64(0), b.gep(met, [I64(k)], source_etype=I64))
    with loop(b, warps) as i:
        frame = b.gep(frames, [b.mul(i, size)], source_etype=I8)
        state = word(b, frame, STATE)
        with b.if_then(b.icmp_signed("==", b.load(state, typ=I64), I64(READY))):
            b.store(b.call(code, [context, b.trunc(i, I32), frame], I64), state)
        now, here = b.load(state, typ=I64), b.load(word(b, frame, AT), typ=I64)
        give(b, b.icmp_signed(">=", now, I64(ctx.SUSPECT)), now)
        count = b.gep(met, [now], source_etype=I64)
        number = b.load(count, typ=I64)
        with b.if_then(b.icmp_signed("==", now, I64(ctx.BARRIER))):
            other = b.and_(b.icmp_signed(">", number, I64(0)), b.icmp_signed("!=", here, b.load(at, typ=I64)))
            give(b, other, I64(ctx.SUSPECT))
            b.store(here, at)
        b.store(b.add(number, I64(1)), count)
    counts = (b.load(b.gep(met, [I64(k)], source_etype=I64), typ=I64) for k in range(ctx.SUSPECT))
    done, waits, events, paused, turns, groups = counts
    give(b, b.icmp_signed(">", b.add(events, paused), I64(0)), I64(ctx.EVENT))
    if asynchronous(module):
        on_by(b, context, again, groups, turns)
    with b.if_then(b.icmp_signed("==", done, warps)):
        if asynchronous(module):
            give(b, b.icmp_signed("!=", call(b, "clock_over", context), I64(0)), I64(ctx.SUSPECT))
        b.ret(I64(ctx.DONE))
    give(b, b.icmp_signed("!=", waits, warps), I64(ctx.SUSPECT))  # some have returned, and others wait for them
    passed(b, context, frames, warps)
    b.branch(again)


def passed(b: Any, context: Any, frames: Any, warps: Any) -> None:
    """All warps have met at a barrier of the program."""
    epoch, size = ctx.place(b, context, "epoch"), ctx.field(b, context, "frame_size")
    if asynchronous(b.module):
        call(b, "clock_meet", context)
    b.store(b.add(b.load(epoch, typ=I64), I64(1)), epoch)
    with loop(b, warps) as i:
        frame = b.gep(frames, [b.mul(i, size)], source_etype=I8)
        b.store(I64(READY), word(b, frame, STATE))
        if asynchronous(b.module):
            b.store(I64(0), word(b, frame, DEPTH))


def on_by(b: Any, context: Any, again: Any, groups: Any, turns: Any) -> None:
    """Where warps take turns: those go on whose group is whole, and else those whose turn it is."""
    some, none, after = (b.append_basic_block(x) for x in ("some", "none", "after"))
    b.cbranch(b.icmp_signed("!=", groups, I64(0)), some, none)
    b.position_at_end(some)
    b.cbranch(b.icmp_signed("!=", call(b, "groups_take", context), I64(0)), again, none)
    b.position_at_end(none)
    with b.if_then(b.icmp_signed("!=", turns, I64(0))):
        call(b, "turns_take", context)
        b.branch(again)
    b.branch(after)
    b.position_at_end(after)


def launch_run(module: ir.Module) -> None:
    """(context) -> status: take one program after another, until none is left or one does not end by itself."""
    b, (context,) = function(module, "launch_run", I64, POINTER)
    get = lambda name: ctx.field(b, context, name)  # noqa: E731
    last, following = get("last_program"), ctx.pointer(b, context, "next_program")
    head, body, end = (b.append_basic_block(x) for x in ("head", "body", "end"))
    b.branch(head)
    b.position_at_end(head)
    program = b.atomic_rmw("add", following, I64(1), "monotonic")
    b.cbranch(b.icmp_signed("<", program, last), body, end)
    b.position_at_end(body)
    b.call(module.globals["program_start"], [context, program])
    status = b.call(module.globals["program_run"], [context])
    with b.if_then(b.icmp_signed("!=", status, I64(ctx.DONE))):
        b.store(last, following)  # the other threads need begin no more
        b.ret(status)
    b.branch(head)
    b.position_at_end(end)
    b.ret(I64(ctx.DONE))


def rows_run(module: ir.Module) -> None:
    """(rows, programs, n, begin) -> status: run the programs of a list as far as they come, in its order.

    rows   a record for each program of the launch
    begin  whether at the beginning; else their warps that are READY go on
    """
    b, (rows, listed, n, begin) = function(module, "rows_run", I64, POINTER, POINTER, I64, I64)
    with loop(b, n) as i:
        program = b.load(word(b, listed, i), typ=I64)
        context = b.gep(rows, [b.mul(program, I64(len(ctx.FIELDS)))], source_etype=I64)
        with b.if_then(b.icmp_signed("!=", begin, I64(0))):
            b.call(module.globals["program_start"], [context, program])
        status = b.call(module.globals["program_run"], [context])
        give(b, b.icmp_signed(">", status, I64(ctx.PAUSED)), status)
    b.ret(I64(ctx.DONE))


RUNTIME = {f.__name__: f for f in (fragments_next, frame_jumped, program_start, program_run, launch_run, rows_run)}
