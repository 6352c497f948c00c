"""Every spelling of the instruction table against Python integers and fractions; none is left out."""

import math
import operator
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from kvproof.kernels.ptx import isa
from kvproof.kernels.ptx.errors import UnknownOpcode

from . import _truth as t

FAMILIES = sorted({opcode.split(".")[0] for opcode in isa.OPCODES})
APPROXIMATIONS = {"ex2", "lg2", "sin", "cos", "tanh", "rsqrt"}  # test_floats.py has their truth
DIRECTIONS = ("rn", "rz", "rm", "rp")
INTEGERS = {
    "mapa": lambda op, a, rank: a,
    "mul": lambda op, a, b: a * b >> (t.width(op[-1]) if "hi" in op else 0),
    "mad": lambda op, a, b, c: (a * b >> (t.width(op[-1]) if "hi" in op else 0)) + c,
    "rem": lambda op, a, b: a - b * t.towards_zero(a, b),
    "popc": lambda op, a: bin(a).count("1"),
    "bfind": lambda op, a: t.width(op[-1]) - a.bit_length() if a else -1,
    "clz": lambda op, a: t.width(op[-1]) - a.bit_length(),
    "brev": lambda op, a: int(f"{a:0{t.width(op[-1])}b}"[::-1], 2),
    "bfe": lambda op, a, p, n: t.field(a, p, n, op[-1]),
    "bfi": lambda op, a, b, p, n: t.inserted(a, b, p, n, op[-1]),
    "sad": lambda op, a, b, c: c + abs(a - b),
    "lop3": lambda op, a, b, c, f: sum(
        (f >> (a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1) & 1) << i for i in range(32)
    ),
    "shf": lambda op, a, b, n: t.funnel(a, b, n, op[1]),
    "shl": lambda op, a, n: a << min(n, 99),
    "shr": lambda op, a, n: a >> min(n, 99),
    "copysign": lambda op, a, b: a >> t.width(op[-1]) - 1 << t.width(op[-1]) - 1 | b & (1 << t.width(op[-1]) - 1) - 1,
    "selp": lambda op, a, b, p: a if p else b,
    **dict.fromkeys(("mov", "cvta"), lambda op, a: a),
}
BY_NAME = {
    "add": operator.add, "sub": operator.sub, "div": t.towards_zero, "abs": abs, "neg": operator.neg, "min": min,
    "max": max, "and": operator.and_, "or": operator.or_, "xor": operator.xor, "not": operator.invert,
    "prmt": t.permuted,
}  # fmt: skip
INTEGERS |= {name: lambda op, *x, function=function: function(*x) for name, function in BY_NAME.items()}


def finished(bits: int, kind: str, op: list[str]) -> int:
    x = t.number(bits, kind)
    x = t.flushed(x) if "ftz" in op and kind == "f32" else x
    x = (min(x, 1.0) if x > 0 else 0.0) if "sat" in op else x
    return t.pattern(x, kind)


def floating(op: list[str], kind: str, *bits: int) -> int:
    """Arithmetic on floats; the sources of mixed precision come as patterns of f32."""
    mode = next((p for p in op if p in DIRECTIONS), "rn")
    x = [t.number(b, kind) for b in bits]
    if op[0] in ("abs", "neg"):
        top = 1 << t.width(kind) - 1
        bits = (finished(bits[0], kind, ["ftz"]),) if "ftz" in op else bits
        return bits[0] & ~top if op[0] == "abs" else bits[0] ^ top
    x = [t.flushed(v) if "ftz" in op else v for v in x]
    if op[0] == "sqrt":
        return finished(t.root(x[0], kind, mode), kind, op)
    if op[0] in ("min", "max"):
        sign = -1.0 if "xorsign" in op and len({b >> t.width(kind) - 1 for b in bits}) == 2 else 1.0
        x = [abs(v) for v in x] if "xorsign" in op else x
        return t.pattern(sign * t.extreme(x[0], x[1], op[0] == "min", "NaN" in op), kind)
    exact = {
        "add": lambda a, b: t.add(a, b, mode),
        "sub": lambda a, b: t.add(a, -b, mode),
        "mul": t.multiply,
        "fma": lambda a, b, c: t.fused(a, b, c, mode),
        "div": t.divide,
        "rcp": lambda a: t.divide(1.0, a),
    }[op[0]](*x)
    return finished(t.pattern(exact, kind, mode), kind, op)


def converted(op: list[str], to: str, source: str, bits: int) -> int:
    mode = next((p[:2] if p != "rna" else p for p in op if p[:2] in DIRECTIONS), "rn")
    if source not in t.SHAPE:
        n = t.whole(bits, source)
        if to in t.SHAPE:
            return finished(t.pattern(Fraction(n) if n else 0.0, to, mode), to, op)
        return n
    x = t.number(bits, source)
    x = t.flushed(x) if "ftz" in op and source == "f32" else x
    whole = any(p in ("rni", "rzi", "rmi", "rpi") for p in op)
    if to not in t.SHAPE or whole:
        rounded = {"rn": round, "rz": math.trunc, "rm": math.floor, "rp": math.ceil}[mode]
        if to in t.SHAPE:
            return finished(t.pattern(math.copysign(rounded(x), x) if math.isfinite(x) else x, to), to, op)
        low = -(1 << t.width(to) - 1) if to[0] == "s" else 0
        high = low + (1 << t.width(to)) - 1
        if x != x:
            return 1 << t.width(to) - 1 if source == "f64" or t.width(to) == 64 else 0
        return (high if x > 0 else low) if math.isinf(x) else min(max(rounded(x), low), high)
    return finished(t.pattern(x, to, mode), to, op)


def compared(op: list[str], a: float, b: float) -> bool:
    relation = op[1]
    nan = a != a or b != b
    if relation in ("num", "nan"):
        return nan == (relation == "nan")
    if nan:
        return len(relation) == 3 and relation.endswith("u")
    return getattr(operator, relation[:2])(a, b)


def truth(opcode: str, meaning: isa.Semantics, *bits: int) -> int | tuple[int, ...]:
    op = opcode.split(".")
    types, to = meaning.sources, meaning.results[0]
    if meaning.carry or op[0] in ("addc", "subc", "madc"):
        return carried(op, meaning, *bits)
    if op[0] == "setp" and types[0].endswith("x2"):
        single = meaning._replace(sources=(types[0][:-2], *types[1:]))
        halves = [[int(b) >> s & 0xFFFF for b in bits] for s in (0, 16)]
        return tuple(truth(opcode, single, *half)[0] for half in halves)  # pyright: ignore[reportIndexIssue]
    if op[0] == "setp":
        kind = types[0]
        x = [t.number(b, kind) if kind in t.SHAPE else t.whole(b, kind) for b in bits]
        x = [t.flushed(v) for v in x] if "ftz" in op else x
        p = compared(op, *x)
        return p, not p
    if op[0] == "set":
        halves = [[t.number(int(b) >> s & 0xFFFF, "f16") for b in bits] for s in (0, 16)]
        return sum(0x3C00 << s for s, half in zip((0, 16), halves, strict=True) if compared(op, *half))
    if op[0] == "cvt":
        source = types[0].removesuffix("x2")
        half = t.width(to) // 2
        if to == "ue8m0x2":
            up, low = (t.power(t.number(int(b), source), op[1], "satfinite" in op) for b in bits)
            return up << 8 | low
        if source == "ue8m0":
            pair = (math.nan if b == 255 else 2.0 ** (b - 127) for b in divmod(int(bits[0]), 256))
            up, low = (t.pattern(x, "bf16") for x in pair)
            return up << 16 | low
        if len(bits) == 2:
            return converted(op, to[:-2], source, bits[0]) << half | converted(op, to[:-2], source, bits[1])
        if not to.endswith("x2"):
            return converted(op, to, source, bits[0]) & (1 << t.width(to)) - 1
        pair = divmod(bits[0], 1 << t.width(types[0]) // 2)
        return converted(op, to[:-2], source, pair[0]) << half | converted(op, to[:-2], source, pair[1])
    if to.endswith("x2") and op[0] not in ("mov", "selp", "copysign"):
        half = t.width(to) // 2
        single = isa.Semantics(meaning.function, (to[:-2],) * len(bits), (to[:-2],))
        up, low = (truth(opcode, single, *(int(b) >> s & (1 << half) - 1 for b in bits)) for s in (half, 0))
        return up << half | low  # pyright: ignore[reportOperatorIssue]
    if "f" in to and op[0] not in ("mov", "selp", "copysign"):
        if len(set(types)) == 2:
            bits = tuple(t.pattern(t.number(b, k), "f32") for b, k in zip(bits, types, strict=True))
        return floating(op, to, *bits)
    values = [t.whole(int(b), k) if k[0] == "s" else int(b) for b, k in zip(bits, types, strict=True)]
    if op[0] == "bfe":
        values[0] = int(bits[0])
    return INTEGERS[op[0]](op, *values) & (1 << t.width(to)) - 1


def carried(op: list[str], meaning: isa.Semantics, *bits: int) -> int | tuple[int, ...]:
    """Sums with a carry, over unbounded integers: what does not fit in the width is the flag."""
    n = t.width(meaning.sources[0])
    flag = int(bits[-1]) if "in" in meaning.carry else 0
    x = [int(b) for b in bits[: len(meaning.sources)]]
    if op[0] in ("mad", "madc"):
        a, b = (t.whole(v, op[-1]) for v in x[:2])
        x = [(a * b >> (n if "hi" in op else 0)) & (1 << n) - 1, x[2]]
    total = x[0] - x[1] - flag if op[0].startswith("sub") else x[0] + x[1] + flag
    result = total & (1 << n) - 1
    return (result, int(total != result)) if "out" in meaning.carry else result


def check(opcode: str, n: int) -> None:
    """One spelling on n samples against its truth; its section is named."""
    meaning = isa.semantics(opcode)
    assert meaning.section
    rng = np.random.default_rng(sum(map(ord, opcode)))
    sources = [*meaning.sources, *(["pred"] if "in" in meaning.carry else [])]
    x = [t.samples(kind, n, rng)[None] for kind in sources]
    if opcode == "lop3.b32":
        x[3] = np.array([[0xE8]], np.uint32)
    before = [v.copy() for v in x]
    with np.errstate(all="ignore"):
        got = meaning.function(*x)
    assert all((a == b).all() for a, b in zip(x, before, strict=True)), f"{opcode} writes into its sources"
    several = got if isinstance(got, tuple) else (got,)
    for i in range(n):
        bits = [int(np.broadcast_to(v, (1, n))[0, i]) for v in x]
        mine = tuple(int(v[0, i]) for v in several)
        want = truth(opcode, meaning, *bits)
        want = want if isinstance(want, tuple) else (want,)
        nan = meaning.results[0] == "f64" and t.number(mine[0], "f64") != t.number(mine[0], "f64")
        assert mine == want or (nan and t.number(int(want[0]), "f64") != t.number(int(want[0]), "f64")), (
            f"{opcode} {[hex(b) for b in bits]}: {[hex(m) for m in mine]} is not {[hex(int(w)) for w in want]}"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_spelling_agrees_with_its_truth(family):
    exact = [opcode for opcode in isa.OPCODES if opcode.split(".")[0] == family and not t.approximate(opcode)]
    n = 60 if len(exact) < 200 else 25
    for opcode in exact:
        check(opcode, n)
    assert exact or family in APPROXIMATIONS


AXES = "add.s32 fma.rn.f32 prmt.b32 min.s32 shf.l.wrap.b32 max.NaN.f32 bfe.u32 fma.rn.bf16x2"


def test_axes_of_one_stay_one():
    scalar, row, column = (np.ones(shape, np.uint32) for shape in ((1, 1), (1, 32), (5, 1)))
    for opcode in AXES.split():
        function = isa.semantics(opcode).function
        n = len(isa.semantics(opcode).sources)
        mixed = [row, *[column] * (n - 1)]
        for x, shape in (([scalar] * n, (1, 1)), ([row] * n, (1, 32)), ([column] * n, (5, 1)), (mixed, (5, 32))):
            assert function(*x).shape == shape, opcode


def test_min_and_max_take_a_third_operand_and_nothing_else_does():
    x = [np.array([[v]], np.float32).view(np.uint32) for v in (1.0, np.nan, 3.0)]
    assert isa.semantics("max.f32", operands=3).function(*x).view(np.float32).item() == 3
    assert np.isnan(isa.semantics("max.NaN.f32", operands=3).function(*x).view(np.float32).item())
    with pytest.raises(UnknownOpcode, match="takes 2 sources and is written with 3"):
        isa.semantics("add.f32", operands=3)


UNKNOWN = "add.s32.sat add.ftz.f64 mul.s32 fma.f32 cvt.s32.f32 cvt.f16.f32 setp.equ.s32 ex2.f32 ld.global.b32 bra"
UNKNOWN += " add.rna.f32 shf.l.b32 min.f16.NaN"


@pytest.mark.parametrize("opcode", UNKNOWN.split())
def test_what_the_table_does_not_spell_is_unknown(opcode):
    with pytest.raises(UnknownOpcode, match=f"does not execute {opcode}"):
        isa.semantics(opcode)


@pytest.mark.parametrize("family", isa.REFUSED)
def test_a_refused_family_says_why(family):
    with pytest.raises(UnknownOpcode, match="not modelled"):
        isa.semantics(family + ".anything")


def test_no_spelling_stands_in_two_rows():
    count = Counter(opcode for _, spelling, _ in isa.TABLE for opcode in isa.expand(spelling))
    assert [opcode for opcode, n in count.items() if n > 1] == []


def test_lop3_is_its_table_for_every_table():
    rng = np.random.default_rng(8)
    x = [rng.integers(0, 1 << 32, (1, 4), dtype=np.uint32) for _ in range(3)]
    function = isa.semantics("lop3.b32").function
    for table in range(256):
        got = function(*x, np.array([[table]], np.uint32))
        want = [INTEGERS["lop3"]([], *(int(v[0, i]) for v in x), table) for i in range(4)]
        assert got[0].tolist() == want, hex(table)
