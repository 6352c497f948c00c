"""Lanes that access shared memory side by side: which do, and what is known of their cells, eight at a time."""

from ..tags import PROGRAM
from . import ir
from .context import POINTER
from .lanes import I1, I8, I32, I64, begun, vector

EIGHT = vector(I64, 8)


def run(module: ir.Module) -> None:
    """(addresses, on, size) -> how many lanes access one place behind the other, if these are the first lanes and all
    that are on, or the others do the same as these, over and over; else 0."""
    L, (at, on, size) = begun(module, "shared_run", I64, *[I64] * 3)
    b, lanes = L.b, L.row(I32, range(32))
    at = b.load(b.inttoptr(at, POINTER), typ=vector(I32), align=4)
    off, size = b.sub(at, L.splat(L.lane(at, 0))), L.splat(b.trunc(size, I32))
    run = b.cttz(b.not_(L.ballot(b.icmp_unsigned("==", off, b.mul(lanes, size)))), I1(0))
    again = b.mul(b.and_(lanes, L.splat(b.sub(run, I32(1)))), size)
    power = b.icmp_unsigned("==", b.and_(run, b.sub(run, I32(1))), I32(0))
    repeats = b.and_(power, L.all(b.icmp_unsigned("==", off, again)))
    count = b.ctpop(on)
    first = b.icmp_unsigned("==", on, b.sub(b.shl(I64(1), count), I64(1)))
    first = b.and_(first, b.icmp_unsigned("<=", count, b.zext(run, I64)))
    whole = b.icmp_unsigned("==", count, I64(32))
    b.ret(b.select(b.and_(whole, repeats), b.zext(run, I64), b.select(first, count, I64(0))))


def late(module: ir.Module) -> None:
    """(writers, readers, cells, tag, least) -> whether an access to them is not before the last barrier, or below
    `least`, or they are not whole eights."""
    L, (writers, readers, count, tag, least) = begun(module, "shared_late", I64, *[I64] * 5)
    b, total = L.b, L.b.alloca(I8)
    b.store(b.trunc(b.and_(count, I64(7)), I8), total)
    start, low = (L.splat(x, 8) for x in (b.and_(tag, I64(-1 << PROGRAM)), least))
    with L.loop(b.lshr(count, I64(3))) as k:
        last = [b.gep(b.inttoptr(x, POINTER), [k], source_etype=EIGHT) for x in (writers, readers)]
        writer, reader = (b.load(x, typ=EIGHT, align=8) for x in last)
        bad = b.or_(b.icmp_signed(">=", writer, start), b.icmp_signed(">=", reader, start))
        bad = b.or_(bad, b.icmp_signed("<", writer, low))
        b.store(b.or_(b.load(total, typ=I8), L.ballot(bad)), total)
    b.ret(b.zext(b.load(total, typ=I8), I64))


def fill(module: ir.Module) -> None:
    """(tags, names or 0, eights of cells, tag, step, log2 of the cells of a lane, name): note lanes side by side."""
    L, (tags, names, count, tag, step, wide, name) = begun(module, "shared_fill", I64, *[I64] * 7)
    b = L.b
    with L.loop(b.lshr(count, I64(3))) as k:
        lane = b.lshr(b.add(L.row(I64, range(8)), L.splat(b.shl(k, I64(3)), 8)), L.splat(wide, 8))
        mine = b.add(b.and_(lane, L.splat(step, 8)), L.splat(tag, 8))
        b.store(mine, b.gep(b.inttoptr(tags, POINTER), [k], source_etype=EIGHT), align=8)
        with b.if_then(b.icmp_unsigned("!=", names, I64(0))):
            place = b.gep(b.inttoptr(names, POINTER), [k], source_etype=vector(I32, 8))
            b.store(L.splat(b.trunc(name, I32), 8), place, align=4)
    b.ret(I64(0))


RUNTIME = {"shared_run": run, "shared_late": late, "shared_fill": fill}
