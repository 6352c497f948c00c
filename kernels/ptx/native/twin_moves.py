"""Twins on their way through memory, as machine code: of loads, stores, copies and atomics, see shadow/moving.py."""

from collections.abc import Iterator
from typing import Any

from ..opcode import BITS
from ..shadow.acts import Act, Number
from ..shadow.formats import HALF
from ..shadow.planes import CODES
from . import ir
from .context import POINTER
from .integers import shift
from .lanes import F64, I1, I32, I64, WARP, vector
from .lower import Unlowered
from .memory import call, spilled, suspect
from .pieces import BASE, VALUES
from .traced import Traced, exact
from .twin_cells import HELD, LOST

YES = I64(1)


class Plane:
    """Twins of memory, for the lanes of one access.

    row  see twin_cells.py; of global memory 0 where there are no twins
    """

    def __init__(self, w: Any, operand: Any, space: str):
        """Before the access: an operand's address, in 64 bits."""
        self.w, self.shared, self.rooms = w, space != "global", {}
        self.at = w.L.splat(w.L.resize(w.read(operand, "b32" if self.shared else "b64"), 64))

    def find(self, on: Any) -> Any:
        """After it: the row for the lanes that are on; -> i1, whether there may be twins."""
        w = self.w
        if self.shared:
            self.row, there = w.b.ptrtoint(w.shadow, I64), call(w, "twins_shared", w.context)
        else:
            lane = w.b.and_(w.b.cttz(on, I1(0)), I32(31))
            self.row = there = call(w, "twins_there", w.context, w.b.extract_element(self.at, lane))
        return w.b.icmp_unsigned("!=", there, I64(0))

    def hold(self, holds: Any = YES) -> None:
        """Note that shared memory has twins."""
        if self.shared:
            place = self.w.L.at(self.w.shadow, HELD, I64)
            self.w.b.store(self.w.b.or_(self.w.b.load(place, typ=I64), holds), place)

    def addresses(self, table: Any = None, n: int = 0, half: int = 0) -> Any:
        """The lanes' addresses in memory; of a matrix, of the row in which half of its n-th register lies."""
        at, which = self.at, (n, half) if table else ()
        if which not in self.rooms:
            if table:
                rows, columns = (x[n, :, half].tolist() for x in table)
                at = self.w.b.add(self.w.L.pick(at, rows), self.w.L.row(I64, [2 * x for x in columns]))
            self.rooms[which] = spilled(self.w, at)
        return self.rooms[which]


def through(w: Any, plane: Plane, routine: str, n: int, x: Number, bits: Any, parts: Any, facts: Any) -> list[Any]:
    """Read or write the twins of the numbers in an access's n-th register; -> memory in which they lie.

    parts  what they are where memory has no others
    facts  bytes of a register, and of a matrix its fragments
    """
    size, table = facts
    halves, each = 1 + (x.kind in HALF), size // (1 + (x.kind in HALF))
    code, rooms = CODES.get(HALF.get(x.kind, x.kind), 0), [spilled(w, w.L.bits(p)) for p in parts]
    for half in range(halves):
        words = spilled(w, w.L.resize(shift(w.L, "lshr", bits, 8 * each * half), 8 * each))
        offset, place = 0 if table else n * size + half * each, plane.addresses(table, n, half)
        call(w, routine, plane.row, w.on, offset, code, each, place, words, rooms[half])
    return rooms


def load(w: Any, i: Any, act: Act) -> Iterator[None]:
    space, turned, *facts = act.facts
    (size, table), floats = facts, [x for x in act.targets if x.kind]
    plane = Plane(w, i.operands[1], space)
    if any(BITS[x.kind] != 8 * size for x in floats):
        raise Unlowered(f"{i.opcode} of other numbers")
    yield
    own, there = [w.shaped(x, w.own(x)) for x in floats], plane.find(w.on)

    def looked() -> list[Traced]:
        found = dict(zip((x.operand for x in floats), own, strict=True))
        for n, x in enumerate(act.targets):
            if turned or not x.kind:
                place, offset = plane.addresses(None if turned else table, n), 0 if table else n * size
                w.note(w.b.icmp_unsigned("!=", call(w, "twins_held", plane.row, w.on, offset, place), I64(0)), LOST)
            else:
                bits, parts = w.read(x.operand, f"b{8 * size}"), found[x.operand].parts
                rooms = through(w, plane, "twins_read", n, x, bits, parts, facts)
                twins = [w.b.load(room, typ=vector(F64), align=64) for room in rooms]
                found[x.operand] = w.shaped(x, Traced(w.L, *twins))
        return [found[x.operand] for x in floats]

    for x, value in zip(floats, w.where(there, looked, own), strict=True):
        w.carry(x, value)


def store(w: Any, i: Any, act: Act) -> Iterator[None]:
    space, *facts = act.facts
    plane = Plane(w, i.operands[0], space)
    bits = [w.read(x.operand, f"b{8 * facts[0]}") for x in act.numbers]
    values = [w.twin(x).parts if x.kind else (F64(0.0),) for x in act.numbers]
    yield
    with w.b.if_then(w.b.icmp_unsigned("!=", w.on, I32(0))):
        if any(x.kind for x in act.numbers):
            plane.hold()
        with w.b.if_then(plane.find(w.on)):
            for n, (x, y, parts) in enumerate(zip(act.numbers, bits, values, strict=True)):
                through(w, plane, "twins_write", n, x, y, parts, facts)


def copy(w: Any, i: Any, act: Act) -> Iterator[None]:
    to, source, reads = Plane(w, i.operands[0], "shared"), Plane(w, i.operands[1], "global"), w.on
    if len(i.operands) > 3:
        taken = w.L.splat(w.read(i.operands[3], "u32"))
        reads = w.b.and_(w.on, w.L.ballot(w.b.icmp_unsigned("!=", taken, w.L.const(taken, 0))))
    yield
    to.hold(w.b.zext(source.find(reads), I64))
    with w.b.if_then(to.find(w.on)):
        rooms = to.addresses(), source.addresses()
        call(w, "twins_copy", w.context, source.row, w.on, reads, i.operands[2].bits, *rooms)


def atomic(w: Any, i: Any, act: Act) -> Iterator[None]:
    """Additions and exchanges: first those of the twins, lane after lane as the others, which come then."""
    (how,), returns = act.facts, i.opcode.startswith("atom")
    kind: str = HALF.get(how.kind) or how.kind
    size = BITS[kind] // 8
    if w.rounds and how.operation == "add":
        raise Unlowered("the rounding of atomic additions")
    plane, values = Plane(w, i.operands[returns], how.space), [p for x in act.numbers for p in w.twin(x).parts]
    w.bail(w.b.not_(w.b.or_(plane.find(w.on), I1(plane.shared))))
    plane.hold()
    kinds = [(n * size, CODES[kind], size, plane.addresses(), w.room(WARP * size)) for n in range(len(values))]
    rooms = [w.room(8 * WARP) for _ in values]
    for facts, value, room in zip(kinds, values, rooms, strict=True):
        suspect(w, "twins_peek", plane.row, w.on, facts[0], *facts[2:])
        bits = w.b.load(facts[-1], typ=vector(ir.IntType(8 * size)), align=size)
        w.b.store(exact(w.L, bits, kind).parts[0], room, align=64)
        for routine in ("twins_read", "twins_write"):
            call(w, routine, plane.row, w.on, *facts, room)
        one_by_one(w, plane, facts[0], how.operation, spilled(w, w.L.bits(value)), room)
    before = iter([w.b.load(room, typ=vector(F64), align=64) for room in rooms])
    yield
    for facts, room in zip(kinds, rooms, strict=True):
        call(w, "twins_read", plane.row, w.on, *facts, room)
        suspect(w, "twins_peek", plane.row, w.on, facts[0], *facts[2:])
        call(w, "twins_write", plane.row, w.on, *facts, room)
    for x in act.targets:
        w.carry(x, Traced(w.L, *(next(before) for _ in range(1 + (x.kind in HALF)))))


def one_by_one(w: Any, plane: Plane, offset: int, operation: str, values: Any, room: Any) -> None:
    """Change the twins of numbers in memory; `room` gets what each lane finds there."""
    base, cells = (w.b.load(w.L.at(w.b.inttoptr(plane.row, POINTER), n, I64), typ=I64) for n in (BASE, VALUES))
    with w.L.each(w.on) as lane:
        at = w.b.load(w.L.at(plane.addresses(), lane, I64), typ=I64)
        cell = w.b.lshr(w.b.sub(w.b.add(at, I64(offset)), base), I64(1))
        place = w.L.at(w.b.inttoptr(cells, POINTER), cell, F64)
        old, value = w.b.load(place, typ=F64), w.b.load(w.L.at(values, lane, F64), typ=F64)
        w.b.store(w.b.fadd(old, value) if operation == "add" else value, place)
        w.b.store(old, w.L.at(room, lane, F64))


RULES = {"load": load, "store": store, "copy": copy, "atomic": atomic}
