"""Gluon kernels of what sm_100 brought: tensor memory, tcgen05, gather and scatter, packed arithmetic."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# The types of what a kernel calls are those that Triton gives it.

import ml_dtypes
import numpy as np
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.blackwell import (
    TensorMemoryLayout,
    TensorMemoryScalesLayout,
    add2,
    allocate_tensor_memory,
    fence_async_shared,
    fma2,
    max2,
    mbarrier,
    min2,
    mul2,
    sub2,
    tcgen05_commit,
    tcgen05_copy,
    tcgen05_mma,
    tcgen05_mma_barrier_count,
    tcgen05_mma_scaled,
    tma,
)

from .._kernels import unwritten
from ._launch import Launch, described

TALL = gl.constexpr(gl.BlockedLayout([1, 8], [32, 1], [4, 1], [1, 0]))
PLAIN = gl.constexpr(gl.NVMMASharedLayout(0, 32, 2))


@gluon.jit
def tensor_memory(x, out, N: gl.constexpr):
    """(128, N) numbers through tensor memory, part by part; the rows' least and largest, as loads find them."""
    layout: gl.constexpr = TensorMemoryLayout([128, N], col_stride=1)
    rows, columns = (
        gl.arange(0, 128, gl.SliceLayout(1, TALL))[:, None],
        gl.arange(0, N, gl.SliceLayout(0, TALL))[None, :],
    )
    v = gl.load(x + rows * N + columns)
    both = allocate_tensor_memory(gl.float32, [2, 128, N], layout)
    cells = both.index(1)
    registers: gl.constexpr = cells.get_reg_layout()
    cells.store(gl.convert_layout(v, registers))
    gl.store(out + rows * N + columns, gl.convert_layout(cells.load(), TALL))
    half: gl.constexpr = N // 2
    part = cells.slice(half, half)
    part.store(part.load() * 2)
    words = both.index(1)._reinterpret(gl.int32, [128, N], layout)
    doubled = gl.convert_layout(words.load(registers), TALL)
    gl.store(out + 128 * N + rows * N + columns, doubled.to(gl.float32, bitcast=True))


def tensor_memory_launch(N=64) -> Launch:
    x, out = np.random.default_rng(0).standard_normal((128, N)).astype(np.float32), unwritten((2, 128, N))
    return Launch(tensor_memory, {"x": x, "out": out, "N": N}, [(out, np.stack([x, x * np.repeat([1, 2], N // 2)]), 0)])


@gluon.jit
def unwritten_columns(out, n):
    """A load of what nothing has written; n says how many of its rows are of use."""
    cells = allocate_tensor_memory(gl.float32, [128, 32], TensorMemoryLayout([128, 32], col_stride=1))
    registers: gl.constexpr = cells.get_reg_layout()
    rows = gl.arange(0, 128, gl.SliceLayout(1, registers))[:, None]
    columns = gl.arange(0, 32, gl.SliceLayout(0, registers))[None, :]
    gl.store(out + rows * 32 + columns, gl.where(rows < n, cells.load(registers), 7.0))


@gluon.jit
def multiplied(a_desc, b_desc, out, STEPS: gl.constexpr, FAULT: gl.constexpr):
    """(128, 64 * STEPS) @ (64 * STEPS, 64) by tcgen05.mma, two ways to be told that it is over."""
    a = gl.allocate_shared_memory(gl.float16, [128, 64], a_desc.layout)
    b = gl.allocate_shared_memory(gl.float16, [64, 64], b_desc.layout)
    acc = allocate_tensor_memory(gl.float32, [128, 64], TensorMemoryLayout([128, 64], col_stride=1))
    loaded, done = mbarrier.allocate_mbarrier(), mbarrier.allocate_mbarrier()
    mbarrier.init(loaded, count=1)
    mbarrier.init(done, count=tcgen05_mma_barrier_count([a, b], False, False))
    for i in range(STEPS):
        mbarrier.expect(loaded, a_desc.block_type.nbytes + b_desc.block_type.nbytes)
        tma.async_load(a_desc, [0, 64 * i], loaded, a)
        tma.async_load(b_desc, [64 * i, 0], loaded, b)
        mbarrier.wait(loaded, i & 1)
        if i % 2 == 0:
            tcgen05_mma(a, b, acc, use_acc=i > 0, mbarriers=[done])
        else:
            tcgen05_mma(a, b, acc, use_acc=i > 0, mbarriers=[])
            tcgen05_commit(done)
        if FAULT != "no wait":
            mbarrier.wait(done, i & 1)
    rows, columns = (
        gl.arange(0, 128, gl.SliceLayout(1, TALL))[:, None],
        gl.arange(0, 64, gl.SliceLayout(0, TALL))[None, :],
    )
    gl.store(out + rows * 64 + columns, gl.convert_layout(acc.load(), TALL))


def multiplied_launch(steps=3, fault="") -> Launch:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((128, 64 * steps), (64 * steps, 64)))
    layouts = [gl.NVMMASharedLayout.get_default_for(shape, gl.float16) for shape in ([128, 64], [64, 64])]
    out = unwritten((128, 64))
    arguments = {
        "a_desc": described(a, [128, 64], layouts[0]),
        "b_desc": described(b, [64, 64], layouts[1]),
        "out": out,
    }
    truth = a.astype(float) @ b.astype(float)
    return Launch(multiplied, arguments | {"STEPS": steps, "FAULT": fault}, [(out, truth, 1e-3)])


@gluon.jit
def scaled(a, b, a_scale, b_scale, out, M: gl.constexpr, K: gl.constexpr):
    """(M, K) @ (K, M) of 8 bits, each 32 along K with a power of two as their scale, on a sum that was copied there."""
    c: gl.constexpr = gl.BlockedLayout([1, 16], [32, 1], [4, 1], [1, 0])
    rows, k = gl.arange(0, M, gl.SliceLayout(1, c))[:, None], gl.arange(0, K, gl.SliceLayout(0, c))[None, :]
    shared: gl.constexpr = gl.NVMMASharedLayout.get_default_for([M, K], gl.float8e4nv)
    x = gl.allocate_shared_memory(
        gl.float8e4nv, [M, K], shared, gl.load(a + rows * K + k).to(gl.float8e4nv, bitcast=True)
    )
    y = gl.allocate_shared_memory(
        gl.float8e4nv, [M, K], shared, gl.load(b + rows * K + k).to(gl.float8e4nv, bitcast=True)
    )
    group = gl.arange(0, K // 32, gl.SliceLayout(0, c))[None, :]
    p = allocate_tensor_memory(gl.uint8, [M, K // 32], TensorMemoryScalesLayout())
    q = allocate_tensor_memory(gl.uint8, [M, K // 32], TensorMemoryScalesLayout())
    p.store(gl.convert_layout(gl.load(a_scale + rows * (K // 32) + group), p.get_reg_layout()))
    q.store(gl.convert_layout(gl.load(b_scale + rows * (K // 32) + group), q.get_reg_layout()))
    acc = allocate_tensor_memory(gl.float32, [M, M], TensorMemoryLayout([128, M], col_stride=1))
    columns = gl.arange(0, M, gl.SliceLayout(0, c))[None, :]
    first = gl.allocate_shared_memory(gl.float32, [M, M], gl.NVMMASharedLayout(128, 32, 2))
    first.store((rows + columns).to(gl.float32))
    fence_async_shared()
    bar = mbarrier.allocate_mbarrier()
    mbarrier.init(bar, count=1)
    tcgen05_copy(first, acc)
    tcgen05_mma_scaled(x, y.permute([1, 0]), acc, p, q, "e4m3", "e4m3", use_acc=True)
    tcgen05_commit(bar)
    mbarrier.wait(bar, 0)
    gl.store(out + rows * M + columns, gl.convert_layout(acc.load(), c))


def scaled_launch(M=128, K=128) -> Launch:
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal((M, K)).astype(ml_dtypes.float8_e4m3fn) for _ in range(2))
    scales = rng.integers(125, 130, (2, M, K // 32)).astype(np.uint8)
    wide = [2.0 ** np.repeat(scale.astype(int) - 127, 32, axis=1) for scale in scales]
    truth = (a.astype(float) * wide[0]) @ (b.astype(float) * wide[1]).T + np.add.outer(np.arange(M), np.arange(M))
    out = unwritten((M, M))
    arguments = {"a": a.view(np.uint8), "b": b.view(np.uint8), "a_scale": scales[0], "b_scale": scales[1], "out": out}
    return Launch(scaled, arguments | {"M": M, "K": K}, [(out, truth, 1e-2)])


@gluon.jit
def rearranged(x_desc, out_desc, order):
    """Rows of x from anywhere, to anywhere."""
    index: gl.constexpr = gl.SliceLayout(0, gl.BlockedLayout([1, 4], [32, 1], [1, 4], [1, 0]))
    bar = mbarrier.allocate_mbarrier()
    mbarrier.init(bar, count=1)
    tile = gl.allocate_shared_memory(gl.float32, [16, 32], PLAIN)
    mbarrier.expect(bar, 16 * x_desc.block_type.nbytes)
    tma.async_gather(x_desc, gl.load(order + gl.arange(0, 16, index)), 0, bar, tile)
    mbarrier.wait(bar, 0)
    tma.async_scatter(out_desc, gl.load(order + 16 + gl.arange(0, 16, index)), 0, tile)
    tma.store_wait(0)


def rearranged_launch() -> Launch:
    rng = np.random.default_rng(2)
    x, out = rng.standard_normal((64, 32)).astype(np.float32), np.full((64, 32), 7, np.float32)
    order = np.stack([rng.permutation(64)[:16] for _ in range(2)]).astype(np.int32)
    truth = out.copy()
    truth[order[1]] = x[order[0]]
    x_desc, out_desc = (described(array, [1, 32], PLAIN.value) for array in (x, out))
    return Launch(rearranged, {"x_desc": x_desc, "out_desc": out_desc, "order": order}, [(out, truth, 0)])


@gluon.jit
def packed(x, y, out, N: gl.constexpr):
    at = gl.arange(0, N, gl.BlockedLayout([2], [32], [4], [0]))
    a, b = gl.load(x + at), gl.load(y + at)
    gl.store(out + at, add2(a, b))
    gl.store(out + N + at, sub2(a, b))
    gl.store(out + 2 * N + at, mul2(a, b))
    gl.store(out + 3 * N + at, fma2(a, b, a))
    gl.store(out + 4 * N + at, min2(a.to(gl.float16), b.to(gl.float16)))
    gl.store(out + 5 * N + at, max2(a.to(gl.float16), b.to(gl.float16)))


def packed_launch(N=256) -> Launch:
    x, y = np.random.default_rng(3).integers(-99, 99, (2, N)).astype(np.float32)
    truth = np.stack([x + y, x - y, x * y, x * y + x, np.minimum(x, y), np.maximum(x, y)])
    out = unwritten((6, N))
    return Launch(packed, {"x": x, "y": y, "out": out, "N": N}, [(out, truth, 0)])


LAUNCHES = (tensor_memory_launch, multiplied_launch, scaled_launch, rearranged_launch, packed_launch)
BLACKWELL = {launch.__name__.removesuffix("_launch"): launch for launch in LAUNCHES}
