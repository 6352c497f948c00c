"""Who touched each cell of shared memory since the last barrier, in compiled code; the rules are those of shared.py.

Warps run one after another here and in lockstep there. So that neither order hides what the other finds, a cell knows
more: its writer is ALL once several warps have stored one value, and the instruction `by` which it was written is MIXED
once a warp has written it twice between two barriers, unless it was the same value by the same instruction. Cells that
nothing has written have a writer below 0, and the target of a cp.async under way has COPYING in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from llvmlite import ir

from ..shared import ALL, PROGRAM, SEVERAL, WARP, WHO
from . import context as ctx
from .banks import stack
from .lanes import I1, I8, I32, I64, Lanes, vector
from .programs import function, give, loop

POINTER = ctx.POINTER
COPYING, MIXED = 1 << 62, 1 << 30
SIZES = (1, 2, 4, 8, 16)  # bytes that a thread accesses
# context, addresses, lanes that access, lanes to count, tag of lane 0, -1 if the tags of others follow or 0 if all are
# alike, the instruction, log2 of a cell's bytes, and the words by lane.
ACCESS = (POINTER, vector(I32), I32, I32, I64, I64, I32, I32, POINTER)


def warp_of(b: Any, tag: Any) -> Any:
    who = b.and_(tag, I64(WHO))
    one = lambda x: b.icmp_signed("<", who, I64(x))  # noqa: E731
    several = b.select(one(ALL), b.sub(who, I64(SEVERAL)), I64(-1))
    return b.select(one(SEVERAL), b.lshr(who, I64(5)), several)


def unordered(b: Any, tag: Any, mine: Any) -> Any:
    """shared.unordered."""
    moment = lambda x, bits: b.ashr(x, I64(bits))  # noqa: E731
    who, me = b.and_(tag, I64(WHO)), b.and_(mine, I64(WHO))
    same = b.and_(b.icmp_signed("==", who, me), b.icmp_signed("<", who, I64(SEVERAL)))
    before = b.icmp_signed("<", moment(tag, WARP), moment(mine, WARP))
    together = b.and_(b.icmp_signed("==", warp_of(b, tag), warp_of(b, mine)), before)
    now = b.icmp_signed("==", moment(tag, PROGRAM), moment(mine, PROGRAM))
    return b.and_(b.and_(b.icmp_signed(">=", tag, I64(0)), now), b.not_(b.or_(same, together)))


def renamed(b: Any, tag: Any, who: int) -> Any:
    return b.or_(b.and_(tag, I64(~WHO)), I64(who))


def plain(b: Any, writer: Any) -> Any:
    """A writer without COPYING."""
    return b.select(b.icmp_signed("<", writer, I64(0)), writer, b.and_(writer, I64(~COPYING)))


def began(b: Any, tag: Any) -> Any:
    """The tag that divides what is before the program's last barrier from what is after it."""
    return b.and_(tag, I64(-1 << PROGRAM))


def shared_read_late(module: ir.Module) -> None:
    """(writer, reader, mine, place of the reader) -> whether the read is wrong; it is noted as by shared.both."""
    b, (writer, reader, mine, place) = function(module, "shared_read_late", I1, I64, I64, I64, POINTER)
    ours, same = warp_of(b, mine), b.icmp_signed("==", b.and_(reader, I64(WHO)), b.and_(mine, I64(WHO)))
    with_us = b.icmp_signed("==", warp_of(b, reader), ours)
    latest = b.select(b.icmp_signed(">", reader, mine), reader, mine)
    joint = b.or_(b.and_(latest, I64(~WHO)), b.add(ours, I64(SEVERAL)))
    new = b.select(with_us, b.select(same, latest, joint), renamed(b, latest, ALL))
    earlier = b.icmp_signed("<", b.ashr(reader, I64(WARP)), b.ashr(mine, I64(WARP)))
    forget = b.or_(b.icmp_signed("<", reader, began(b, mine)), b.and_(with_us, earlier))
    b.store(b.select(forget, mine, new), place)
    blank = b.or_(b.icmp_signed("<", writer, I64(0)), b.icmp_signed(">=", writer, I64(COPYING)))
    b.ret(b.or_(blank, unordered(b, writer, mine)))


def shared_write_late(module: ir.Module) -> None:
    """(writer, reader, by, mine, instruction, whether the value differs) -> whether the store is wrong."""
    kinds = (I64, I64, I32, I64, I32, I1)
    b, (writer, reader, by, mine, n, differs) = function(module, "shared_write_late", I1, *kinds)
    writer = plain(b, writer)
    other = b.icmp_signed("!=", warp_of(b, writer), warp_of(b, mine))
    again = b.icmp_signed("==", b.and_(by, I32(~MIXED)), n)
    mixed = b.and_(other, b.icmp_signed("!=", by, n))
    bad = b.and_(unordered(b, writer, mine), b.or_(b.or_(mixed, differs), b.not_(again)))
    b.ret(b.or_(bad, unordered(b, reader, mine)))


def shared_claim_late(module: ir.Module) -> None:
    """(place of the writer, of `by`, mine, instruction, whether the value differs): note a store that is right."""
    kinds = (POINTER, POINTER, I64, I32, I1)
    b, (place, by_place, mine, n, differs) = function(module, "shared_claim_late", ir.VoidType(), *kinds)
    before, by = b.load(place, typ=I64), b.load(by_place, typ=I32)
    writer = plain(b, before)
    now = b.icmp_signed(">=", writer, began(b, mine))
    other = b.icmp_signed("!=", warp_of(b, writer), warp_of(b, mine))
    tag = b.select(b.and_(now, other), renamed(b, mine, ALL), mine)
    copying = b.select(b.icmp_signed("<", before, I64(0)), I64(0), b.and_(before, I64(COPYING)))
    b.store(b.or_(tag, copying), place)
    mixed = b.and_(now, b.or_(differs, b.icmp_signed("!=", by, n)))
    b.store(b.select(mixed, b.or_(n, I32(MIXED)), n), by_place)
    b.ret_void()


@contextmanager
def each_lane(b: ir.IRBuilder, on: Any) -> Iterator[Any]:
    """The numbers, i32, of the bits that are set, in ascending order."""
    before, head, body, after = b.block, *(b.append_basic_block(x) for x in ("lanes", "lane", "done"))
    b.branch(head)
    b.position_at_end(head)
    rest = b.phi(I32)
    rest.add_incoming(on, before)
    b.cbranch(b.icmp_unsigned("!=", rest, I32(0)), body, after)
    b.position_at_end(body)
    yield b.cttz(rest, I1(1))
    rest.add_incoming(b.and_(rest, b.sub(rest, I32(1))), b.block)
    b.branch(head)
    b.position_at_end(after)


class Access:
    """What the functions of ACCESS do, one step a method. size: a number, or an i32."""

    def __init__(self, b: ir.IRBuilder, arguments: Any, size: Any):
        self.b, self.L = b, Lanes(b)
        self.context, self.at, self.on, self.counted, self.tag, self.step, self.n, self.log, self.data = arguments
        self.size = I32(size) if isinstance(size, int) else size
        self.width = b.lshr(self.size, self.log)  # cells of a thread
        self.start = began(b, self.tag)
        self.bytes, self.writer, self.reader, self.by = (
            ctx.pointer(b, self.context, f"shared_{x}") for x in ("bytes", "writer", "reader", "by")
        )
        self.lanes, self.found = stack(b, vector(I32)), stack(b, I32)
        b.store(self.at, self.lanes)
        self.word = ir.IntType(8 * size) if isinstance(size, int) else None

    def strays(self) -> Any:
        """Whether an address is out of bounds or no multiple of the size; what shared memory holds is one of 32."""
        b, L = self.b, self.L
        limit = L.splat(b.trunc(ctx.field(b, self.context, "shared_size"), I32))
        crooked = b.icmp_unsigned("!=", b.and_(self.at, L.splat(b.sub(self.size, I32(1)))), L.const(self.at, 0))
        bad = b.or_(b.icmp_unsigned(">=", self.at, limit), crooked)
        return b.icmp_unsigned("!=", b.and_(L.ballot(bad), self.on), I32(0))

    def in_line(self) -> Any:
        """Whether all lanes are on, one after the other in memory."""
        b, L, size = self.b, self.L, self.size.constant
        there = b.add(L.splat(L.lane(self.at, 0)), L.row(I32, range(0, 32 * size, size)))
        return b.and_(L.all(b.icmp_unsigned("==", self.at, there)), b.icmp_unsigned("==", self.on, I32(0xFFFFFFFF)))

    def cells(self, base: Any, k: Any, kind: Any = I64) -> Any:
        """The address of the k-th 32 cells of lanes in line."""
        first = self.b.add(self.b.lshr(self.L.lane(self.at, 0), self.log), self.b.shl(k, I32(5)))
        return self.b.gep(base, [self.b.zext(first, I64)], source_etype=kind)

    def late(self, writes: bool) -> Any:
        """Whether what was last done to a cell of lanes in line is not before the last barrier."""
        b, L, found = self.b, self.L, self.found
        start = L.splat(self.start)
        b.store(I32(0), found)
        with loop(b, self.width) as k:
            writer, reader = (b.load(self.cells(x, k), typ=vector(I64), align=8) for x in (self.writer, self.reader))
            written = (b.icmp_signed if writes else b.icmp_unsigned)(">=", writer, start)
            bad = b.or_(written, b.icmp_signed(">=", reader, start))
            b.store(b.or_(b.load(found, typ=I32), L.ballot(bad)), found)
        return b.icmp_unsigned("!=", b.load(found, typ=I32), I32(0))

    def fill(self, base: Any, k: Any) -> None:
        """Note lanes in line as the last that touched their cells."""
        b, L = self.b, self.L
        cell = b.add(L.row(I32, range(32)), L.splat(b.shl(k, I32(5))))
        wide = L.splat(b.sub(b.trunc(b.cttz(self.size, I1(1)), I32), self.log))
        lane = b.and_(b.zext(b.lshr(cell, wide), vector(I64)), L.splat(self.step))
        b.store(b.add(lane, L.splat(self.tag)), self.cells(base, k), align=8)

    @contextmanager
    def lane(self, on: Any = None) -> Iterator[tuple[Any, Any, Any, Any]]:
        """Lane by lane: its tag, its first cell, i64, the place of its bytes, and of its words."""
        b = self.b
        with each_lane(b, self.on if on is None else on) as lane:
            at = b.load(b.gep(self.lanes, [lane], source_etype=I32), typ=I32)
            wide = b.zext(lane, I64)
            mine = b.add(self.tag, b.and_(wide, self.step))
            there = b.gep(self.bytes, [b.zext(at, I64)], source_etype=I8)
            words = b.gep(self.data, [b.mul(wide, b.zext(self.size, I64))], source_etype=I8)
            yield mine, b.zext(b.lshr(at, self.log), I64), there, words

    @contextmanager
    def cell(self, first: Any) -> Iterator[tuple[Any, Any, Any]]:
        """Cell by cell from the first: the places of its writer, its reader and `by`."""
        with loop(self.b, self.width) as k:
            index = [self.b.add(first, self.b.zext(k, I64))]
            pairs = ((self.writer, I64), (self.reader, I64), (self.by, I32))
            yield tuple(self.b.gep(base, index, source_etype=kind) for base, kind in pairs)  # pyright: ignore

    def read(self, place: Any) -> Any:
        return self.b.load(place, typ=self.word, align=1)

    def move(self, to: Any, source: Any) -> None:
        """The words of lanes in line."""
        kind = vector(I8, 32 * self.size.constant)
        self.b.store(self.b.load(source, typ=kind, align=1), to, align=1)

    def first(self) -> Any:
        return self.b.gep(self.bytes, [self.b.zext(self.L.lane(self.at, 0), I64)], source_etype=I8)

    def count(self) -> None:
        args = (self.context, self.at, self.counted, self.n, self.size)
        self.L.call("shared_count", ir.VoidType(), *args)


def load_function(size: int, module: ir.Module) -> None:
    """ACCESS -> whether something is wrong; the words are put where `data` says."""
    b, args = function(module, f"shared_load_{size}", I1, *ACCESS)
    a = Access(b, args, size)
    give(b, a.strays(), I1(1))
    with b.if_then(a.in_line()), b.if_then(b.not_(a.late(False))):
        with loop(b, a.width) as k:
            a.fill(a.reader, k)
        a.move(a.data, a.first())
        a.count()
        b.ret(I1(0))
    with a.lane() as (mine, cell, there, words):
        with a.cell(cell) as (writer, reader, _):
            W, R = b.load(writer, typ=I64), b.load(reader, typ=I64)
            late = b.or_(b.icmp_unsigned(">=", W, a.start), b.icmp_signed(">=", R, a.start))
            with b.if_else(late, likely=False) as (slow, fast):
                with slow:
                    give(b, a.L.call("shared_read_late", I1, W, R, mine, reader), I1(1))
                with fast:
                    b.store(mine, reader)
        b.store(a.read(there), words, align=1)
    a.count()
    b.ret(I1(0))


def store_function(size: int, module: ir.Module) -> None:
    """ACCESS -> whether something is wrong; the words come from where `data` says."""
    b, args = function(module, f"shared_store_{size}", I1, *ACCESS)
    a = Access(b, args, size)
    give(b, a.strays(), I1(1))
    with b.if_then(a.in_line()), b.if_then(b.not_(a.late(True))):
        with loop(b, a.width) as k:
            a.fill(a.writer, k)
            b.store(a.L.splat(a.n), a.cells(a.by, k, I32), align=4)
        a.move(a.first(), a.data)
        a.count()
        b.ret(I1(0))
    with a.lane() as (mine, cell, there, words):
        differs = b.icmp_unsigned("!=", a.read(there), a.read(words))
        with a.cell(cell) as (writer, reader, by):
            W, R = b.load(writer, typ=I64), b.load(reader, typ=I64)
            late = b.or_(b.icmp_signed(">=", W, a.start), b.icmp_signed(">=", R, a.start))
            with b.if_then(late, likely=False):
                last = b.load(by, typ=I32)
                give(b, a.L.call("shared_write_late", I1, W, R, last, mine, a.n, differs), I1(1))
    with a.lane() as (mine, cell, there, words):
        differs = b.icmp_unsigned("!=", a.read(there), a.read(words))
        with a.cell(cell) as (writer, _, by):
            with b.if_else(b.icmp_signed(">=", b.load(writer, typ=I64), a.start), likely=False) as (slow, fast):
                with slow:
                    a.L.call("shared_claim_late", ir.VoidType(), writer, by, mine, a.n, differs)
                with fast:
                    b.store(mine, writer)
                    b.store(a.n, by)
        b.store(a.read(words), there, align=1)
    with a.lane() as (_, _, there, words):  # of copies that meet at one place, all must be what stays
        give(b, b.icmp_unsigned("!=", a.read(there), a.read(words)), I1(1))
    a.count()
    b.ret(I1(0))


CELLS: dict[str, Callable] = {f.__name__: f for f in (shared_read_late, shared_write_late, shared_claim_late)}
ACCESSES: dict[str, Callable] = {
    f"shared_{name}_{size}": partial(define, size)
    for size in SIZES for name, define in (("load", load_function), ("store", store_function))
}  # fmt: skip
