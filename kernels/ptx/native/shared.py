"""Loads, stores, atomics and cp.async of shared memory as machine code; the rules are those of ../shared.py."""

import re
from typing import Any

import numpy as np
from llvmlite import ir

from ..atomics import OPERATIONS
from ..decode import width
from ..forms import Form, form, parts_of
from ..parse import Instruction
from ..shared import SEVERAL
from . import banks, shared_cells, shared_copies
from .lanes import I1, I8, I32, I64, vector
from .lower import Unlowered, pure
from .shared_cells import ACCESS, POINTER, SIZES, each_lane

EVERYBODY = 0xFFFFFFFF
# Integer operations whose order cannot matter, if nobody looks at what they return.
COMMUTE = ("add", "and", "or", "xor", "min", "max")


def state(rows: int, size: int, granule: int, warps: int) -> dict[str, np.ndarray]:
    """Memory for so many programs at a time, by its field: a row for each."""
    cells = size // granule
    rooms = {
        "bytes": np.zeros((rows, size), np.uint8), "by": np.zeros((rows, cells), np.int32),
        "writer": np.zeros((rows, cells), np.int64), "reader": np.zeros((rows, cells), np.int64),
        "copies": np.zeros((rows, warps, shared_copies.ROOM), np.int32),
    }  # fmt: skip
    patterns = np.zeros((rows, banks.ROWS, banks.PATTERN), np.int32)
    return {f"shared_{name}": array for name, array in rooms.items()} | {"bank_patterns": patterns}


def room(size: int, granule: int) -> int:
    """Bytes of `state` that a program touches."""
    return size + 20 * (size // granule)


def tags(w: Any, several: Any) -> tuple[Any, Any]:
    """The tag of lane 0, and -1, or 0 if `several`, i1, holds: then the tag is the whole warp's."""
    b = w.b
    now = b.add(b.shl(w.epoch, I64(40)), b.shl(w.warp_epoch, I64(20)))
    warp = b.zext(w.warp, I64)
    one, all_ = b.add(now, b.shl(warp, I64(5))), b.add(now, b.add(warp, I64(SEVERAL)))
    return b.select(several, all_, one), b.select(several, I64(0), I64(-1))


def access(w: Any, name: str, at: Any, place: Any, size: int, on: Any, counted: Any, several: Any) -> None:
    """Call shared_<name>_<size>; bail if it finds something."""
    if size not in SIZES or w.decoded.asynchronous:
        raise Unlowered(f"{size} bytes of shared memory")
    log = I32(w.decoded.granule.bit_length() - 1)
    place.type = POINTER
    values = (w.context, w.L.splat(at), on, counted, *tags(w, several), I32(w.n), log, place)
    assert tuple(v.type for v in values) == ACCESS
    w.bail(w.L.call(f"shared_{name}_{size}", I1, *values))


def room_of(w: Any, size: int) -> Any:
    """The address of stack memory."""
    place = w.room(I8, size)
    place.type = POINTER
    return place


def load(w: Any, at: Any, size: int, on: Any, who: str = "thread") -> Any:
    """A pointer to 32 x size bytes, lane by lane: what lies at the address, i32, of each lane that is on.

    who  "several": the read counts as the whole warp's
    """
    place = room_of(w, 32 * size)
    access(w, "load", at, place, size, on, on, I1(who == "several"))
    return place


def store(w: Any, at: Any, place: Any, size: int, on: Any, who: str = "thread", widths: Any = ()) -> None:
    """The inverse of `load`. Words of any widths: copies of one value that differ at all bail."""
    access(w, "store", at, place, size, on, on, I1(who == "several"))


def single(w: Any) -> tuple[Any, Any, Any]:
    """For lanes that access one place: the last of them as a ballot, its number, and whether there are others."""
    last = w.b.sub(I32(31), w.b.ctlz(w.on, I1(1)))
    alone = w.b.shl(I32(1), last)
    return alone, last, w.b.icmp_unsigned("!=", alone, w.on)


def known(i: Instruction) -> Form:
    f = form(i)
    if f.space != "shared" or f.policy:
        raise Unlowered(i.opcode)
    return f


def load_shared(w: Any, i: Instruction) -> None:
    f, at = known(i), w.read(i.operands[1], "b32")
    kind = ir.IntType(width(f.kind))
    place = room_of(w, 32 * f.size)
    if isinstance(at.type, ir.VectorType):
        access(w, "load", at, place, f.size, w.on, w.on, I1(0))
        words = w.b.load(place, typ=vector(kind, 32 * f.count), align=1)
        values = [w.L.pick(words, range(n, 32 * f.count, f.count)) for n in range(f.count)]
    else:
        alone, _, several = single(w)
        access(w, "load", at, place, f.size, alone, w.on, several)
        here = w.b.gep(w.pointer("shared_bytes"), [w.b.zext(at, I64)], source_etype=I8)
        values = [w.b.load(element(w, here, kind, n), typ=kind, align=1) for n in range(f.count)]
    for target, value in zip(parts_of(i.operands[0]), values, strict=True):
        w.write(target, f.kind, value)


def element(w: Any, place: Any, kind: Any, n: Any) -> Any:
    return w.b.gep(place, [I64(n) if isinstance(n, int) else n], source_etype=kind)


def woven(L: Any, values: list[Any]) -> Any:
    """Vectors of lanes as one of all elements, lane by lane."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    a, c = woven(L, values[::2]), woven(L, values[1::2])
    return L.b.shuffle_vector(a, c, L.row(I32, (n // 2 + n % 2 * 32 * half for n in range(64 * half))))


def store_shared(w: Any, i: Instruction) -> None:
    f, at = known(i), w.read(i.operands[0], "b32")
    values = [w.read(x, f.kind) for x in parts_of(i.operands[1])]
    on, several = w.on, I1(0)
    if not any(isinstance(v.type, ir.VectorType) for v in (at, *values)):
        on, _, several = single(w)
    place = room_of(w, 32 * f.size)
    w.b.store(woven(w.L, [w.L.splat(v) for v in values]), place, align=1)
    access(w, "store", at, place, f.size, on, w.on, several)


def operation(w: Any, f: Form) -> Any:
    """(old, values) -> new, of one lane."""
    b, name = w.b, f.operation
    if name in OPERATIONS:
        zero, step = ir.IntType(width(f.kind))(0), ir.IntType(width(f.kind))(1)
        wraps = lambda old, c: b.icmp_unsigned(">=", old, c)  # noqa: E731
        empty = lambda old, c: b.or_(b.icmp_unsigned("==", old, zero), b.icmp_unsigned(">", old, c))  # noqa: E731
        return {
            "exch": lambda old, c: c,
            "cas": lambda old, c, new: b.select(b.icmp_unsigned("==", old, c), new, old),
            "inc": lambda old, c: b.select(wraps(old, c), zero, b.add(old, step)),
            "dec": lambda old, c: b.select(empty(old, c), c, b.sub(old, step)),
        }[name]
    write = pure(f"{name}.{f.kind if name not in ('and', 'or', 'xor') else f'b{width(f.kind)}'}", 0)[1]
    return lambda *values: write(w.L, list(values))[0]


def atomic(w: Any, i: Instruction) -> None:
    """atom, and red, which returns nothing: one lane after the other."""
    f, L, b = known(i), w.L, w.b
    returns = i.opcode.startswith("atom")
    target, *rest = i.operands if returns else (None, *i.operands)
    if f.count > 1 or not f.operation or w.decoded.asynchronous:
        raise Unlowered(i.opcode)
    kind, size, at = ir.IntType(width(f.kind)), f.size, L.splat(w.read(rest[0], "b32"))
    values = [L.splat(w.read(x, f.kind)) for x in rest[1:]]
    unused = not returns or not w.decoded.live[w.n + 1] & w.step.writes
    code = -1
    if w.T == 32:
        code = -2
    elif unused and f.operation in COMMUTE and f.kind[0] in "bus":
        code = -3 - 2 * COMMUTE.index(f.operation) - (f.kind[0] == "s")
    log = I32(w.decoded.granule.bit_length() - 1)
    places = [room_of(w, 4 * x.type.element.width) for x in (at, *values)]
    for place, x in zip(places, (at, *values), strict=True):
        b.store(x, place)
    tag, step = tags(w, I1(0))
    w.bail(L.call("shared_change", I1, w.context, at, w.on, w.on, tag, step, I32(code), log, places[0], I32(size)))
    apply, old, memory = operation(w, f), room_of(w, 4 * kind.width), w.pointer("shared_bytes")
    with each_lane(b, w.on) as lane:
        where, *given = (
            b.load(element(w, p, x.type.element, lane), typ=x.type.element)
            for p, x in zip(places, (at, *values), strict=True)
        )
        here = b.gep(memory, [b.zext(where, I64)], source_etype=I8)
        before = b.load(here, typ=kind)
        b.store(before, element(w, old, kind, lane))
        b.store(apply(before, *given), here)
    if returns:
        w.write(target, f.kind, b.load(old, typ=vector(kind)))


def copy_async(w: Any, i: Instruction) -> None:
    """cp.async of 4, 8 or 16 bytes; what its size operand leaves out becomes zeros."""
    from . import memory

    if not re.fullmatch(r"cp\.async\.(ca|cg)\.shared(::cta)?\.global(\.L2::\d+B)?", i.opcode):
        raise Unlowered(i.opcode)
    b, L, size = w.b, w.L, i.operands[2].bits
    to, source = w.read(i.operands[0], "b32"), w.read(i.operands[1], "b64")
    if len(i.operands) == 3:
        words = memory.load(w, source, size, w.on)
    else:
        taken = L.splat(w.read(i.operands[3], "u32"))
        all_, none = (b.icmp_unsigned("==", taken, L.const(taken, x)) for x in (size, 0))
        w.bail(L.any(b.not_(b.or_(all_, none))))
        reads, words = b.and_(L.ballot(all_), w.on), room_of(w, 32 * size)
        kind = ir.IntType(8 * size)
        b.store(ir.Constant(vector(I8, 32 * size), None), words, align=1)
        with b.if_then(b.icmp_unsigned("!=", reads, I32(0))):
            found = memory.load(w, source, size, reads)
            with each_lane(b, reads) as lane:
                value = b.load(element(w, found, kind, lane), typ=kind, align=1)
                b.store(value, element(w, words, kind, lane), align=1)
    access(w, "store", to, words, size, w.on, w.on, I1(0))
    log = I32(w.decoded.granule.bit_length() - 1)
    w.bail(L.call("copies_begin", I1, w.context, L.splat(to), w.on, w.warp, log, I32(size)))


def commit(w: Any, i: Instruction) -> None:
    """What a warp has begun to copy since its last commit is a group."""
    place = shared_copies.head(w.b, w.context, w.warp)
    w.b.store(w.b.add(w.b.load(place, typ=I32), I32(1)), place)


def arrive(w: Any, i: Instruction) -> None:
    left = i.operands[0].bits if i.operands else -1 if i.opcode.endswith("wait_all") else 0
    log = I32(w.decoded.granule.bit_length() - 1)
    w.bail(w.L.call("copies_end", I1, w.context, w.on, w.warp, tags(w, I1(0))[0], log, I32(left)))


LOWER = {
    f"{name}.{space}": emit
    for name, emit in (("ld", load_shared), ("st", store_shared), ("atom", atomic), ("red", atomic))
    for space in ("shared", "shared::cta", "volatile.shared")
} | {
    "cp.async": copy_async,
    "cp.async.commit_group": commit,
    "cp.async.wait_group": arrive,
    "cp.async.wait_all": arrive,
}
RUNTIME = banks.RUNTIME | shared_cells.CELLS | shared_cells.ACCESSES | shared_copies.RUNTIME
