"""Opcodes and operands of memory instructions."""

import re
from typing import Any, NamedTuple

from .decode import Decoder, width
from .errors import UnknownOpcode
from .parse import Address, Instruction, Vector

SPACES = ("global", "shared", "local", "param")
ORDERS = ("weak", "relaxed", "acquire", "release", "acq_rel", "volatile")
SCOPES = ("cta", "cluster", "gpu", "sys")
ATOMICS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
# What caches do with a line changes when data arrives, not what arrives.
HINT = re.compile(r"ca|cg|cs|cv|lu|wb|wt|nc|L1::\w+|L2::\w+|noftz")
TYPE = re.compile(r"(b|u|s|f)(8|16|32|64)|f16x2|bf16|bf16x2")


class Form(NamedTuple):
    """The parts of an opcode of this family."""

    space: str
    order: str  # "" is weak
    scope: str
    operation: str  # of an atomic
    count: int  # elements of a vector
    kind: str
    policy: bool  # a cache policy follows as last operand

    @property
    def size(self) -> int:
        """Bytes that a thread accesses."""
        return self.count * width(self.kind) // 8


def form(i: Instruction) -> Form:
    """Read an opcode; UnknownOpcode if any part of it is none of those above."""
    found: dict[str, Any] = {"space": "", "order": "", "scope": "", "operation": "", "count": 1, "kind": ""}
    policy = False
    for part in i.opcode.split(".")[1:]:
        name = part.removesuffix("::cta").removesuffix("::cluster")  # of one program
        for field, names in (("space", SPACES), ("order", ORDERS), ("scope", SCOPES), ("operation", ATOMICS)):
            if name in names and not found[field]:
                found[field] = name
                break
        else:
            if part in ("v2", "v4", "v8"):
                found["count"] = int(part[1])
            elif TYPE.fullmatch(part):
                found["kind"] = part
            elif not HINT.fullmatch(part):
                raise UnknownOpcode(i.opcode, f".{part} is not known here", i)
            policy |= part == "L2::cache_hint"
    if not found["space"] or not found["kind"]:
        raise UnknownOpcode(i.opcode, "generic addresses are not known: the state space must be named", i)
    if found["order"] in ("weak", "volatile"):
        found["order"] = {"weak": "", "volatile": "relaxed"}[found["order"]]
    return Form(**found, policy=policy)


def address(d: Decoder, operand: Any, space: str) -> Any:
    """What computes an address operand's bytes: a function of the register file."""
    assert isinstance(operand, Address)
    slot, _ = d.source(operand.base, "b64" if space == "global" else "b32")
    if not operand.offset:
        return lambda R: R[slot]
    offset = operand.offset
    return lambda R: R[slot] + R[slot].dtype.type(offset % (1 << 8 * R[slot].itemsize))


def parts_of(operand: Any) -> tuple:
    return operand.parts if isinstance(operand, Vector) else (operand,)
