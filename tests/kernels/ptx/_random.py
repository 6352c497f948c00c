"""Random Triton kernels, their inputs, and what they should compute: for the PTX machine against Triton's interpreter.

A kernel is a tree of operations over two arrays of floats and two of integers, written out as Triton. The same text,
evaluated over Tiles, is the truth: integers exactly, floats with a bound of what rounding may do in any order of sums,
fused or not.

Where the interpreter is not sound the trees do not go: it sums int32 in int64 and never wraps the sum, so a sum of
integers is cut to 16 bits at once. Its // and % round towards zero, as a GPU's do: they take dividends of either sign,
and divisors from 1 on. A float is compared, or becomes an integer, only where it is exact.
"""

import operator
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HEADER = '"""Random kernels."""\n\nimport triton\nimport triton.language as tl\n'
TEMPLATE = """

@triton.jit
def {name}(a, b, i, j, real, whole, M, N, {strides}, R: tl.constexpr, C: tl.constexpr):
    row, col = {row}, {col}
    live = (row < M) & (col < N)
{loads}
    tl.store(real + row * N + col, {real}, mask=live)
    tl.store(whole + row * N + col, {whole}, mask=live)
"""
TILE = {
    1: {"row": "tl.program_id(0)", "col": "tl.arange(0, C)"},
    2: {"row": "tl.program_id(0) * R + tl.arange(0, R)[:, None]", "col": "tl.arange(0, C)[None, :]"},
}
INPUTS, OTHER = ("a", "b", "i", "j"), {"a": 0.5, "b": -1.25, "i": 3, "j": -7}
REAL = (
    *("({x} + {y})", "({x} - {y})", "({x} * {y})", "tl.minimum({x}, {y})", "tl.maximum({x}, {y})"),
    *("tl.abs({x})", "({x} * 0.75 - 1.5)", "tl.exp2(tl.minimum({x}, 4.0))", "tl.where({when}, {x}, {y})"),
    *("({whole} & 1023).to({F})", "{x}.to({OTHER}).to({F})", "({x} - tl.max({y}, {over}))"),
    *("({x} + tl.sum({y}, {over}))", "({x} - tl.min({y}, {over}))", "tl.cumsum({x}, {axis})"),
)
WHOLE = (
    *("({x} + {y})", "({x} - {y})", "({x} * {y})", "tl.minimum({x}, {y})", "tl.maximum({x}, {y})", "tl.abs({x})"),
    *("({x} // (({y} & 15) + 1))", "({x} % (({y} & 15) + 1))", "({x} >> ({y} & 15))", "({x} << ({y} & 7))"),
    *("({x} & {y})", "({x} | {y})", "({x} ^ {y})", "tl.where({when}, {x}, {y})", "(a * 8).to({I})"),
    *("{x}.to(tl.int32).to({I})", "{x}.to(tl.int64).to({I})", "({x} - tl.max({y}, {over}))"),
    *("(({x} + tl.sum({y} & 1023, {over})) & 65535)", "(({x} - tl.cumsum({y} & 1023, {axis})) & 65535)"),
)
WHEN = (
    *("({p} < {q})", "({p} >= {q})", "({p} == {q})", "(a < b)", "((a > b) & ({p} != {q}))"),
    "((a <= b) | ({p} > {q}))",
)


class Kernel(NamedTuple):
    name: str
    source: str
    real: str  # the two expressions
    whole: str
    rank: int  # of its tiles: (C,), one to a row, or (R, C)
    arguments: dict[str, Any]
    grid: tuple[int]


def tree(rng, forms, depth: int, types: dict[str, str]) -> str:
    """An expression of this depth, all of whose leaves are inputs."""
    if depth == 0:
        return str(rng.choice(["a", "b"] if forms is REAL else ["i", "j"]))
    form, axis = str(rng.choice(forms)), int(rng.integers(int(types["rank"])))
    over = f"{axis}, keep_dims=True" if types["rank"] == "2" else "0"
    sub = {name: tree(rng, forms, depth - 1, types) for name in "xy"}
    sub |= {name: tree(rng, WHOLE, depth // 2, types) for name in ("p", "q", "whole")}
    sub["when"] = str(rng.choice(WHEN)).format(**sub)
    return form.format(**sub, **types, axis=axis, over=over)


def strided(rng, array: np.ndarray) -> np.ndarray:
    """The same elements with random strides."""
    rows, columns = (int(n) for n in rng.integers(1, 4, 2))
    order = (0, 1) if rng.random() < 0.5 else (1, 0)
    base = np.full([array.shape[n] * (rows, columns)[n] for n in order], -77, array.dtype)
    view = base.transpose(order)[::rows, ::columns]
    view[...] = array
    return view


def kernel(seed: int) -> Kernel:
    """The seed's kernel, with a launch of it: strided inputs, outputs of NaN and -99."""
    rng = np.random.default_rng(seed)
    F, I, rank = str(rng.choice(["float32", "float64"])), str(rng.choice(["int32", "int64"])), int(rng.integers(1, 3))
    M, N, R = int(rng.integers(1, 12)), int(rng.integers(1, 300 if rank == 1 else 70)), int(rng.choice([1, 2, 8, 16]))
    R, C = R if rank == 2 else 1, 1 << (N - 1).bit_length()
    other = "tl.float64" if F == "float32" else "tl.float32"
    types = {"F": f"tl.{F}", "OTHER": other, "I": f"tl.{I}", "rank": str(rank)}
    real, whole = (tree(rng, forms, int(rng.integers(2, 4)), types) for forms in (REAL, WHOLE))
    arrays = {name: strided(rng, np.clip(rng.normal(0, 1.5, (M, N)), -4, 4).astype(F)) for name in "ab"}
    largest = np.iinfo(I).max >> int(rng.integers(0, 24))
    arrays |= {name: strided(rng, rng.integers(-largest, largest, (M, N), I)) for name in "ij"}
    steps = {f"{name}{n}": x.strides[n] // x.itemsize for name, x in arrays.items() for n in (0, 1)}
    loads = [f"    {x} = tl.load({x} + row * {x}0 + col * {x}1, mask=live, other={OTHER[x]})" for x in INPUTS]
    arrays |= {"real": np.full((M, N), np.nan, F), "whole": np.full((M, N), -99, I)}
    name, text = f"random_{seed}", {"loads": "\n".join(loads), "real": real, "whole": whole}
    source = TEMPLATE.format(name=name, strides=", ".join(steps), **TILE[rank], **text)
    sizes = {"M": M, "N": N, "R": R, "C": C, "num_warps": int(rng.choice([1, 2, 4]))}
    return Kernel(name, source, real, whole, rank, arrays | steps | sizes, (-(-M // R),))


class Tile:
    """Values, integers or booleans exact, or floats in extended precision with the largest error of each."""

    def __init__(self, value, error=None, u=0.0):
        self.value, self.error, self.u = value, error, u

    def rounded(self, value, error, roundings=1) -> "Tile":
        """A float after so many roundings, or the flush of a result too small."""
        return Tile(value, error + roundings * self.u * 1.01 * (abs(value) + error) + 2.0**-126, self.u)

    def lift(self, x) -> "Tile":
        return x if isinstance(x, Tile) else Tile(self.value.dtype.type(x), None if self.error is None else 0.0, self.u)

    def each(self, x, op) -> "Tile":
        x = self.lift(x)
        value = op(self.value, x.value)
        if self.error is None:
            return Tile(value)
        error = self.error + x.error
        if op is operator.__mul__:
            error = abs(self.value) * x.error + abs(x.value) * self.error + self.error * x.error
        return self.rounded(value, error)

    def exact(self, x, op) -> "Tile":
        x = self.lift(x)
        assert not any(np.any(t.error) for t in (self, x) if t.error is not None), "a float that is not exact decides"
        return Tile(op(self.value, x.value))

    def to(self, kind) -> "Tile":
        if kind in (np.int32, np.int64):
            return Tile(self.value.astype(np.int64).astype(kind))
        value, error = self.value.astype(np.longdouble), 0.0 if self.error is None else self.error
        u = 2.0**-24 if kind is np.float32 else 2.0**-53
        return (Tile(value, error, u).rounded(value, error)) if u > self.u > 0 else Tile(value, error, u)

    def __floordiv__(self, x) -> "Tile":
        x = self.lift(x)
        return Tile((self.value - np.fmod(self.value, x.value)) // x.value)

    def __mod__(self, x) -> "Tile":
        return Tile(np.fmod(self.value, self.lift(x).value))

    def over(self, op, axis) -> "Tile":
        value = op(self.value, axis=axis, keepdims=True)
        if self.error is None:
            return Tile(value, None, self.u)
        return Tile(value, np.max(np.broadcast_to(self.error, self.value.shape), axis, keepdims=True), self.u)


def method(name: str, op, how):
    setattr(Tile, name, lambda x, y: how(x, y, op))


for _name in ("__add__", "__sub__", "__mul__", "__and__", "__or__", "__xor__", "__lshift__", "__rshift__"):
    method(_name, getattr(operator, _name), Tile.each)
for _name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"):
    method(_name, getattr(operator, _name), Tile.exact)


class Language:
    """tl, over Tiles."""

    int32, int64, float32, float64 = np.int32, np.int64, np.float32, np.float64

    @staticmethod
    def pick(x: Tile, y, op) -> Tile:
        y = x.lift(y)
        error = None if x.error is None or y.error is None else np.maximum(x.error, y.error)
        return Tile(op(x.value, y.value), error, x.u)

    def minimum(self, x, y) -> Tile:
        return self.pick(x, y, np.minimum)

    def maximum(self, x, y) -> Tile:
        return self.pick(x, y, np.maximum)

    def abs(self, x) -> Tile:
        return Tile(abs(x.value), x.error, x.u)

    def where(self, when, x, y) -> Tile:
        error = None if x.error is None or y.error is None else np.where(when.value, x.error, y.error)
        return Tile(np.where(when.value, x.value, y.value), error, x.u)

    def exp2(self, x) -> Tile:
        value = np.exp2(x.value)
        return x.rounded(value, value * np.expm1(np.log(2) * x.error), 4)  # the approximation is within 2 ulps

    def max(self, x, axis, keep_dims=True) -> Tile:
        return x.over(np.max, axis)

    def min(self, x, axis, keep_dims=True) -> Tile:
        return x.over(np.min, axis)

    def sum(self, x, axis, keep_dims=True) -> Tile:
        return self.added(x, lambda v: np.sum(v, axis, v.dtype, keepdims=True), axis)

    def cumsum(self, x, axis) -> Tile:
        return self.added(x, lambda v: np.cumsum(v, axis, v.dtype), axis)

    @staticmethod
    def added(x: Tile, op, axis) -> Tile:
        if x.error is None:
            return Tile(op(x.value))
        error, n = np.broadcast_to(x.error, x.value.shape), x.value.shape[axis]
        return Tile(op(x.value), op(error) + (n - 1) * x.u * 1.01 * op(abs(x.value) + error) + n * 2.0**-126, x.u)


def truth(k: Kernel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(real, the bound of its error, whole), each (M, N)."""
    M, N, R, C = (k.arguments[name] for name in "MNRC")
    u = 2.0**-24 if k.arguments["a"].dtype == np.float32 else 2.0**-53
    found: tuple[list, list, list] = ([], [], [])
    for first in range(0, M, R):
        names: dict[str, Any] = {"tl": Language()}
        for name in INPUTS:
            array = k.arguments[name]
            tile = np.full((R, C), OTHER[name], array.dtype)
            tile[: M - first, :N] = array[first : first + R]
            tile = tile if k.rank == 2 else tile[0]
            floats = array.dtype.kind == "f"
            names[name] = Tile(tile.astype(np.longdouble), np.zeros(tile.shape), u) if floats else Tile(tile)
        with np.errstate(over="ignore"):  # integers wrap
            real, whole = eval(k.real, names), eval(k.whole, names)
        for part, value in zip(found, (real.value, real.error, whole.value), strict=True):
            part.append(np.broadcast_to(value, tile.shape).reshape(R, C)[: M - first, :N])
    real, bound, whole = (np.concatenate(part) for part in found)
    return real, bound, whole


def source(seeds) -> str:
    """The text of a module of the seeds' kernels."""
    return HEADER + "".join(kernel(seed).source for seed in seeds)


def interpret(module: Path, out: Path, seeds) -> None:
    """Run the kernels of a module interpreted: to be called in a process where TRITON_INTERPRET is set."""
    import torch

    sys.path.insert(0, str(module.parent))
    kernels, results = __import__(module.stem), {}
    for seed in seeds:
        k = kernel(seed)
        arguments = {n: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for n, x in k.arguments.items()}
        with np.errstate(all="ignore"):
            getattr(kernels, k.name)[k.grid](**arguments)
        results |= {f"{k.name}.{n}": k.arguments[n] for n in ("real", "whole")}
    np.savez(out, **results)


if __name__ == "__main__":
    interpret(Path(sys.argv[1]), Path(sys.argv[2]), range(int(sys.argv[3]), int(sys.argv[4])))
