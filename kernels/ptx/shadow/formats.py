"""Which numbers a register holds: PTX has registers of bits, and a shadow needs to know what the bits stand for.

An instruction of floats says so of its operands; moves, shuffles and selections pass it on, in both directions. A
register that no float ever touches has no format.
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
SINGLE = {"f16": "f16", "bf16": "bf16", "f32": "f32", "tf32": "f32", "f64": "f64"}
KINDS = SINGLE | {pair: pair for pair in HALF}
MOVES = ("mov", "selp", "shfl")
TOP, SIGNS = 0xFFFF0000, (0x80000000, 0x80008000, 0x7FFFFFFF, 0x7FFF7FFF)


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
        f = form(i)
        for n, operand in enumerate(i.operands):
            yield from ((x, f.kind, name == "atom" and n == 0) for x in parts_of(operand))
    elif i.opcode.startswith("mma.") and "kind::" not in i.opcode:
        _, _, a, b, c, _ = mma.form(i.opcode)
        for operand, kind, result in zip(i.operands, (c, a, b, c), (True, False, False, False), strict=True):
            yield from ((x, PAIR[kind] if kind in ("f16", "bf16") else kind, result) for x in operand.parts)
    elif i.opcode.startswith("wgmma.mma"):
        kind = i.opcode.split(".")[-3]
        yield from ((x, PAIR.get(kind, kind) if kind == "f16" else kind, True) for x in i.operands[0].parts)
    elif i.opcode.startswith("redux.") and i.opcode.endswith(".f32"):
        yield from ((x, "f32", n == 0) for n, x in enumerate(i.operands[:2]))
    else:
        sources, results = pure(i)
        yield from ((x, kind, True) for x, kind in zip(parts_of(i.operands[0]) if results else (), results))  # noqa: B905
        yield from ((x, kind, False) for x, kind in zip(i.operands[1:], sources, strict=False))


def alike(i: Instruction) -> list[Any]:
    """The operands of an instruction whose bits stand for the same, whatever that is."""
    name, operands = i.opcode.split(".")[0], i.operands
    if name in MOVES and not any(len(parts_of(x)) > 1 for x in operands[: 2 * (name == "mov")]):
        return [parts_of(operands[0])[0], *operands[1 : 3 if name == "selp" else 2]]
    if i.opcode == "cvt.u32.u16" or (name in ("and", "xor") and constant(operands[2]) in SIGNS):
        return [operands[0], operands[1]]
    if name in ("ldmatrix", "stmatrix") and ".b16" in i.opcode:
        return list(parts_of(operands[name == "stmatrix"]))
    return []


def constant(x: Any) -> int:
    return x.bits & 0xFFFFFFFF if isinstance(x, Immediate) else -1


def halved(i: Instruction) -> tuple[Any, list[Any]] | None:
    """(whole, its halves) of an instruction that packs or unpacks two numbers; a half of None is any or none."""
    name, operands = i.opcode.split(".")[0], i.operands
    if name == "mov" and len(operands) == 2:
        for whole, halves in (operands, operands[::-1]):
            if len(parts_of(halves)) == 2:
                return whole, list(halves.parts)
    if i.opcode == "cvt.u16.u32":
        return operands[1], [operands[0], None]
    if i.opcode == "shr.u32" and constant(operands[2]) == 16:
        return operands[1], [None, operands[0]]
    return None


def widened(i: Instruction) -> tuple[Any, Any, int] | None:
    """(f32, what its upper half came from, which half of that) of the ways by which a bfloat16 becomes an f32."""
    operands = i.operands
    if i.opcode == "and.b32" and constant(operands[2]) == TOP:
        return operands[0], operands[1], 1
    if i.opcode == "shl.b32" and constant(operands[2]) == 16:
        return operands[0], operands[1], 0
    return None


def pointed(program: Program, kinds: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    """(register, type) of what is loaded and stored by addresses that were made from one pointer alone.

    kinds  what each parameter points at
    """
    roots: dict[str, set[str]] = {}
    at = dict(zip((name for name, _ in program.parameters), kinds, strict=False))
    for _ in range(2):  # the second time round loops
        for i in program.instructions:
            if i.opcode.startswith("ld.param"):
                roots[i.operands[0].name] = {getattr(i.operands[1].base, "name", "")} & at.keys()
            elif i.opcode.split(".")[-1] in ("s64", "u64", "b64", "s32", "u32") and isinstance(i.operands[0], Register):
                found = set().union(*(roots.get(x, ()) for x in registers(i.operands[1:])))
                roots[i.operands[0].name] = roots.get(i.operands[0].name, set()) | found
    for i in program.instructions:
        if re.match(r"(ld|st)\b.*\.global\b", i.opcode):
            where, what = i.operands[:2] if i.opcode[0] == "s" else i.operands[1::-1]
            pointers = roots.get(getattr(where.base, "name", ""), set())
            kind, bits = at[next(iter(pointers))] if len(pointers) == 1 else "", BITS[form(i).kind]
            for x in parts_of(what) if kind in SINGLE else ():
                yield x, kind if BITS[kind] == bits else PAIR[kind] if 2 * BITS[kind] == bits else ""


def formats(program: Program, pointers: tuple[str, ...] = ()) -> dict[str, str]:
    """Register -> its format; what a register is written as goes before what it is read as.

    pointers  what each parameter points at: "bf16"
    """
    found: dict[str, str] = {}
    hints = list(pointed(program, pointers))
    for results in (True, False, None):
        for i in program.instructions if results is not None else ():
            for operand, kind, result in typed(i):
                if result is results and isinstance(operand, Register) and kind in KINDS:
                    found.setdefault(operand.name, KINDS[kind])
        for operand, kind in hints if results is None else ():
            if isinstance(operand, Register) and kind in KINDS:
                found.setdefault(operand.name, kind)
        while sum(propagate(i, found) for i in program.instructions):
            pass
    return found


def propagate(i: Instruction, found: dict[str, str]) -> bool:
    """Pass on what is known of one instruction's registers; whether that was news."""
    before = len(found)

    def known(x: Any) -> str | None:
        return found.get(getattr(x, "name", ""))

    def learn(x: Any, kind: str | None) -> None:
        if kind and isinstance(x, Register) and kind in KINDS:
            found.setdefault(x.name, kind)

    same = alike(i)
    kind = next((k for x in same if (k := known(x))), None)
    for x in same:
        learn(x, kind)
    if pair := halved(i):
        whole, halves = pair
        learn(whole, next((PAIR[k] for x in halves if (k := known(x)) in PAIR), None))
        for x in halves:
            learn(x, HALF.get(known(whole) or ""))
    if turned := widened(i):
        wide, source, _ = turned
        learn(source, "bf16x2" if known(wide) == "f32" else None)
        learn(wide, "f32" if known(source) in ("bf16", "bf16x2") else None)
    return len(found) > before


def registers(operands: Any) -> Iterator[str]:
    yield from (x.name for operand in operands for x in parts_of(operand) if isinstance(x, Register))


def bits_used(program: Program, found: dict[str, str]) -> set[str]:
    """Registers without a format that integer arithmetic has made of a float's bits, or of such registers."""
    made: set[str] = set()
    more = True
    while more:
        before = len(made)
        for i in program.instructions:
            sources, results = pure(i)
            used = [x for x, kind in zip(i.operands[1:], sources, strict=False) if kind[0] in "bsu"]
            if any(x in found or x in made for x in registers(used)) and "pred" not in results:
                made |= {x for x in registers(i.operands[:1]) if x not in found}
        more = len(made) > before
    return made
