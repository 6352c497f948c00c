"""The instructions of this folder by the first two parts of their opcodes, but for mma.sync, which is collective's."""

from ..decode import Decoder, Run
from ..parse import Instruction
from . import tcgen05, tcgen05_mma, tcgen05_scaled, wgmma


def multiply(d: Decoder, i: Instruction) -> Run:
    """tcgen05.mma, with scales or without."""
    return (tcgen05_scaled if ".block_scale" in i.opcode else tcgen05_mma).FAMILY(d, i)


FAMILIES = {**wgmma.FAMILIES, **tcgen05.FAMILIES, "tcgen05.mma": multiply}
