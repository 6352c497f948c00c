"""tcgen05.mma with block scaling: each block along K of A and B has a scale of its own, which lies in tensor memory.

Source: PTX ISA 8.8, sections 9.7.16.4.2 (instruction descriptor) and 9.7.16.10.7 (block scaling).
"""

import re
from typing import Any

import numpy as np

from ..decode import Decoder, Run
from ..errors import Undefined, UnknownOpcode
from ..forms import address
from ..parse import Address, Instruction
from .numbers import scales
from .tcgen05 import issuer, memory_of, one_program, picked
from .tcgen05_mma import HINT, Form, Issue, place, shared_code, shared_operand, touch, write
from .tensor_memory import LANES

# kind -> K, and the types of A and B by their code
KINDS = {
    "mxf8f6f4": (32, {0: "e4m3", 1: "e5m2", 3: "e2m3", 4: "e3m2", 5: "e2m1"}),
    "mxf4": (64, {1: "e2m1"}),
    "mxf4nvf4": (64, {1: "e2m1"}),
}
BLOCKS = {"block32": 32, "block16": 16, "scale_vec::1X": 32, "scale_vec::2X": 32, "scale_vec::4X": 16}


def form(block: Any, kind: str, code: int, thread: int) -> tuple[Form, str, int, int]:
    """Read an instruction descriptor: also the type of the scales, and which bytes those of A and B begin at."""
    bits = lambda at, n: code >> at & (1 << n) - 1  # noqa: E731
    K, inputs = KINDS[kind]
    M, N = 128 * bits(27, 2), 8 * bits(17, 6)
    known = bits(7, 3) in inputs and bits(10, 2 if K == 64 else 3) in inputs
    if M != LANES or not 8 <= N <= 256 or not known or bits(2, 1) or bits(31, 1):
        what = f"the instruction descriptor {code:#x}, of M {M}, N {N} and types {bits(7, 3)} and {bits(10, 3)}, "
        raise block.error(Undefined, f"{what}is none of a dense tcgen05.mma of kind {kind}", 0, thread)
    types = inputs[bits(7, 3)], inputs[bits(10, 2 if K == 64 else 3)]
    f = Form(M, N, K, 1, *types, "f32", bits(13, 1) != bits(14, 1), bool(bits(15, 1)), bool(bits(16, 1)), False)
    return f, "ue8m0" if bits(23, 1) else "ue4m3", bits(29, 2), bits(4, 2)


def scales_of(block: Any, issue: Issue, at: np.ndarray, rows: int, first: int, number: int, kind: str) -> np.ndarray:
    """(P, rows, number): of row r those in lane r % 32 and column r // 32, in bytes from `first` on.

    Raises Undefined unless each quarter of the lanes holds them, too.
    """
    columns = -(-rows // 32)
    p = place(block, issue, at, LANES, columns)
    touch(block, issue, p, writes=False, reads=True)
    quarters = np.ascontiguousarray(p.of(memory_of(block).words))  # (P, 4, 32, columns)
    part = quarters.view(np.uint8).reshape(*quarters.shape, 4)[..., first : first + number]
    held = part.transpose(0, 1, 3, 2, 4).reshape(len(part), 4, -1, number)[:, :, :rows]
    if (differs := (held != held[:, :1]).any((1, 2, 3)) & issue.rows).any():
        what = "the scales in tensor memory are not the same in all four quarters of its lanes"
        raise block.error(Undefined, what, int(np.argmax(differs)), int(issue.who[0]))
    return scales(held[:, 0], kind)


def multiply(d: Decoder, i: Instruction) -> Run:
    """tcgen05.mma [D], A, B, instruction descriptor, [scales of A], [scales of B], enable-input-d."""
    sizes = "|".join(BLOCKS)
    found = re.fullmatch(rf"tcgen05\.mma\.cta_group::1\.kind::(\w+)\.block_scale(?:\.({sizes}))?{HINT}", i.opcode)
    if not found or found[1] not in KINDS or len(i.operands) != 7 or isinstance(i.operands[1], Address):
        raise UnknownOpcode(i.opcode, "with scales, dense products of matrices in shared memory are known", i)
    kind, (target, a, b, code, *where, enabled) = found[1], i.operands
    size = BLOCKS[found[2]] if found[2] else 32
    to, of_a, of_b = (address(d, x, "shared") for x in (target, *where))
    a, b, code = d.source(a, "b64")[0], d.source(b, "b64")[0], d.source(code, "b32")[0]
    keep, negated = d.source(enabled, "pred")

    def run(block, active):
        block.instruction = i
        R, issue = block.R, Issue(*issuer(block, active, "multiply"))
        value = lambda x: picked(block, x, issue.who)  # noqa: E731
        f, type_of_scales, first_a, first_b = form(block, kind, shared_code(block, value(R[code])), int(issue.who[0]))
        sides = []
        for name, slot, at, rows, first in (("A", a, of_a, f.M, first_a), ("B", b, of_b, f.N, first_b)):
            s = scales_of(block, issue, value(at(R)), rows, first, f.K // size, type_of_scales)
            sides.append(shared_operand(block, issue, value(R[slot]), name, f) * np.repeat(s, size, axis=2))
        product = sides[0] @ sides[1].swapaxes(1, 2)
        write(block, issue, value(to(R)), f, product, value(~R[keep] if negated else R[keep]))

    return run


FAMILY = one_program(multiply)
