"""The instructions of this folder by the first two parts of their opcodes."""

from ..decode import Decoder, Run
from ..parse import Instruction
from . import mma, mma_scaled, tcgen05, tcgen05_copy, tcgen05_mma, tcgen05_move, tcgen05_scaled, wgmma


def multiply(d: Decoder, i: Instruction) -> Run:
    """mma.sync, with scales or without."""
    return (mma_scaled if ".block_scale" in i.opcode else mma).multiply(d, i)


def multiply_in_memory(d: Decoder, i: Instruction) -> Run:
    """tcgen05.mma, likewise."""
    return (tcgen05_scaled if ".block_scale" in i.opcode else tcgen05_mma).FAMILY(d, i)


FAMILIES = {
    **wgmma.FAMILIES, **tcgen05.FAMILIES, **tcgen05_move.FAMILIES, "mma.sync": multiply,
    "tcgen05.mma": multiply_in_memory, "tcgen05.cp": tcgen05_copy.FAMILY,
}  # fmt: skip
