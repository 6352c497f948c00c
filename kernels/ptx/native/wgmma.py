"""wgmma: each of four warps multiplies its 16 rows of A, and all of B, by the pieces of matrices.py.

The first of the four answers for what all of them read of shared memory. They meet where they wait for their groups,
and must have had the same wgmmas by then; see turns.py.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F821, RET503

from typing import Any

from ..matrix_forms import width
from ..syntax import Instruction, Vector
from ..wgmma_forms import Form, flags, form
from . import ir
from .clocks import HISTORY, WGMMAS
from .lanes import I8, I32, I64, WARP, Lanes, vector
from .lower import Unlowered
from .matrices import ROW, SUMS, numbers, register, together
from .memory import call, suspect
from .routine import routines
from .shared import log

LINE = 32  # bytes of a row along K
MIX = 0x9E3779B97F4A7C15


def wgmma_unit(d, line, unit, mn):
    """Where a unit of 16 bytes lies: descriptors.units, for one."""
    leading, stride, base, at = d >> 16 & 0x3FFF, d >> 32 & 0x3FFF, d >> 49 & 7, d & 0x3FFF
    wide = 16 >> (d >> 62) if d >> 62 != 0 else 0
    if wide == 0:
        far, near = line >> 3, unit
        return at + (line & 7) + leading * (far if mn else near) + stride * (near if mn else far) << 4
    at = at + (line & 7) * wide + (unit % wide if mn else unit) + stride * (line >> 3)
    at = at + (leading * (unit // wide) if mn else 0) << 4
    return at ^ ((at >> 7) - base & wide - 1) << 4


def wgmma_read(context, d, lines, units, mn, warp, log):
    """The first warp of four reads a matrix in the name of all."""
    agent = context.warps + 1 + (warp >> 2)
    moment = u64[clock_facts(context, warp), WGMMAS] + 1
    for line in range(lines if warp & 3 == 0 else 0):
        for unit in range(units):
            if proxy_read(context, wgmma_unit(d, line, unit, mn), 16, warp, 0, agent, moment, log):
                return 1


def wgmma_copy(context, d, line, lines, unit, units, mn, room):
    """The bytes of some units of some lines."""
    for n in range(lines * units):
        at = wgmma_unit(d, line + n // units, unit + n % units, mn)
        if shared_strays(context, at, 16, 16):
            return 1
        memcpy(room + 16 * n, context.shared_bytes + at, 16)


def wgmma_note(context, warp, n, x):
    """What the four warps of a group must have in common."""
    facts = clock_facts(context, warp)
    u64[facts, HISTORY] = ((u64[facts, HISTORY] ^ x) * MIX ^ n) * MIX


def wgmma_learn(context, warp, left):
    facts, agent = clock_facts(context, warp), context.warps + 1 + (warp >> 2)
    known = clock_row(context, warp)
    u64[known, agent] = most(u64[known, agent], u64[facts, WGMMAS] - left)


def wgmma_commit(context, warp):
    u64[clock_facts(context, warp), WGMMAS] += 1


RUNTIME = routines(wgmma_unit, wgmma_read, wgmma_copy, wgmma_note, wgmma_learn, wgmma_commit)


def spread(L: Lanes, kind: str, rows: int, mn: bool, *given: Any) -> None:
    """A matrix's bytes, first row, where: eight of its rows as float64, a row of them for each k.

    rows  of the matrix, of which those of one k lie side by side if `mn`
    """
    one, K = ir.IntType(width(kind)), 8 * LINE // width(kind)

    def write(L: Lanes, bytes: Any, first: Any, room: Any) -> None:
        if not mn:
            lines = [L.at(bytes, L.b.add(L.b.mul(first, I64(LINE)), I64(LINE * r)), I8) for r in range(8)]
            values = L.woven([L.b.load(x, typ=vector(one, K), align=1) for x in lines])
            L.b.store(numbers(L, values, kind), room, align=8)
            return
        with L.loop(I64(K)) as k:
            here = L.at(bytes, L.b.add(L.b.mul(k, I64(rows)), first), one)
            L.b.store(numbers(L, L.b.load(here, typ=vector(one, 8), align=1), kind), L.at(room, k, ROW), align=8)

    L.own(f"wgmma.{kind}.{rows}.{mn}", ir.VoidType(), write, *given, how="noinline")


def product(L: Lanes, f: Form, mn: bool, *given: Any) -> None:
    """A's rows as float64, B's bytes, registers of C, which become those of D: of a warp."""
    kind = f.d + ".satfinite" * f.satfinite
    each, held = SUMS[kind], register(kind)

    def write(L: Lanes, A: Any, B: Any, C: Any) -> None:
        room, joined = L.b.alloca(ROW, f.K), vector(I32, each * WARP)
        with L.loop(I64(f.N // 8)) as j:
            spread(L, f.b, f.N, mn, B, L.b.mul(j, I64(8)), room)
            for h in range(2):
                here = L.at(C, L.b.add(L.b.mul(j, I64(2 * each)), I64(h * each)), held)
                before = [L.b.load(L.at(here, n, held), typ=held, align=8) for n in range(each)]
                sums = L.call(f"matrices.multiply.{kind}", joined, I64(f.K), L.at(A, h * f.K, ROW), room, *before)
                L.b.store(sums, here, align=8)

    L.own(f"wgmma.{f.N}.{f.a}.{f.b}.{kind}.{mn}", ir.VoidType(), write, *given, how="noinline")


def descriptor(w: Any, operand: Any) -> Any:
    """A matrix descriptor, which all lanes must share."""
    value = w.read(operand, "b64")
    one = w.L.lane(value, 0)
    w.bail(w.L.any(w.b.icmp_unsigned("!=", *w.L.alike(value, one))))
    call(w, "wgmma_note", w.context, w.warp, w.n, one)
    return one


def left(w: Any, a: Any, f: Form, mn: bool) -> Any:
    """A's 16 rows of this warp as float64, eight by eight, a row of them for each k."""
    room = w.room(64 * 2 * f.K)
    if isinstance(a, Vector):
        step = 128 // width(f.a)
        for n, x in enumerate(a.parts):
            place = w.L.at(room, n % 2 * f.K + n // 2 * step, ROW)
            w.L.call(f"matrices.widen.{f.a}", ir.VoidType(), w.L.splat(w.read(x, "b32")), place)
        return room
    d, bytes, warp = descriptor(w, a), w.room(16 * LINE), w.b.and_(w.b.zext(w.warp, I64), I64(3))
    if mn:
        whole, part = (f.K, 4 * f.size), (I64(0), f.K, w.b.mul(warp, I64(f.size)), f.size)
    else:
        whole, part = (64, 2), (w.b.mul(warp, I64(16)), 16, I64(0), 2)
    suspect(w, "wgmma_read", w.context, d, *whole, int(mn), w.warp, log(w))
    suspect(w, "wgmma_copy", w.context, d, *part, int(mn), bytes)
    for h in range(2):
        spread(w.L, f.a, 16, mn, bytes, I64(8 * h), w.L.at(room, h * f.K, ROW))
    return room


def multiply(w: Any, i: Instruction) -> None:
    """wgmma.mma_async."""
    f, (sign, *mn) = form(i.opcode), flags(i)
    D, a, b, scale = i.operands[:4]
    if w.T % 128 or sign != 1:
        raise Unlowered(i.opcode)
    together(w)
    A, keep = left(w, a, f, mn[0]), w.read(scale, "pred")
    d, bytes, C = descriptor(w, b), w.room(f.N * LINE), w.room(128 * len(D.parts))
    lines, units = (f.K, f.N * f.size // 16) if mn[1] else (f.N, 2)
    suspect(w, "wgmma_read", w.context, d, lines, units, int(mn[1]), w.warp, log(w))
    suspect(w, "wgmma_copy", w.context, d, 0, lines, 0, units, int(mn[1]), bytes)
    never, nothing = isinstance(keep, ir.Constant) and not keep.constant, w.L.splat(I32(0))
    for n, x in enumerate(D.parts):
        c = nothing if never else w.b.select(keep, w.L.splat(w.read(x, "b32")), nothing)
        w.b.store(c, w.L.at(C, n, vector(I32)), align=8)
    product(w.L, f, mn[1], A, bytes, C)
    for n, x in enumerate(D.parts):
        w.write(x, "b32", w.b.load(w.L.at(C, n, vector(I32)), typ=vector(I32), align=8))


def note(w: Any, i: Instruction, x: int = 0) -> None:
    """wgmma.fence: which registers it shows is told beforehand."""
    if w.T % 128:
        raise Unlowered(i.opcode)
    together(w)
    call(w, "wgmma_note", w.context, w.warp, w.n, x)


def commit(w: Any, i: Instruction) -> None:
    note(w, i)
    call(w, "wgmma_commit", w.context, w.warp)


def wait(w: Any, i: Instruction) -> None:
    note(w, i)
    call(w, "wgmma_learn", w.context, w.warp, i.operands[0].bits)


LOWER = {"wgmma.mma_async": multiply, "wgmma.fence": note, "wgmma.commit_group": commit, "wgmma.wait_group": wait}
