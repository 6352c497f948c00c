"""Bank conflicts of shared memory, counted in compiled code as Counters.banks counts them.

A row of `bank_patterns` keeps what an instruction's last addresses were, relative to the first of them, and came to: a
common shift by whole words only turns the banks. Instructions share ROWS rows.
"""

from typing import Any

from llvmlite import ir

from . import context as ctx
from .lanes import I32, I64, Lanes, vector
from .programs import function, loop

ROWS, PATTERN = 64, 40  # int32: 32 addresses; the lanes, bytes of each, the first address within a word; the results
ON, SIZE, SHIFT, PASSES = range(32, 36)


def stack(b: ir.IRBuilder, kind: Any) -> Any:
    """The address of a variable."""
    place = b.alloca(kind)
    place.type = ctx.POINTER
    return place


def word(b: ir.IRBuilder, row: Any, index: int) -> Any:
    return b.gep(row, [I32(index)], source_etype=I32)


def shared_count(module: ir.Module) -> None:
    """(context, addresses, lanes, instruction, bytes of each lane): add to the instruction's row of `traffic`."""
    kinds = (ctx.POINTER, vector(I32), I32, I32, I32)
    b, (context, at, on, n, size) = function(module, "shared_count", ir.VoidType(), *kinds)
    L = Lanes(b)
    row = b.gep(
        ctx.pointer(b, context, "bank_patterns"), [b.mul(b.and_(n, I32(ROWS - 1)), I32(PATTERN))], source_etype=I32
    )
    first = b.extract_element(at, b.cttz(on, ir.IntType(1)(0)))
    shift = b.and_(first, I32(3))
    pattern = b.select(L.mask(on), b.sub(at, L.splat(first)), L.const(at, 0))
    same = L.all(b.icmp_unsigned("==", pattern, b.load(row, typ=vector(I32), align=4)))
    facts = {ON: on, SIZE: size, SHIFT: shift}
    for index, value in facts.items():
        same = b.and_(same, b.icmp_unsigned("==", b.load(word(b, row, index), typ=I32), value))
    with b.if_then(b.not_(same)):
        b.store(pattern, row, align=4)
        for index, value in facts.items():
            b.store(value, word(b, row, index))
        L.call("bank_passes", ir.VoidType(), at, on, size, word(b, row, PASSES))
    start = b.add(b.mul(n, I32(ctx.TRAFFIC)), I32(ctx.SHARED_THREADS))
    counts = b.gep(ctx.pointer(b, context, "traffic"), [start], source_etype=I64)
    found = [b.load(word(b, row, PASSES + k), typ=I32) for k in range(2)]
    for k, value in enumerate((b.ctpop(on), *found)):
        place = b.gep(counts, [I32(k)], source_etype=I64)
        b.store(b.add(b.load(place, typ=I64), b.zext(value, I64)), place)
    b.ret_void()


def bank_passes(module: ir.Module) -> None:
    """(addresses, lanes, bytes of each, where to put wavefronts and conflicts). Units of at least a word go by groups of
    lanes that fill the banks; a group takes as many passes as the fullest of its slots has different units."""
    b, (at, on, size, to) = function(module, "bank_passes", ir.VoidType(), vector(I32), I32, I32, ctx.POINTER)
    L = Lanes(b)
    bits = b.cttz(b.select(b.icmp_unsigned(">", size, I32(4)), size, I32(4)), ir.IntType(1)(0))
    group = b.lshr(I32(128), bits)
    unit = b.lshr(at, L.splat(bits))
    units, load = (stack(b, vector(I32)) for _ in range(2))
    b.store(unit, units)
    b.store(L.const(unit, 0), load)
    element = lambda place, i: b.gep(place, [i], source_etype=I32)  # noqa: E731
    with loop(b, I32(32)) as i:
        mine, begin = b.load(element(units, i), typ=I32), b.and_(i, b.neg(group))
        earlier = b.and_(b.shl(I32(-1), begin), b.not_(b.shl(I32(-1), i)))
        twins = b.and_(L.ballot(b.icmp_unsigned("==", unit, L.splat(mine))), b.and_(on, earlier))
        new = b.and_(b.icmp_unsigned("==", twins, I32(0)), b.trunc(b.lshr(on, i), ir.IntType(1)))
        slot = element(load, b.add(begin, b.and_(mine, b.sub(group, I32(1)))))
        b.store(b.add(b.load(slot, typ=I32), b.zext(new, I32)), slot)
    most, total, groups = (b.alloca(I32) for _ in range(3))
    for place in (most, total, groups):
        b.store(I32(0), place)
    with loop(b, I32(32)) as i:
        here, last = b.load(element(load, i), typ=I32), b.load(most, typ=I32)
        full = b.select(b.icmp_unsigned(">", here, last), here, last)
        ends = b.icmp_unsigned("==", b.and_(b.add(i, I32(1)), b.sub(group, I32(1))), I32(0))
        passes = b.select(ends, full, I32(0))
        b.store(b.select(ends, I32(0), full), most)
        b.store(b.add(b.load(total, typ=I32), passes), total)
        some = b.zext(b.icmp_unsigned(">", passes, I32(0)), I32)
        b.store(b.add(b.load(groups, typ=I32), some), groups)
    wavefronts = b.load(total, typ=I32)
    b.store(wavefronts, to)
    b.store(b.sub(wavefronts, b.load(groups, typ=I32)), element(to, I32(1)))
    b.ret_void()


RUNTIME = {f.__name__: f for f in (bank_passes, shared_count)}
