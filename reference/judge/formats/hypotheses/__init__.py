"""Wrong computations of a format, each a step of computation.py replaced; verdict.py names the one that fits.

Each file has one idea. A hypothesis is tried only on formats that it changes.
"""

from . import layout, quotients, scales, sharing, state
from .base import Hypothesis

HYPOTHESES: tuple[Hypothesis, ...] = tuple(
    h for part in (quotients, scales, layout, sharing, state) for h in part.HYPOTHESES
)

__all__ = ["HYPOTHESES", "Hypothesis"]
