"""Floating-point instructions: builders that turn one spelling into its semantics."""

from collections.abc import Callable

import numpy as np

from . import exact as ex
from . import floats as fl
from .opcode import BITS, NUMPY, UNSIGNED, Opcode, Semantics, elementwise, pairs


def finish(bits: np.ndarray, kind: str, modifiers: tuple[str, ...]) -> np.ndarray:
    """What .ftz, .sat (to [0, 1], NaN to +0) and .relu make of a result."""
    if not {"ftz", "sat", "relu"}.intersection(modifiers):
        return bits
    x = fl.decode(bits, kind)
    if "ftz" in modifiers and kind in ("f32", "f16"):
        x = fl.flush(x, kind)
        if kind == "f32" and not {"sat", "relu"}.intersection(modifiers):
            return x.view(np.uint32)
    if "sat" in modifiers:
        x = np.where(x > 0, np.minimum(x, x.dtype.type(1)), x.dtype.type(0))
    if "relu" in modifiers:
        x = np.where(x <= 0, x.dtype.type(0), x)
    return fl.encode(x, kind)


def numbers(op: Opcode, kind: str, bits: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """The sources' values, flushed if the opcode flushes."""
    values = [fl.decode(x, kind) for x in bits]
    return [fl.flush(x, kind) for x in values] if "ftz" in op.modifiers and kind in ("f32", "f16") else values


def arithmetic(op: Opcode) -> Semantics:
    """add, sub, mul, fma; of two types, f32 and a half, the half belongs to all sources but the last."""
    kind = op.types[0].removesuffix("x2")
    n = 3 if op.name in ("fma", "mad") else 2

    def function(*x):
        if len(op.types) == 2:
            v = [*(fl.decode(i, op.types[1]) for i in x[:-1]), fl.decode(x[-1], "f32")]
        else:
            v = numbers(op, kind, x)
        a, b, c = {"add": (v[0], None, v[1]), "sub": (v[0], None, -v[1]), "mul": (v[0], v[1], None)}.get(op.name, v)
        return finish(ex.fma(a, b, c, kind, op.mode), kind, op.modifiers)

    if len(op.types) == 2:
        return Semantics(function, (op.types[1],) * (n - 1) + ("f32",), ("f32",))
    return elementwise(op, function, n)


def extreme(op: Opcode) -> Semantics:
    """min, max: a NaN yields to a number unless .NaN; -0 is below +0; .xorsign.abs: of magnitudes, signs multiplied."""
    kind = op.types[-1].removesuffix("x2")
    least = op.name == "min"
    pick = {(True, True): np.minimum, (True, False): np.fmin, (False, True): np.maximum, (False, False): np.fmax}
    choose = pick[least, "NaN" in op.modifiers]

    def two(a, b):
        sign = np.signbit(a) ^ np.signbit(b) if "xorsign" in op.modifiers else None
        if sign is not None:
            a, b = np.abs(a), np.abs(b)
        r = choose(a, b)
        nan = r != r
        if choose in (np.fmin, np.fmax) and nan.any():  # libm's fmin takes a signalling NaN for an answer, PTX does not
            r = np.where(nan, np.where(a == a, a, b), r)
        zero = (a == 0) & (b == 0)
        if zero.any():
            r = np.where(zero, -(-a - b) if least else a + b, r)
        return r if sign is None else np.where(sign, -r, r)

    def function(*x):
        first, *rest = numbers(op, kind, x)
        for v in rest:
            first = two(first, v)
        return fl.encode(first, kind)

    return elementwise(op, function, op.operands or 2)


def sign(op: Opcode) -> Semantics:
    """abs, neg: of the bits, so that without .ftz a NaN keeps its payload."""
    kind = op.types[-1].removesuffix("x2")
    top = UNSIGNED[kind](1 << BITS[kind] - 1)

    def function(x):
        x = fl.encode(fl.flush(fl.decode(x, kind), kind), kind) if "ftz" in op.modifiers else x
        return x & ~top if op.name == "abs" else x ^ top

    return elementwise(op, function, 1)


def quotient(op: Opcode) -> Semantics:
    """div and rcp, rounded as IEEE 754 asks."""
    kind = op.types[-1]

    def function(*x):
        v = numbers(op, kind, x)
        a, c = v if op.name == "div" else (np.ones_like(v[0]), v[0])
        r = a / c
        if op.mode != "rn":
            r = ex.exactly(lambda a, c: a / c, r, kind, op.mode, a, c)
        return finish(fl.encode(r, kind), kind, op.modifiers)

    return elementwise(op, function, 2 if op.name == "div" else 1)


def root(op: Opcode) -> Semantics:
    """sqrt: that of an f32 has no more digits in common with a float64 than their last; an f64's error says the way."""
    kind = op.types[-1]

    def function(x):
        (v,) = numbers(op, kind, (x,))
        r = np.sqrt(v.astype(np.float64) if op.mode != "rn" else v)
        if kind == "f64" and op.mode != "rn":
            r = ex.stepped_root(v, r, op.mode)
        return finish(fl.encode(r, kind, op.mode), kind, op.modifiers)

    return elementwise(op, function, 1)


def coarse(op: Opcode) -> Semantics:
    """rcp, rsqrt.approx.ftz.f64: from the upper 32 bits, and only those of the result; no subnormal comes or goes."""

    def function(x):
        v = fl.flush((x & ~LOWER).view(np.float64), "f64")
        bits = fl.encode(APPROXIMATED[op.name](v), "f64")
        bits = (bits + (LOWER >> np.uint64(1)) + (bits >> np.uint64(32) & np.uint64(1))) & ~LOWER
        if op.approximation:
            bits = op.approximation.move(op.text, bits, x, unit=1 << 32)
        return fl.flush(bits.view(np.float64), "f64").view(np.uint64)

    return Semantics(function, ("f64",), ("f64",))


def divide(a, c):
    """div.approx: a * (1/c), and 1/c of what is above 2**126 is zero."""
    return np.where(np.abs(c) > 2.0**126, a / c * 0, a / c)


LOWER = np.uint64(0xFFFFFFFF)
APPROXIMATED: dict[str, Callable] = {"ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh}
APPROXIMATED |= {"sqrt": np.sqrt, "rcp": lambda x: 1 / x, "rsqrt": lambda x: 1 / np.sqrt(x), "div": divide}


def approximate(op: Opcode) -> Semantics:
    """Computed in float64 (f64: in longdouble), rounded once, and moved if the caller asks for it."""
    kind = op.types[-1].removesuffix("x2")
    exact = np.divide if "full" in op.modifiers else APPROXIMATED[op.name]

    def function(*x):
        v = numbers(op, kind, x)
        r = exact(*(i.astype(np.longdouble if kind == "f64" else np.float64) for i in v)).astype(np.float64)
        bits = fl.encode(r, kind)
        if op.approximation:
            bits = op.approximation.move(op.text, bits, *x)
        return finish(bits, kind, op.modifiers)

    return elementwise(op, function, 2 if op.name == "div" else 1)


def testp(op: Opcode) -> Semantics:
    kind = op.types[-1]
    tiny = 2.0 ** fl.FORMATS[kind].lowest
    tests: dict[str, Callable] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: x == x,
        "notanumber": lambda x: x != x,
        "normal": lambda x: np.isfinite(x) & (np.abs(x) >= tiny),
        "subnormal": lambda x: (x != 0) & (np.abs(x) < tiny),
    }
    return Semantics(lambda x: tests[op.modifiers[0]](fl.decode(x, kind)), (kind,), ("pred",))


def copysign(op: Opcode) -> Semantics:
    """The second operand with the sign of the first."""
    t = op.types[-1]
    top = UNSIGNED[t](1 << BITS[t] - 1)
    return Semantics(lambda a, b: (a & top) | (b & ~top), (t, t), (t,))


COMPARE: dict[str, Callable] = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal}
COMPARE |= {"gt": np.greater, "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater}
COMPARE |= {"hs": np.greater_equal, "num": lambda a, b: (a == a) & (b == b), "nan": lambda a, b: (a != a) | (b != b)}
OPPOSITE = {"equ": "ne", "neu": "eq", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}
COMBINE: dict[str, Callable] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def compare(op: Opcode) -> Semantics:
    """setp: the comparison and its complement, each combined with a predicate if the opcode says how."""
    t, kind = op.types[-1], op.modifiers[0]
    combine = next((COMBINE[m] for m in op.modifiers if m in COMBINE), None)

    def test(x, y):
        x, y = numbers(op, t, (x, y)) if "f" in t else (x.view(NUMPY[t]), y.view(NUMPY[t]))
        if "f" not in t or kind in ("eq", "lt", "le", "gt", "ge", "num", "nan"):
            return COMPARE[kind](x, y)
        if kind == "ne":
            return (x < y) | (x > y)
        return x != y if kind == "neu" else ~((x < y) | (x > y)) if kind == "equ" else ~COMPARE[OPPOSITE[kind]](x, y)

    def function(x, y, *c):
        p = test(x, y)
        return (combine(p, *c), combine(~p, *c)) if combine else (p, ~p)

    return Semantics(function, (t, t, "pred") if combine else (t, t), ("pred", "pred"))


def compare_pair(op: Opcode) -> Semantics:
    """setp of two packed pairs: one predicate for the lower halves and one for the upper."""
    one = compare(op._replace(types=(op.types[-1].removesuffix("x2"),))).function

    def function(x, y, *c):
        low, high = (((x >> n).astype(np.uint16), (y >> n).astype(np.uint16)) for n in (np.uint32(0), np.uint32(16)))
        return one(*low, *c)[0], one(*high, *c)[0]

    combined = ("pred",) if any(m in COMBINE for m in op.modifiers) else ()
    return Semantics(function, (op.types[-1],) * 2 + combined, ("pred", "pred"))


def indicate(op: Opcode) -> Semantics:
    """set: setp's first result as a number, 1.0 or all bits."""
    s, to = compare(op), op.types[0]
    true = np.uint32(0x3F800000 if to == "f32" else 0xFFFFFFFF)
    return Semantics(lambda *x: np.where(s.function(*x)[0], true, np.uint32(0)), s.sources, (to,))


def choose(op: Opcode) -> Semantics:
    """slct: by the sign of the third operand; a NaN chooses the second."""
    t, by = op.types

    def function(a, b, c):
        (v,) = numbers(op, by, (c,)) if by == "f32" else (c.view(np.int32),)
        return np.where(v >= 0, a, b)

    return Semantics(function, (t, t, by), (t,))


def convert(op: Opcode) -> Semantics:
    """cvt between two types of which each is an integer or a float."""
    to, source = op.types[0], op.types[-1]
    if len(op.types) == 3 or to.endswith("x2") or source.endswith("x2"):
        return convert_pair(op)
    build = {(False, False): _widths, (False, True): _to_integer, (True, False): _from_integer, (True, True): _to_float}
    return Semantics(build["f" in to, "f" in source](op, to, source), (source,), (to,))


def _widths(op: Opcode, to: str, source: str) -> Callable:
    wide, narrow = NUMPY[source], NUMPY[to]
    a, b = np.iinfo(wide), np.iinfo(narrow)
    low, high = max(int(a.min), int(b.min)), min(int(a.max), int(b.max))
    if "sat" in op.modifiers:
        return lambda x: np.clip(x.view(wide), wide(low), wide(high)).astype(narrow).view(UNSIGNED[to])
    return lambda x: x.view(wide).astype(narrow).view(UNSIGNED[to])


def _to_integer(op: Opcode, to: str, source: str) -> Callable:
    """A NaN is 0, except where f64 or a 64-bit integer takes part: there the top bit alone is set."""
    wide = source == "f64" or BITS[to] == 64
    nan = 0 if not wide else np.iinfo(NUMPY[to]).min if to[0] == "s" else 1 << BITS[to] - 1
    return lambda x: fl.to_integer(numbers(op, source, (x,))[0], op.mode, NUMPY[to], nan).view(UNSIGNED[to])


def _from_integer(op: Opcode, to: str, source: str) -> Callable:
    return lambda x: finish(ex.from_integer(x.view(NUMPY[source]), to, op.mode), to, op.modifiers)


def _to_float(op: Opcode, to: str, source: str) -> Callable:
    modifiers = tuple(m for m in op.modifiers if m != "ftz" or to == "f32")  # .ftz concerns f32 alone
    whole = any(m in ("rni", "rzi", "rmi", "rpi") for m in op.modifiers)

    def function(x):
        v = fl.decode(x, source)
        v = fl.flush(v) if "ftz" in op.modifiers and source == "f32" else v
        v = fl.ROUND[op.mode](v) if whole else v
        v = v.astype(np.float64) if to == "f64" else v
        return finish(fl.encode(v, to, "rn" if whole else op.mode), to, modifiers)

    return function


def convert_pair(op: Opcode) -> Semantics:
    """cvt to or from packed halves: of two f32 the first becomes the upper one."""
    to, source = op.types[0].removesuffix("x2"), op.types[-1].removesuffix("x2")

    def one(x):
        v = fl.decode(x, source)
        v = np.where(v <= 0, np.float32(0), v) if "relu" in op.modifiers else v
        return fl.encode(v, to, op.mode, "satfinite" in op.modifiers)

    if op.types[-1] == "f32":
        wide = UNSIGNED[op.types[0]]
        shift = wide(BITS[op.types[0]] // 2)
        return Semantics(lambda a, b: one(a).astype(wide) << shift | one(b), ("f32", "f32"), op.types[:1])
    return Semantics(pairs(one, [BITS[op.types[-1]]], BITS[op.types[0]]), op.types[-1:], op.types[:1])
