"""The corpus of quantisation bugs: each is what somebody has really shipped, most with the thread that reports it.

Each is written by itself in NumPy, from the thread and not from computation.py, so that the judge meets strangers.
"""

from . import packing, rounding, scales, sharing, state
from .base import FormatFault

FORMAT_FAULTS: tuple[FormatFault, ...] = tuple(
    fault
    for part in (rounding, scales, packing, sharing, state)
    for fault in vars(part).values()
    if isinstance(fault, FormatFault)
)

__all__ = ["FORMAT_FAULTS", "FormatFault"]
