"""Kernels of one algebra in several forms: softmax, sums and products of matrices."""

# pyright: reportArgumentType=false, reportOperatorIssue=false

import triton
import triton.language as tl
from triton import Config


@triton.jit
def softmax(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    s = tl.load(x + i, i < n, other=float("-inf"))
    p = tl.exp(s - tl.max(s, 0))
    tl.store(out + i, p / tl.sum(p, 0), i < n)


@triton.jit
def online_softmax(x, out, n, BLOCK: tl.constexpr, RESCALE: tl.constexpr = True):
    """The running sum shrinks when the maximum grows; one element at a time."""
    m, l = tl.load(x), 1.0
    for j in range(1, n):
        s = tl.load(x + j)
        m_new = tl.maximum(m, s)
        if RESCALE:
            l *= tl.exp(m - m_new)
        l += tl.exp(s - m_new)
        m = m_new
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.exp(tl.load(x + i, i < n) - m) / l, i < n)


@triton.jit
def plain_softmax(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    p = tl.exp(tl.load(x + i, i < n))
    tl.store(out + i, p / tl.sum(tl.where(i < n, p, 0.0), 0), i < n)


@triton.jit
def expecting_zeros(x, out, n, BLOCK: tl.constexpr):
    """softmax which says of masked weights that they are 0."""
    i = tl.arange(0, BLOCK)
    s = tl.load(x + i, i < n, other=float("-inf"))
    p = tl.expect_zero(tl.exp(s - tl.max(tl.where(i < n, s, tl.load(x)), 0)), i >= n)
    tl.store(out + i, p / tl.sum(p, 0), i < n)


@triton.jit
def sum_in_atomics(x, out, ORDER: tl.constexpr):
    p = tl.program_id(0)
    tl.atomic_add(out, tl.load(x + (tl.num_programs(0) - 1 - p if ORDER else p)))


@triton.jit
def product(a, b, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """(M, K) @ (K, N), of BLOCK_K at a time."""
    m, n = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    acc = tl.zeros((M, N), tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        acc += tl.dot(tl.load(a + m * K + k[None, :]), tl.load(b + k[:, None] * N + n))
    tl.store(out + m * N + n, acc)


@triton.jit
def double(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, i < n)
    tl.store(out + i, v + v, i < n)


@triton.jit
def double_in_parts(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, i < n)
    tl.store(out + i, (v - 1) + (v + 1), i < n)


@triton.jit
def scale(x, out, s, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, i < n) * s, i < n)


@triton.jit
def nothing_left(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, i < n)
    tl.store(out + i, v - v, i < n)


@triton.jit
def square(x, out, N: tl.constexpr, WIDE: tl.constexpr):
    v = tl.load(x + tl.arange(0, N))
    if WIDE:
        v = v.to(tl.float32)
    tl.store(out + tl.arange(0, N), (v * v).to(tl.float32))


@triton.jit
def add_twice(x, out, N: tl.constexpr, REDUCE: tl.constexpr):
    i, desc = tl.arange(0, N), tl.make_tensor_descriptor(out, [N], [1], [N])
    v = tl.load(x + i)
    if REDUCE:
        desc.atomic_add([0], v)
        desc.atomic_add([0], v)
    else:
        tl.store(out + i, tl.load(out + i) + v + v)


@triton.autotune([Config({"BUG": -1}, num_warps=1), Config({"BUG": 40}, num_warps=2)], key=[])
@triton.jit
def double_but_one(x, out, N: tl.constexpr, BUG: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    tl.store(out + i, tl.where(i == BUG, v * v * v + 1.0, v + v))
