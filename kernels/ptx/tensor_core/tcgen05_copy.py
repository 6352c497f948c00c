"""tcgen05.cp: from shared to tensor memory, in order with the products of the thread that issues it.

What nothing has written counts as unwritten where it arrives, too: Triton predicates a product that is not wanted, and
not the copies of its scales.
Source: PTX ISA 8.7, section 9.7.16.8 (tcgen05.cp).
"""

import re

import numpy as np

from ..asynchronous import proxy
from ..decode import Decoder, Run
from ..errors import Undefined, UnknownOpcode
from ..forms import address
from ..parse import Instruction
from . import descriptors
from .tcgen05 import issuer, memory_of, one_program, picked
from .tcgen05_mma import MODES, Issue, place, touch
from .tensor_memory import LANES, SHARE

OPCODE = re.compile(r"tcgen05\.cp\.cta_group::1\.(\d+)x(\d+)b(?:\.warpx(?:4|2::(02_13|01_23)))?")
# Shape -> of each quarter of the lanes, which 32 rows it gets.
QUARTERS = {
    ("128", "256", None): (0, 1, 2, 3), ("128", "128", None): (0, 1, 2, 3), ("32", "128", None): (0, 0, 0, 0),
    ("64", "128", "02_13"): (0, 1, 0, 1), ("64", "128", "01_23"): (0, 0, 1, 1),
}  # fmt: skip


def copy(d: Decoder, i: Instruction) -> Run:
    """tcgen05.cp [to], descriptor: rows of 16 or 32 bytes that lie in shared memory as a K-major matrix does."""
    opcode = re.sub(r"\.(warpx[\w:]+)\.(\d+x\d+b)$", r".\2.\1", i.opcode)  # Triton writes the shape last
    found = OPCODE.fullmatch(opcode)
    if not found or found.groups() not in QUARTERS or ((found[1] == "32") != opcode.endswith("warpx4")):
        raise UnknownOpcode(i.opcode, "its table has other forms of it", i)
    rows, bytes, quarters = int(found[1]), int(found[2]) // 8, list(QUARTERS[found.groups()])
    to, slot = address(d, i.operands[0], "shared"), d.source(i.operands[1], "b64")[0]

    def run(block, active):
        block.instruction = i
        issue = Issue(*issuer(block, active, "copy"))
        descriptor = picked(block, block.R[slot], issue.who)
        f = descriptors.fields(descriptor[:, None], 61)
        codes = {int(x) for x in f.swizzle.ravel()}
        if len(codes) > 1 or not codes <= MODES.keys():
            raise block.error(Undefined, "the descriptor has a swizzle that is not known", 0, int(issue.who[0]))
        at = descriptors.units(f, rows, bytes, 1, False, MODES[codes.pop()])
        on = None if issue.rows.all() else np.broadcast_to(issue.rows[:, None], (len(issue.rows), at.shape[1]))
        data = proxy.read(block, at, descriptors.UNIT, on, issue.who, proxy.Done("tcgen05"), moves=True)
        known = proxy.written(block, at, descriptors.UNIT) | ~issue.rows[:, None]
        words = np.ascontiguousarray(data).view("<u4").reshape(len(data), -1, 32, bytes // 4)[:, quarters]
        known = known.reshape(len(known), -1, 32, bytes // descriptors.UNIT)[:, quarters]
        p = place(block, issue, picked(block, to(block.R), issue.who), LANES, bytes // 4)
        touch(block, issue, p, writes=True, reads=False)
        target = p.of(memory_of(block).words)
        some = np.broadcast_to(issue.rows, len(target))
        target[some] = np.broadcast_to(words, target.shape)[some]
        if block.world.checks and not known.all():
            parts = known.reshape(len(known), LANES // SHARE, SHARE, -1).all(2).repeat(descriptors.UNIT // 4, 2)
            memory_of(block).came_unwritten(p.cells(), parts.reshape(len(parts), -1))

    return run


FAMILY = one_program(copy)
