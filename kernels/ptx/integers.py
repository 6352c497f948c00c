"""Integer and bit instructions as functions of NumPy integers: NumPy wraps as PTX does, and clamps no shift amount."""

import operator
from functools import reduce

import numpy as np

from .opcode import BITS, NUMPY, UNSIGNED, Opcode, Semantics


def amount(a, n):
    """A shift of a by n: NumPy shifts by the type's bits and more to zero, so only the amount's type needs care."""
    return np.minimum(n, n.dtype.type(a.dtype.itemsize * 8)).astype(a.dtype)


def left(a, n):
    return a << amount(a, n)


def right(a, n):
    return a >> amount(a, n)  # by copies of the sign if a is signed


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
    n = 3 if op.name.startswith("mad") else 2

    def function(*x):
        *factors, a, b = x[:n]
        c = x[n] if into else np.zeros((1, 1), bool)
        if factors:
            v = factors[0].view(NUMPY[t]), a.view(NUMPY[t])
            a = (high(*v) if "hi" in op.modifiers else v[0] * v[1]).view(UNSIGNED[t])
        if op.name.startswith("sub"):
            r, carry = a - b - c.astype(a.dtype), (a < b) | ((a == b) & c)
        else:
            r = a + b + c.astype(a.dtype)
            carry = (r < a) | ((r == a) & c)
        return (r, carry) if out else r

    return Semantics(function, (t,) * n, (t,), carry=" ".join(["in"] * into + ["out"] * out))


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


def count(x):
    """popc: pairs, nibbles, bytes, then all bytes at once by a product."""
    x = x.astype(np.uint64)
    for shift, mask in ((1, 0x5555555555555555), (2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F)):
        x = (x & np.uint64(mask)) + (x >> np.uint64(shift) & np.uint64(mask))
    return (x * np.uint64(0x0101010101010101) >> np.uint64(56)).astype(np.uint32)


def leading(x):
    """clz: the width less the bits up to the highest set, which are the exponent of a float64: it holds 32 exactly."""
    if x.dtype.itemsize == 8:
        upper = leading((x >> np.uint64(32)).astype(np.uint32))
        return np.where(upper < 32, upper, np.uint32(32) + leading(x.astype(np.uint32)))
    return (32 - np.frexp(x.astype(np.float64))[1]).astype(np.uint32)


def shift_amount(x):
    """bfind.shiftamt: clz, and of 0 all ones."""
    return np.where(x == 0, ~np.uint32(0), leading(x))


def reverse(x):
    """brev: neighbours change places, then pairs of them, and so on up to the halves."""
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
    one, position = np.ones((1, 1), a.dtype), position & np.uint32(0xFF)
    mask = left(left(one, size & np.uint32(0xFF)) - one, position)
    return (b & ~mask) | (left(a, position) & mask)


def permute(a, b, selector):
    """prmt: each byte one of the eight of b:a, or eight copies of its sign."""
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


def funnel_left(a, b, n):
    """shf.l.wrap: the upper half of b:a << n."""
    n = n & np.uint32(31)
    return b << n | a >> np.uint32(32) - n


def funnel_right(a, b, n):
    """shf.r.wrap: the lower half of b:a >> n."""
    n = n & np.uint32(31)
    return b << np.uint32(32) - n | a >> n


def lookup(a, b, c, table):
    """lop3: the bit of `table` at the three operands' bits, as a sum of products."""
    table, terms = int(table.flat[0]), []
    for i in range(8):
        if table >> i & 1:
            terms.append((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return reduce(operator.or_, terms) if terms else a & np.uint32(0)


def copysign(a, b):
    """The bits of b with the sign of a."""
    top = a.dtype.type(1 << 8 * a.dtype.itemsize - 1)
    return (a & top) | (b & ~top)
