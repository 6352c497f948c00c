"""The instructions of this folder by the first two parts of their opcodes, but for mma.sync, which is collective's."""

from . import tcgen05, tcgen05_mma, wgmma

FAMILIES = {**wgmma.FAMILIES, **tcgen05.FAMILIES, **tcgen05_mma.FAMILIES}
