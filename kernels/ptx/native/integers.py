"""Integers, bits and predicates of the instruction table as LLVM IR: for every input the bits of ../integers.py."""

from collections.abc import Callable
from functools import reduce
from typing import Any

from ..opcode import Opcode
from . import ir
from .lanes import F64, I1, I16, Lanes, element, vector
from .lower import Pure, Unlowered

RELATIONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def constant_bits(value: Any) -> int | None:
    """The bits of a constant integer, those of one lane where all hold the same; None of any other value."""
    if not isinstance(value, ir.Constant):
        return None
    if isinstance(value.constant, (list, tuple)):
        one, *_ = each = value.constant
        return constant_bits(one) if each.count(one) == len(each) else None  # equal numbers are one Constant
    one: Any = value.type
    return value.constant & (1 << one.width) - 1 if isinstance(value.constant, int) else None


def signed(op: Opcode) -> bool:
    return op.types[-1][0] == "s"


def less(op: Opcode, L: Lanes, a: Any, b: Any, relation: str = "<") -> Any:
    return (L.b.icmp_signed if signed(op) else L.b.icmp_unsigned)(relation, a, b)


def is_zero(L: Lanes, x: Any) -> Any:
    return L.b.icmp_unsigned("==", x, L.const(x, 0))


def single(function: Callable) -> Pure:
    """A function of (op, L, *values) with one result; of two packed numbers, on twice as many lanes of 16 bits."""

    def write(op, L, values):
        if not op.types[-1].endswith("x2"):
            return [function(op, L, *values)]
        kind = values[0].type
        pairs = vector(I16, 2 * getattr(kind, "count", 1))
        return [L.b.bitcast(function(op, L, *(L.b.bitcast(v, pairs) for v in values)), kind)]

    return write


def method(name: str) -> Pure:
    return single(lambda op, L, *values: getattr(L.b, name)(*values))


def intrinsic(name: str, *extra: Any, bits: int = 0) -> Callable:
    """A function for `single`; its result has `bits`, or as many as the operand."""
    return lambda op, L, a: L.resize(L.intrinsic(name, a, extra=extra), bits or element(a.type).width)


def negative(op: Opcode, L: Lanes, a: Any) -> Any:
    return L.b.sub(L.const(a, 0), a)


def product(op: Opcode, L: Lanes, a: Any, b: Any) -> Any:
    """The lower or the upper half of a product, or the whole of it."""
    if "lo" in op.modifiers:
        return L.b.mul(a, b)
    width, sign = element(a.type).width, op.types[0][0] == "s"
    whole = L.b.mul(L.resize(a, 2 * width, sign), L.resize(b, 2 * width, sign))
    return whole if "wide" in op.modifiers else L.resize(L.b.lshr(whole, L.const(whole, width)), width)


def extended(op: Opcode, L: Lanes, values: list) -> list:
    """Sums and differences, of products too, with the carry or borrow and without."""
    if op.types[-1].endswith("x2"):
        return method("add")(op, L, values)
    carry = [values[-1]] if op.name.endswith("c") else []
    *factors, a, b = values[:-1] if carry else values
    a, b, *carry = L.alike(product(op, L, factors[0], a) if factors else a, b, *carry)
    step: Callable = L.b.sub if op.name.startswith("sub") else L.b.add
    r = step(a, b)
    for c in carry:
        r = step(r, L.resize(c, element(r.type).width))
    if "cc" not in op.modifiers:
        return [r]
    x, y = (a, b) if op.name.startswith("sub") else (r, a)
    out = L.b.icmp_unsigned("<", x, y)
    for c in carry:
        out = L.b.or_(out, L.b.and_(L.b.icmp_unsigned("==", x, y), c))
    return [r, out]


def distance(op: Opcode, L: Lanes, a: Any, b: Any, c: Any) -> Any:
    return L.b.add(c, L.b.select(less(op, L, a, b), L.b.sub(b, a), L.b.sub(a, b)))


def divide(op: Opcode, L: Lanes, a: Any, b: Any) -> Any:
    """Towards zero; by zero all bits are set. Up to 32 bits the rounded quotient of float64s never reaches the next."""
    n, d = (L.intrinsic("abs", x, extra=(I1(0),)) if signed(op) else x for x in (a, b))
    zero = is_zero(L, b)
    d = d if constant_bits(b) else L.b.select(zero, L.const(b, 1), d)
    if constant_bits(b) or not isinstance(a.type, ir.VectorType) or element(a.type).width == 64:
        q = L.b.udiv(n, d)
    else:
        q = L.b.fdiv(L.cast("uitofp", n, F64), L.cast("uitofp", d, F64))
        q = L.cast("fptoui", q, element(a.type))
    if signed(op):
        q = L.b.select(L.b.icmp_signed("<", L.b.xor(a, b), L.const(a, 0)), negative(op, L, q), q)
    return q if constant_bits(b) else L.b.select(zero, L.const(a, -1), q)


def remainder(op: Opcode, L: Lanes, a: Any, b: Any) -> Any:
    """Of the quotient towards zero; by zero it is the dividend."""
    return L.b.sub(a, L.b.mul(divide(op, L, a, b), b))


def shift_amount(op: Opcode, L: Lanes, x: Any) -> Any:
    n = L.resize(L.intrinsic("ctlz", x, extra=(I1(0),)), 32)
    return L.b.select(is_zero(L, x), L.const(n, -1), n)


def shift(L: Lanes, name: str, a: Any, n: Any) -> Any:
    """shl, lshr or ashr of a by n, an int or i32s in the shape of a; no amount is too large."""
    width, move = element(a.type).width, getattr(L.b, name)
    fixed = n if isinstance(n, int) else constant_bits(n)
    if fixed is not None and (fixed < width or name == "ashr"):
        return move(a, L.const(a, min(fixed, width - 1))) if fixed else a
    if fixed is not None:
        return L.const(a, 0)
    if name == "ashr":
        return move(a, L.resize(L.intrinsic("umin", n, L.const(n, width - 1)), width))
    return L.b.select(L.b.icmp_unsigned("<", n, L.const(n, width)), move(a, L.resize(n, width)), L.const(a, 0))


def down(op: Opcode, L: Lanes, a: Any, n: Any) -> Any:
    return shift(L, "ashr" if signed(op) else "lshr", a, n)


def extract(op: Opcode, L: Lanes, a: Any, position: Any, size: Any) -> Any:
    """bfe: to the top of the register, and back down."""
    width, at, n = element(a.type).width, constant_bits(position), constant_bits(size)
    if at is not None and n is not None:
        at, n = at & 255, n & 255
        top = width - min(width, at + n)
        return down(op, L, shift(L, "shl", a, top), top + at) if n else L.const(a, 0)
    position, size = (L.b.and_(x, L.const(x, 255)) for x in (position, size))
    most = L.const(size, width)
    top = L.b.sub(most, L.intrinsic("umin", L.b.add(position, size), most))
    found = down(op, L, shift(L, "shl", a, top), L.b.add(top, position))
    return L.b.select(is_zero(L, size), L.const(a, 0), found)


def insert(op: Opcode, L: Lanes, a: Any, b: Any, position: Any, size: Any) -> Any:
    """bfi"""
    at, size = (L.b.and_(x, L.const(x, 255)) for x in (position, size))
    mask = shift(L, "shl", L.b.sub(shift(L, "shl", L.const(a, 1), size), L.const(a, 1)), at)
    return L.b.or_(L.b.and_(b, L.b.not_(mask)), L.b.and_(shift(L, "shl", a, at), mask))


def permute(op: Opcode, L: Lanes, a: Any, b: Any, selector: Any) -> Any:
    """prmt: a shift and a mask for all bytes that a known selector moves from one operand by as many places."""
    if (fixed := constant_bits(selector)) is None:
        return permute_by(L, a, b, selector)
    moves: dict[tuple[int, int, bool], int] = {}  # (operand, bits to the left, or the byte of the sign) -> mask
    for i in range(4):
        nibble = fixed >> 4 * i & 15
        key = nibble >> 2 & 1, nibble & 3 if nibble > 7 else 8 * (i - (nibble & 3)), nibble > 7
        moves[key] = moves.get(key, 0) | 0xFF << 8 * i
    parts = []
    for (operand, n, sign), mask in moves.items():
        x = shift(L, "shl", (a, b)[operand], 24 - 8 * n if sign else max(n, 0))
        x = shift(L, "ashr", x, 31) if sign else shift(L, "lshr", x, max(-n, 0))
        kept = (0xFFFFFFFF << max(n, 0) & 0xFFFFFFFF) >> max(-n, 0)  # what the shift has left, of no sign
        parts.append(x if not sign and mask == kept else L.b.and_(x, L.const(x, mask)))
    return reduce(L.b.or_, parts)


def permute_by(L: Lanes, a: Any, b: Any, selector: Any) -> Any:
    """prmt with any selector: every byte comes down from b:a."""
    both, parts = L.b.or_(L.resize(a, 64), shift(L, "shl", L.resize(b, 64), 32)), []
    for i in range(4):
        nibble = shift(L, "lshr", selector, 4 * i)
        place = shift(L, "shl", L.b.and_(nibble, L.const(nibble, 7)), 3)
        byte = L.resize(L.b.lshr(both, L.resize(place, 64)), 8)
        plain = is_zero(L, L.b.and_(nibble, L.const(nibble, 8)))
        byte = L.resize(L.b.select(plain, byte, shift(L, "ashr", byte, 7)), 32)
        parts.append(shift(L, "shl", byte, 8 * i))
    return reduce(L.b.or_, parts)


def lookup(L: Lanes, table: int, operands: list) -> Any:
    """lop3 of any number of operands, the first the upper half of the table; the int 0 or -1 if that is all."""
    if not operands:
        return -table
    x, *rest = operands
    n = 1 << len(rest)
    low, up = table & (1 << n) - 1, table >> n
    base = lookup(L, low, rest)
    if low == up:
        return base
    if up == (1 << n) - 1 and low:
        return L.b.or_(x, base)
    differs = lookup(L, low ^ up, rest)
    turned = x if isinstance(differs, int) else L.b.and_(x, differs)
    if isinstance(base, int):
        return L.b.not_(turned) if base else turned
    return L.b.xor(base, turned)


def logic(op: Opcode, L: Lanes, *values: Any) -> Any:
    table = constant_bits(values[-1])
    if table is None:
        raise Unlowered(op.text)
    result = lookup(L, table & 255, list(values[:-1]))
    return L.const(values[0], result) if isinstance(result, int) else result


def compare(op: Opcode, L: Lanes, values: list) -> list:
    holds = less(op, L, *values, relation=RELATIONS[op.modifiers[0]])
    return [holds, L.b.not_(holds)]


FUNCTIONS: dict[str, Callable] = {
    "mul": product, "sad": distance, "div": divide, "rem": remainder,
    "abs": intrinsic("abs", I1(0)), "neg": negative, "brev": intrinsic("bitreverse"),
    "popc": intrinsic("ctpop", bits=32), "clz": intrinsic("ctlz", I1(0), bits=32), "bfind": shift_amount,
    "bfe": extract, "bfi": insert, "prmt": permute, "lop3": logic, "shr": down,
    "selp": lambda op, L, a, b, p: L.b.select(p, a, b), "shl": lambda op, L, a, n: shift(L, "shl", a, n),
    "shf": lambda op, L, a, b, n: L.intrinsic("fshl" if "l" in op.modifiers else "fshr", b, a, n),
    **dict.fromkeys(("min", "max"), lambda op, L, *v: L.intrinsic(("s" if signed(op) else "u") + op.name, *v)),
    **dict.fromkeys(("mov", "cvta", "mapa"), lambda op, L, a, *rank: a),
}  # fmt: skip

LOWER: dict[str, Pure] = {
    **dict.fromkeys(("add", "sub", "addc", "subc", "mad", "madc"), extended),
    "setp": compare, "and": method("and_"), "or": method("or_"), "xor": method("xor"), "not": method("not_"),
    **{name: single(function) for name, function in FUNCTIONS.items()},
}  # fmt: skip
