"""LLVM IR as text: what the emitters need of llvmlite's `ir`, under its names, in a tenth of its time.

An instruction is a line of its block as soon as it is asked for; a value is its type and its name. What is done to
known whole numbers, or changes nothing, is no instruction.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .values import (  # noqa: F401
    Block,
    Constant,
    DoubleType,
    FloatType,
    Function,
    FunctionType,
    Gap,
    HalfType,
    IntType,
    Later,
    Line,
    Module,
    Phi,
    PointerType,
    Switch,
    Trunk,
    Value,
    VectorType,
    VoidType,
)  # fmt: skip

RELATIONS = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
KNOWN: dict[str, Callable[[int, int], int]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "and": operator.and_, "or": operator.or_,
    "xor": operator.xor, "shl": operator.lshift,
}  # fmt: skip
IDLE = {"add", "sub", "or", "xor", "shl", "lshr", "ashr"}  # with 0


def number(x: Any) -> int | None:
    """A known whole number."""
    return x.constant if x.__class__ is Constant and x.constant.__class__ is int else None


def binary(name: str) -> Any:
    compute, idle = KNOWN.get(name), name in IDLE

    def write(self: Any, a: Value, b: Value) -> Value:
        if (y := number(b)) is not None:
            if compute and (x := number(a)) is not None:
                return a.type(compute(x, y))
            if (idle and not y) or (name == "and" and y == a.type.ones):
                return a
        return self.value(a.type, f"{name} {a.type.text} {a.text}, {b.text}")

    return write


def cast(name: str) -> Any:
    def write(self: Any, x: Value, to: Any) -> Value:
        known = number(x) if name in ("trunc", "zext") else None
        return self.value(to, f"{name} {x} to {to.text}") if known is None else to(known)

    return write


def comparison(name: str) -> Any:
    def write(self: Any, relation: str, a: Value, b: Value) -> Value:
        sign, lanes = name[5:], getattr(a.type, "count", 0)
        kind, equal = VectorType(IntType(1), lanes) if lanes else IntType(1), relation in ("==", "!=")
        if equal and number(a) is not None and number(b) is not None:
            return kind((number(a) == number(b)) == (relation == "=="))
        how = RELATIONS.get(relation, relation)  # "ord" and "uno" have no other name
        how = how if how == relation or (equal and name[0] == "i") else sign + how
        return self.value(kind, f"{name[:4]} {how} {a}, {b.text}")

    return write


def counting(name: str) -> Any:
    return lambda self, x, *flag: self.named(f"llvm.{name}.{x.type}", x.type, x, *flag)


class IRBuilder:
    """Writes at the end of a block."""

    block: Block
    lines: list[Any]

    def __init__(self, block: Block):
        self.function, self.numbers = block.function, block.function.numbers
        self.module, self.append_basic_block = block.function.module, block.function.append_basic_block
        self.position_at_end(block)

    def position_at_end(self, block: Block) -> None:
        self.block, self.lines = block, block.lines

    def value(self, kind: Any, text: str, origin: Any = None) -> Value:
        name = f"%v{next(self.numbers)}"
        self.lines.append(f"{name} = {text}")
        return Value(kind, name, origin)

    def at_head(self, kind: Any, text: str) -> Value:
        """A value of the function's head."""
        made = Value(kind, f"%v{next(self.numbers)}")
        self.function.head.append(f"{made.text} = {text}")
        return made

    def gap(self) -> Gap:
        self.lines.append(gap := Gap())
        return gap

    def fill(self, gap: Gap, write: Callable[[], Any]) -> Any:
        """Write something there."""
        here, self.lines = self.lines, gap.lines
        found = write()
        self.lines = here
        return found

    def later(self, kind: Any, write: Callable[[], Value]) -> Value:
        """A value that is written here only if it is read."""
        gap = self.gap()
        return Later(kind, lambda: self.fill(gap, write))

    @contextmanager
    def goto_block(self, block: Block) -> Iterator[None]:
        here = self.block, self.lines
        self.position_at_end(block)
        yield
        self.block, self.lines = here

    # Numbers

    add, sub, mul, udiv, urem = (binary(x) for x in ("add", "sub", "mul", "udiv", "urem"))
    and_, or_, xor, shl, lshr, ashr = (binary(x) for x in ("and", "or", "xor", "shl", "lshr", "ashr"))
    fadd, fsub, fmul, fdiv = (binary(x) for x in ("fadd", "fsub", "fmul", "fdiv"))
    trunc, zext, sext, fptrunc, fpext = (cast(x) for x in ("trunc", "zext", "sext", "fptrunc", "fpext"))
    fptosi, fptoui, sitofp, uitofp = (cast(x) for x in ("fptosi", "fptoui", "sitofp", "uitofp"))
    icmp_signed, icmp_unsigned, fcmp_ordered, fcmp_unordered = map(comparison, ("icmp s", "icmp u", "fcmp o", "fcmp u"))
    ctpop, ctlz, cttz, inttoptr = *(counting(x) for x in ("ctpop", "ctlz", "cttz")), cast("inttoptr")

    def ptrtoint(self, x: Value, to: Any) -> Value:
        """Of what the function is given once, at its head."""
        if x not in self.function.args:
            return self.value(to, f"ptrtoint {x} to {to.text}")
        x.number = x.number or self.at_head(to, f"ptrtoint {x} to {to.text}")
        return x.number

    def neg(self, x: Value) -> Value:
        return self.sub(Constant(x.type, None), x)

    def not_(self, x: Value) -> Value:
        lanes = getattr(x.type, "count", 0)
        return self.xor(x, Constant(x.type, [x.type.element(-1)] * lanes) if lanes else x.type(-1))

    def fneg(self, x: Value) -> Value:
        return self.value(x.type, f"fneg {x}")

    def bitcast(self, x: Value, to: Any) -> Value:
        if x.origin is not None:
            return self.bitcast(x.origin, to)
        return x if x.type is to else self.value(to, f"bitcast {x} to {to.text}", x)

    def select(self, holds: Value, a: Value, b: Value) -> Value:
        if (known := number(holds)) is not None:
            return a if known else b
        return self.value(a.type, f"select {holds}, {a}, {b}")

    # Vectors

    def extract_element(self, x: Value, n: Value) -> Value:
        return self.value(x.type.element, f"extractelement {x}, {n}")

    def insert_element(self, x: Value, one: Value, n: Value) -> Value:
        return self.value(x.type, f"insertelement {x}, {one}, {n}")

    def shuffle_vector(self, x: Value, y: Value, order: Value) -> Value:
        return self.value(VectorType(x.type.element, order.type.count), f"shufflevector {x}, {y}, {order}")

    # Memory

    def alloca(self, kind: Any, size: int = 1, align: int = 0) -> Value:
        return self.at_head(PointerType(), f"alloca {kind}, i32 {size}{f', align {align}' * (align > 0)}")

    def load(self, place: Value, typ: Any, align: int = 0, invariant: bool = False) -> Value:
        tail = f", align {align}" * (align > 0) + ", !invariant.load !0" * invariant
        return self.value(typ, f"load {typ.text}, ptr {place.text}{tail}")

    def store(self, x: Value, place: Value, align: int = 0) -> None:
        self.lines.append(f"store {x}, ptr {place.text}{f', align {align}' * (align > 0)}")

    def gep(self, place: Value, at: list[Value], source_etype: Any) -> Value:
        if number(at[0]) == 0:
            return place
        return self.value(place.type, f"getelementptr {source_etype.text}, {place}, {at[0]}")

    def cmpxchg(self, place: Value, old: Value, new: Value, order: str) -> Value:
        return self.value(old.type, f"cmpxchg {place}, {old}, {new} {order} {order}")

    def extract_value(self, pair: Value, n: int) -> Value:
        """The second of what cmpxchg returns: whether it was the old value."""
        return self.value(IntType(1), f"extractvalue {{ {pair.type}, i1 }} {pair.text}, {n}")

    def atomic_rmw(self, name: str, place: Value, x: Value, order: str) -> Value:
        return self.value(x.type, f"atomicrmw {name} {place}, {x} {order}")

    def fence(self, order: str) -> None:
        self.lines.append(f"fence {order}")

    # Control

    def call(self, function: Any, values: Any, result: Any = None) -> Value:
        """Call a function, or an address of one with such a result."""
        result = result or function.result
        text = f"call {result} {function.text}({', '.join(map(str, values))})"
        if result is not VoidType():
            return self.value(result, text)
        self.lines.append(text)
        return Value(result, "")

    def named(self, name: str, result: Any, *values: Value) -> Value:
        """Call a function of this name, declared where it is first called."""
        known = self.module.globals.get(name)
        return self.call(known or Function(self.module, FunctionType(result, [x.type for x in values]), name), values)

    def phi(self, kind: Any) -> Phi:
        made = Phi(kind, f"%v{next(self.numbers)}")
        made.whole = Line(f"{made.text} = phi {kind} {{}}", ", ")
        self.lines.append(made.whole)
        return made

    def end(self, line: Any) -> Any:
        self.lines.append(line)
        self.block.is_terminated = True
        return line

    def branch(self, to: Block) -> None:
        self.end(f"br label %{to.name}")

    def cbranch(self, holds: Value, then: Block, other: Block) -> None:
        self.end(f"br {holds}, label %{then.name}, label %{other.name}")

    def switch(self, value: Value, otherwise: Block) -> Switch:
        return self.end(Switch(f"switch {value}, label %{otherwise.name} [{{}}]", " "))

    def ret(self, value: Value) -> None:
        self.end(f"ret {value}")

    def ret_void(self) -> None:
        self.end("ret void")

    def inside(self, name: str) -> Block:
        """A new block that runs only after this one."""
        return self.append_basic_block(name, Trunk(self.block.trunk))

    def behind(self, name: str) -> Block:
        """The same, if all blocks until there are `inside` this one's trunk."""
        return self.append_basic_block(name, self.block.trunk)

    @contextmanager
    def way(self, block: Block, after: Block) -> Iterator[None]:
        self.position_at_end(block)
        yield
        if not self.block.is_terminated:
            self.branch(after)
        self.position_at_end(after)

    @contextmanager
    def if_else(self, holds: Value) -> Iterator[Any]:
        """Two contexts: what is written in the first runs where it holds, what in the second where it does not."""
        then, other, after = self.inside("then"), self.inside("else"), self.behind("after")
        self.cbranch(holds, then, other)
        yield self.way(then, after), self.way(other, after)

    @contextmanager
    def if_then(self, holds: Value) -> Iterator[None]:
        then, after = self.inside("then"), self.behind("after")
        self.cbranch(holds, then, after)
        with self.way(then, after):
            yield
