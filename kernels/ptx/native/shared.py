"""Loads, stores, atomics and cp.async of shared memory as machine code; the rules are those of ../shared.py."""

from typing import Any

import numpy as np

from ..decode import width
from ..forms import Form, parts_of
from ..syntax import Instruction
from ..tags import PROGRAM, SEVERAL, WARP
from . import banks, ir, memory, ordered_cells, shared_cells
from .context import POINTER
from .lanes import I1, I8, I32, I64, vector
from .lower import Unlowered
from .memory import call, spilled, suspect

# Integer operations whose order cannot matter, if nobody looks at what they return.
COMMUTE = ("add", "and", "or", "xor", "min", "max")


def state(rows: int, size: int, granule: int, warps: int, copies: int = 1, threads: int = 1) -> dict[str, np.ndarray]:
    """Memory for so many programs at a time, by its field: a row for each, for `copies` programs of their copies, and
    for each thread of the CPU of patterns. What no program needs is never touched.
    """
    cells = size // granule
    words = lambda kind, *shape: np.zeros((rows, *shape), kind)  # noqa: E731
    return {
        "shared_bytes": words(np.uint8, size), "shared_by": words(np.int32, cells),
        "shared_writer": words(np.int64, cells), "shared_reader": words(np.int64, cells),
        "shared_copies": np.zeros((copies, warps, shared_cells.COPIES), np.int32),
        "bank_patterns": np.zeros((threads, banks.ROWS, banks.PATTERN), np.int32),
    }  # fmt: skip


def room(size: int, granule: int) -> int:
    """Bytes that a program has of it, but for copies and patterns."""
    return size + 20 * (size // granule)


def log(w: Any) -> int:
    return w.decoded.granule.bit_length() - 1


def tags(w: Any, several: Any) -> tuple[Any, Any]:
    """The tag of lane 0, and -1; or that of the whole warp, and 0, if `several`, i1, holds."""
    b, warp = w.b, w.b.zext(w.warp, I64)
    now = b.add(b.shl(w.epoch, I64(PROGRAM)), b.shl(w.warp_epoch, I64(WARP)))
    who = b.select(several, b.add(warp, I64(SEVERAL)), b.shl(warp, I64(5)))
    return b.add(now, who), b.select(several, I64(0), I64(-1))


def access(w: Any, at: Any, size: int, on: Any, counted: Any, several: Any, place: Any, stores: bool) -> Any:
    """Call shared_store, or shared_load, and count; returns where the words are."""
    if size not in (1, 2, 4, 8, 16):
        raise Unlowered(f"{size} bytes of shared memory")
    addresses, name = spilled(w, at), "shared"
    line = call(w, "shared_run", addresses, on, size)
    values = (addresses, on, line, *tags(w, several), log(w), size, place)
    if w.decoded.asynchronous:
        lanes = w.b.select(several, I64(ordered_cells.SEVERAL), I64(0)), w.b.select(several, I64(0), I64(-1))
        name, values = "order", (addresses, on, w.warp, *lanes, log(w), size, place)
    if stores:
        suspect(w, f"{name}_store", w.context, w.n, *values)
    else:
        place = call(w, f"{name}_load", w.context, *values)
        w.bail(w.b.icmp_unsigned("==", place, I64(0)))
        place = w.b.inttoptr(place, POINTER)
    call(w, "shared_count", w.context, w.n, addresses, counted, size, line)
    return place


def load(w: Any, at: Any, size: int, on: Any) -> Any:
    """A warp reads what lies at the address, i32, of each lane that is on: a pointer to that, lane by lane."""
    return access(w, at, size, on, on, I1(1), w.room(32 * size), False)


def store(w: Any, at: Any, place: Any, size: int, on: Any) -> None:
    """The inverse of `load`. Copies of one value that differ at all bail."""
    access(w, at, size, on, on, I1(1), place, True)


def single(w: Any) -> tuple[Any, Any]:
    """For lanes that access one place: the last of them as a ballot, and whether there are others."""
    last = w.b.shl(I32(1), w.b.sub(I32(31), w.b.ctlz(w.on, I1(1))))
    return last, w.b.icmp_unsigned("!=", last, w.on)


def form_of(i: Instruction) -> Form:
    f = memory.form_of(i)
    if f.space != "shared" or f.policy:
        raise Unlowered(i.opcode)
    return f


def load_shared(w: Any, i: Instruction) -> None:
    f, at = form_of(i), w.read(i.operands[1], "b32")
    kind, place = ir.IntType(width(f.kind)), w.room(32 * f.size)
    if isinstance(at.type, ir.VectorType):
        place = access(w, at, f.size, w.on, w.on, I1(0), place, False)
        values = memory.split(w, place, kind, f.count)
    else:
        on, several = single(w)
        access(w, at, f.size, on, w.on, several, place, False)
        here = w.L.at(w.pointer("shared_bytes"), w.b.zext(at, I64), I8)
        values = [w.b.load(w.L.at(here, n, kind), typ=kind, align=1) for n in range(f.count)]
    for target, value in zip(parts_of(i.operands[0]), values, strict=True):
        w.write(target, f.kind, value)


def store_shared(w: Any, i: Instruction) -> None:
    f, at = form_of(i), w.read(i.operands[0], "b32")
    values = [w.read(x, f.kind) for x in parts_of(i.operands[1])]
    alike = not any(isinstance(v.type, ir.VectorType) for v in (at, *values))
    on, several = single(w) if alike else (w.on, I1(0))
    access(w, at, f.size, on, w.on, several, memory.join(w, values), True)


def atomic(w: Any, i: Instruction) -> None:
    """atom, and red, which returns nothing: one lane after the other."""
    f, b, returns = form_of(i), w.b, i.opcode.startswith("atom")
    operands = i.operands[1:] if returns else i.operands
    if f.count > 1 or not f.operation or w.decoded.asynchronous:
        raise Unlowered(i.opcode)
    code, unused = -1, not returns or not w.decoded.live[w.n + 1] & w.step.writes
    if w.T == 32:
        code = -2
    elif unused and f.operation in COMMUTE and f.kind[0] in "bus":
        code = -3 - 2 * COMMUTE.index(f.operation) - (f.kind[0] == "s")
    kind, addresses = ir.IntType(width(f.kind)), spilled(w, w.read(operands[0], "b32"))
    given = [spilled(w, w.read(x, f.kind)) for x in operands[1:]]
    suspect(w, "shared_change", w.context, addresses, w.on, tags(w, I1(0))[0], log(w), f.size, code)
    results, bytes = w.room(32 * f.size), w.pointer("shared_bytes")
    with w.L.each(w.on) as lane:
        where = b.load(w.L.at(addresses, lane, I32), typ=I32)
        here = w.L.at(bytes, b.zext(where, I64), I8)
        old = b.load(here, typ=kind)
        b.store(memory.operate(w, f, old, [b.load(w.L.at(x, lane, kind), typ=kind) for x in given]), here)
        b.store(old, w.L.at(results, lane, kind))
    if returns:
        w.write(i.operands[0], f.kind, b.load(results, typ=vector(kind), align=8))


def filled(w: Any, source: Any, size: int, taken: Any) -> Any:
    """What lanes copy from global memory that take all of their bytes, and zeros for those that take none."""
    b, L, words, kind = w.b, w.L, w.room(32 * size), ir.IntType(8 * size)
    taken = L.splat(taken)
    all_, none = (b.icmp_unsigned("==", taken, L.const(taken, x)) for x in (size, 0))
    w.bail(L.any(b.not_(b.or_(all_, none))))
    reads = b.and_(L.ballot(all_), w.on)
    b.store(ir.Constant(vector(I8, 32 * size), None), words, align=1)
    with b.if_then(b.icmp_unsigned("!=", reads, I32(0))):
        found = memory.load(w, source, size, reads)
        with L.each(reads) as lane:
            value = b.load(w.L.at(found, lane, kind), typ=kind, align=1)
            b.store(value, w.L.at(words, lane, kind), align=1)
    return words


def copy_async(w: Any, i: Instruction) -> None:
    """cp.async; what its size operand leaves out becomes zeros."""
    to, source, size = w.read(i.operands[0], "b32"), w.L.splat(w.read(i.operands[1], "b64")), i.operands[2].bits
    taken = w.read(i.operands[3], "u32") if len(i.operands) > 3 else I32(size)
    whole = isinstance(taken, ir.Constant) and taken.constant == size
    words = memory.load(w, source, size, w.on) if whole else filled(w, source, size, taken)
    access(w, to, size, w.on, w.on, I1(0), words, True)
    at = spilled(w, to)
    suspect(w, "copies_note", w.context, at, w.on, w.warp, size)
    if w.decoded.asynchronous:
        suspect(w, "order_copy", w.context, at, w.on, w.warp, log(w), size, 0)
    else:
        call(w, "copies_begin", w.context, at, w.on, log(w), size)


def commit(w: Any, i: Instruction) -> None:
    """What a warp has begun to copy since its last commit is a group."""
    call(w, "copies_commit", w.context, w.warp)


def arrive(w: Any, i: Instruction) -> None:
    left = i.operands[0].bits if i.operands else -1
    if w.decoded.asynchronous:
        suspect(w, "order_copied", w.context, w.on, w.warp, log(w), left)
    else:
        suspect(w, "copies_end", w.context, w.on, w.warp, tags(w, I1(0))[0], log(w), left)


LOWER = {
    f"{name}.{space}": emit
    for name, emit in (("ld", load_shared), ("st", store_shared), ("atom", atomic), ("red", atomic))
    for space in ("shared", "shared::cta", "volatile.shared")
} | {
    "cp.async": copy_async, "cp.async.commit_group": commit, "cp.async.wait_group": arrive, "cp.async.wait_all": arrive,
}  # fmt: skip
RUNTIME = banks.RUNTIME | shared_cells.RUNTIME
