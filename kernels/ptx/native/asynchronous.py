"""Instructions of programs in which something works beside the threads, and where their warps stop for one another."""

import re

from ..syntax import Instruction
from . import bulk, clocks, mbarriers, ordered_cells, programs, proxy, turns, wgmma
from .context import GROUP, TURN

# What may end a phase of an mbarrier, or asks whether one has ended.
TURNS = re.compile(r"(cp\.async\.)?mbarrier\.|cp\.async\.bulk\..*mbarrier::complete_tx|tcgen05\.commit")
LOWER = bulk.LOWER | mbarriers.LOWER | proxy.LOWER | wgmma.LOWER
RUNTIME = clocks.RUNTIME | ordered_cells.RUNTIME | mbarriers.RUNTIME | proxy.RUNTIME | turns.RUNTIME
RUNTIME |= bulk.RUNTIME | wgmma.RUNTIME | programs.ASYNCHRONOUS


def stop_of(i: Instruction) -> int:
    """How a warp stops before an instruction, as context.py has it; 0: it does not."""
    return GROUP if i.opcode.startswith("wgmma.wait_group") else TURN if TURNS.match(i.opcode) else 0
