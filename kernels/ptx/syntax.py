"""What PTX text is made of, once it is read: operands, instructions, functions, and the program of a kernel."""

from typing import NamedTuple

Where = tuple[tuple[str, int], ...]  # Python locations (file name, line), innermost first


class Register(NamedTuple):
    name: str
    negated: bool = False  # predicates only: !%p1


class Immediate(NamedTuple):
    bits: int  # an integer (maybe negative), or the bits of a float
    width: int  # of a float, 32 or 64; 0 for an integer, which takes the width of its use


class Symbol(NamedTuple):
    name: str  # a label, a variable, a parameter or a function


class Address(NamedTuple):
    base: Register | Symbol | Immediate
    offset: int


class Vector(NamedTuple):
    parts: tuple  # {a, b}, the (a, b) of a call, and d|p, where an instruction has two results


class Instruction(NamedTuple):
    opcode: str
    operands: tuple
    guard: Register | None
    line: int  # in the PTX text, from 1
    where: Where


class Function(NamedTuple):
    """An .entry or a .func, as it stands in the text."""

    name: str
    results: list[tuple[str, str]]  # (name, type)
    parameters: list[tuple[str, str]]
    instructions: list[Instruction]
    labels: dict[str, int]
    registers: dict[str, str]
    local: dict[str, int]  # variables in local memory -> bytes


class Program(NamedTuple):
    """A kernel with the functions it calls put in their places."""

    name: str
    instructions: list[Instruction]
    labels: dict[str, int]  # name -> index of the instruction it stands before
    registers: dict[str, str]  # name -> its class: pred, b16, b32, b64
    parameters: list[tuple[str, str]]  # (name, type) in order
    constants: dict[str, bytes]  # .global variables with their values
    local: int  # bytes of local memory of a thread
    shared: dict[str, int]  # static shared variables -> bytes; dynamic ones -> 0
