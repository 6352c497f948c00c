"""Integers, bits and predicates as machine code: the bits of the NumPy form, of every spelling in the table."""

from functools import cache

import pytest

from kvproof.kernels.ptx import isa
from kvproof.kernels.ptx.opcode import BITS

from ._lowered import Case, Lowered, samples


def whole(opcode: str) -> bool:
    types = [part for part in opcode.split(".")[1:] if part in BITS]
    return not opcode.startswith("cvt.") and not any("f" in t for t in types)


OPCODES = [opcode for opcode in isa.OPCODES if whole(opcode) and opcode != "lop3.b32"]
SELECTORS = [0x3210, 0x7654, 0x5410, 0x7632, 0x0123, 0x4567, 0x7531, 0xBA98, 0xFEDC, 0x9180, 0x3333, 0x40C8, 0x1F0F]
SHIFTS = ("shl.b16", "shl.b32", "shl.b64", "shr.s16", "shr.u32", "shr.s64")
AMOUNTS = (0, 1, 7, 16, 31, 32, 63, 64, 2**32 - 1)
FIELDS = [(0, 0), (0, 8), (8, 8), (4, 60), (31, 1), (24, 255), (200, 200), (0, 32), (63, 2), (256, 257), (0, 64)]
BFE = ("bfe.u32", "bfe.s32", "bfe.u64", "bfe.s64")
FOLDED = [
    *(Case("lop3.b32", 4, ((3, table),)) for table in range(256)),
    *(Case("prmt.b32", 3, ((2, selector),)) for selector in SELECTORS),
    *(Case(opcode, 2, ((1, n),)) for opcode in SHIFTS for n in AMOUNTS),
    *(Case(opcode, 3, ((1, at), (2, n))) for opcode in BFE for at, n in FIELDS),
    *(Case("bfi.b64", 4, ((2, at), (3, n))) for at, n in FIELDS),
    *(Case(opcode, 2, ((1, 48),)) for opcode in ("div.u32", "div.s32", "div.s64", "rem.u16", "rem.s32")),
    Case("div.s32", 2, ((1, 0),)), Case("div.s32", 2, ((1, 2**32 - 1),)),
]  # fmt: skip


@cache
def lowered() -> Lowered:
    return Lowered([*OPCODES, *FOLDED])


@pytest.mark.parametrize("name", sorted({opcode.split(".")[0] for opcode in OPCODES}))
def test_every_spelling_gives_the_bits_of_the_numpy_form(name):
    for opcode in OPCODES:
        if opcode.split(".")[0] == name:
            lowered().check(opcode, *samples(opcode))


@pytest.mark.parametrize("name", sorted({case.opcode for case in FOLDED}))
def test_constant_operands_change_no_bit(name):
    for case in FOLDED:
        if case.opcode == name:
            lowered().check(case, *samples(case))
