"""Twins on their way: between registers, between lanes, through memory, and into a matrix product."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .. import warp
from ..decode import Run
from ..forms import address, form, parts_of
from ..memory import in_order
from ..opcode import BITS
from ..parse import Instruction
from ..tensor_core import mma
from . import formats as fm
from .acts import Number
from .formats import HALF, KINDS, PAIR, exact
from .planes import each, paired

VIEWS: dict[str, Callable] = {
    "same": lambda x: x, "low": lambda x: x.real, "high": lambda x: x.imag, "top": lambda x: x.imag,
    "bottom": lambda x: x.real,
}  # fmt: skip


def moved(f: Any, i: Instruction, run: Run) -> Run | None:
    """mov, selp, shfl, a sign, and what packs two numbers or takes them apart."""
    links, name = fm.links(i), i.opcode.split(".")[0]
    if not links or f.tainted.difference(f.formats).intersection(fm.registers([x for _, x, _ in links])):
        return None
    wholes = {id(whole): f.format(whole) for _, whole, _ in links}
    if name == "mov" and links[0][1] is i.operands[0]:  # packed of two
        kind = f.format(i.operands[0])
        operands, change = [(x, HALF.get(kind, "")) for x, _, _ in links], paired
        if kind not in HALF:
            return None
    elif links[0][2] == "same":
        kind = f.format(f.targets[0])
        operands, change = [(x, kind) for _, x, _ in links], VIEWS["same"]
    else:
        (kind,) = set(wholes.values())
        single = kind in PAIR and links[0][2] in ("low", "bottom")  # the lower half alone
        if kind not in HALF and not single:
            return None
        views = [VIEWS["same" if single else view] for x, _, view in links if f.format(x)]
        return f.follow(run, lambda x: [view(x) for view in views], [f.number(links[0][1], kind)])
    more, how = (), "compute"
    if name == "selp":
        if i.operands[3].name in f.unsure:
            f.lost.add(f.n)
            f.marked.add(f.n)
            if f.doubts:
                return None
        more, change = ((i.operands[3], "pred"),), lambda a, b, p: np.where(p, a, b)
    elif name == "shfl":
        more, mode, how = ((x, "b32") for x in i.operands[2:4]), i.opcode.split(".")[2], "shuffle"
        change = lambda x, b, c: warp.shfl(mode, x, b, c, None, max(x.shape[1], b.shape[1], c.shape[1]))[0]  # noqa: E731
    elif name in ("and", "xor"):
        change = np.abs if name == "and" else np.negative
        change = each(change) if kind in HALF else change
        if (fm.number(i) in (0x80008000, 0x7FFF7FFF)) != (kind in HALF):
            return None
    return f.follow(run, lambda *x: [change(*x)], [f.number(*x) for x in (*operands, *more)], how)


def reached(f: Any, operand: Any, space: str) -> Callable:
    """Asked before an access, what gives its (plane, cells, bytes) afterwards."""
    if space == "global":
        return lambda block, active: lambda: (block.world.shadow.memory, block.world.memory.at >> 1)
    where = address(f.d, operand, space)

    def asked(block, active):
        at, plane = where(block.R).astype(np.int64) >> 1, block.world.shadow.shared
        at = (at if active is None else np.where(active, at, 0)) + block.programs[:, None] * plane.cells
        return lambda: (plane, at)

    return asked


@cache
def fragments(num: int, trans: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of ldmatrix: (lane whose address it is at, place in that row) of both halves of each register: (num, 32, 2)."""
    ids = np.arange(num * 64, dtype=np.uint16).view(np.uint8).reshape(1, 1, 8 * num, 16)
    found = np.stack([x.reshape(32) for x in warp.fragments(ids, num, trans)]).view(np.uint16).reshape(num, 32, 2)
    return found // 8, found % 8


def rows_of(i: Instruction, num: int) -> Any:
    """Of a matrix, its fragments; None of other accesses."""
    return fragments(num, ".trans" in i.opcode) if "matrix" in i.opcode else None


def spread(i: Instruction, size: int, num: int) -> Callable:
    """(cells of an access, n, T) -> the cells of the n-th register's lower and upper half."""
    if rows_of(i, num) is None:
        return lambda at, n, T: (at + n * size // 2, at + (2 * n + 1) * size // 4)
    lanes, columns = rows_of(i, num)

    def cells(at, n, T):
        rows = np.broadcast_to(at, (len(at), T)).reshape(len(at), -1, 32)
        both = (rows[:, :, lanes[n]] + columns[n]).reshape(len(at), T, 2)
        return both[..., 0], both[..., 1]

    return cells


def accessed(i: Instruction) -> tuple[str, str, int]:
    """(space, type, bytes) of what a load or store moves to or from each register."""
    if "matrix" in i.opcode:
        return "shared", "b32", 4
    return form(i).space, form(i).kind, BITS[form(i).kind] // 8


def loaded(f: Any, i: Instruction, run: Run) -> Run | None:
    (space, kind, size), targets = accessed(i), parts_of(i.operands[0])
    if space == "param":
        return given(f, i, run) if f.targets else run
    turned = "matrix" in i.opcode and (".b8" in i.opcode or (".trans" in i.opcode and f.format(targets[0]) not in HALF))
    if space not in ("global", "shared"):
        f.lost.add(f.n)
        return None
    where, cells = reached(f, i.operands[1], space), spread(i, size, len(targets))
    parts = [(n, f.put(x), f.bits(x, kind), f.format(x)) for n, x in enumerate(targets) if f.format(x)]
    raw, number = [n for n, x in enumerate(targets) if not f.format(x)], f.n
    f.note("load", None, (), targets, space, turned, size, rows_of(i, len(targets)))

    def follow(block, active):
        at = where(block, active)
        run(block, active)
        plane, at = at()
        if any(plane.holds(cells(at, n, block.world.T)[0], active) for n in raw) or (turned and plane.holds(at)):
            block.world.shadow.lost.add(number)
        for n, put, bits, kind in parts:
            if turned:
                put(block.R, exact(bits(block.R), kind), active)
                continue
            put(block.R, plane.read(*cells(at, n, block.world.T), bits(block.R), kind), active)

    return follow


def given(f: Any, i: Instruction, run: Run) -> Run:
    """A parameter: the number that the caller gave, before it was rounded."""
    name, get = getattr(i.operands[1].base, "name", ""), f.own(Number(f.targets[0], f.format(f.targets[0])))
    put, n = f.put(f.targets[0]), f.n
    f.note("give", None, (), f.targets, name)

    def follow(block, active):
        run(block, active)
        number = None if n in block.world.shadow.keeps else block.world.shadow.given.get(name)
        put(block.R, get(block.R) if number is None else np.full((1, 1), number), active)

    return follow


def stored(f: Any, i: Instruction, run: Run) -> Run:
    (space, kind, size), sources = accessed(i), parts_of(i.operands[1])
    if f.tainted.difference(f.formats).intersection(fm.registers(sources)):
        f.lost.add(f.n)
    if space not in ("global", "shared") or size < 2:
        return run
    where, cells, matrix = reached(f, i.operands[0], space), spread(i, size, len(sources)), "matrix" in i.opcode
    parts, numbers = [], []
    for n, x in enumerate(sources):
        own = f.format(x) if BITS.get(f.format(x)) == 8 * size else ""
        numbers.append(f.number(x, own) if own else Number(x, ""))
        parts.append((n, f.bits(x, kind), f.get(numbers[-1]) if own else lambda R: np.zeros((1, 1)), own or None))
    f.note("store", None, numbers, (), space, size, rows_of(i, len(sources)))

    def follow(block, active):
        at = where(block, active)
        values = [get(block.R) for _, _, get, _ in parts]
        run(block, active)
        plane, at = at()
        for (n, bits, _, own), value in zip(parts, values, strict=True):
            low, high = cells(at, n, block.world.T)
            plane.write(low, high, bits(block.R), own, value, None if matrix else active)

    return follow


def copied(f: Any, i: Instruction, run: Run) -> Run:
    """cp.async: from global to shared memory."""
    if not re.match(r"cp\.async\.c[ag]\.", i.opcode):
        return run
    to, size = reached(f, i.operands[0], "shared"), i.operands[2].bits // 2
    f.note("copy")

    def follow(block, active):
        at = to(block, active)
        run(block, active)
        (plane, at), start = at(), block.world.memory.at >> 1
        at, start, on = np.broadcast_arrays(at, start, True if active is None else active)
        here, there = (x[on][:, None] + np.arange(size) for x in (at, start))
        plane.take(here, block.world.shadow.memory, there)

    return follow


def multiplied(f: Any, i: Instruction, run: Run) -> Run | None:
    """mma: the product of twins; of numbers of 8 bits, which have none, that of themselves."""
    if "kind::" in i.opcode:
        return None
    _, _, a, b, c, _ = mma.form(i.opcode)
    kinds = [PAIR[k] if k in ("f16", "bf16") else KINDS.get(k) for k in (a, b, c)]
    operands = [(x, kind or "b32") for operand, kind in zip(i.operands[1:], kinds, strict=True) for x in operand.parts]
    cuts = np.cumsum([len(x.parts) for x in i.operands[1:3]]).tolist()

    def product(*x):
        x = [np.broadcast_to(v, (len(v), max(32, *(w.shape[1] for w in x)))) for v in x]
        return mma.mma(i.opcode, x[: cuts[0]], x[cuts[0] : cuts[1]], x[cuts[1] :])

    return f.follow(run, product, [f.number(*x) for x in operands], "multiply")


def changed_at(block: Any, active: Any, addresses: np.ndarray, space: str) -> tuple[Any, np.ndarray, Any, Any]:
    """(plane, bytes, cells of the plane, places among the bytes) of what atomics change."""
    world = block.world
    if space != "shared":
        byte = world.memory.segments.located(addresses, active, 0)
        return world.shadow.memory, world.memory.bytes, byte // 2, byte
    at, row = addresses.astype(np.int64), np.arange(len(block.programs))[:, None]
    cells = at // 2 + block.programs[:, None] * world.shadow.shared.cells
    return world.shadow.shared, block.shared.bytes, cells, at + row * block.shared.size


def apart(x: Any, kind: str) -> tuple[np.ndarray, ...]:
    """The numbers of a format: both of a pair."""
    return (x.real, x.imag) if kind in HALF else (x,)


def atomic(f: Any, i: Instruction, run: Run) -> Run | None:
    """atom, red: additions and exchanges of floats; what comes back is the twin of what was there."""
    how, returns = form(i), i.opcode.startswith("atom")
    if how.kind not in KINDS or how.operation not in ("add", "exch"):
        return None
    operands = i.operands[1:] if returns else i.operands
    where, kind = address(f.d, operands[0], how.space), HALF.get(how.kind, how.kind)
    numbers = [f.number(x, how.kind) for x in parts_of(operands[1])]
    gets, reals = [f.get(x) for x in numbers], [f.own(x) for x in numbers]
    puts, size, n = [f.put(x) for x in f.targets], BITS[kind] // 16, f.n
    f.note("atomic", None, numbers, f.targets, how)
    change = np.add if how.operation == "add" else lambda old, new: new

    def follow(block, active):
        world, shape = block.world, (len(block.programs), block.world.T)
        on = np.broadcast_to(True if active is None else active, shape)
        flat = lambda x: np.broadcast_to(x, shape)[on]  # noqa: E731
        plane, memory, cell, byte = changed_at(block, active, where(block.R), how.space)
        words, cell, index = memory.reshape(-1).view(f"u{2 * size}"), flat(cell), flat(byte) // (2 * size)
        values, own = ([flat(v) for get in some for v in apart(get(block.R), how.kind)] for some in (gets, reals))
        places = [(cell + k * size, index + k) for k in range(len(values))]
        before, old = [exact(words[w], kind) for _, w in places], []
        for (c, w), value in zip(places, values, strict=True):
            plane.value[c] = plane.read(c, c, words[w], kind)
            old.append(in_order(plane.value, c, [value], change))
        run(block, active)
        for (c, w), x, value in zip(places, before, own, strict=True):
            twin = plane.value[c]
            if n in world.shadow.keeps and how.operation == "add":
                _, at = np.unique(c, return_inverse=True)
                twin = twin + world.shadow.entered(n, exact(words[w], kind), x + np.bincount(at, value)[at], None)
            plane.write(c, c, words[w], kind, twin)
        old = [paired(*x) for x in zip(old[::2], old[1::2], strict=True)] if how.kind in HALF else old
        for put, x in zip(puts, old, strict=False):
            whole = np.zeros(shape, x.dtype)
            whole[on] = x
            put(block.R, whole, active)

    return follow


RULES: dict[str, Callable] = {
    **dict.fromkeys(("mov", "selp", "shfl", "and", "xor", "shl", "shr", "cvt"), moved), "ld": loaded, "st": stored,
    "cp": copied, "ldmatrix": loaded, "stmatrix": stored, "mma": multiplied, "atom": atomic, "red": atomic,
}  # fmt: skip
