"""Following instructions in float64: the twin of each register that holds numbers lies in a slot of its own, "%r5'".

A twin is float64 (P or 1, T or 1), or complex128 of a pair: the value that float64 would have there, from exact inputs,
where branches, addresses and integers are those of the real run. Of an instruction that computes f,

    y' = f(x') + w (y - f(x))

where w is 1 if the launch keeps the rounding of its line, else 0. What is not followed is its real value, exactly.
"""

import re
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np

from ..decode import Decoder, Run, assign
from ..forms import parts_of
from ..parse import Immediate, Instruction, Register
from . import formats as fm
from .constants import Numbers, meant
from .formats import HALF, KINDS, exact
from .moving import RULES
from .planes import each, paired

Get = Callable[[list], Any]  # of the register file

FUNCTIONS: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "fma": lambda a, b, c: a * b + c, "div": np.divide,
    "rcp": np.reciprocal, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "ex2": np.exp2, "lg2": np.log2,
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "abs": np.abs, "neg": np.negative, "cvt": lambda x: x,
    "min": lambda *x: reduce(np.fmin, x), "max": lambda *x: reduce(np.fmax, x),
    "copysign": lambda a, b: np.copysign(b, a),
}  # fmt: skip
# A choice of an integer, and numbers that make one when they are added.
WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
MAGIC = {0x4B000000, 0x4B400000, 0x4330000000000000, 0x4338000000000000}
COMPARED: dict[str, Callable] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "nan": lambda a, b: np.isnan(a + b), "num": lambda a, b: ~np.isnan(a + b),
}  # fmt: skip
# What moves numbers beside the threads, and is not followed.
BESIDE = re.compile(r"cp\.(reduce\.)?async\.bulk\.(?!commit|wait|prefetch)|wgmma\.mma|tcgen05\.(ld|st|mma|cp)")


def chooses(i: Instruction) -> bool:
    """Whether an instruction rounds to an integer, as the real run does: a choice, like that of a branch."""
    added = i.opcode.startswith(("add", "fma")) and any(x.bits in MAGIC for x in i.operands if isinstance(x, Immediate))
    return added or any(x in i.opcode.split(".") for x in WHOLE)


def choice(i: Instruction) -> Callable | None:
    """What an instruction decides by floats, on float64: a predicate, or a whole number; None of any other."""
    name, *parts = i.opcode.split(".")
    sources, results = fm.pure(i)
    if not sources or sources[0] not in KINDS or not results:
        return None
    if name == "setp":
        test = COMPARED.get(parts[0].removesuffix("u"))
        test = each(test) if test and sources[0] in HALF else test
        return test and (lambda a, b, *_: test(a, b))
    if chooses(i):
        how = next((WHOLE[x] for x in parts if x in WHOLE), np.rint)
        low, high = (-np.inf, np.inf) if results[0] in KINDS or results[0][0] == "b" else range_of(results[0])
        f = FUNCTIONS[name]
        whole = lambda *x: np.clip(how(f(*x)), low, high)  # noqa: E731
        return each(whole) if sources[0] in HALF else whole
    return None


def range_of(kind: str) -> tuple[int, int]:
    """The least and the largest integer of a type."""
    n = int(kind[1:])
    return (-(1 << n - 1), (1 << n - 1) - 1) if kind[0] == "s" else (0, (1 << n) - 1)


def function(i: Instruction, doubts: bool = False) -> Callable | None:
    """What an instruction computes, on float64; None where its real result stands, as that of an integer.

    doubts  whether NaN in is NaN out
    """
    name, *parts = i.opcode.split(".")
    sources, results = fm.pure(i)
    f = FUNCTIONS.get(name) if all(x in KINDS for x in (*sources, *results)) else None
    if f is None or not results or "xorsign" in parts or chooses(i):
        return None
    f = (
        (lambda *x: reduce(getattr(np, f"{name}imum"), x))
        if "NaN" in parts or (doubts and name in ("min", "max"))
        else f
    )
    if name == "cvt" and len(sources) == 2:
        return lambda a, b: paired(b, a)
    f = partial(np.clip, a_min=0, a_max=1) if "sat" in parts else f
    return each(f) if results[0] in HALF else f


def registers(i: Instruction) -> Any:
    return fm.registers(i.operands[1:])


def based(i: Instruction) -> set[str]:
    """The registers that an instruction's addresses are made of."""
    return {getattr(getattr(x, "base", None), "name", "") for x in i.operands}


class Follower:
    """Follows the instructions of one program, while it is decoded.

    doubts  whether what is not followed is NaN, and not its real value
    marked  those of `lost` whose results are NaN if it doubts, or predicates that choose between numbers
    unsure  such predicates
    lost    the indices of those that compute with a float's bits, or beside the threads, and are not followed
    """

    def __init__(self, d: Decoder, numbers: Numbers, pointers: tuple[str, ...], doubts: bool):
        self.d, (self.numbers, self.rounded), self.doubts = d, numbers, doubts
        self.formats, self.matched = fm.formats(d.program, pointers), set()
        self.marked, self.unsure = set(), set()
        self.tainted = self.formats.keys() | fm.bits_used(d.program, self.formats)
        self.index = {id(i): n for n, i in enumerate(d.program.instructions)}
        self.lost: set[int] = set()
        self.twins = 0  # slots, as bits

    def __call__(self, i: Instruction, run: Run) -> Run:
        """The instruction's run, followed; the same one where it has nothing to do with numbers."""
        name, reads = i.opcode.split(".")[0], self.d.reads
        self.n = self.index[id(i)]
        written = i.operands[:1] if name not in ("st", "red", "stmatrix", "cp") else ()
        self.targets = [x for operand in written for x in parts_of(operand) if self.format(x)]
        if f := choice(i):
            run = self.chosen(i, run, f)
        else:
            self.decides(i)
        if self.targets or not written or name in ("ld", "ldmatrix", "atom"):
            run = (RULES[name](self, i, run) if name in RULES else None) or self.computed(i, run)
        if BESIDE.match(i.opcode) or self.tainted.difference(self.formats).intersection(based(i)):
            self.lost.add(self.n)
        if i.guard and i.guard.name in self.unsure:
            self.lost.add(self.n)
            self.marked.discard(self.n)
        self.d.reads = reads | (self.d.reads & self.twins)  # results are looked at, and not read
        return run

    def decides(self, i: Instruction) -> None:
        """Note an instruction that makes a predicate of a float's bits, or of such a predicate."""
        _, results = fm.pure(i)
        if results and results[0][0] == "e":  # a format of 8 bits, which has no twins
            self.lost.add(self.n)
        doubtful = self.unsure if "pred" in i.opcode else self.tainted | self.unsure
        if "pred" in results and doubtful.intersection(registers(i)):
            self.lost.add(self.n)
            self.marked.add(self.n)
            self.unsure |= set(fm.registers(i.operands[:1]))

    def format(self, x: Any) -> str:
        return self.formats.get(x.name, "") if isinstance(x, Register) else ""

    def twin(self, x: Any) -> int:
        self.d.program.registers[f"{x.name}'"] = "b64"
        slot = self.d.slot(f"{x.name}'")
        self.twins |= 1 << slot
        return slot

    def get(self, x: Any, kind: str) -> Get:
        """What gives the twin of a source operand that is read as a type."""
        if self.format(x) != kind:
            return self.real(x, kind)
        slot = self.twin(x)
        self.d.reads |= 1 << slot
        return lambda R: R[slot]

    def real(self, x: Any, kind: str) -> Get:
        """What gives an operand's own number."""
        if isinstance(x, Immediate):
            value, found = meant(x.bits, kind, self.numbers)
            self.matched |= found
            if value is None:
                self.lost.add(self.n)
                self.marked.add(self.n)
                value = meant(x.bits, kind, None)[0] * (np.nan if self.doubts else 1)
            return lambda R: value
        bits = self.bits(x, kind)
        return lambda R: exact(bits(R), kind)

    def bits(self, x: Any, kind: str) -> Get:
        slot, narrow = self.d.source(x, kind)
        return lambda R: narrow(R[slot]) if narrow else R[slot]

    def put(self, x: Any) -> Callable[[list, np.ndarray, Any], None]:
        """What puts a result's twin into its place."""
        slot = self.twin(x)
        self.d.writes |= 1 << slot
        return lambda R, value, active: assign(R, slot, value, active)

    def computed(self, i: Instruction, run: Run) -> Run:
        """An instruction that computes: in float64 if it is one of floats, else its real results stand."""
        f, (sources, results) = function(i, self.doubts), fm.pure(i)
        if f is None or [self.format(x) for x in self.targets] != [KINDS.get(x) for x in results[:1]]:
            return self.stands(i, run)
        operands = [(x, KINDS[kind]) for x, kind in zip(i.operands[1:], sources, strict=True)]
        gets, reals = ([how(*x) for x in operands] for how in (self.get, self.real))
        return self.follow(run, lambda *x: [f(*x)], gets, reals)

    def follow(self, run: Run, f: Callable[..., list], gets: list[Get], reals: list[Get], targets: Any = None) -> Run:
        """A run that also computes f of the twins that `gets` give, or of the numbers themselves, `reals`."""
        n = self.n
        places = [(self.put(x), self.real(x, self.format(x))) for x in targets or self.targets]

        def followed(block, active):
            R, shadow = block.R, block.world.shadow
            values = f(*[get(R) for get in gets])
            rounded = f(*[real(R) for real in reals]) if n in shadow.keeps else None
            run(block, active)
            for k, (put, own) in enumerate(places):
                put(R, values[k] if rounded is None else values[k] + shadow.entered(n, own(R), rounded[k]), active)

        return followed

    def stands(self, i: Instruction, run: Run) -> Run:
        """An instruction whose real results stand; lost if it has computed with a float's bits."""
        n, doubtful = self.n, self.tainted.intersection(registers(i))
        if doubtful and not chooses(i):
            self.lost.add(n)
        self.marked |= {n} if self.targets else set()
        places = [(self.put(x), self.real(x, self.format(x))) for x in self.targets]

        def followed(block, active):
            run(block, active)
            unknown = np.nan if self.doubts and n in self.lost else 1
            for put, own in places:
                put(block.R, own(block.R) * unknown, active)

        return followed if places else run

    def chosen(self, i: Instruction, run: Run, f: Callable) -> Run:
        """A run that notes where the twins would decide otherwise than the numbers themselves."""
        n = self.n
        operands = [(x, KINDS[kind]) for x, kind in zip(i.operands[1:], fm.pure(i)[0], strict=True) if kind in KINDS]
        gets, reals = ([how(*x) for x in operands] for how in (self.get, self.real))

        def followed(block, active):
            twins, own = ([get(block.R) for get in some] for some in (gets, reals))
            parts = ((f(*twins), f(*own)), *zip(twins, own, strict=True))
            differ = reduce(
                np.logical_or, (np.isnan(a) & ~np.isnan(b) for a, b in parts[1:]), parts[0][0] != parts[0][1]
            )
            differ = differ & ~reduce(np.logical_or, map(np.isnan, own))
            if (differ & (True if active is None else active)).any():
                block.world.shadow.choices.add(n)
            run(block, active)

        return followed
