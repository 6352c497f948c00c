"""A launch as machine code: what depends on the kernel alone is compiled once, and then run."""

import hashlib
from typing import Any

import numpy as np

from ..start import Start
from .code import Code
from .lower import Unlowered


def key(start: Start) -> bytes:
    """What the machine code of a launch depends on."""
    return hashlib.sha256(repr((start.num_warps, start.checks)).encode() + start.text.encode()).digest()


def compiled(start: Start) -> Code:
    """The machine code of a launch. Raises Unlowered where it can have none."""
    raise Unlowered(start.decoded.steps[0].instruction.opcode)


def run(start: Start, code: Any, written: dict[str, np.ndarray] | None) -> Any:
    """What a Report is made from (grid, T, counters, memory, printed); None on suspicion, the arrays as they came."""
    raise NotImplementedError
