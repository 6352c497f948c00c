"""Pairs of expressions of three vectors x, y, z of 32 floats, equal in real numbers or not, and what fpsan says.

An expression is both Triton's and Python's: it runs as a kernel on the PTX machine, and over rings of any version here.
The table in pairs.md, which a test holds to this file:

    python tests/kernels/ptx/algebra/_pairs.py > tests/kernels/ptx/algebra/pairs.md
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from kvproof.kernels.ptx.algebra import embedding, ring

N, SEEDS = 32, 6
ALL = ("float64", "float32", "bfloat16", "float16")
WIDE = ("float64", "float32")  # Triton's exp and its like take no others
FLOAT = ("float32",)
VERSIONS = ((3, 8), (3, 9))


class Pair(NamedTuple):
    one: str
    other: str
    dtypes: tuple[str, ...] = ALL
    why: str = ""  # where the ring is wrong of it in some dtype or version
    given: tuple[bool, bool] | None = None  # what 3.8 and 3.9 say on the machine, where the ring has no such operation


SHIFT = "exp(x - peak(x))"
EVEN = "the inverse of an even payload is none"
CONSTANT = "a constant other than 0, 1 and -1 is any number"
THEOREM = "no theorems"
ORDER = "payloads wrap around: a sum does not keep their order"
LEFT = "left as it is"
CUT = "3.8 drops the high bits"
MERGED = "maximum(peak(x), peak(y))"

EQUAL = [
    Pair("x + y", "y + x"),
    Pair("(x + y) + z", "x + (y + z)"),
    Pair("x * (y + z)", "x * y + x * z"),
    Pair("(x * y) * z", "x * (z * y)"),
    Pair("x - y", "x + (-y)"),
    Pair("(x + y) * (x - y)", "x * x - y * y"),
    Pair("fma(x, y, z)", "x * y + z"),
    Pair("x * 1.0 + 0.0", "x"),
    Pair("(x + 1.0) * (x - 1.0)", "x * x - 1.0"),
    Pair("total(x) + total(y)", "total(x + y)"),
    Pair("total(x * y)", "first(x * y) + last(x * y)"),
    Pair("total(x) / total(y)", "total(x / total(y))", WIDE),
    Pair("exp(x + y)", "exp(x) * exp(y)", WIDE),
    Pair("exp2(x - y) * exp2(y)", "exp2(x)", WIDE),
    Pair("exp(x) * exp(-x)", "one(x)", WIDE),
    Pair("exp(x)", "exp2(x * 1.4426950408889634)", WIDE, why="log2(e) is the ring's own in float32 alone"),
    Pair(f"{SHIFT} / total({SHIFT})", "exp(x) / total(exp(x))", WIDE, why=f"{EVEN}: 32 terms"),
    Pair(f"{SHIFT} / odd({SHIFT})", "exp(x) / odd(exp(x))", WIDE),
    Pair(f"total(exp(x - {MERGED})) + total(exp(y - {MERGED}))",
         f"total({SHIFT}) * exp(peak(x) - {MERGED}) + total(exp(y - peak(y))) * exp(peak(y) - {MERGED})", WIDE),
    Pair("maximum(x, maximum(y, z))", "maximum(maximum(z, x), y)"),
    Pair("maximum(x, y) + minimum(x, y)", "x + y"),
    Pair("peak(maximum(x, y))", "maximum(peak(x), peak(y))"),
    Pair("maximum(x, y) + z", "maximum(x + z, y + z)", why=ORDER),
    Pair("-minimum(x, y)", "maximum(-x, -y)"),
    Pair("maximum(x, y)", "(x + y + absolute(x - y)) / 2.0", FLOAT, why=f"abs: {LEFT}", given=(False, False)),
    Pair("absolute(x)", "maximum(x, -x)", FLOAT, given=(True, True)),
    Pair("where(x > y, x, y)", "maximum(x, y)", FLOAT, why=f"comparison: {LEFT}", given=(False, False)),
    Pair("clamp(x, minimum(y, z), maximum(y, z))", "minimum(maximum(x, minimum(y, z)), maximum(y, z))", FLOAT,
         why=f"clamp: {LEFT} by 3.8", given=(False, True)),
    Pair("x * 2.0", "x + x", why=CONSTANT),
    Pair("x / 2.0", "x * 0.5", WIDE, why=CONSTANT),
    Pair("x * 0.5 + x * 0.5", "x", why=CONSTANT),
    Pair("(x + y) / z", "x / z + y / z", WIDE),
    Pair("x / y", "x * (1.0 / y)", WIDE),
    Pair("1.0 / (1.0 / x)", "x", WIDE),
    Pair("(x / y) / z", "x / (y * z)", WIDE, why=EVEN),
    Pair("x / x", "one(x)", WIDE, why=EVEN),
    Pair("(x / y) * y", "x", WIDE, why=EVEN),
    Pair("(-x) / y", "x / (-y)", WIDE, why=EVEN),
    Pair("1.0 / (1.0 + exp(-x))", "exp(x) / (1.0 + exp(x))", WIDE, why=EVEN),
    Pair("sqrt(x * x) * sqrt(x * x)", "x * x", WIDE, why=THEOREM),
    Pair("log(exp(x))", "x", WIDE, why=THEOREM),
    Pair("rsqrt(exp(x))", "1.0 / sqrt(exp(x))", WIDE, why=THEOREM),
    Pair("floor(x)", "-ceil(-x)", WIDE, why=THEOREM),
    Pair("sin(x + y)", "sin(x) * cos(y) + cos(x) * sin(y)", WIDE),
    Pair("sin(x) * sin(x) + cos(x) * cos(x)", "one(x)", WIDE),
    Pair("sin(x + x)", "sin(x) * cos(x) + sin(x) * cos(x)", WIDE),
    Pair("half(x) + half(y)", "half(x + y)", FLOAT, why="3.9 folds what it drops"),
    Pair("single(half(x) * half(y))", "single(half(x)) * single(half(y))", FLOAT, why="16 bits wrap around sooner"),
    Pair("single(half(x))", "x", FLOAT, why="a narrower float holds fewer payloads"),
]  # fmt: skip
UNEQUAL = [
    Pair("x + y", "x - y"),
    Pair("x - y", "y - x"),
    Pair("x * y", "x * x"),
    Pair("x * y + z", "x * (y + z)"),
    Pair("fma(x, y, z)", "fma(y, z, x)"),
    Pair("x * 1.001", "x", WIDE),
    Pair("x * 0.125", "x * 0.25"),
    Pair("total(x)", "odd(x)"),
    Pair("total(x * y)", "total(x) * total(y)"),
    Pair("total(x * y)", "total(x * turned(y))"),
    Pair("total(exp(x) * y)", "total(exp(x) * turned(y))", WIDE),
    Pair("half(total(exp(x) * y))", "half(total(exp(x) * turned(y)))", FLOAT),
    Pair("half(total(exp2(x * 2.0 * 2.0) * y))", "half(total(exp2(x * 2.0 * 2.0) * turned(y)))", FLOAT, why=CUT),
    Pair("half(x)", "half(x + y * 2.0 * 2.0 * 2.0)", FLOAT, why=CUT),
    Pair("exp(x)", "exp2(x)", WIDE),
    Pair("exp(x) + exp(y)", "exp(x + y)", WIDE),
    Pair("exp(-x)", "exp(x)", WIDE),
    Pair(SHIFT, "exp(x - peak(y))", WIDE),
    Pair(f"{SHIFT} / total({SHIFT})", f"{SHIFT} / odd({SHIFT})", WIDE),
    Pair(f"total(exp(x - {MERGED}))", f"total({SHIFT})", WIDE),
    Pair(f"total({SHIFT}) * exp(peak(x) - {MERGED})", f"total({SHIFT}) * exp({MERGED} - peak(x))", WIDE),
    Pair("maximum(x, y)", "minimum(x, y)"),
    Pair("peak(x)", "peak(maximum(x, y))"),
    Pair("where(x > y, x, y)", "where(x < y, x, y)", FLOAT, given=(False, False)),
    Pair("absolute(x)", "x", FLOAT, given=(False, False)),
    Pair("x / y", "y / x", WIDE),
    Pair("1.0 / (1.0 + exp(-x))", "1.0 / (1.0 + exp(x))", WIDE),
    Pair("total(x) / 32.0", "total(x) / 31.0", WIDE),
    Pair("total(x * x) - total(x) * total(x)", "total((x - total(x)) * (x - total(x)))", WIDE),
    Pair("sin(x)", "cos(x)", WIDE),
    Pair("log(exp(x))", "log2(exp(x))", WIDE),
    Pair("sqrt(x * x)", "rsqrt(x * x)", WIDE),
    Pair("erf(x)", "x", WIDE),
    Pair("floor(x)", "ceil(x)", WIDE),
    Pair("x * 2.0 * 2.0 * 2.0 * 2.0 * 2.0", "y * 2.0 * 2.0 * 2.0 * 2.0 * 2.0",
         why="the payload of 2.0 is even: powers of it are 0"),
    Pair("exp2(x * 2.0 * 2.0 * 2.0 * 2.0)", "exp2(y * 2.0 * 2.0 * 2.0 * 2.0)", FLOAT, why="exp2 has the period 2**24"),
]  # fmt: skip

FUNCTIONS = "exp exp2 log log2 sqrt rsqrt erf floor ceil sin cos fma maximum minimum where clamp"
HELPERS = {
    "absolute(x)": "tl.abs(x)",
    "total(x)": "tl.sum(x, 0)",
    "peak(x)": "tl.max(x, 0)",
    "one(x)": "tl.full(x.shape, 1.0, x.dtype)",
    "half(x)": "x.to(tl.float16)",
    "single(x)": "x.to(tl.float32)",
    "odd(x)": "tl.sum(tl.where(tl.arange(0, 32) < 31, x, 0.0), 0)",
    "first(x)": "tl.sum(tl.where(tl.arange(0, 32) < 11, x, 0.0), 0)",
    "last(x)": "tl.sum(tl.where(tl.arange(0, 32) < 11, 0.0, x), 0)",
    "turned(x)": "tl.gather(x, (tl.arange(0, 32) + 1) % 32, 0)",
}


def triton_source(pairs: list[Pair]) -> str:
    """A module with kernels one_0, other_0, one_1, ... of some pairs."""
    lines = [
        "import triton",
        "import triton.language as tl",
        f"from triton.language import {FUNCTIONS.replace(' ', ', ')}",
    ]
    for head, body in HELPERS.items():
        lines += ["", "", "@triton.jit", f"def {head}:", f"    return {body}"]
    for n, pair in enumerate(pairs):
        for side in ("one", "other"):
            lines += ["", "", "@triton.jit", f"def {side}_{n}(px, py, pz, out):", f"    i = tl.arange(0, {N})"]
            lines += [f"    {v} = tl.load(p{v} + i)" for v in "xyz"]
            lines += [f"    tl.store(out + i, {getattr(pair, side)})"]
    return "\n".join(lines) + "\n"


def drawn(dtype: str, seed: int = 0) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal(N)).to(getattr(torch, dtype)) for _ in "xyz"]


def names() -> dict[str, Any]:
    """What an expression's names mean in the ring."""
    tagged = {f: lambda x, f=f: ring.unary(f, x) for f in embedding.TAGGED}
    part = lambda at: lambda x: ring.sum(x[at])  # noqa: E731
    return tagged | {
        **{f: getattr(ring, f) for f in ("exp", "exp2", "sin", "cos", "maximum", "minimum")},
        "fma": lambda x, y, z: x * y + z, "total": ring.sum, "peak": ring.max, "odd": part(slice(31)),
        "first": part(slice(11)), "last": part(slice(11, None)),
        "half": lambda x: x.to("float16"), "single": lambda x: x.to("float32"),
        "turned": lambda x: x[(np.arange(N) + 1) % N], "one": lambda x: ring.full(x.shape, 1.0, x.dtype),
    }  # fmt: skip


def in_ring(expression: str, dtype: str, seed: int = 0) -> np.ndarray:
    """The bits of an expression, by the formula in Python."""
    x, y, z = map(ring.array, drawn(dtype, seed))
    found = eval(expression, names() | {"x": x, "y": y, "z": z})  # expressions of this file
    return np.broadcast_to(found.bits, N)


@cache
def agrees(pair: Pair, dtype: str, version: tuple[int, int]) -> bool:
    """Whether the two sides have the same bits, whatever the numbers, in the ring of a version."""
    if pair.given:
        return pair.given[VERSIONS.index(version)]
    with embedding.as_of(*version):
        sides = ([in_ring(expression, dtype, seed) for expression in pair[:2]] for seed in range(SEEDS))
        return all(np.array_equal(one, other) for one, other in sides)


HEAD = """# Equal and unequal pairs, and what fpsan says of them

x, y, z are 32 floats each; equal means in real numbers. fpsan is right of a pair if its two sides have the same bits
where they are equal, and others where not; else it is blind. test_pairs.py runs the pairs as kernels of the installed
Triton, 3.8.0; of 3.9.0 its author did so once, elsewhere, and the suite has that ring in Python alone. Made by
`python tests/kernels/ptx/algebra/_pairs.py > tests/kernels/ptx/algebra/pairs.md`."""
COLUMNS = "| one | other | in | Triton 3.8 | Triton 3.9 | why |\n|---|---|---|---|---|---|"


def table() -> Iterator[str]:
    """The lines of pairs.md."""
    yield from HEAD.splitlines()
    wrong = 0
    for title, pairs, truth in (("Equal", EQUAL, True), ("Unequal", UNEQUAL, False)):
        yield from ("", f"## {title}", "", *COLUMNS.splitlines())
        for p in pairs:
            blind = [[d for d in p.dtypes if agrees(p, d, v) != truth] for v in VERSIONS]
            some = ["blind" if len(b) == len(p.dtypes) else "blind in " + ", ".join(b) for b in blind]
            words = [x if b else "right" for x, b in zip(some, blind, strict=True)]
            dtypes = "all" if p.dtypes == ALL else ", ".join(p.dtypes)
            yield "| " + " | ".join((f"`{p.one}`", f"`{p.other}`", dtypes, *words, p.why if any(blind) else "")) + " |"
            wrong += sum(map(len, blind))
    total = len(VERSIONS) * sum(len(p.dtypes) for p in EQUAL + UNEQUAL)
    yield ""
    yield f"{len(EQUAL)} equal and {len(UNEQUAL)} unequal pairs; {total - wrong} of {total} answers are right."


if __name__ == "__main__":
    print("\n".join(table()))
