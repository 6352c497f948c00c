"""cp.async and atomics of shared memory in compiled code: what is under way, and who changed a cell last."""

from typing import Any

from llvmlite import ir

from ..shared import ALL, ATOMIC, WHO
from . import context as ctx
from .lanes import I1, I8, I32, I64, vector
from .programs import function, give, loop
from .shared_cells import ACCESS, COPYING, Access, each_lane, plain, renamed, unordered, warp_of

MOST = 512  # copies of a warp under way
ENTRY = 35  # int32: 32 addresses; the lanes, bytes of each, the group
ON, SIZE, GROUP = range(32, 35)
ROOM = 2 + MOST * ENTRY  # of a warp: how many groups it has committed, how many entries follow


def head(b: ir.IRBuilder, context: Any, warp: Any) -> Any:
    return b.gep(ctx.pointer(b, context, "shared_copies"), [b.mul(warp, I32(ROOM))], source_etype=I32)


def word(b: ir.IRBuilder, place: Any, index: Any) -> Any:
    return b.gep(place, [I32(index) if isinstance(index, int) else index], source_etype=I32)


def entry(b: ir.IRBuilder, place: Any, index: Any) -> Any:
    return word(b, place, b.add(I32(2), b.mul(index, I32(ENTRY))))


def cell(b: ir.IRBuilder, context: Any, name: str, at: Any, log: Any) -> Any:
    return b.gep(ctx.pointer(b, context, name), [b.zext(b.lshr(at, log), I64)], source_etype=I64)


def copies_begin(module: ir.Module) -> None:
    """(context, addresses, lanes, warp, log2 of a cell's bytes, size) -> whether there are too many copies."""
    kinds = (ctx.POINTER, vector(I32), I32, I32, I32, I32)
    b, (context, at, on, warp, log, size) = function(module, "copies_begin", I1, *kinds)
    place = head(b, context, warp)
    count = b.load(word(b, place, 1), typ=I32)
    give(b, b.icmp_unsigned(">=", count, I32(MOST)), I1(1))
    b.store(b.add(count, I32(1)), word(b, place, 1))
    new = entry(b, place, count)
    b.store(at, new, align=4)
    for index, value in ((ON, on), (SIZE, size), (GROUP, b.load(place, typ=I32))):
        b.store(value, word(b, new, index))
    with each_lane(b, on) as lane:
        first = cell(b, context, "shared_writer", b.load(word(b, new, lane), typ=I32), log)
        with loop(b, b.lshr(size, log)) as k:
            writer = b.gep(first, [k], source_etype=I64)
            b.store(b.or_(b.load(writer, typ=I64), I64(COPYING)), writer)
    b.ret(I1(0))


def copies_end(module: ir.Module) -> None:
    """(context, lanes, warp, tag of lane 0, log2 of a cell's bytes, groups left) -> whether something is wrong."""
    kinds = (ctx.POINTER, I32, I32, I64, I32, I32)
    b, (context, lanes, warp, tag, log, left) = function(module, "copies_end", I1, *kinds)
    place = head(b, context, warp)
    kept = b.alloca(I32)
    b.store(I32(0), kept)
    commits, count = (b.load(word(b, place, k), typ=I32) for k in range(2))
    with loop(b, count) as index:
        old = entry(b, place, index)
        on, size, group = (b.load(word(b, old, k), typ=I32) for k in (ON, SIZE, GROUP))
        due = b.icmp_signed("<", b.add(group, left), commits)
        here = b.select(due, b.and_(on, lanes), I32(0))
        with each_lane(b, here) as lane:
            at, mine = b.load(word(b, old, lane), typ=I32), b.add(tag, b.zext(lane, I64))
            writers, readers = (cell(b, context, f"shared_{x}", at, log) for x in ("writer", "reader"))
            with loop(b, b.lshr(size, log)) as k:
                writer, reader = (b.gep(x, [k], source_etype=I64) for x in (writers, readers))
                last = plain(b, b.load(writer, typ=I64))
                bad = b.or_(unordered(b, last, mine), unordered(b, b.load(reader, typ=I64), mine))
                give(b, bad, I1(1))
                b.store(mine, writer)
        rest = b.and_(on, b.not_(here))
        with b.if_then(b.icmp_unsigned("!=", rest, I32(0))):
            j = b.load(kept, typ=I32)
            new = entry(b, place, j)
            b.store(b.load(old, typ=vector(I32), align=4), new, align=4)
            for k, value in ((ON, rest), (SIZE, size), (GROUP, group)):
                b.store(value, word(b, new, k))
            b.store(b.add(j, I32(1)), kept)
    b.store(b.load(kept, typ=I32), word(b, place, 1))
    b.ret(I1(0))


def shared_change(module: ir.Module) -> None:
    """(ACCESS, size) -> whether an atomic is wrong; `n` says which others it commutes with, -1: none, -2: all.

    Several warps may change a cell between two barriers only if their order cannot matter.
    """
    b, (*args, size) = function(module, "shared_change", I1, *ACCESS, I32)
    a = Access(b, args, size)
    give(b, a.strays(), I1(1))
    for claims in (False, True):
        with a.lane() as (mine, first, _, _), a.cell(first) as (writer, reader, by):
            W, last = b.load(writer, typ=I64), b.load(by, typ=I32)
            who, now = b.and_(W, I64(WHO)), b.icmp_signed(">=", W, a.start)
            changed = b.and_(now, b.icmp_unsigned("!=", b.and_(who, I64(ATOMIC)), I64(0)))
            name = b.and_(W, I64(~ATOMIC))
            other = b.and_(changed, b.icmp_signed("!=", warp_of(b, name), warp_of(b, mine)))
            like = b.icmp_signed("==", last, a.n)
            if claims:
                tag = b.select(other, renamed(b, mine, ALL | ATOMIC), b.or_(mine, I64(ATOMIC)))
                b.store(tag, writer)
                b.store(b.select(b.or_(b.not_(now), b.and_(changed, like)), a.n, I32(-1)), by)
                continue
            blank = b.or_(b.icmp_signed("<", W, I64(0)), b.icmp_signed(">=", W, I64(COPYING)))
            plainly = b.and_(b.not_(changed), unordered(b, W, mine))
            order = b.and_(other, b.or_(b.not_(like), b.icmp_signed("==", a.n, I32(-1))))
            read = unordered(b, b.load(reader, typ=I64), mine)
            give(b, b.or_(b.or_(blank, plainly), b.or_(order, read)), I1(1))
    b.ret(I1(0))


def shared_reset(module: ir.Module) -> None:
    """(context): shared memory as a program finds it."""
    b, (context,) = function(module, "shared_reset", ir.VoidType(), ctx.POINTER)
    fill = module.declare_intrinsic("llvm.memset", [ctx.POINTER, I64])
    size = b.shl(ctx.field(b, context, "shared_cells"), I64(3))
    for name in ("shared_writer", "shared_reader"):
        b.call(fill, [ctx.pointer(b, context, name), I8(0xFF), size, I1(0)])
    with loop(b, b.trunc(ctx.field(b, context, "warps"), I32)) as warp:
        for k in range(2):
            b.store(I32(0), word(b, head(b, context, warp), k))
    b.ret_void()


RUNTIME = {f.__name__: f for f in (copies_begin, copies_end, shared_change, shared_reset)}
