"""What writes an instruction of the table in isa.py, as a type, and the error where nothing does."""

from collections.abc import Callable
from typing import Any

from ..opcode import Opcode
from .lanes import Lanes

# Writes one instruction: its opcode, the sources' values, all of one shape, as the Semantics types them, and then the
# carry if it takes one; returns the results, and then the carry if it gives one.
Pure = Callable[[Opcode, Lanes, list[Any]], list[Any]]


class Unlowered(Exception):
    """An instruction has no native form: the NumPy form runs the whole kernel."""
