"""Runtime functions of compiled code, written as Python and never run as such: a small part of it -> LLVM IR.

    def marked(context, place, n):
        for k in range(n):
            if u8[place, k] == 0:
                u8[place, k] = 1
        return context.program + u64[place, HEAD]

Every value is 64 bits wide, addresses too. u8[p, k] is the k-th byte from the address p on, u16, u32 and u64 likewise;
context.NAME is a field of the launch's record, any other x.NAME is u64[x, NAME]. Integers wrap; >> takes in zeros;
comparisons are signed, `and`, `or`, `not` and x if y else z as ever. `for lane in lanes(on)` goes through the bits that
are set. Names that are not local are the module's numbers; what these rule out is not written. A call is of bits,
lowest, least, most, swap, exchange, advance, fence, prefetch or invoke, see of_call; of libc's memcpy, memset and
memcmp; or of another such function. What has no return returns 0.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from . import context as ctx
from . import ir
from .lanes import I1, I8, I16, I32, I64, begun

SIZES = {"u8": I8, "u16": I16, "u32": I32, "u64": I64}
ATOMICS = {"exchange": "xchg", "advance": "add"}  # what was there: exchange(u8[p, k], new), advance(u64[p, k], more)
OPERATORS = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor",
    ast.LShift: "shl", ast.RShift: "lshr", ast.Mod: "urem", ast.FloorDiv: "udiv",
}  # fmt: skip
COMPARES = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


def routines(*functions: Callable, **numbers: int) -> dict[str, Callable[[ir.Module], None]]:
    """What defines each of these functions in a module, by name; numbers: more than those of their module."""
    return {f.__name__: lambda module, f=f: Routine(module, f, numbers).write() for f in functions}


class Routine:
    def __init__(self, module: ir.Module, function: Callable, numbers: dict[str, int]):
        self.tree: Any = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        straight = all(isinstance(x, (ast.Expr, ast.Assign, ast.Return)) for x in self.tree.body)
        self.numbers, names = function.__globals__ | numbers, [a.arg for a in self.tree.args.args]
        how = "alwaysinline" if straight else ""
        self.L, values = begun(module, function.__name__, I64, *[I64] * len(names), how=how)
        self.b: Any = self.L.b
        self.names: dict[str, Any] = {}
        for name, value in zip(names, values, strict=True):
            self.set(name, value)

    def write(self) -> None:
        self.body(self.tree.body)
        if not self.b.block.is_terminated:
            self.b.ret(I64(0))

    def set(self, name: str, value: Any) -> None:
        if name not in self.names:
            self.names[name] = self.b.alloca(I64)
        self.b.store(value, self.names[name])

    def body(self, statements: list) -> None:
        for statement in statements:
            getattr(self, type(statement).__name__.lower() + "_")(statement)

    def place(self, x: ast.Subscript) -> tuple[Any, Any]:
        """The address that u8[p, k] stands for, and its type."""
        kind = SIZES[x.value.id]  # pyright: ignore[reportAttributeAccessIssue]
        base, k = map(self.value, x.slice.elts)  # pyright: ignore[reportAttributeAccessIssue]
        return self.b.gep(self.b.inttoptr(base, ctx.POINTER), [k], source_etype=kind), kind

    def wide(self, x: Any) -> Any:
        return self.b.zext(x, I64) if x.type.width < 64 else x

    def holds(self, x: Any) -> Any:
        """An expression as a condition, i1."""
        value = self.value(x, False)
        return value if value.type == I1 else self.b.icmp_signed("!=", value, I64(0))

    # Expressions

    def value(self, x: Any, wide: bool = True) -> Any:
        value = getattr(self, "of_" + type(x).__name__.lower())(x)
        return self.wide(value) if wide else value

    def of_constant(self, x: ast.Constant) -> Any:
        return I64(int(x.value) & (1 << 64) - 1)  # pyright: ignore[reportArgumentType]

    def of_name(self, x: ast.Name) -> Any:
        if x.id in self.names:
            return self.b.load(self.names[x.id], typ=I64)
        return I64(int(self.numbers[x.id]) & (1 << 64) - 1)

    def of_attribute(self, x: ast.Attribute) -> Any:
        place, kind = self.place(self.field(x))
        return self.b.load(place, typ=kind)

    def field(self, x: ast.Attribute) -> ast.Subscript:
        """x.NAME as u64[x, NAME]."""
        whole = isinstance(x.value, ast.Name) and x.value.id == "context"
        n: ast.expr = ast.Constant(ctx.FIELDS.index(x.attr)) if whole else ast.Name(x.attr)
        return ast.Subscript(ast.Name("u64"), ast.Tuple([x.value, n]))

    def of_subscript(self, x: ast.Subscript) -> Any:
        place, kind = self.place(x)
        return self.b.load(place, typ=kind)

    def of_binop(self, x: ast.BinOp) -> Any:
        return getattr(self.b, OPERATORS[type(x.op)])(self.value(x.left), self.value(x.right))

    def of_unaryop(self, x: ast.UnaryOp) -> Any:
        if isinstance(x.op, ast.Not):
            return self.b.not_(self.holds(x.operand))
        return (self.b.neg if isinstance(x.op, ast.USub) else self.b.not_)(self.value(x.operand))

    def of_compare(self, x: ast.Compare) -> Any:
        """a < b, and a <= b < c of values that are cheap to compute twice."""
        terms = [self.value(y) for y in (x.left, *x.comparators)]
        each = [self.b.icmp_signed(COMPARES[type(o)], *terms[n : n + 2]) for n, o in enumerate(x.ops)]
        return each[0] if len(each) == 1 else self.b.and_(*each)

    def of_boolop(self, x: ast.BoolOp) -> Any:
        """Short of the rest once it is decided."""
        stop, left = isinstance(x.op, ast.Or), self.holds(x.values[0])
        for other in x.values[1:]:
            before, more, after = self.b.block, self.b.append_basic_block(), self.b.append_basic_block()
            self.b.cbranch(left, *((after, more) if stop else (more, after)))
            self.b.position_at_end(more)
            right = self.holds(other)
            last = self.b.block
            self.b.branch(after)
            self.b.position_at_end(after)
            left = self.b.phi(I1)
            left.add_incoming(I1(stop), before)
            left.add_incoming(right, last)
        return left

    def of_ifexp(self, x: ast.IfExp) -> Any:
        return self.b.select(self.holds(x.test), self.value(x.body), self.value(x.orelse))

    def of_call(self, x: ast.Call) -> Any:
        name: str = x.func.id  # pyright: ignore[reportAttributeAccessIssue]
        if name == "swap" or name in ATOMICS:
            place, kind = self.place(x.args[0])  # pyright: ignore[reportArgumentType]
            values = [self.L.resize(self.value(y), kind.width) for y in x.args[1:]]
            if name == "swap":  # swap(u8[p, k], old, new): whether it was old, and is new now
                return self.b.extract_value(self.b.cmpxchg(place, *values, "seq_cst"), 1)
            return self.b.atomic_rmw(ATOMICS[name], place, values[0], "seq_cst")
        values = [self.value(y) for y in x.args]
        if name == "fence":
            self.b.fence("seq_cst")
            return I64(0)
        if name == "prefetch":  # to read, soon
            place = self.b.inttoptr(values[0], ctx.POINTER)
            self.b.named("llvm.prefetch.p0", ir.VoidType(), place, I32(0), I32(2), I32(1))
            return I64(0)
        if name == "invoke":  # the function at an address
            return self.b.call(self.b.inttoptr(values[0], ctx.POINTER), values[1:], I64)
        if name == "memset":
            values[1] = self.b.trunc(values[1], I32)
        if name in ("bits", "lowest"):
            return self.b.ctpop(values[0]) if name == "bits" else self.b.cttz(values[0], I1(0))
        if name in ("least", "most"):
            return self.b.select(self.b.icmp_signed("<" if name == "least" else ">", *values), *values)
        return self.b.named(name, I32 if name == "memcmp" else I64, *values)

    # Statements

    def expr_(self, s: ast.Expr) -> None:
        if not isinstance(s.value, ast.Constant):  # a docstring
            self.value(s.value)

    def assign_(self, s: ast.Assign) -> None:
        target = s.targets[0]
        if isinstance(target, ast.Tuple):
            for one, value in zip(target.elts, [self.value(x) for x in s.value.elts], strict=True):  # pyright: ignore
                self.put(one, value)
            return
        self.put(target, self.value(s.value))

    def put(self, target: Any, value: Any) -> None:
        if isinstance(target, ast.Name):
            return self.set(target.id, value)
        place, kind = self.place(self.field(target) if isinstance(target, ast.Attribute) else target)
        self.b.store(self.b.trunc(value, kind) if kind != I64 else value, place)
        return None

    def augassign_(self, s: ast.AugAssign) -> None:
        self.assign_(ast.Assign([s.target], ast.BinOp(s.target, s.op, s.value)))

    def if_(self, s: ast.If) -> None:
        holds = self.holds(s.test)
        if (known := ir.number(holds)) is not None:
            self.body(s.body if known else s.orelse)
            return
        with self.b.if_else(holds) as ways:
            for way, statements in zip(ways, (s.body, s.orelse), strict=True):
                with way:
                    self.body(statements)

    def while_(self, s: ast.While) -> None:
        head, body, after = (self.b.append_basic_block() for _ in range(3))
        self.b.branch(head)
        self.b.position_at_end(head)
        self.b.cbranch(self.holds(s.test), body, after)
        with self.b.way(body, head):
            self.body(s.body)
        self.b.position_at_end(after)

    def for_(self, s: ast.For) -> None:
        call, target = s.iter, s.target.id  # pyright: ignore[reportAttributeAccessIssue]
        through = self.L.each if call.func.id == "lanes" else self.L.loop  # pyright: ignore[reportAttributeAccessIssue]
        with through(*map(self.value, reversed(call.args))) as k:  # pyright: ignore[reportAttributeAccessIssue]
            self.set(target, k)
            self.body(s.body)

    def return_(self, s: ast.Return) -> None:
        self.b.ret(self.value(s.value))
