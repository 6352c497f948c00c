"""Which matrices mma, ldmatrix and stmatrix take: read from their opcodes."""

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .errors import UnknownOpcode
from .floats import FORMATS
from .parse import Instruction

# Elements of A and B: the shapes (M, K) that the instruction has, N being 8, and the types of C and D.
INPUTS = {
    "f16": ({(16, 8), (16, 16)}, {"f16", "f32"}),
    "bf16": ({(16, 8), (16, 16)}, {"f32"}),
    "tf32": ({(16, 4), (16, 8)}, {"f32"}),
    **dict.fromkeys(("s8", "u8"), ({(8, 16), (16, 16), (16, 32)}, {"s32"})),
    **dict.fromkeys(("e4m3", "e5m2"), ({(16, 16), (16, 32)}, {"f16", "f32"})),
    "f64": ({(8, 4), (16, 4), (16, 8), (16, 16)}, {"f64"}),
}
MIXED = ({"s8", "u8"}, {"e4m3", "e5m2"})  # A and B may be one of each

INTEGERS = {"s8": np.int8, "u8": np.uint8, "s32": np.int32}


def width(kind: str) -> int:
    """Bits of an element of A or B."""
    return 8 if kind in INTEGERS else FORMATS[kind].bits


@lru_cache(maxsize=256)
def form(opcode: str) -> tuple[int, int, str, str, str, bool]:
    """(M, K, type of A, of B, of C and D, satfinite) of an mma opcode. Raises UnknownOpcode unless INPUTS has it."""
    found = re.fullmatch(r"mma\.sync\.aligned\.m(\d+)n8k(\d+)\.row\.col(\.satfinite)?((?:\.\w+){4})", opcode)
    if found is None:
        raise UnknownOpcode(opcode, "of mma it takes mma.sync.aligned.*.row.col, dense and without scales")
    M, K, (d, a, b, c) = int(found[1]), int(found[2]), found[4][1:].split(".")
    shapes, sums = INPUTS.get(a, ((), ()))
    matches = (a == b or {a, b} in MIXED) and c == d and (c == "s32" or not found[3])
    if not matches or (M, K) not in shapes or c not in sums:
        raise UnknownOpcode(opcode, "it knows no mma with these shapes and types")
    return M, K, a, b, c, bool(found[3])


class Matrices(NamedTuple):
    """What an ldmatrix or stmatrix moves: `num` matrices of as many `rows`, 16 bytes each."""

    num: int
    rows: int
    trans: bool


def matrix_form(i: Instruction) -> Matrices:
    """ldmatrix .m8n8.b16, and .m16n16.b8, which is transposed; stmatrix .m8n8.b16 (PTX ISA 8.7, 9.7.14.5.15)."""
    name, *parts = i.opcode.replace("::cta", "").split(".")
    counts = {"x1": 1, "x2": 2, "x4": 4}
    num = next((counts[p] for p in parts if p in counts), 0)
    shape = [p for p in parts if p not in ("sync", "aligned", "trans", "shared") and p not in counts]
    trans = "trans" in parts
    if num and shape == ["m8n8", "b16"]:
        return Matrices(num, 8, trans)
    if num in (1, 2) and shape == ["m16n16", "b8"] and trans and name == "ldmatrix":
        return Matrices(num, 16, trans)
    raise UnknownOpcode(i.opcode, "its table has other forms of it", i)
