"""Ordinary Triton kernels that the PTX machine must run without an alarm, each with a launch of it and its NumPy truth.

Written for the machine, as a careful author writes them: any length, masks, sums in a wide type. Those whose programs
share memory are in _programs.py. A planted fault (test_checks.py) changes one of them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import triton
import triton.language as tl
from scipy.special import erf

from kvproof.kernels import ptx

FLOATS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
TYPES = {**FLOATS, "int8": np.int8, "int32": np.int32}
SUMS = dict.fromkeys(FLOATS, tl.float32) | {"float64": tl.float64, "int8": tl.int32, "int32": tl.int32}
WIDE: Any = dict.fromkeys(FLOATS, np.float32) | {"float64": np.float64, "int8": np.int32, "int32": np.int32}
DEEP = 40  # no element passes through more additions than this in any sum below


class Case(NamedTuple):
    """One launch: everything but the target and the schedule."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]  # arrays, numbers, constexprs and options by name; results appear in the arrays
    truth: dict[str, tuple[Any, Any]]  # name of a result -> what it should be, and the largest error of each element
    readable: dict[str, Any]  # False: not before a program has written it; an array: which elements


def launch(kernel, grid, truth, new="", **arguments) -> Case:
    """The Case in which no program may read the arrays that `new` names before a program has written them."""
    return Case(kernel, grid, arguments, truth, dict.fromkeys(new.split(), False))


def make(case, num_warps=4, num_stages=3, **shape) -> Case:
    """What one of the functions below makes of `shape`, launched with these options of Triton's."""
    made = case(**shape)
    return made._replace(arguments=made.arguments | {"num_warps": num_warps, "num_stages": num_stages})


def run(case: Case, **settings):
    """Run it on the machine, raise AssertionError if a result is wrong, and return the machine's report."""
    report = ptx.run(case.kernel, case.grid, readable=case.readable, **case.arguments, **settings)
    check(case)
    return report


def check(case: Case) -> None:
    """Raise AssertionError if a result is further from the truth than it may be."""
    assert not [*wrong(case)]


def wrong(case: Case) -> Iterator[str]:
    """Each result that is further from the truth than it may be, in words; NaN is far from all but NaN."""
    for name, (truth, bound) in case.truth.items():
        got, truth = (np.asarray(x, np.float64) for x in (case.arguments[name], truth))
        with np.errstate(invalid="ignore"):
            error = np.abs(got - truth)
        bad = ~((np.isnan(got) & np.isnan(truth)) | (got == truth) | (error <= bound))
        if bad.any():
            first = f"{got[bad].flat[0]:.6g}, not {np.broadcast_to(truth, got.shape)[bad].flat[0]:.6g}"
            yield f"{name}: {np.count_nonzero(bad)} of {bad.size} elements are wrong, the first is {first}"


def unwritten(shape, dtype: Any = np.float32) -> np.ndarray:
    """Results before the launch: NaN, or -99, which no kernel here computes."""
    return np.full(shape, -99 if np.issubdtype(dtype, np.integer) else np.nan, dtype)


def roundoff(dtype: str) -> float:
    """The largest relative error of one rounding to what a kernel of this dtype computes in."""
    return 2.0**-53 if dtype == "float64" else 2.0**-24


def stored(y, dtype: str):
    """The largest error of one rounding of y to dtype."""
    kind = ml_dtypes.finfo(TYPES[dtype])
    return float(kind.eps) / 2 * np.abs(y) + float(kind.smallest_subnormal) / 2


@triton.jit
def scale(x, out, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < n) * factor, mask=at < n)


@triton.jit
def gelu(x, out, n, ACC: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    v = tl.load(x + at, mask=live).to(ACC)
    y = 0.5 * v * (1 + tl.erf(v * 0.7071067811865476))
    tl.store(out + at, y.to(out.dtype.element_ty), mask=live)


@triton.jit
def waves(x, out, n, TURNS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0.0).to(ACC)
    size = tl.abs(v) + 1
    y = tl.exp(-size) + tl.log(size) + tl.sqrt(size) + tl.rsqrt(size)
    if TURNS:
        y += tl.sin(v) + tl.cos(v)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=at < n)


def elementwise(kernel, dtype: str, n: int, truth, bound, largest=5.0) -> Case:
    """A kernel of one array; truth and bound (in roundoffs) are functions of x as float64."""
    x = np.linspace(-largest, largest, n).astype(TYPES[dtype])
    v = x.astype(np.float64)
    y, out = truth(v), unwritten(n, x.dtype)
    results = {"out": (y, bound(v) * roundoff(dtype) + stored(y, dtype))}
    return launch(kernel, (triton.cdiv(n, 256),), results, "out", x=x, out=out, n=n, ACC=SUMS[dtype], BLOCK=256)


def gelu_case(dtype="float32", n=1000) -> Case:
    # erf is within 2 ulps; its argument, 1 + erf and the products round once each.
    return elementwise(gelu, dtype, n, lambda v: 0.5 * v * (1 + erf(v * 0.5**0.5)), lambda v: 5 * np.abs(v))


def waves_case(dtype="float32", n=1000, largest=5.0, turns=True) -> Case:
    def terms(v):
        size = np.abs(v) + 1
        return turns * np.sin(v), turns * np.cos(v), np.exp(-size), np.log(size), np.sqrt(size), size**-0.5

    # exp rounds size * log2(e), which its power of two makes size times as large; the rest is within 2 ulps, and each
    # partial sum rounds.
    def bound(v):
        return 2 * (np.abs(v) + 1) * np.exp(-np.abs(v) - 1) + 9 * np.sum(np.abs(terms(v)), 0)

    case = elementwise(waves, dtype, n, lambda v: np.sum(terms(v), 0), bound, largest)
    return case._replace(arguments=case.arguments | {"TURNS": turns})


@triton.jit
def softmax(x, out, n, stride, ACC: tl.constexpr, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    v = tl.load(x + row * stride + at, mask=at < n, other=float("-inf")).to(ACC)
    e = tl.exp(v - tl.max(v, 0))
    tl.store(out + row * n + at, (e / tl.sum(e, 0)).to(out.dtype.element_ty), mask=at < n)


def softmax_case(dtype="float32", n=300, rows=5) -> Case:
    x = np.random.default_rng(n).normal(0, 3, (rows, n + 3)).astype(TYPES[dtype])  # three columns of padding
    v = x[:, :n].astype(np.float64)
    y = np.exp(v - v.max(1, keepdims=True))
    y /= y.sum(1, keepdims=True)
    error = (4 * np.ptp(v) + DEEP + 8) * roundoff(dtype) * y + stored(y, dtype)
    sizes = {"n": n, "stride": n + 3, "ACC": SUMS[dtype], "BLOCK": triton.next_power_of_2(n)}
    return launch(softmax, (rows,), {"out": (y, error)}, "out", x=x, out=unwritten((rows, n), x.dtype), **sizes)


@triton.jit
def layer_norm(x, w, b, out, n, EPS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * n
    total = tl.zeros([BLOCK], ACC)
    for first in range(0, n, BLOCK):
        at = first + tl.arange(0, BLOCK)
        total += tl.load(x + row + at, mask=at < n, other=0.0).to(ACC)
    mean = tl.sum(total, 0) / n
    total = tl.zeros([BLOCK], ACC)
    for first in range(0, n, BLOCK):
        at = first + tl.arange(0, BLOCK)
        v = tl.load(x + row + at, mask=at < n, other=0.0).to(ACC)
        total += tl.where(at < n, (v - mean) * (v - mean), 0.0)
    scale = tl.rsqrt(tl.sum(total, 0) / n + EPS)
    for first in range(0, n, BLOCK):
        at = first + tl.arange(0, BLOCK)
        v = (tl.load(x + row + at, mask=at < n).to(ACC) - mean) * scale
        y = v * tl.load(w + at, mask=at < n).to(ACC) + tl.load(b + at, mask=at < n).to(ACC)
        tl.store(out + row + at, y.to(out.dtype.element_ty), mask=at < n)


def layer_norm_case(dtype="float32", n=771, rows=3) -> Case:
    rng = np.random.default_rng(n)
    x, w, b = (rng.normal(1, 2, shape).astype(TYPES[dtype]) for shape in ((rows, n), n, n))
    v, scale, shift = (a.astype(np.float64) for a in (x, w, b))
    v = (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5)
    y = v * scale + shift
    error = 2 * DEEP * roundoff(dtype) * ((1 + np.abs(v)) * np.abs(scale) + np.abs(shift)) + stored(y, dtype)
    arrays, sizes = {"x": x, "w": w, "b": b}, {"n": n, "EPS": 1e-5, "ACC": SUMS[dtype], "BLOCK": 256}
    return launch(layer_norm, (rows,), {"out": (y, error)}, "out", out=unwritten((rows, n), x.dtype), **arrays, **sizes)


@triton.jit
def matmul(a, b, c, M, N, K, stride_am, stride_bk, ACC: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr,
           BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)[:, None]
    n = tl.program_id(1) * BN + tl.arange(0, BN)[None, :]
    acc = tl.zeros([BM, BN], ACC)
    for first in range(0, K, BK):
        ka, kb = first + tl.arange(0, BK)[None, :], first + tl.arange(0, BK)[:, None]
        left = tl.load(a + m * stride_am + ka, mask=(m < M) & (ka < K), other=0)
        right = tl.load(b + kb * stride_bk + n, mask=(kb < K) & (n < N), other=0)
        acc = tl.dot(left, right, acc, input_precision=PRECISION, out_dtype=ACC)
    tl.store(c + m * N + n, acc, mask=(m < M) & (n < N))


def matmul_case(dtype="float16", rows=16, shape=(50, 48, 96), precision="ieee") -> Case:
    M, N, K = shape
    rng = np.random.default_rng(K)
    a, b = (rng.integers(-127, 128, size).astype(TYPES[dtype]) for size in ((M, K), (K, N)))
    c = (a.astype(np.int64) @ b.astype(np.int64), 0)  # every operand, product and sum fits, tf32's 11 bits included
    arrays = {"a": a, "b": b, "c": unwritten((M, N), WIDE[dtype])}
    sizes = {"M": M, "N": N, "K": K, "stride_am": K, "stride_bk": N, "BM": rows, "BN": 32, "BK": 32}
    grid = (triton.cdiv(M, rows), triton.cdiv(N, 32))
    return launch(matmul, grid, {"c": c}, "c", ACC=SUMS[dtype], PRECISION=precision, **arrays, **sizes)


@triton.jit
def order(x, sums, best, ordered, n, LAST: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0)
    tl.store(sums + at, tl.cumsum(v, 0), mask=at < n)
    tl.store(best, tl.argmax(tl.where(at < n, v, -LAST), 0))
    tl.store(ordered + at, tl.sort(tl.where(at < n, v, LAST)), mask=at < n)


def order_case(dtype="int32", n=100) -> Case:
    x = np.random.default_rng(n).integers(-9, 9, n).astype(TYPES[dtype])  # repeated values: the first is the best
    truth = {"sums": (np.cumsum(x.astype(np.int64)), 0), "best": (np.argmax(x), 0), "ordered": (np.sort(x), 0)}
    out = {"sums": unwritten(n, x.dtype), "best": unwritten(1, np.int32), "ordered": unwritten(n, x.dtype)}
    return launch(order, (1,), truth, " ".join(out), x=x, n=n, LAST=2**20, BLOCK=triton.next_power_of_2(n), **out)
