"""Kernels that round on the way, and what they are in float64."""

import torch
import triton
import triton.language as tl


@triton.jit
def norm(x, w, out, EPS: tl.constexpr, N: tl.constexpr):
    row, at = tl.program_id(0) * N, tl.arange(0, N)
    v = tl.load(x + row + at).to(tl.float32)
    d = v - tl.sum(v, 0) / N
    scale = tl.rsqrt(tl.sum(d * d, 0) / N + EPS)
    tl.store(out + row + at, (d * scale * tl.load(w + at).to(tl.float32)).to(out.dtype.element_ty))


def norm_in_float64(x, w, eps):
    x, w = x.double(), w.double()
    d = x - x.mean(-1, keepdim=True)
    return (d / ((d * d).mean(-1, keepdim=True) + eps).sqrt() * w).numpy()


@triton.jit
def scaled(x, out, factor, FACTOR: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(x + at) * factor * FACTOR)


@triton.jit
def shrunk(x, out, N: tl.constexpr):
    tl.store(out + tl.arange(0, N), tl.load(x + tl.arange(0, N)) * 0.999)


@triton.jit
def by_its_bits(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    half = (tl.load(x + at) * 0.3).to(tl.int32, bitcast=True) - (1 << 23)  # the exponent less one
    tl.store(out + at, half.to(tl.float32, bitcast=True))


@triton.jit
def decided(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    v = tl.load(x + at)
    y = (v * 0.1) * 10.0  # which is v, but for rounding
    tl.store(out + at, tl.where(y > v, y, 0.0) + ((y - v) * 1e8).to(tl.int32))


@triton.jit
def largest_of_bits(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    bits = (tl.load(x + at) * 0.3).to(tl.int32, bitcast=True) - (1 << 23)
    tl.store(out + at, tl.maximum(bits.to(tl.float32, bitcast=True), -1e30))


@triton.jit
def highest(x, out, bits, N: tl.constexpr):
    at = tl.arange(0, N)
    y = tl.load(x + at) * 0.3
    tl.atomic_max(out + at, y)
    tl.store(bits + at, y.to(tl.int32, bitcast=True) + 1)


@triton.jit
def product(a, b, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x = tl.exp(tl.load(a + m[:, None] * K + k[None, :]).to(tl.float32)).to(tl.bfloat16)  # which rounds
    y = tl.dot(x, tl.load(b + k[:, None] * N + n[None, :]))
    tl.store(out + m[:, None] * N + n[None, :], y.to(tl.bfloat16))


@triton.jit
def totals(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.atomic_add(out + at % 4, tl.load(x + tl.program_id(0) * N + at) * 0.1)


@triton.jit
def fetched(x, out, before, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    was = tl.atomic_add(out + tl.arange(0, N) % 4, tl.load(x + at) * 0.1)
    tl.store(before + at, was * 0.3)


def normal(*shape, seed=0, dtype=torch.bfloat16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
