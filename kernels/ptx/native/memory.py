"""Global memory, parameters and fences in compiled code: what accesses.py checks, written for each instruction."""

import re
from typing import Any

from .. import parameters
from ..errors import UnknownOpcode
from ..forms import Form, form, parts_of
from ..opcode import BITS
from ..syntax import Instruction
from . import accesses, gathers, ir
from .accesses import MIXED, THREAD
from .context import POINTER
from .lanes import I1, I32, I64, WARP, element, spelled, vector
from .lower import Unlowered
from .order import ACQUIRE, RELEASE
from .table import pure
from .writer import EVERYBODY

__all__ = ["ANYWAY", "LOWER", "RUNTIME", "is_event", "load"]

RUNTIME = accesses.RUNTIME | gathers.RUNTIME
ANYWAY = ("st.global",)  # called even where the guard holds for no lane: copies of what others store are compared


def is_event(i: Instruction) -> bool:
    """Whether programs take turns at an instruction, in the order of the NumPy form."""
    return bool(re.match(r"(atom|red)\.", i.opcode)) and ".global" in i.opcode


def form_of(i: Instruction) -> Form:
    try:
        return form(i)
    except UnknownOpcode as error:
        raise Unlowered(i.opcode) from error


def who(w: Any) -> Any:
    """Lane 0's number, and the instruction, as accesses.py has them."""
    if w.n >= MIXED:
        raise Unlowered("an access after so many instructions")
    return w.b.or_(w.b.shl(w.b.zext(w.warp, I64), I64(THREAD + 5)), I64(w.n))


def number(w: Any, x: Any) -> Any:
    """A pointer or a ballot as a word."""
    if isinstance(x, int):
        return I64(x)
    return w.b.ptrtoint(x, I64) if isinstance(x.type, ir.PointerType) else w.L.resize(x, 64)


def call(w: Any, name: str, *values: Any) -> Any:
    return w.L.call(name, I64, *(number(w, x) for x in values))


def suspect(w: Any, name: str, *values: Any) -> None:
    w.bail(w.b.icmp_unsigned("!=", call(w, name, *values), I64(0)))


def spilled(w: Any, value: Any) -> Any:
    """A value's lanes in memory."""
    room = w.room(WARP * element(value.type).width // 8)
    w.b.store(w.L.splat(value), room, align=64)
    return room


def side_by_side(w: Any, address: Any, size: int, on: Any) -> Any:
    """i1: whether all lanes are on, each at `size` bytes behind the one before."""
    if not isinstance(address.type, ir.VectorType):
        return I1(0)

    def write(L: Any, address: Any) -> Any:
        steps = L.row(element(address.type), range(0, WARP * size, size))
        return L.all(L.b.icmp_unsigned("==", address, L.b.add(L.splat(L.lane(address, 0)), steps)))

    near = w.L.own(f"line.{size}.{spelled(address.type)}", I1, write, address)
    return w.b.and_(near, w.b.icmp_unsigned("==", on, EVERYBODY))


def split(w: Any, words: Any, kind: Any, count: int) -> list:
    """Vectors of what lies in memory lane by lane, `count` elements to each."""

    def write(L: Any, words: Any, room: Any) -> None:
        all_ = L.b.load(words, typ=vector(kind, WARP * count), align=1)
        for k in range(count):
            L.b.store(L.pick(all_, range(k, WARP * count, count)), L.at(room, k, vector(kind)), align=8)

    if count == 1:
        return [w.b.load(words, typ=vector(kind), align=1)]
    room = w.room(WARP * count * kind.width // 8)
    w.L.own(f"split.{kind}.{count}", ir.VoidType(), write, words, room)
    return [w.b.load(w.L.at(room, k, vector(kind)), typ=vector(kind), align=8) for k in range(count)]


def join(w: Any, parts: list) -> Any:
    """The inverse: where they lie then."""
    kind, count = element(parts[0].type), len(parts)

    def write(L: Any, room: Any, words: Any) -> None:
        each = [L.b.load(L.at(room, k, vector(kind)), typ=vector(kind), align=8) for k in range(count)]
        L.b.store(L.woven(each), words, align=64)

    if count == 1:
        return spilled(w, parts[0])
    room, words = (w.room(WARP * count * kind.width // 8) for _ in range(2))
    for k, part in enumerate(parts):
        w.b.store(w.L.splat(part), w.L.at(room, k, vector(kind)), align=8)
    w.L.own(f"join.{kind}.{count}", ir.VoidType(), write, room, words)
    return words


def load(w: Any, address: Any, size: int, on: Any) -> Any:
    """Read `size` bytes at each lane's address, i64: a pointer to them, lane by lane, or to those of all lanes if the
    address is a scalar. Checked, and counted as an access of the instruction."""
    if size > 32:
        raise Unlowered("accesses of more than 32 bytes")
    if not isinstance(address.type, ir.VectorType):
        return found(w, call(w, "access_one", w.context, w.n, size, on, address, who(w)))
    room = w.room(WARP * size)
    with w.b.if_else(side_by_side(w, address, size, on)) as (near, apart):
        with near:
            first = call(w, "access_side", w.context, w.n, size, w.L.lane(address, 0), who(w))
            one = w.b.block
        with apart:
            addresses = spilled(w, address)
            second = call(w, "access_loads", w.context, w.n, size, on, who(w), addresses, room)
            other = w.b.block
    place = w.b.phi(I64)
    place.add_incoming(first, one)
    place.add_incoming(second, other)
    return found(w, place)


def found(w: Any, place: Any) -> Any:
    """What a check returns as a pointer; 0 is a suspicion."""
    w.bail(w.b.icmp_unsigned("==", place, I64(0)))
    return w.b.inttoptr(place, POINTER)


def load_global(w: Any, i: Instruction) -> None:
    f = form_of(i)
    if f.order:
        raise Unlowered(i.opcode)
    address = w.read(i.operands[1], "b64")
    room = load(w, address, f.size, w.on)
    kind = ir.IntType(BITS[f.kind])
    if not isinstance(address.type, ir.VectorType):
        values = [w.b.load(w.L.at(room, n, kind), typ=kind, align=1) for n in range(f.count)]
    else:
        values = split(w, room, kind, f.count)
    for part, value in zip(parts_of(i.operands[0]), values, strict=True):
        w.write(part, f.kind, value)


def store_global(w: Any, i: Instruction) -> None:
    f = form_of(i)
    if f.order or f.size > 32:
        raise Unlowered(i.opcode)
    address = w.read(i.operands[0], "b64")
    parts = [w.read(x, f.kind) for x in parts_of(i.operands[1])]
    same = not any(isinstance(x.type, ir.VectorType) for x in (address, *parts))
    words = join(w, parts)
    off = w.b.and_(w.running, w.b.not_(w.on))
    if same:  # the lanes' copies agree; one is compared with other warps', where none of this warp stores
        one = w.b.and_(off, w.b.neg(off))
        off = w.b.select(w.b.icmp_unsigned("==", w.on, I32(0)), one, I32(0))
    addresses = spilled(w, address)
    near = side_by_side(w, address, f.size, w.on)
    suspect(w, "access_stores", w.context, w.n, f.size, w.on, off, near, who(w), addresses, words)


def load_parameter(w: Any, i: Instruction) -> None:
    f = form_of(i)
    if parameters.loads(i) or i.operands[1].offset or f.count > 1:
        raise Unlowered(i.opcode)
    w.write(i.operands[0], f.kind, w.read(i.operands[1].base, f.kind))


def operate(w: Any, f: Form, old: Any, given: list) -> Any:
    """What an atomic leaves."""
    b, equal = w.b, lambda x, y: w.b.icmp_unsigned("==", x, y)
    if f.operation == "exch":
        return given[0]
    if f.operation == "cas":
        return b.select(equal(old, given[0]), given[1], old)
    zero, one = w.L.const(old, 0), w.L.const(old, 1)
    if f.operation == "inc":
        return b.select(b.icmp_unsigned(">=", old, given[0]), zero, b.add(old, one))
    if f.operation == "dec":
        wraps = b.or_(equal(old, zero), b.icmp_unsigned(">", old, given[0]))
        return b.select(wraps, given[0], b.sub(old, one))
    kind = f.kind if f.operation not in ("and", "or", "xor") else f"b{BITS[f.kind]}"
    return pure(f"{f.operation}.{kind}", 2)[1](w.L, [old, *given])[0]


def atomic_global(w: Any, i: Instruction) -> None:
    """atom and red: an event, so nothing else runs meanwhile; lane after lane."""
    f = form_of(i)
    if f.space != "global" or not f.operation or f.scope in ("cta", "cluster"):
        raise Unlowered(i.opcode)
    returns = i.opcode.startswith("atom")
    operands = i.operands[1:] if returns else i.operands
    address, kind = w.read(operands[0], "b64"), ir.IntType(BITS[f.kind])
    sources = [[w.read(x, f.kind) for x in parts_of(y)] for y in operands[1 : len(operands) - f.policy]]
    flags = ACQUIRE * (f.order in ("acquire", "acq_rel")) | RELEASE * (f.order in ("release", "acq_rel"))
    addresses = spilled(w, address)
    call(w, "access_count", w.context, w.n, w.counted, addresses)
    rooms = [[spilled(w, x) for x in source] for source in sources]
    results, first = [w.room(WARP * f.size // f.count) for _ in range(f.count)], who(w)
    with w.L.each(w.on) as lane:
        mine = w.b.add(first, w.b.shl(lane, I64(THREAD)))
        where = w.b.load(w.L.at(addresses, lane, I64), typ=I64)
        place = found(w, call(w, "access_atomic", w.context, f.size, where, mine, flags))
        for n in range(f.count):
            there = w.L.at(place, n, kind)
            old = w.b.load(there, typ=kind)
            given = [w.b.load(w.L.at(room[n], lane, kind), typ=kind) for room in rooms]
            w.b.store(operate(w, f, old, given), there)
            w.b.store(old, w.L.at(results[n], lane, kind))
    for part, room in zip(parts_of(i.operands[0]) if returns else (), results, strict=False):
        w.write(part, f.kind, w.b.load(room, typ=vector(kind), align=64))


LOWER = {
    "ld.global": load_global, "st.global": store_global, "ld.param": load_parameter,
    "atom.global": atomic_global, "red.global": atomic_global,
}  # fmt: skip
