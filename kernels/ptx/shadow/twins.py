"""Following one instruction in float64: the twin of each register that holds numbers lies in a slot of its own.

A twin is float64 (P or 1, T or 1), or complex128 of a pair: the value that float64 would have there, from exact inputs,
where branches, addresses and integers are those of the real run. Of instruction n, f(x) in the registers,

    y' = f64(x') + w (y - f64(x))

with w = 1 where the launch keeps the rounding of n's line, else 0. What is not followed is its real value, exactly.
"""

import re
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np

from ..decode import Decoder, Run, assign
from ..forms import parts_of
from ..parse import Immediate, Instruction, Register, Vector
from . import formats as fm
from .constants import meant
from .formats import HALF, KINDS, exact
from .moving import RULES
from .planes import paired

Get = Callable[[list], np.ndarray]

FUNCTIONS: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "fma": lambda a, b, c: a * b + c, "div": np.divide,
    "rcp": np.reciprocal, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "ex2": np.exp2, "lg2": np.log2,
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "abs": np.abs, "neg": np.negative, "cvt": lambda x: x,
    "copysign": lambda a, b: np.copysign(b, a), "min": np.fmin, "max": np.fmax,
}  # fmt: skip
# What moves numbers beside the threads, and is not followed.
BESIDE = re.compile(r"cp\.(reduce\.)?async\.bulk\.(?!commit|wait|prefetch)|wgmma\.mma|tcgen05\.(ld|st|mma|cp)")
WHOLE = ("rni", "rzi", "rmi", "rpi")


def function(i: Instruction, sources: tuple[str, ...], result: str) -> Callable | None:
    """What an instruction computes, on float64; None where its real result stands: integers, and choices of one."""
    name, *parts = i.opcode.split(".")
    f = FUNCTIONS.get(name)
    if f is None or any(x in parts for x in (*WHOLE, "xorsign")) or any(x not in KINDS for x in sources):
        return None
    if name in ("min", "max"):
        f = partial(reduce, {"min": np.minimum, "max": np.maximum}[name] if "NaN" in parts else f)
        return both(lambda *x: f(x)) if result in HALF else lambda *x: f(x)
    if name == "cvt" and len(sources) == 2:
        return lambda a, b: paired(b, a)
    if "sat" in parts:
        return lambda x: np.clip(x, 0, 1)
    return both(f) if result in HALF else f


def both(f: Callable) -> Callable:
    """A function of numbers made one of pairs."""
    return lambda *x: paired(f(*(v.real for v in x)), f(*(v.imag for v in x)))


class Follower:
    """Follows the instructions of one program, while it is decoded.

    lost  instruction -> its number, of those that compute with a float's bits
    """

    def __init__(self, d: Decoder, numbers: tuple[float, ...], pointers: tuple[str, ...]):
        self.d, self.formats, self.numbers = d, fm.formats(d.program, pointers), numbers
        self.made = fm.bits_used(d.program, self.formats)
        self.index = {id(i): n for n, i in enumerate(d.program.instructions)}
        self.lost: set[int] = set()
        self.twins = 0  # slots, as bits

    def __call__(self, i: Instruction, run: Run) -> Run:
        """The instruction's run, followed; the same one where it has nothing to do with numbers."""
        n, rule, reads = self.index[id(i)], RULES.get(i.opcode.split(".")[0]), self.d.reads
        found = (rule(self, n, i, run) if rule else None) or self.computed(n, i, run)
        self.d.reads = reads | (self.d.reads & self.twins)  # results are looked at, and not read
        return found

    def format(self, x: Any) -> str | None:
        if isinstance(x, Vector) and len(x.parts) == 1:
            x = x.parts[0]
        return self.formats.get(x.name) if isinstance(x, Register) else None

    def twin(self, x: Any) -> int:
        name = f"{parts_of(x)[0].name}'"
        self.d.program.registers[name] = "b64"
        slot = self.d.slot(name)
        self.twins |= 1 << slot
        return slot

    def get(self, x: Any, kind: str) -> Get:
        """What gives the twin of a source operand that is read as a type."""
        if self.format(x) == kind:
            slot = self.twin(x)
            self.d.reads |= 1 << slot
            return lambda R: R[slot]
        return self.real(x, kind)

    def real(self, x: Any, kind: str) -> Get:
        """What gives a source operand's own number."""
        if isinstance(x, Immediate):
            value = meant(x.bits, kind, self.numbers)
            return lambda R: value
        slot, narrow = self.d.source(x, "f32" if kind == "tf32" else kind)
        return lambda R: exact(narrow(R[slot]) if narrow else R[slot], kind)

    def bits(self, x: Any) -> Get:
        slot, _ = self.d.source(x, "b32")
        return lambda R: R[slot]

    def put(self, x: Any) -> Callable[[list, np.ndarray, Any], None]:
        """What puts a result's twin into its place."""
        if self.format(x) is None:
            return lambda R, value, active: None
        slot = self.twin(x)
        self.d.writes |= 1 << slot
        return lambda R, value, active: assign(R, slot, value, active)

    def results(self, i: Instruction) -> list[Any]:
        """The registers with a format that an instruction writes."""
        written = i.operands[:1] if i.opcode.split(".")[0] not in ("st", "red", "stmatrix") else ()
        return [x for operand in written for x in parts_of(operand) if self.format(x)]

    def computed(self, n: int, i: Instruction, run: Run) -> Run:
        """An instruction that computes: in float64 if it is one of floats, else its real results stand."""
        targets = self.results(i)
        if BESIDE.match(i.opcode):
            self.lost.add(n)
        if not targets:
            return run
        sources, kinds = fm.pure(i)
        kind = self.format(targets[0])
        f = function(i, sources, kinds[0]) if kinds and KINDS.get(kinds[0]) == kind else None
        if f is None or len(targets) > 1:
            return self.stands(n, i, run)
        wanted = [KINDS[k] for k in sources]
        gets = [self.get(x, k) for x, k in zip(i.operands[1:], wanted, strict=True)]
        return self.applied(
            n, run, f, gets, [self.real(x, k) for x, k in zip(i.operands[1:], wanted, strict=True)], targets[0]
        )

    def applied(self, n: int, run: Run, f: Callable, gets: list[Get], reals: list[Get], target: Any) -> Run:
        put, own = self.put(target), self.real(target, self.format(target) or "")

        def follow(block, active):
            R, shadow = block.R, block.world.shadow
            y = f(*[get(R) for get in gets])
            if n in shadow.keeps:
                rounded = f(*[real(R) for real in reals])
                run(block, active)
                y = y + shadow.entered(n, own(R) - rounded)
            else:
                run(block, active)
            put(R, y, active)

        return follow

    def stands(self, n: int, i: Instruction, run: Run) -> Run:
        """An instruction whose real results stand; lost if it has computed with a float's bits."""
        targets = self.results(i)
        parts = i.opcode.split(".")
        used = {x.name for operand in i.operands[1:] for x in parts_of(operand) if isinstance(x, Register)}
        if used & (self.formats.keys() | self.made) and not any(x in parts for x in WHOLE):
            self.lost.add(n)
        pairs = [(self.put(x), self.real(x, self.format(x) or "")) for x in targets]

        def follow(block, active):
            run(block, active)
            for put, own in pairs:
                put(block.R, own(block.R), active)

        return follow
