"""What a shadow does beside each instruction, in words that either engine can follow."""

from typing import Any, NamedTuple

from .formats import HALF

LIBRARY = ("standard.py", "core.py", "math.py")  # of Triton
Place = tuple[str, int]  # a Python line
RAW = ("pred", "b32")  # types of what goes in as bits


class Number(NamedTuple):
    """An operand that is read as a number of a format, or as bits of a type of RAW.

    twin   whether it is a register that has a twin of that format
    value  of an immediate: what it stands for, (1, 1)
    """

    operand: Any
    kind: str
    twin: bool = False
    value: Any = None


class Act(NamedTuple):
    """What is done beside one instruction.

    how      "compute", "shuffle", "multiply": a list f of the numbers; "choose": note where f of the twins differs;
             "stand": the real results are the twins, or NaN if facts[0] and the instruction is lost; or, with more
             facts, one of moving.py
    numbers  what it reads
    targets  registers that get a twin; of "load" all that are loaded, of which those of no format get none
    """

    how: str
    f: Any
    numbers: tuple[Number, ...]
    targets: tuple[Number, ...]
    facts: tuple[Any, ...]


class Followed(NamedTuple):
    """What a program's shadow does, by the indices of its instructions.

    acts    what is done beside an instruction
    lost    those that are not followed
    marked  those of them whose results are NaN where it is to doubt them
    folded  the numbers of its Python that no constant is
    lines   of each instruction
    """

    acts: dict[int, list[Act]]
    lost: set[int]
    marked: set[int]
    folded: frozenset[float]
    lines: list[Place]


def line(where: Any) -> Place:
    """The innermost Python line of an instruction that is not of Triton's library."""
    return next((at for at in where if at[0] not in LIBRARY), ("?", 0))


def twins(name: str, kind: str) -> list[str]:
    """The names of the slots of a register's twin: two of a pair, of which the NumPy form takes the first for both."""
    return [f"{name}'", f"{name}''"][: 1 + (kind in HALF)]
