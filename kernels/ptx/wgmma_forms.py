"""What wgmma.mma_async takes, read from its opcode and its flags."""

import re
from typing import NamedTuple

from .errors import UnknownOpcode
from .matrix_forms import INPUTS, MIXED, width
from .syntax import Instruction, Vector

MODES = {0: 0, 1: 128, 2: 64, 3: 32}  # code -> bytes of a swizzled row
OPCODE = re.compile(
    r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(\d+)(\.satfinite)?\.(\w+)\.(\w+)\.(\w+)(\.satfinite)?"
)


class Form(NamedTuple):
    """The parts of an opcode."""

    N: int
    K: int
    d: str
    a: str
    b: str
    satfinite: bool

    @property
    def size(self) -> int:
        """Bytes of an element of A and B in shared memory."""
        return width(self.a) // 8


def form(opcode: str) -> Form:
    """Take a wgmma.mma_async apart. Types are those of mma, but for f64. Raises UnknownOpcode for any other."""
    found = OPCODE.fullmatch(opcode)
    if found is None:
        raise UnknownOpcode(opcode, "of wgmma.mma_async it takes dense products, m64n8 to m64n256")
    N, K, d, a, b = int(found[1]), int(found[2]), *found.group(4, 5, 6)
    sums = INPUTS[a][1] - {"f64"} if a in INPUTS else ()
    matches = (a == b or {a, b} in MIXED) and d in sums and K == 256 // width(a)
    whole = 8 <= N <= 256 and N % (16 if d == "s32" and N > 32 else 8) == 0
    satfinite = bool(found[3] or found[7])
    if not matches or not whole or (satfinite and d != "s32"):
        raise UnknownOpcode(opcode, "it knows no wgmma with these shapes and types")
    return Form(N, K, d, a, b, satfinite)


def flags(i: Instruction) -> tuple[float, bool, bool]:
    """What A B is multiplied by, and whether A and B lie with M and N as their contiguous axes."""
    f, in_registers, given = form(i.opcode), isinstance(i.operands[1], Vector), [x.bits for x in i.operands[4:]]
    signs, trans = given[:2] if f.d != "s32" else [1, 1], given[2:] or [0, 0]
    trans = [0, *trans] if in_registers and len(trans) == 1 else trans
    halves = f.a in ("f16", "bf16")
    assert len(given) == (0 if f.d == "s32" else 2 + halves * (1 if in_registers else 2))
    return float(signs[0] * signs[1]), bool(trans[0]), bool(trans[1])
