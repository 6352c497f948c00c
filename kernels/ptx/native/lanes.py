"""Writing LLVM IR for the lanes of a warp: what every family of instructions is written with.

A PTX value of n bits is an integer of n bits, `iN`, where all 32 lanes hold the same, or a vector of them, `<32 x iN>`;
a predicate is `i1`. Code is written once for both: the operands of one operation have one shape (`alike`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from . import ir

WARP = 32  # lanes
I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()


@cache
def vector(kind: Any, lanes: int = WARP) -> Any:
    return ir.VectorType(kind, lanes)


def element(kind: Any) -> Any:
    """The type of one lane's value."""
    return kind.element


def shaped(like: Any, kind: Any) -> Any:
    """An element type in the shape of a value's or type's."""
    like = getattr(like, "type", like)
    return ir.VectorType(kind, like.count) if isinstance(like, ir.VectorType) else kind


def spelled(kind: Any) -> str:
    """A type as the names of intrinsics have it: v32f32."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{spelled(kind.element)}"
    return {F32: "f32", F64: "f64"}[kind] if kind in (F32, F64) else f"i{kind.width}"


def begun(module: ir.Module, name: str, result: Any, *takes: Any, how: str = "") -> tuple["Lanes", list[Any]]:
    """What writes the first block of a function, and what that takes; how: "alwaysinline" | "noinline"."""
    made = module.globals.get(name) or ir.Function(module, ir.FunctionType(result, takes), name)
    made.how = how
    return Lanes(ir.IRBuilder(made.append_basic_block())), made.args


class Lanes:
    """A builder (`b`, an ir.IRBuilder) and what it lacks for vectors."""

    def __init__(self, builder: ir.IRBuilder):
        self.b = builder

    def const(self, like: Any, x: int | float) -> ir.Constant:
        """A number in the type of a value, or in a type; integers wrap."""
        kind = getattr(like, "type", like)
        one = element(kind)
        number = one(int(x) & ((1 << one.width) - 1) if isinstance(one, ir.IntType) else float(x))
        return ir.Constant(kind, [number] * kind.count) if isinstance(kind, ir.VectorType) else number

    def row(self, kind: Any, numbers: Any) -> ir.Constant:
        """A vector of constants, one for each lane."""
        numbers = list(numbers)
        return ir.Constant(ir.VectorType(kind, len(numbers)), [kind(int(x)) for x in numbers])

    def splat(self, value: Any, lanes: int = WARP) -> Any:
        """A vector whose lanes all hold `value`; a vector stays as it is."""
        if isinstance(value.type, ir.VectorType):
            return value
        if isinstance(value, ir.Constant):
            return ir.Constant(ir.VectorType(value.type, lanes), [value] * lanes)
        nothing = ir.Constant(ir.VectorType(value.type, lanes), "poison")
        one = self.b.insert_element(nothing, value, I32(0))
        return self.b.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(I32, lanes), None))

    def alike(self, *values: Any) -> list:
        """Values in one shape: where one is a vector, all become vectors."""
        many = [v.type.count for v in values if isinstance(v.type, ir.VectorType)]
        return [self.splat(v, many[0]) for v in values] if many else list(values)

    def lane(self, value: Any, n: int) -> Any:
        """One lane's value."""
        return self.b.extract_element(value, I32(n)) if isinstance(value.type, ir.VectorType) else value

    def pick(self, value: Any, order: Any) -> Any:
        """A vector of the elements of a vector at the places `order`."""
        return self.b.shuffle_vector(value, ir.Constant(value.type, "poison"), self.row(I32, order))

    def woven(self, parts: list) -> Any:
        """Vectors of one length -> one of all their elements, those of each lane side by side."""
        if len(parts) == 1:
            return parts[0]
        even, odd = self.woven(parts[::2]), self.woven(parts[1::2])
        n = even.type.count
        return self.b.shuffle_vector(even, odd, self.row(I32, [k // 2 + n * (k % 2) for k in range(2 * n)]))

    @contextmanager
    def rounds(self, first: Any, goes: Callable, following: Callable) -> Iterator[Any]:
        """x = first; while goes(x): x = following(x); yields x."""
        b = self.b
        before, head, body, after = b.block, b.inside("head"), b.inside("body"), b.behind("after")
        b.branch(head)
        b.position_at_end(head)
        x = b.phi(first.type)
        x.add_incoming(first, before)
        b.cbranch(goes(x), body, after)
        b.position_at_end(body)
        yield x
        x.add_incoming(following(x), b.block)
        b.branch(head)
        b.position_at_end(after)

    def loop(self, count: Any, first: Any = None) -> Any:
        """for i in range(first, count); yields i."""
        zero = self.const(count, 0) if first is None else first
        return self.rounds(zero, lambda i: self.b.icmp_signed("<", i, count), lambda i: self.b.add(i, self.const(i, 1)))

    @contextmanager
    def each(self, on: Any) -> Iterator[Any]:
        """for each bit that is set, the lowest first; yields its number, i64."""
        on, none, one = self.resize(on, 64), I64(0), I64(1)
        down = lambda x: self.b.and_(x, self.b.sub(x, one))  # noqa: E731
        with self.rounds(on, lambda x: self.b.icmp_unsigned("!=", x, none), down) as left:
            yield self.b.cttz(left, I1(0))

    def own(self, name: str, to: Any, write: Any, *values: Any, how: str = "alwaysinline") -> Any:
        """Call a function of this module, defined when it is first called: what write(lanes, *values) returns.

        Code is cheap to make where it is called, and quick where it is inlined: see code.py.
        """
        module = self.b.module
        if name not in module.globals:
            L, takes = begun(module, name, to, *(v.type for v in values), how=how)
            L.b.function.linkage = "internal"
            result = write(L, *takes)
            L.b.ret(result) if result else L.b.ret_void()
        return self.b.call(module.globals[name], values)

    def at(self, pointer: Any, n: Any, kind: Any) -> Any:
        """The address of element n of an array of a type."""
        return self.b.gep(pointer, [n if isinstance(n, ir.Value) else I64(n)], source_etype=kind)

    def resize(self, value: Any, bits: int, signed: bool = False) -> Any:
        """An integer in another width."""
        have = element(value.type).width
        if bits == have:
            return value
        to = shaped(value, ir.IntType(bits))
        return self.b.trunc(value, to) if bits < have else (self.b.sext if signed else self.b.zext)(value, to)

    def cast(self, name: str, value: Any, kind: Any) -> Any:
        """A conversion of the builder's, element by element: cast("fpext", x, F64)."""
        to = shaped(value, kind)
        return value if to == value.type else getattr(self.b, name)(value, to)

    def bits(self, value: Any) -> Any:
        """The bit pattern of floats."""
        return self.cast("bitcast", value, ir.IntType(64 if element(value.type) == F64 else 32))

    def number(self, value: Any) -> Any:
        """The float behind a bit pattern of 32 or 64 bits."""
        return self.cast("bitcast", value, F64 if element(value.type).width == 64 else F32)

    def intrinsic(self, name: str, *values: Any, kind: Any = None, extra: tuple = ()) -> Any:
        """Call llvm.NAME, overloaded by the type of its first operand: intrinsic("fma", a, b, c).

        kind   of its result, if another than that
        extra  operands that are no overload, as the i1 of ctlz
        """
        to = kind or values[0].type
        return self.call(f"llvm.{name}.{spelled(values[0].type)}", to, *values, *extra)

    def call(self, name: str, to: Any, *values: Any) -> Any:
        """Call a function of this name, declared when it is first called."""
        return self.b.named(name, to, *values)

    def any(self, holds: Any) -> Any:
        """i1: whether a predicate holds in any lane."""
        if not isinstance(holds.type, ir.VectorType):
            return holds
        return self.b.icmp_unsigned("!=", self.ballot(holds), ir.Constant(ir.IntType(holds.type.count), 0))

    def all(self, holds: Any) -> Any:
        """i1: whether a predicate holds in all lanes."""
        if not isinstance(holds.type, ir.VectorType):
            return holds
        return self.b.icmp_unsigned("==", self.ballot(holds), ir.Constant(ir.IntType(holds.type.count), -1))

    def ballot(self, holds: Any) -> Any:
        """A predicate's lanes as the bits of one integer, lane 0 the lowest."""
        return self.b.bitcast(holds, ir.IntType(holds.type.count))

    def mask(self, ballot: Any) -> Any:
        """The inverse: `<32 x i1>` of an i32."""
        return self.b.bitcast(ballot, ir.VectorType(I1, ballot.type.width))
