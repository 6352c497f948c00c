"""Twins on their way: between registers, between lanes, through memory, and into a matrix product."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .. import warp
from ..decode import Run
from ..forms import address, form, parts_of
from ..opcode import BITS
from ..parse import Instruction
from ..tensor_core import mma
from . import formats as fm
from .formats import HALF, KINDS, PAIR
from .planes import paired


def register(f, n: int, i: Instruction, run: Run) -> Run | None:
    """mov, selp, and the bit operations that stand for a sign or take a pair apart."""
    pack, wide = fm.halved(i), fm.widened(i)
    if wide and f.format(wide[0]) == "f32" and (kind := f.format(wide[1])) in ("bf16", "bf16x2"):
        get = f.get(wide[1], kind)
        return moved(
            f, run, [wide[0]], lambda R: [get(R) if kind == "bf16" else (get(R).imag if wide[2] else get(R).real)]
        )
    if pack:
        whole, halves = pack
        kind = f.format(whole)
        if kind not in HALF:
            return None
        if halves == list(parts_of(i.operands[0])) or whole is i.operands[1]:
            get, targets = (
                f.get(whole, kind),
                [(x, part) for x, part in zip(halves, ("real", "imag"), strict=True) if f.format(x) == HALF[kind]],
            )
            return moved(f, run, [x for x, _ in targets], lambda R: [getattr(get(R), part) for _, part in targets])
        low, high = (f.get(x, HALF[kind]) for x in halves)
        return moved(f, run, [whole], lambda R: [paired(low(R), high(R))])
    same, kind = fm.alike(i), f.format(i.operands[0])
    if not same or not kind:
        return None
    sign = i.opcode.split(".")[0] in ("and", "xor")
    if sign and BITS[kind] == 32 and fm.constant(i.operands[2]) not in fm.SIGNS[1 if kind in HALF else 0 :: 2]:
        return None
    gets, reals = ([how(x, kind) for x in same[1:]] for how in (f.get, f.real))
    if i.opcode.startswith("selp"):
        slot, negate = f.d.source(i.operands[3], "pred")
        holds = [lambda R: negate(R[slot]) if negate else R[slot]]
        return f.applied(n, run, lambda p, a, b: np.where(p, a, b), holds + gets, holds + reals, same[0])
    change: Callable = np.abs if i.opcode.startswith("and") else np.negative
    change = (change if kind not in HALF else lambda x: paired(change(x.real), change(x.imag))) if sign else lambda x: x
    return f.applied(n, run, change, gets, reals, same[0])


def moved(f, run: Run, targets: list, values: Callable[[list], list]) -> Run:
    """A run that also puts twins, taken from the registers before it."""
    puts = [f.put(x) for x in targets]

    def follow(block, active):
        found = values(block.R)
        run(block, active)
        for put, value in zip(puts, found, strict=True):
            put(block.R, value, active)

    return follow


def shuffled(f, n: int, i: Instruction, run: Run) -> Run | None:
    target = parts_of(i.operands[0])[0]
    kind, mode = f.format(target), i.opcode.split(".")[2]
    if not kind:
        return run
    get, put = f.get(i.operands[1], kind), f.put(target)
    b, c = (f.d.source(x, "b32")[0] for x in i.operands[2:4])

    def follow(block, active):
        R = block.R
        value = warp.shfl(mode, get(R), R[b], R[c], None, block.world.T)[0]
        run(block, active)
        put(R, value, active)

    return follow


def loaded(f, n: int, i: Instruction, run: Run) -> Run | None:
    targets = parts_of(i.operands[0])
    if not f.results(i):
        return run
    form_ = form(i)
    if form_.space == "param":
        name = getattr(i.operands[1].base, "name", "")
        put, own = f.put(targets[0]), f.real(targets[0], f.format(targets[0]))

        def follow(block, active):
            run(block, active)
            given = None if n in block.world.shadow.keeps else block.world.shadow.given.get(name)
            put(block.R, own(block.R) if given is None else np.full((1, 1), given), active)

        return follow
    if form_.space not in ("global", "shared"):
        return None
    where = place(f, i.operands[1], form_.space)
    step = BITS[form_.kind] // 16
    parts = [(k * step, f.put(x), f.d.source(x, form_.kind), f.format(x)) for k, x in enumerate(targets) if f.format(x)]

    def follow(block, active):
        at = where(block, active)
        run(block, active)
        plane, at = at()
        for k, put, (slot, narrow), kind in parts:
            bits = narrow(block.R[slot]) if narrow else block.R[slot]
            put(block.R, plane.read(at + k, bits, kind), active)

    return follow


def place(f, operand: Any, space: str) -> Callable:
    """Asked before an access, what gives its (plane, cells of two bytes) afterwards."""
    if space == "global":
        return lambda block, active: lambda: (block.world.shadow.memory, block.world.memory.at >> 1)
    where = address(f.d, operand, space)

    def asked(block, active):
        at = where(block.R).astype(np.int64)
        at = at if active is None else np.where(active, at, 0)
        plane = block.world.shadow.shared
        return lambda: (plane, plane.places(block.programs[:, None], at))

    return asked


def stored(f, n: int, i: Instruction, run: Run) -> Run | None:
    form_ = form(i)
    if form_.space not in ("global", "shared"):
        return run
    where, step = place(f, i.operands[0], form_.space), BITS[form_.kind] // 16
    parts = []
    for k, x in enumerate(parts_of(i.operands[1])):
        kind = f.format(x)
        kind = kind if kind and BITS[kind] == BITS[form_.kind] else None
        parts.append(
            (k * step, f.d.source(x, form_.kind), kind, f.get(x, kind) if kind else lambda R: np.zeros((1, 1)))
        )

    def follow(block, active):
        at = where(block, active)
        values = [get(block.R) for _, _, _, get in parts]
        run(block, active)
        plane, at = at()
        for (k, (slot, narrow), kind, _), value in zip(parts, values, strict=True):
            bits = narrow(block.R[slot]) if narrow else block.R[slot]
            plane.write(at + k, bits, kind, value, active)

    return follow if form_.size > 1 else run


def copied(f, n: int, i: Instruction, run: Run) -> Run | None:
    """cp.async: from global to shared memory."""
    if not re.match(r"cp\.async\.c[ag]\.", i.opcode):
        return None
    to, source, cells = place(f, i.operands[0], "shared"), place(f, i.operands[1], "global"), i.operands[2].bits // 2

    def follow(block, active):
        at = to(block, active)
        run(block, active)
        (plane, at), (memory, start) = at(), source(block, active)()
        on = np.broadcast_to(True if active is None else active, np.broadcast_shapes(at.shape, start.shape))
        here, there = (np.broadcast_to(x, on.shape)[on][:, None] + np.arange(cells) for x in (at, start))
        plane.take(here, memory, there)

    return follow


@cache
def fragment_places(num: int, trans: bool) -> tuple[np.ndarray, np.ndarray]:
    """ldmatrix: (lane whose row it is, number in the row), (num, 32, 2), of both halves of each register and lane."""
    ids = np.arange(num * 64, dtype=np.uint16).view(np.uint8).reshape(1, 1, 8 * num, 16)
    found = np.stack([x.reshape(32) for x in warp.fragments(ids, num, trans)]).view(np.uint16).reshape(num, 32, 2)
    return found // 8, found % 8


def matrix_loaded(f, n: int, i: Instruction, run: Run) -> Run | None:
    targets = parts_of(i.operands[0])
    kind = f.format(targets[0])
    if not kind:
        return run
    if ".b16" not in i.opcode or (kind == "f32" and ".trans" in i.opcode):
        return None
    where, puts = place(f, i.operands[1], "shared"), [f.put(x) for x in targets]
    lanes, columns = fragment_places(len(targets), ".trans" in i.opcode)
    slots = [f.d.source(x, "b32")[0] for x in targets]

    def follow(block, active):
        at = where(block, active)
        run(block, active)
        plane, at = at()
        W = block.world.T // 32
        at = np.broadcast_to(at, (len(at), block.world.T)).reshape(len(at), W, 32)
        for put, slot, lane, column in zip(puts, slots, lanes, columns, strict=True):
            cell = at[:, :, lane] + column  # (P, W, 32, 2)
            P, bits = len(cell), np.broadcast_to(block.R[slot], (len(cell), block.world.T))
            if kind == "f32":
                put(block.R, plane.read(cell[..., 0].reshape(P, -1), bits, kind), active)
                continue
            halves = np.ascontiguousarray(bits).view(np.uint16)
            both = plane.read(cell.reshape(P, -1), halves, HALF[kind])
            put(block.R, np.ascontiguousarray(both).view(np.complex128), active)

    return follow


def matrix_stored(f, n: int, i: Instruction, run: Run) -> Run | None:
    sources = parts_of(i.operands[1])
    kind = f.format(sources[0])
    if ".b16" not in i.opcode or not kind or (kind == "f32" and ".trans" in i.opcode):
        return run
    where, gets = place(f, i.operands[0], "shared"), [f.get(x, kind) for x in sources]
    slots = [f.d.source(x, "b32")[0] for x in sources]
    lanes, columns = fragment_places(len(sources), ".trans" in i.opcode)

    def follow(block, active):
        at = where(block, active)
        values = [get(block.R) for get in gets]
        run(block, active)
        plane, at = at()
        T = block.world.T
        at = np.broadcast_to(at, (len(at), T)).reshape(len(at), T // 32, 32)
        for slot, value, lane, column in zip(slots, values, lanes, columns, strict=True):
            cell = at[:, :, lane] + column  # (P, W, 32, 2)
            bits, value = (np.ascontiguousarray(np.broadcast_to(x, (len(x), T))) for x in (block.R[slot], value))
            if kind == "f32":
                plane.write(cell[..., 0].reshape(len(at), T), bits, kind, value, None)
            else:
                plane.write(cell.reshape(len(at), -1), bits.view(np.uint16), HALF[kind], value.view(np.float64), None)

    return follow


def multiplied(f, n: int, i: Instruction, run: Run) -> Run | None:
    """mma: the product of twins."""
    if "kind::" in i.opcode:
        return None
    _, _, a, b, c, _ = mma.form(i.opcode)
    if c not in KINDS:
        return None  # of integers
    kinds = [PAIR[k] if k in ("f16", "bf16") else KINDS.get(k) for k in (a, b, c)]
    result, *operands = (x.parts for x in i.operands)
    parts = list(zip(operands, kinds, strict=True))

    def numbers(how: Callable) -> list:
        """What gives the twins of all operands; numbers of 8 bits have none."""
        return [[how(x, kind) if kind else f.bits(x) for x in part] for part, kind in parts]

    gets, reals = numbers(f.get), numbers(f.real)
    puts, owns = [f.put(x) for x in result], [f.real(x, kinds[2]) for x in result]

    def product(block, gets) -> list:
        shape = lambda x: np.broadcast_to(x, (len(x), block.world.T))  # noqa: E731
        return mma.mma(i.opcode, *([shape(get(block.R)) for get in part] for part in gets))

    def follow(block, active):
        shadow = block.world.shadow
        values = product(block, gets)
        rounded = product(block, reals) if n in shadow.keeps else None
        run(block, active)
        for k, (put, own) in enumerate(zip(puts, owns, strict=True)):
            error = 0 if rounded is None else shadow.entered(n, own(block.R) - rounded[k])
            put(block.R, values[k] + error, active)

    return follow


def atomic(f, n: int, i: Instruction, run: Run) -> Run | None:
    """atom, red: additions and exchanges of floats; what comes back is the twin of what was there."""
    form_, returns = form(i), i.opcode.startswith("atom")
    if form_.kind not in KINDS or form_.operation not in ("add", "exch"):
        return None if f.results(i) else run
    operands = i.operands[1:] if returns else i.operands
    where, kind = address(f.d, operands[0], form_.space), HALF.get(form_.kind, form_.kind)
    gets = [f.get(x, form_.kind) for x in parts_of(operands[1])]
    puts = [f.put(x) for x in parts_of(i.operands[0])] if returns else []
    change = np.add if form_.operation == "add" else lambda old, new: new
    step, wide = BITS[kind] // 16, form_.kind in HALF

    def follow(block, active):
        P, T, world = len(block.programs), block.world.T, block.world
        on = np.flatnonzero(np.broadcast_to(True if active is None else active, (P, T)))
        flat = lambda x: np.broadcast_to(x, (P, T)).reshape(-1)[on]  # noqa: E731
        if form_.space == "shared":
            at, plane, data, row = where(block.R), world.shadow.shared, block.shared.bytes, np.arange(P)[:, None]
            cell = plane.places(block.programs[:, None], at.astype(np.int64))
        else:
            at, plane, data, row = (
                world.memory.segments.located(where(block.R), active, 0),
                world.shadow.memory,
                world.memory.bytes[None],
                0,
            )
            cell = at >> 1
        values = [
            part for get in gets for part in ((get(block.R).real, get(block.R).imag) if wide else (get(block.R),))
        ]
        words = data.view(f"u{BITS[kind] // 8}")
        index = lambda m: flat(at // (BITS[kind] // 8) + m)  # noqa: E731
        rows = flat(row)
        old = [
            plane.changed(flat(cell + m * step), words[rows, index(m)], flat(v), kind, change)
            for m, v in enumerate(values)
        ]
        run(block, active)
        for m in range(len(values)):
            c = flat(cell + m * step)
            plane.write(c, words[rows, index(m)], kind, plane.value[c], None)
        old = [paired(*pair) for pair in zip(old[::2], old[1::2], strict=True)] if wide else old
        for put, x in zip(puts, old, strict=False):
            whole = np.zeros(P * T, x.dtype)
            whole[on] = x
            put(block.R, whole.reshape(P, T), active)

    return follow


RULES: dict[str, Callable] = {
    **dict.fromkeys(("mov", "selp", "and", "xor", "shl", "shr", "cvt"), register), "shfl": shuffled, "ld": loaded,
    "st": stored, "cp": copied, "ldmatrix": matrix_loaded, "stmatrix": matrix_stored, "mma": multiplied,
    "atom": atomic, "red": atomic,
}  # fmt: skip
