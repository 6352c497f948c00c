"""Gluon kernels of the core language, each with a launch of it: arithmetic, shapes, reductions, atomics, shared memory.

A kernel stores each result into a row of its own of `out`; the rows of the truth are in the same order.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# The types of what a kernel calls are those that Triton gives it.

import numpy as np
from scipy.special import erf
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .._kernels import Case, launch, unwritten

N = 128
LINE = gl.constexpr(gl.BlockedLayout([1], [32], [4], [0]))
TILE = gl.constexpr(gl.BlockedLayout([1, 4], [4, 8], [4, 1], [1, 0]))
ALONG = gl.constexpr(gl.BlockedLayout([4, 1], [8, 4], [1, 4], [0, 1]))


def rows(kernel, truth, bound=0.0, dtype: type = np.float32, **arguments) -> Case:
    """The Case of a kernel that stores row i of `out` as row i of the truth."""
    truth = np.stack([np.broadcast_to(row, N) for row in truth])
    bound = bound * np.maximum(np.abs(truth), 1) if bound else 0
    return launch(kernel, (1,), {"out": (truth, bound)}, "out", **arguments, out=unwritten(truth.shape, dtype))


@gluon.jit
def mathematics(x, y, out, N: gl.constexpr):
    at = gl.arange(0, N, LINE)
    a, b = gl.load(x + at), gl.load(y + at)
    gl.store(out + at, gl.exp(a))
    gl.store(out + N + at, gl.exp2(a))
    gl.store(out + 2 * N + at, gl.log(b))
    gl.store(out + 3 * N + at, gl.log2(b))
    gl.store(out + 4 * N + at, gl.cos(a))
    gl.store(out + 5 * N + at, gl.sin(a))
    gl.store(out + 6 * N + at, gl.sqrt(b))
    gl.store(out + 7 * N + at, gl.sqrt_rn(b))
    gl.store(out + 8 * N + at, gl.rsqrt(b))
    gl.store(out + 9 * N + at, gl.erf(a))
    gl.store(out + 10 * N + at, gl.floor(a))
    gl.store(out + 11 * N + at, gl.ceil(a))
    gl.store(out + 12 * N + at, gl.abs(a))
    gl.store(out + 13 * N + at, gl.fdiv(a, b))
    gl.store(out + 14 * N + at, gl.div_rn(a, b))
    gl.store(out + 15 * N + at, gl.fma(a, b, a))
    gl.store(out + 16 * N + at, gl.add(a, b))
    gl.store(out + 17 * N + at, gl.sub(a, b))
    gl.store(out + 18 * N + at, gl.mul(a, b))
    gl.store(out + 19 * N + at, gl.maximum(a, b))
    gl.store(out + 20 * N + at, gl.minimum(a, b))
    gl.store(out + 21 * N + at, gl.clamp(a, -0.5, 0.5))
    gl.store(out + 22 * N + at, gl.where(a > 0, a, b))
    gl.store(out + 23 * N + at, gl.cast(gl.cast(a, gl.int32), gl.float32))


def mathematics_case() -> Case:
    x = np.linspace(-4, 4, N).astype(np.float32)
    y = np.linspace(0.1, 9, N).astype(np.float32)
    a, b = x.astype(float), y.astype(float)
    truth = [np.exp(a), np.exp2(a), np.log(b), np.log2(b), np.cos(a), np.sin(a), np.sqrt(b), np.sqrt(b), b**-0.5]
    truth += [erf(a), np.floor(a), np.ceil(a), np.abs(a), a / b, a / b, a * b + a, a + b, a - b, a * b]
    truth += [np.maximum(a, b), np.minimum(a, b), np.clip(a, -0.5, 0.5), np.where(a > 0, a, b), np.trunc(a)]
    return rows(mathematics, truth, 2e-6, x=x, y=y, N=N)


@gluon.jit
def times(a, b):
    return a * b


@gluon.jit
def both(a, b):
    return a + b, a - b


@gluon.jit
def reductions(x, out, N: gl.constexpr):
    at = gl.arange(0, N, LINE)
    v = gl.load(x + at)
    zero = gl.zeros_like(v)
    gl.store(out + at, gl.sum(v) + zero)
    gl.store(out + N + at, gl.max(v) + zero)
    gl.store(out + 2 * N + at, gl.min(v) + zero)
    gl.store(out + 3 * N + at, gl.xor_sum(v) + zero)
    gl.store(out + 4 * N + at, gl.reduce(v % 2 + 1, 0, times) + zero)
    gl.store(out + 5 * N + at, gl.associative_scan(v, 0, times))
    gl.store(out + 6 * N + at, gl.where(gl.reduce_or(v == 5, 0), 1, 0) + zero)
    gl.store(out + 7 * N + at, gl.gather(v, N - 1 - at, 0))
    gl.store(out + 8 * N + at, gl.histogram(v % 128, 128, layout=LINE))
    total, less = gl.map_elementwise(both, v, at)
    gl.store(out + 9 * N + at, total)
    gl.store(out + 10 * N + at, less)
    quick = gl.inline_asm_elementwise("add.s32 $0, $1, 7;", "=r,r", [v], dtype=gl.int32, is_pure=True, pack=1)
    gl.store(out + 11 * N + at, quick)
    gl.store(out + 12 * N + at, gl.umulhi(v.to(gl.uint32) << 20, at.to(gl.uint32) << 20).to(gl.int32))


def reductions_case() -> Case:
    x, at = np.random.default_rng(0).integers(0, 1000, N).astype(np.int32), np.arange(N)
    product = lambda v: np.multiply.accumulate(v.astype(np.int64) % 2**32, dtype=np.uint64).astype(np.uint32)  # noqa: E731
    truth = [x.sum(), x.max(), x.min(), np.bitwise_xor.reduce(x), product(x % 2 + 1)[-1].view(np.int32)]
    truth += [product(x).view(np.int32), int((x == 5).any()), x[::-1], np.bincount(x % 128, minlength=128)]
    high = ((x.astype(np.uint64) << 20) % 2**32 * ((at.astype(np.uint64) << 20) % 2**32)) >> 32
    truth += [x + at, x - at, x + 7, high.astype(np.int64)]
    return rows(reductions, truth, dtype=np.int32, x=x, N=N)


@gluon.jit
def shapes(x, out, N: gl.constexpr):
    gl.static_assert(N == 128)
    gl.static_print("shapes of", N)
    at = gl.max_contiguous(gl.multiple_of(gl.arange(0, N, LINE), 32), 32)
    n = gl.load(x)
    gl.assume(n > 0)
    v = gl.load(x + at)
    pair = gl.join(v, v * 2)
    left, right = gl.split(pair)
    gl.store(out + at, gl.convert_layout(right - left, LINE))
    flat = gl.ravel(gl.permute(gl.reshape(v, [8, 16]), [1, 0]))
    gl.store(out + N + at, gl.convert_layout(flat, LINE))
    row = gl.expand_dims(gl.arange(0, 8, gl.SliceLayout(1, TILE)), 1)
    column = gl.arange(0, 16, gl.SliceLayout(0, TILE))[None, :]
    tile, _ = gl.broadcast(row * 16, column)
    gl.store(out + 2 * N + row * 16 + column, gl.full([8, 16], 3, gl.int32, TILE) + tile)
    gl.store(out + 3 * N + at, gl.full_like(v, 4) + gl.zeros([N], gl.int32, LINE))
    gl.store(out + 4 * N + at, gl.set_auto_layout(gl.arange(0, N), LINE))
    facts = gl.num_programs(0) + 10 * gl.num_warps() + 100 * gl.num_ctas() + 1000 * gl.program_id(0) + gl.cdiv(9, 2)
    gl.store(out + 5 * N + at, gl.to_tensor(facts) + gl.zeros_like(v))
    for i in gl.static_range(2):
        gl.store(out + (6 + i) * N + at, gl.max_constancy(v, 1) + i)
    gl.barrier()
    gl.device_assert(n > 0)
    gl.device_print("first ", n)
    same: gl.constexpr = gl.to_linear_layout(LINE, [N])
    gl.store(out + 8 * N + at, gl.convert_layout(gl.convert_layout(v, same), LINE, assert_trivial=True))
    conflicts: gl.constexpr = gl.bank_conflicts(
        gl.distributed_type(gl.int32, [N], LINE),
        gl.shared_memory_descriptor_type(gl.int32, [N], gl.SwizzledSharedLayout(1, 1, 1, [0]), [N]),
    )
    gl.store(out + 9 * N + at, gl.zeros_like(v) + conflicts)
    gl.store(out + 10 * N + at, gl.expect_zero(gl.where(v > 500, 0, v), v > 500))


def shapes_case() -> Case:
    x, at = np.random.default_rng(1).integers(1, 1000, N).astype(np.int32), np.arange(N)
    truth = [
        x,
        x.reshape(8, 16).T.ravel(),
        3 + at // 16 * 16,
        4,
        at,
        1 + 40 + 100 + 5,
        x,
        x + 1,
        x,
        0,
        np.where(x > 500, 0, x),
    ]
    return rows(shapes, truth, dtype=np.int32, x=x, N=N, num_warps=4)


@gluon.jit
def atomics(cells, out, N: gl.constexpr):
    at = gl.arange(0, N, LINE)
    where = cells + at
    gl.store(out + at, gl.atomic_add(where, 3))
    gl.store(out + N + at, gl.atomic_max(where, at))
    gl.store(out + 2 * N + at, gl.atomic_min(where, 100))
    gl.store(out + 3 * N + at, gl.atomic_and(where, 62))
    gl.store(out + 4 * N + at, gl.atomic_or(where, 5))
    gl.store(out + 5 * N + at, gl.atomic_xor(where, 9))
    gl.store(out + 6 * N + at, gl.atomic_cas(where, at, at + 1000))
    gl.store(out + 7 * N + at, gl.atomic_xchg(where, -1))


def atomics_case() -> Case:
    at = np.arange(N, dtype=np.int32)
    cells = np.random.default_rng(2).integers(0, 128, N).astype(np.int32)
    truth, v = [], cells.copy()
    steps = [lambda v: v + 3, lambda v: np.maximum(v, at), lambda v: np.minimum(v, 100), lambda v: v & 62]
    steps += [lambda v: v | 5, lambda v: v ^ 9, lambda v: np.where(v == at, at + 1000, v), lambda v: v * 0 - 1]
    for step in steps:
        truth.append(v)
        v = step(v)
    made = rows(atomics, truth, dtype=np.int32, cells=cells, N=N)
    return made._replace(truth=made.truth | {"cells": (v, 0)})


CASES = (mathematics_case, reductions_case, shapes_case, atomics_case)
CORE = {case.__name__.removesuffix("_case"): case for case in CASES}
