"""What a launch starts from, the same for the NumPy form and for machine code."""

from typing import Any, NamedTuple

import numpy as np

from .decode import Decoded
from .segments import Buffer


class Start(NamedTuple):
    """What a launch starts from: a program as both engines take it, its arguments, and the settings; see `execute`."""

    text: str  # the PTX
    decoded: Decoded
    grid: tuple[int, int, int]
    parameters: dict[str, Any]  # of the module, by name
    buffers: list[Buffer]
    shared: int
    num_warps: int
    checks: bool
    seed: int | None
    readable: dict[str, Any]
    blank: dict[str, np.ndarray] | None
    warp_races: str
    max_steps: int | None
    trace: bool
    prints: bool
