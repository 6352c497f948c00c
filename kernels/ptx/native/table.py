"""Instructions of the table in isa.py -> LLVM IR: which file writes which."""

from collections.abc import Callable
from functools import cache
from typing import Any

from .. import isa
from ..opcode import BITS, Opcode, Semantics
from . import conversions, floats, integers
from .lanes import Lanes
from .lower import Unlowered


@cache
def opcode(text: str, operands: int) -> Opcode:
    name, *parts = text.split(".")
    types, modifiers = (tuple(p for p in parts if (p in BITS) is kind) for kind in (True, False))
    return Opcode(text, name, types, modifiers, None, operands)


@cache
def pure(text: str, operands: int) -> tuple[Semantics, Callable[[Lanes, list[Any]], list[Any]]]:
    """The types of an instruction of the table, and what writes it. Raises Unlowered."""
    if text not in isa.OPCODES:
        raise Unlowered(text)
    meaning, op = isa.semantics(text, None, operands), opcode(text, operands)
    table = conversions if op.name == "cvt" else floats if any("f" in t for t in op.types) else integers
    if op.name not in table.LOWER:
        raise Unlowered(text)
    return meaning, lambda L, values: table.LOWER[op.name](op, L, values)
