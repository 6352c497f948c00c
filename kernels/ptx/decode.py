"""A Program -> steps that run: instructions bound to the slots of the register file that they read and write.

Registers, immediates, parameters, variables and special registers such as %tid.x all have a slot; those that a launch
fixes are filled in before it starts. So a step indexes one list.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from . import isa
from .errors import ParseError, UnknownOpcode
from .floats import Approximation
from .opcode import BITS
from .parse import Immediate, Instruction, Program, Register, Symbol, Vector

Run = Callable[[Any, Any], None]  # (block, active): active (P or 1, T or 1) bool, or None for all threads
SPECIAL = ("%tid", "%ntid", "%ctaid", "%nctaid", "%laneid", "%warpid", "%nwarpid")
# Of a cluster of one program: its place in the grid, and its size in programs.
CLUSTER = {"%clusterid": "%ctaid", "%nclusterid": "%nctaid"}
ALONE = {"%cluster_ctarank": 0, "%cluster_nctarank": 1, "%cluster_ctaid": 0, "%cluster_nctaid": 1}


class Step(NamedTuple):
    """One instruction, ready to run, or one that the machine itself executes: see `control`."""

    instruction: Instruction
    run: Run
    reads: int  # slots, as bits
    writes: int
    control: str | None = None  # the machine's method for it
    guard: tuple[int, bool] | None = None  # slot and whether negated, for those with control
    target: int = 0  # index of the instruction to jump to, or number of the barrier
    threads: int = 0  # of a barrier: how many it waits for; 0: all of the program


class Decoded(NamedTuple):
    steps: list[Step]
    slots: dict[str, int]
    given: dict[str, int]  # of these, what a launch fills in: parameters, variables, special registers
    fixed: dict[int, np.ndarray]  # immediates
    parameters: list[tuple[str, str]]
    constants: dict[str, bytes]
    index: dict[int, int]  # id of an instruction -> where it stands
    end: list[
        int
    ]  # of straight code from each instruction on: the next control, a label that something jumps to, the end
    weights: list[int]  # of all instructions before each, see termination.py
    live: list[int]  # the slots that may be read from each instruction on, as bits
    always: int  # the slots that are filled in before the start
    granule: int  # the least bytes that an access to shared memory takes
    local: int  # bytes of local memory of a thread
    shared: int  # bytes of shared memory that the module itself declares
    asynchronous: bool  # whether anything works beside the threads, or barriers are for a part of them
    undefined: dict[int, np.dtype]  # read and never written: a compiler's word for any bits, none of which may matter
    registers_of: dict[str, str]  # the class of each register
    followed: Any = None  # of a program with a shadow, a shadow.acts.Followed
    faulty: frozenset[int] = frozenset()  # instructions that raise whenever they are come to, see in_flight.py
    meets: Any = None  # `end` in a random schedule, which stops before every access and label

    def registers(self, pointers: dict[str, int], values: dict[str, Any], T: int, grid: tuple, random: Any) -> list:
        """A register file with all that is known before a launch starts; `random` is the schedule's, or None."""
        R: list[Any] = [None] * len(self.slots)
        for slot, value in (self.unspecified(random) | self.fixed).items():
            R[slot] = value
        thread = np.arange(T, dtype=np.uint32)[None]
        for name, slot in self.given.items():
            kind, _, axis = name.partition(".")
            if kind == "%tid":
                R[slot] = thread if axis == "x" else thread[:, :1]
            elif kind == "%laneid":
                R[slot] = thread % 32
            elif kind == "%warpid":
                R[slot] = thread // 32
            elif kind == "%nwarpid" or kind in ALONE:
                R[slot] = np.full((1, 1), ALONE.get(kind, T // 32), np.uint32)
            elif kind in ("%ntid", "%nctaid"):
                sizes = (T, 1, 1) if kind == "%ntid" else grid
                R[slot] = np.full((1, 1), sizes["xyz".index(axis)], np.uint32)
            elif name in pointers:
                R[slot] = np.full((1, 1), pointers[name], np.uint64)
            elif name in values:
                R[slot] = values[name]
        return R

    def unspecified(self, random: Any) -> dict[int, np.ndarray]:
        """Bits of the `undefined` slots; `random` is the schedule's, or None."""
        drawn = (lambda: ()) if random is None else lambda: (int(random.integers(1 << 63)),)
        return {slot: any_bits(kind, *drawn()) for slot, kind in self.undefined.items()}


def width(kind: str) -> int:
    """Bits of a PTX type."""
    return BITS[kind]


@cache
def dtype(kind: str) -> np.dtype:
    return np.dtype(bool) if kind == "pred" else np.dtype(f"u{max(width(kind), 8) // 8}")


def immediate(bits: int, kind: str) -> str:
    """The name of an immediate's slot."""
    return f"#{bits & ((1 << width(kind)) - 1)}:{spelled(kind)}"


@cache
def spelled(kind: str) -> str:
    return dtype(kind).str


def any_bits(kind: np.dtype, bits: int = 0xA5A5A5A5A5A5A5A5) -> np.ndarray:
    """A register of unspecified bits."""
    return np.full((1, 1), bits & ((1 << (1 if kind.kind == "b" else 8 * kind.itemsize)) - 1), kind)


def converter(kind: str) -> Callable[[np.ndarray], np.ndarray]:
    to = dtype(kind)
    return lambda x: x.astype(to)


def widened(value: np.ndarray, kind: str, register: str) -> np.ndarray:
    """A result in its register: sign-extended if its type is signed, zero-extended otherwise."""
    if kind == "pred" or width(kind) == width(register):
        return value
    if kind[0] == "s":
        return value.view(f"i{value.itemsize}").astype(f"i{width(register) // 8}").view(dtype(register))
    return value.astype(dtype(register))


def assign(R: list, slot: int, value: np.ndarray, active: np.ndarray | None) -> None:
    old = R[slot]
    R[slot] = value if active is None or old is None else np.where(active, value, old)


class Decoder:
    """Binds the instructions of one program. The families of instructions with side effects are in access.py and
    collective.py; what is pure comes from isa.py."""

    def __init__(self, program: Program, approximation: Approximation | None):
        self.program, self.approximation = program, approximation
        self.slots: dict[str, int] = {}
        self.fixed: dict[int, np.ndarray] = {}
        self.granule = 16
        self.reads = self.writes = 0

    def slot(self, name: str) -> int:
        return self.slots.setdefault(name, len(self.slots))

    def kind(self, name: str) -> str:
        """The class of a register."""
        if found := self.program.registers.get(name):
            return found
        if name.partition(".")[0] in (*SPECIAL, *ALONE):
            return "b32"
        raise UnknownOpcode(name, "a special register whose value no machine but the GPU has")

    def source(self, operand: Any, kind: str) -> tuple[int, Callable | None]:
        """The slot of a source operand, and what narrows a wider register to the operand's type."""
        if isinstance(operand, Vector) and len(operand.parts) == 1:
            operand = operand.parts[0]
        if isinstance(operand, Register):
            return self.register(operand, kind)
        if isinstance(operand, Immediate):
            slot = self.slot(immediate(operand.bits, kind))
            if slot not in self.fixed:
                self.fixed[slot] = np.full((1, 1), operand.bits & ((1 << width(kind)) - 1), dtype(kind))
            return slot, None
        if isinstance(operand, Symbol):
            slot = self.slot(operand.name)
            if operand.name in self.program.shared or operand.name in self.program.labels:
                self.fixed[slot] = np.full((1, 1), self.variable(operand.name), dtype(kind))
            return slot, None
        raise ParseError(f"an operand that is no value: {operand}")

    def register(self, operand: Register, kind: str) -> tuple[int, Callable | None]:
        name = operand.name
        if name not in self.program.registers:
            first, dot, axis = name.partition(".")
            name = CLUSTER.get(first, first) + dot + axis
        slot = self.slot(name)
        self.reads |= 1 << slot
        if operand.negated:
            return slot, np.logical_not
        register = self.kind(name)
        bits, held = width(kind), width(register)
        if (kind == "pred") != (register == "pred") or bits > held:
            raise ParseError(f"{name} is .{register}, where the instruction reads .{kind}")
        return slot, converter(kind) if bits < held else None

    def variable(self, name: str) -> int:
        """The address of a variable in shared or local memory: one after the other, from 0."""
        at = 0
        for other, size in self.program.shared.items():
            if other == name:
                return at
            at += -(-size // 16) * 16
        return 0

    def result(self, operand: Any, kind: str) -> Callable[[list, np.ndarray, Any], None]:
        """What puts a result of a type into its register; nothing, where the program has no use for it: _."""
        if isinstance(operand, Vector) and len(operand.parts) == 1:
            operand = operand.parts[0]
        if isinstance(operand, Symbol) and operand.name == "_":
            return lambda R, value, active: None
        if not isinstance(operand, Register):
            raise ParseError(f"an operand that is no register: {operand}")
        register = self.kind(operand.name)
        slot = self.slot(operand.name)
        self.writes |= 1 << slot
        if kind == "pred" or width(kind) == width(register):
            return lambda R, value, active: assign(R, slot, value, active)
        return lambda R, value, active: assign(R, slot, widened(value, kind, register), active)

    def pure(self, i: Instruction) -> Run:
        """An instruction of the table in isa.py."""
        s = isa.semantics(i.opcode, self.approximation, len(i.operands) - 1)
        first = i.operands[0]
        targets = first.parts if isinstance(first, Vector) else (first,)
        results = [self.result(t, kind) for t, kind in zip(targets, s.results, strict=False)]
        sources = [self.source(x, kind) for x, kind in zip(i.operands[1:], s.sources, strict=True)]
        carry = self.slot("carry") if s.carry else 0  # a register that no operand names
        if "in" in s.carry:
            self.reads |= 1 << carry
            sources.append((carry, None))
        if "out" in s.carry:
            self.writes |= 1 << carry
            results.append(lambda R, value, active: assign(R, carry, value, active))

        def run(block, active):
            R = block.R
            values = s.function(*[R[slot] if narrow is None else narrow(R[slot]) for slot, narrow in sources])
            for put, value in zip(results, values if isinstance(values, tuple) else (values,), strict=False):
                put(R, value, active)

        return run

    def move(self, i: Instruction) -> Run:
        """mov, also between a register and the parts of a vector (9.7.9.2)."""
        kind = i.opcode.split(".")[1]
        target, source = i.operands
        if isinstance(target, Vector) and len(target.parts) > 1:
            part = f"b{width(kind) // len(target.parts)}"
            puts = [self.result(x, part) for x in target.parts]
            slot, _ = self.source(source, kind)
            return lambda block, active: unpack(block.R, block.R[slot], dtype(part), puts, active)
        put = self.result(target, kind)
        if isinstance(source, Vector) and len(source.parts) > 1:
            part = f"b{width(kind) // len(source.parts)}"
            slots = [self.source(x, part)[0] for x in source.parts]
            return lambda block, active: put(block.R, joined([block.R[s] for s in slots], width(kind) // 8), active)
        slot, narrow = self.source(source, kind)
        if isinstance(source, Symbol):  # the address of a variable, which may be wider than asked for
            narrow = converter(kind)
        if narrow:
            return lambda block, active: put(block.R, narrow(block.R[slot]), active)
        return lambda block, active: put(block.R, block.R[slot], active)


def unpack(R: list, words: np.ndarray, part: np.dtype, puts: list, active) -> None:
    """Put the parts of words, the lowest first, into their registers; what is (..., n) holds n words."""
    parts = (words if words.ndim > 2 else words[..., None]).view(part)
    for n, put in enumerate(puts):
        put(R, parts[..., n], active)


def joined(parts: list[np.ndarray], size: int) -> np.ndarray:
    """Parts, the lowest first -> words: (P or 1, T or 1) up to 8 bytes, (P or 1, T or 1, size // 8) above."""
    if len(parts) == 1:
        return parts[0]
    words = np.stack(np.broadcast_arrays(*parts), axis=-1).view(f"u{min(size, 8)}")
    return words[..., 0] if size <= 8 else words
