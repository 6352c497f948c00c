"""Which numbers a register holds: PTX has registers of bits, and a shadow needs to know what the bits stand for.

An instruction of floats says so of its operands, a pointer of what is loaded and stored by it; moves pass it on, in
both directions. A register that no float ever touches has no format.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import isa
from ..errors import UnknownOpcode
from ..floats import decode
from ..forms import form, parts_of
from ..opcode import BITS
from ..parse import Immediate, Instruction, Program, Register
from ..tensor_core import mma

HALF = {"f16x2": "f16", "bf16x2": "bf16", "f32x2": "f32"}  # two numbers, the first in the lower half
PAIR = {half: pair for pair, half in HALF.items()}
KINDS = {"f16": "f16", "bf16": "bf16", "f32": "f32", "tf32": "f32", "f64": "f64"} | {pair: pair for pair in HALF}
SIGNS = {("and", 0x7FFFFFFF), ("and", 0x7FFF7FFF), ("xor", 0x80000000), ("xor", 0x80008000)}
TOP = 0xFFFF0000


def exact(bits: np.ndarray, kind: str) -> np.ndarray:
    """The numbers that bits stand for: float64; complex128 of pairs, the lower half its real part."""
    if kind not in HALF:
        return decode(bits, kind).astype(np.float64)
    half = np.ascontiguousarray(bits).view(f"u{BITS[kind] // 16}")
    return decode(half, HALF[kind]).astype(np.float64).view(np.complex128)


def pure(i: Instruction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The types of sources and results of an instruction of the table; none of any other."""
    try:
        found = isa.semantics(i.opcode, None, len(i.operands) - 1)
    except UnknownOpcode:
        return (), ()
    return found.sources, found.results


def typed(i: Instruction) -> Iterator[tuple[Any, str, bool]]:
    """(operand, type, whether it is a result) of an instruction of floats."""
    name = i.opcode.split(".")[0]
    if name in ("atom", "red"):
        for n, operand in enumerate(i.operands):
            yield from ((x, form(i).kind, name == "atom" and n == 0) for x in parts_of(operand))
    elif i.opcode.startswith("mma.") and "kind::" not in i.opcode:
        _, _, a, b, c, _ = mma.form(i.opcode)
        for n, (operand, kind) in enumerate(zip(i.operands, (c, a, b, c), strict=True)):
            yield from ((x, PAIR[kind] if kind in ("f16", "bf16") else kind, n == 0) for x in operand.parts)
    elif i.operands:
        sources, results = pure(i)
        yield from ((x, kind, True) for x, kind in zip(parts_of(i.operands[0]), results, strict=False))
        yield from ((x, kind, False) for x, kind in zip(i.operands[1:], sources, strict=False))


def links(i: Instruction) -> list[tuple[Any, Any, str]]:
    """(register, another, which part of the other's bits it has): "same", "low", "high"; or the bfloat16 that is the
    upper half of an f32, from the "top" or the "bottom" of the other."""
    (name, *types), x = i.opcode.split("."), i.operands
    counts = [len(parts_of(operand)) for operand in x[:2]]
    if name == "mov" and sum(counts) == 3:
        whole, halves = (x[1], x[0].parts) if len(parts_of(x[0])) == 2 else (x[0], x[1].parts)
        return [(halves[0], whole, "low"), (halves[1], whole, "high")]
    same = name == "shfl" or i.opcode == "cvt.u32.u16" or (name, number(i)) in SIGNS
    if same or (name == "mov" and sum(counts) == 2):
        return [(parts_of(x[0])[0], x[1], "same")]
    if name == "selp":
        return [(x[0], x[1], "same"), (x[0], x[2], "same")]
    if name in ("ldmatrix", "stmatrix") and "b16" in types:
        parts = parts_of(x[name == "stmatrix"])
        return [(parts[0], other, "same") for other in parts[1:]]
    parts = {"cvt.u16.u32": "low", ("shr.u32", 16): "high", ("and.b32", TOP): "top", ("shl.b32", 16): "bottom"}
    view = parts.get(i.opcode) or parts.get((i.opcode, number(i)))
    return [(x[0], x[1], view)] if view else []


def number(i: Instruction) -> int | None:
    """The third operand, if it is an immediate."""
    return i.operands[2].bits & 0xFFFFFFFF if len(i.operands) > 2 and isinstance(i.operands[2], Immediate) else None


def registers(operands: Any) -> Iterator[str]:
    yield from (x.name for operand in operands for x in parts_of(operand) if isinstance(x, Register))


def pointed(program: Program, kinds: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    """(register, type) of what is loaded and stored by addresses that were made from one pointer alone.

    kinds  what each parameter points at
    """
    at = {name: kind for (name, _), kind in zip(program.parameters, kinds, strict=False) if kind}
    roots: dict[str, set[str]] = {}
    for i in program.instructions * 2:  # the second time round loops
        if i.opcode.startswith("ld.param"):
            roots[i.operands[0].name] = {getattr(i.operands[1].base, "name", "")} & at.keys()
        elif i.opcode.split(".")[-1] in ("s64", "u64", "b64", "s32", "u32") and isinstance(i.operands[0], Register):
            made = set().union(*(roots.get(x, ()) for x in registers(i.operands[1:])))
            roots[i.operands[0].name] = roots.get(i.operands[0].name, set()) | made
    for i in program.instructions:
        if re.match(r"(ld|st)\b.*\.global\b", i.opcode):
            where, what = i.operands[:2] if i.opcode[0] == "s" else i.operands[1::-1]
            found = roots.get(getattr(where.base, "name", ""), set())
            kind = at[next(iter(found))] if len(found) == 1 else ""
            fits = {BITS[k]: k for k in (kind, PAIR.get(kind)) if k}
            yield from ((x, fits.get(BITS[form(i).kind], "")) for x in parts_of(what))


def formats(program: Program, pointers: tuple[str, ...] = ()) -> dict[str, str]:
    """Register -> its format: what it is written as goes before what it is read as, that before what pointers say.

    pointers  what each parameter points at: "bf16"
    """
    said = [x for i in program.instructions for x in typed(i)]
    said = [[x[:2] for x in said if x[2]], [x[:2] for x in said if not x[2]], pointed(program, pointers)]
    found: dict[str, str] = {}
    whole = integers(program)
    linked = [x for i in program.instructions for x in links(i) if getattr(x[1], "name", "") not in whole]
    for known in said:
        for x, kind in known:
            learn(found, x, KINDS.get(kind))
        while sum([passed(found, *link) for link in linked]):
            pass
    return found


def integers(program: Program) -> set[str]:
    """Registers that integer arithmetic writes, or that are 0 throughout: a move of one into a float tells nothing."""
    zero: set[str] = set()
    others: set[str] = set()
    counted: set[str] = set()
    for i in program.instructions:
        made = set(registers(i.operands[:1]))
        if i.opcode.startswith("mov.") and getattr(i.operands[1], "bits", 1) == 0:
            zero |= made
        else:
            others |= made
            counted |= made if pure(i)[1][:1] and pure(i)[1][0][0] in "su" else set()
    return zero - others | counted


def learn(found: dict[str, str], x: Any, kind: str | None) -> bool:
    """Whether a register's format is news."""
    new = bool(kind) and isinstance(x, Register) and x.name not in found
    if new:
        found[x.name] = kind or ""
    return new


def passed(found: dict[str, str], x: Any, whole: Any, view: str) -> bool:
    """Pass on what is known of one of two linked registers; whether that was news."""
    here, there = (found.get(getattr(r, "name", "")) for r in (x, whole))
    if view == "same":
        return learn(found, x, there) or learn(found, whole, here)
    if view in ("low", "high"):
        return learn(found, x, HALF.get(there or "")) or learn(found, whole, PAIR.get(here or ""))
    wide = "f32" if there in ("bf16", "bf16x2") else None
    return learn(found, x, wide) or learn(found, whole, "bf16x2" if here == "f32" else None)


def bits_used(program: Program, found: dict[str, str]) -> set[str]:
    """Registers without a format that integer arithmetic has made of a float's bits, or of such registers."""
    made: set[str] = set()
    before = -1
    while len(made) > before:
        before = len(made)
        for i in program.instructions:
            sources, results = pure(i)
            used = [x for x, kind in zip(i.operands[1:], sources, strict=False) if kind[0] in "bsu"]
            if any(x in found or x in made for x in registers(used)) and "pred" not in results:
                made |= {x for x in registers(i.operands[:1]) if x not in found}
    return made
