"""Gluon kernels of shared memory in all layouts, of products out of it, and of cp.async; each with a launch of it."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# The types of what a kernel calls are those that Triton gives it.

import ml_dtypes
import numpy as np
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mbarrier, mma_v2

from .._kernels import Case, launch, unwritten
from ._core import ALONG, LINE, TILE, N, rows


@gluon.jit
def views(x, out, N: gl.constexpr):
    """16 by 8 numbers, seen from all sides."""
    at = gl.arange(0, N, LINE)
    row, column = gl.arange(0, 16, gl.SliceLayout(1, TILE))[:, None], gl.arange(0, 8, gl.SliceLayout(0, TILE))[None, :]
    v = gl.load(x + row * 8 + column)
    swizzled = gl.allocate_shared_memory(gl.int32, [16, 8], gl.SwizzledSharedLayout(2, 2, 4, [1, 0]), v)
    turned = swizzled.permute([1, 0]).load(ALONG)
    across = (
        gl.arange(0, 8, gl.SliceLayout(1, ALONG))[:, None] * 16 + gl.arange(0, 16, gl.SliceLayout(0, ALONG))[None, :]
    )
    gl.store(out + across, turned)
    plain = gl.allocate_shared_memory(gl.int32, [4, 128], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    plain.index(0).store(at)
    plain.index(1).store(at * 2)
    two = swizzled.slice(4, 4, dim=1).load(TILE)
    gl.store(out + 2 * N + row * 8 + column, gl.zeros([16, 8], gl.int32, TILE))
    gl.barrier()
    gl.store(out + 2 * N + row * 4 + gl.arange(0, 4, gl.SliceLayout(0, TILE))[None, :], two)
    floats = plain.index(0)._reinterpret(gl.float32)
    floats.store(at.to(gl.float32))
    gl.store(out + 3 * N + at, plain.index(0).load(LINE))
    line = plain.index(2)
    line.scatter(at * 3, N - 1 - at, 0)
    gl.store(out + 4 * N + at, line.gather(at ^ 1, 0))
    padded = gl.allocate_shared_memory(
        gl.int32, [16, 8], gl.PaddedSharedLayout.with_identity_for([[8, 4]], [16, 8], [1, 0]), v
    )
    gl.store(out + 5 * N + row * 8 + column, padded.load(TILE))
    bases: gl.constexpr = [[0, 1], [0, 2], [0, 4], [1, 0], [2, 0], [4, 0], [8, 0]]
    linear = gl.allocate_shared_memory(gl.int32, [16, 8], gl.SharedLinearLayout(bases))
    linear.store(v)
    gl.store(out + N + at, linear.reshape([128]).load(LINE))
    gl.store(out + 6 * N + row * 8 + column, linear.load(TILE))
    nvmma = gl.allocate_shared_memory(gl.int32, [16, 8], gl.NVMMASharedLayout(32, 32, 2), v)
    gl.store(out + 7 * N + row * 8 + column, nvmma.load(TILE))
    plain._keep_alive()


def views_case() -> Case:
    x, at = np.random.default_rng(3).integers(0, 999, N).astype(np.int32), np.arange(N)
    truth = [
        x.reshape(16, 8).T.ravel(),
        x,
        np.pad(x.reshape(16, 8)[:, 4:].ravel(), (0, 64)),
        at.astype(np.float32).view(np.int32),
        ((N - 1 - (at ^ 1)) * 3),
        x,
        x,
        x,
    ]
    return rows(views, truth, dtype=np.int32, x=x, N=N, num_warps=4)


@gluon.jit
def bins(x, out, N: gl.constexpr):
    """All elements change one of eight places each, by every atomic that shared memory has."""
    at = gl.arange(0, N, LINE)
    v = gl.load(x + at)
    cells = gl.allocate_shared_memory(gl.int32, [8, 128], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    for i in gl.static_range(8):
        cells.index(i).store(gl.full([N], 127, gl.int32, LINE))
    gl.barrier()
    cells.index(0).atomic_scatter_add(v, at % 8, 0)
    cells.index(1).atomic_scatter_max(v, at % 8, 0)
    cells.index(2).atomic_scatter_min(v, at % 8, 0)
    cells.index(3).atomic_scatter_and(v, at % 8, 0)
    cells.index(4).atomic_scatter_or(v, at % 8, 0)
    cells.index(5).atomic_scatter_xor(v, at % 8, 0, mask=at < 64)
    gl.store(out + 7 * N + at, cells.index(6).atomic_scatter_xchg(v, N - 1 - at, 0))
    gl.barrier()
    for i in gl.static_range(7):
        gl.store(out + i * N + at, cells.index(i).load(LINE))


def bins_case() -> Case:
    x = np.random.default_rng(4).integers(0, 999, N).astype(np.int32)
    kinds = (np.add, np.maximum, np.minimum, np.bitwise_and, np.bitwise_or, np.bitwise_xor)
    truth = [np.full(N, 127) for _ in range(6)]
    for row, kind in zip(truth, kinds, strict=True):
        some = x[:64] if kind is np.bitwise_xor else x
        kind.at(row, np.arange(len(some)) % 8, some)
    return rows(bins, [*truth, x[::-1], 127], dtype=np.int32, x=x, N=N)


@gluon.jit
def products(a, b, out, exact, M: gl.constexpr, K: gl.constexpr):
    """(M, K) @ (K, M) by tensor cores, from swizzled shared memory, and by plain multiplication."""
    blocked: gl.constexpr = TILE
    r, c = gl.arange(0, M, gl.SliceLayout(1, blocked))[:, None], gl.arange(0, M, gl.SliceLayout(0, blocked))[None, :]
    k, j = gl.arange(0, K, gl.SliceLayout(0, blocked))[None, :], gl.arange(0, K, gl.SliceLayout(1, blocked))[:, None]
    x, y = gl.load(a + r * K + k), gl.load(b + j * M + c)
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [2, 2], [16, 8])
    left: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, mma, 2)
    shared: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])
    u = gl.allocate_shared_memory(gl.float16, [M, K], shared, x).load(left)
    w = gl.allocate_shared_memory(gl.float16, [K, M], shared, y).load(right)
    acc = mma_v2(u, w, gl.zeros([M, M], gl.float32, mma))
    gl.store(out + r * M + c, gl.convert_layout(acc, blocked))
    s = gl.convert_layout(x.to(gl.float32), gl.DotOperandLayout(0, blocked, 0))
    t = gl.convert_layout(y.to(gl.float32), gl.DotOperandLayout(1, blocked, 0))
    gl.store(exact + r * M + c, gl.dot_fma(s, t, gl.zeros([M, M], gl.float32, blocked)))


def products_case(M=32, K=32) -> Case:
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((M, K)).astype(np.float16), rng.standard_normal((K, M)).astype(np.float16)
    truth = a.astype(float) @ b.astype(float)
    arrays = {"a": a, "b": b, "out": unwritten((M, M)), "exact": unwritten((M, M))}
    return launch(products, (1,), {"out": (truth, 1e-4), "exact": (truth, 1e-4)}, "out exact", **arrays, M=M, K=K)


@gluon.jit
def halves(x, out, N: gl.constexpr):
    """Two numbers of four bits to a byte."""
    at = gl.arange(0, N, gl.BlockedLayout([4], [32], [1], [0]))
    wide = gl.fp4_to_fp(gl.load(x + at), gl.float16, 0)
    places = gl.arange(0, 2 * N, wide.type.layout)
    gl.store(out + places, wide)


def halves_case() -> Case:
    x = np.random.default_rng(6).integers(0, 256, N).astype(np.uint8)
    truth = np.stack([x & 15, x >> 4], 1).ravel().view(ml_dtypes.float4_e2m1fn)
    arrays = {"x": x, "out": unwritten(2 * N, np.float16)}
    return launch(halves, (1,), {"out": (truth.astype(float), 0)}, "out", **arrays, N=N, num_warps=1)


@gluon.jit
def copies(x, out, n, STEPS: gl.constexpr, N: gl.constexpr):
    """Rows arrive in a ring of three by cp.async, awaited by group, and by the mbarrier that it arrives at."""
    at = gl.arange(0, N, LINE)
    ring = gl.allocate_shared_memory(gl.float32, [3, N], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    for i in gl.static_range(2):
        async_copy.async_copy_global_to_shared(ring.index(i), x + i * N + at, mask=i * N + at < n)
        async_copy.commit_group()
    for i in range(STEPS):
        later = (i + 2) * N + at
        async_copy.async_load(ring.index((i + 2) % 3), x + later, mask=later < n)
        async_copy.commit_group()
        async_copy.wait_group(2)
        gl.barrier()
        gl.store(out + i * N + at, ring.index(i % 3).load(LINE))
        gl.barrier()
    async_copy.wait_group(0)
    bar = mbarrier.allocate_mbarrier()
    mbarrier.init(bar, count=1)
    other = gl.allocate_shared_memory(gl.float32, [N], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    async_copy.async_load(other, x + at)
    async_copy.mbarrier_arrive(bar, increment_count=True)
    mbarrier.arrive(bar)
    mbarrier.wait(bar, 0)
    gl.store(out + STEPS * N + at, other.load(LINE))
    mbarrier.invalidate(bar)


def copies_case(steps=4) -> Case:
    n = steps * N - 30
    x = np.random.default_rng(7).standard_normal(n).astype(np.float32)
    truth = [*np.pad(x, (0, steps * N - n)).reshape(steps, N), x[:N]]
    return rows(copies, truth, x=x, n=n, STEPS=steps, N=N)


CASES = (views_case, bins_case, products_case, halves_case, copies_case)
SHARED = {case.__name__.removesuffix("_case"): case for case in CASES}
