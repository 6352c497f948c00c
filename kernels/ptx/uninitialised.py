"""Whether reads of unwritten memory change a launch's results: it runs again with other bytes there.

Many a correct kernel loads a whole block and masks the part that was never written. So such a read is a fault only if
results or errors then differ. Bytes that a kernel only moves, as in a copy of a cache with dead slots, are unwritten
where they arrive; a copy of an array of which nothing was ever written is a fault.
"""

from collections.abc import Callable

import numpy as np

from .errors import PtxError
from .memory import BLANK, MAPPED, GlobalMemory

FILLERS = (0x7E, 0xA3)  # large and positive, small and negative; what stands there by itself is NaN, or -27

Outcome = tuple[GlobalMemory, PtxError | None]


def verdict(usual: Outcome, again: Callable[[int], Outcome]) -> PtxError | None:
    """The error that a launch ends in: its own, or Uninitialised if unwritten bytes decide how it ends.

    usual  the launch
    again  runs it once more, with this byte wherever nothing is written
    """
    memory, error = usual
    if memory.doubt is None:
        return error
    for filler in FILLERS:
        other, fails = again(filler)
        if str(error) != str(fails) or differ(memory, other, filler):
            return memory.doubt
    return error


def differ(a: GlobalMemory, b: GlobalMemory, filler: int) -> bool:
    """Whether two runs leave different bytes, apart from those that none of them wrote or that both merely moved."""
    known = (a.state & MAPPED != 0) & (a.state & b.state & BLANK == 0)
    at = np.flatnonzero(known & (a.bytes != b.bytes))
    if a.all_doubtful or not at.size:
        return at.size > 0
    moved = (b.bytes[at] == filler) & ((a.bytes[at] == 0xE5) | (a.bytes[at] == 0xFF))
    return not moved.all()
