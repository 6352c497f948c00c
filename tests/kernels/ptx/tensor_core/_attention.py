"""Attention and a product with an operand converted in registers, in Triton: wgmmas that overlap with other work."""

import torch
import triton
import triton.language as tl


@triton.jit
def attention(Q, K, V, O, scale, N: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
              STAGES: tl.constexpr):  # fmt: skip
    m, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, D)
    q = tl.load(Q + m[:, None] * D + d[None, :])
    top, total = tl.full((BM,), float("-inf"), tl.float32), tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    for start in tl.range(0, N, BN, num_stages=STAGES):  # pyright: ignore[reportGeneralTypeIssues]
        n = start + tl.arange(0, BN)
        s = tl.dot(q, tl.load(K + n[None, :] * D + d[:, None])) * scale
        new = tl.maximum(top, tl.max(s, 1))
        p, shrink = tl.exp2(s - new[:, None]), tl.exp2(top - new)
        total = total * shrink + tl.sum(p, 1)
        v = tl.load(V + n[:, None] * D + d[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        top = new
    tl.store(O + m[:, None] * D + d[None, :], acc / total[:, None])


@triton.jit
def converted(a, b, c, K: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr):
    m, n = tl.arange(0, BM), tl.arange(0, N)
    acc = tl.zeros((BM, N), tl.float32)
    for k in tl.range(0, K, BK, num_stages=STAGES):  # pyright: ignore[reportGeneralTypeIssues]
        at = k + tl.arange(0, BK)
        x = tl.load(a + m[:, None] * K + at[None, :]).to(tl.float16)
        acc = tl.dot(x, tl.load(b + at[:, None] * N + n[None, :]), acc)
    tl.store(c + m[:, None] * N + n[None, :], acc)


def softmax_of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.double() for x in (q, k, v))
    return torch.softmax(q @ k.T * q.shape[1] ** -0.5, -1) @ v
