"""Integer and bit instructions as functions of NumPy integers: NumPy wraps as PTX does, and clamps no shift amount."""

import operator
from functools import partial, reduce

import numpy as np

from .opcode import BITS, NUMPY, UNSIGNED, Opcode, Semantics

SELECTORS = {  # prmt's modes: the bytes taken, as nibbles, for the last two bits of the third operand
    "f4e": (0x3210, 0x4321, 0x5432, 0x6543),
    "b4e": (0x5670, 0x6701, 0x7012, 0x0123),
    "rc8": (0x0000, 0x1111, 0x2222, 0x3333),
    "ecl": (0x3210, 0x3211, 0x3222, 0x3333),
    "ecr": (0x0000, 0x1110, 0x2210, 0x3210),
    "rc16": (0x1010, 0x3232, 0x1010, 0x3232),
}


def left(a, n):
    """a << n; NumPy shifts by as many bits as the type has, and more, to zero, so only the amount's type needs care."""
    return a << np.minimum(n, n.dtype.type(a.dtype.itemsize * 8)).astype(a.dtype)


def right(a, n):
    return a >> np.minimum(n, n.dtype.type(a.dtype.itemsize * 8)).astype(a.dtype)


def high(a, b):
    """The upper half of the double-width product."""
    if a.dtype.itemsize < 8:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
        return (a.astype(wide) * b.astype(wide) >> wide.type(8 * a.dtype.itemsize)).astype(a.dtype)
    half, low = a.dtype.type(32), a.dtype.type(0xFFFFFFFF)
    (ah, al), (bh, bl) = ((x >> half, x & low) for x in (a, b))
    cross = al.view(np.uint64) * bl.view(np.uint64) >> np.uint64(32)
    middle = ah * bl + cross.view(a.dtype)
    return ah * bh + (middle >> half) + (al * bh + (middle & low) >> half)


def wide(op: Opcode) -> Semantics:
    """mul.wide, mad.wide: the whole product, to which a third operand of its width is added."""
    t = op.types[0]
    to = f"{t[0]}{2 * BITS[t]}"

    def function(a, b, *c):
        product = a.view(NUMPY[t]).astype(NUMPY[to]) * b.view(NUMPY[t])
        return (product + c[0].view(NUMPY[to]) if c else product).view(UNSIGNED[to])

    return Semantics(function, (t, t) if op.name == "mul" else (t, t, to), (to,))


def extended(op: Opcode) -> Semantics:
    """add.cc, addc, sub.cc, subc, mad.cc, madc: sums with the carry flag, a difference's borrow."""
    t = op.types[0]
    into, out = op.name.endswith("c"), "cc" in op.modifiers
    dtype, borrow = UNSIGNED[t], op.name.startswith("sub")

    def function(*x):
        *factors, a, b = x[: 3 if op.name in ("mad", "madc") else 2]
        if factors:
            v = (factors[0].view(NUMPY[t]), a.view(NUMPY[t]))
            a = (high(*v) if "hi" in op.modifiers else v[0] * v[1]).view(dtype)
        r = a - b if borrow else a + b
        carry = a < b if borrow else r < a
        if into:
            c = x[-1].astype(dtype)
            first, r = r, r - c if borrow else r + c
            carry = carry | (first < c if borrow else r < first)
        return (r, carry) if out else r

    sources = (t,) * (3 if op.name in ("mad", "madc") else 2)
    carry = " ".join(["in"] * into + ["out"] * out)
    return Semantics(function, sources, (t,), carry=carry)


def divide(a, b):
    """Towards zero. By zero PTX leaves the quotient open; here every bit of it is set."""
    if a.dtype.kind == "u":
        return np.where(b == 0, ~a.dtype.type(0), a // np.where(b == 0, b.dtype.type(1), b))
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    q = (np.abs(a).view(unsigned) // np.maximum(np.abs(b).view(unsigned), unsigned.type(1))).view(a.dtype)
    return np.where(b == 0, a.dtype.type(-1), np.where((a < 0) != (b < 0), -q, q))


def remainder(a, b):
    """Of the quotient towards zero; by zero PTX leaves it open, and here it is the dividend."""
    return np.where(b == 0, a, a - divide(a, b) * b)


def length(x):
    """Bits up to the highest that is set, as uint32: the exponent of a float64, which holds 32 bits exactly."""
    if x.dtype.itemsize == 8:
        upper = x >> np.uint64(32)
        return np.where(upper != 0, np.uint32(32) + length(upper.astype(np.uint32)), length(x.astype(np.uint32)))
    return np.frexp(x.astype(np.float64))[1].astype(np.uint32)


def find(x, shift_amount: bool = False):
    """bfind: the highest bit that is no sign, or all ones."""
    magnitude = x.view(f"u{x.dtype.itemsize}")
    n = length(np.where(x < 0, ~magnitude, magnitude))
    width = np.uint32(8 * x.dtype.itemsize)
    return np.where(n == 0, np.uint32(0xFFFFFFFF), width - n if shift_amount else n - np.uint32(1))


def count(x):
    """popc: pairs, nibbles, bytes, then all bytes at once by a product."""
    x = x.astype(np.uint64)
    for shift, mask in ((1, 0x5555555555555555), (2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F)):
        x = (x & np.uint64(mask)) + (x >> np.uint64(shift) & np.uint64(mask))
    return (x * np.uint64(0x0101010101010101) >> np.uint64(56)).astype(np.uint32)


def reverse(x):
    kind, width = x.dtype.type, 8 * x.dtype.itemsize
    for shift in (1 << k for k in range(width.bit_length() - 1)):
        mask = kind(sum((1 << shift) - 1 << i for i in range(0, width, 2 * shift)))
        x = (x >> kind(shift) & mask) | ((x & mask) << kind(shift))
    return x


def extract(a, position, size):
    """bfe: bits from `position` on; beyond the top, and above the field if it is signed, copies of its last bit."""
    width = np.uint32(8 * a.dtype.itemsize)
    position, size = position & np.uint32(0xFF), size & np.uint32(0xFF)
    top = np.where(size == 0, width, width - np.minimum(width, position + size))
    field = right(left(a, top), np.minimum(top + position, width))
    return np.where(size == 0, a.dtype.type(0), field)


def insert(a, b, position, size):
    """bfi: the low `size` bits of a put into b at `position`."""
    one = a.dtype.type(1)
    mask = left(left(one + np.zeros_like(a[:1, :1]), size & np.uint32(0xFF)) - one, position & np.uint32(0xFF))
    return (b & ~mask) | (left(a, position & np.uint32(0xFF)) & mask)


def mask(position, size):
    """bmsk: `size` ones from `position` on; both clamped, as NumPy's shifts are not."""
    return left(left(np.uint32(1) + np.zeros_like(size), size) - np.uint32(1), position)


def extension(op: Opcode) -> Semantics:
    """szext: the low bits of a, as many as b says, sign- or zero-extended; .clamp leaves a as it is from 32 on."""
    t = op.types[0]

    def function(a, b):
        top = np.uint32(32) - (np.minimum(b, np.uint32(32)) if "clamp" in op.modifiers else b & np.uint32(31))
        return right(left(a, top).view(NUMPY[t]), top).view(np.uint32) & ~np.where(
            top == 32, ~np.uint32(0), np.uint32(0)
        )

    return Semantics(function, (t, "u32"), (t,))


def permute(a, b, selector, mode: str = ""):
    """prmt: each byte one of the eight of b:a, or eight copies of its sign."""
    if mode:
        selector = np.array(SELECTORS[mode], np.uint32)[selector & 3]
    both = b.astype(np.uint64) << np.uint64(32) | a
    signs = bool((selector & 0x8888).any())
    result = np.uint32(0)
    for i in range(4):
        nibble = selector >> np.uint32(4 * i) & np.uint32(15)
        byte = (both >> (nibble & np.uint32(7)).astype(np.uint64) * np.uint64(8)).astype(np.uint32) & np.uint32(0xFF)
        if signs:
            byte = np.where(nibble > 7, (byte >> np.uint32(7)) * np.uint32(0xFF), byte)
        result = result | byte << np.uint32(8 * i)
    return result


def funnel(a, b, n, to_left: bool, clamp: bool):
    """shf: 32 bits of b:a, shifted."""
    n = np.minimum(n, np.uint32(32)) if clamp else n & np.uint32(31)
    rest = np.uint32(32) - n
    return b << n | a >> rest if to_left else b << rest | a >> n


def lookup(a, b, c, table):
    """lop3: the bit of `table` at the three operands' bits, as a sum of products."""
    table, terms = int(table.flat[0]), []
    for i in range(8):
        if table >> i & 1:
            terms.append((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return reduce(operator.or_, terms) if terms else a & np.uint32(0)


def dot(a, b, c, signed_a: bool, signed_b: bool):
    """dp4a: products of four bytes each, added to c."""
    for i in range(4):
        x, y = (
            ((v >> np.uint32(8 * i)) & np.uint32(0xFF))
            .astype(np.uint8)
            .view(np.int8 if s else np.uint8)
            .astype(np.int32)
            for v, s in ((a, signed_a), (b, signed_b))
        )
        c = c + (x * y).view(np.uint32)
    return c


def dot_of(op: Opcode) -> Semantics:
    signed = [t[0] == "s" for t in op.types]
    to = "s32" if any(signed) else "u32"
    return Semantics(partial(dot, signed_a=signed[0], signed_b=signed[1]), ("b32", "b32", to), (to,))
