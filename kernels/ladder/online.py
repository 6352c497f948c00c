"""Rung 2, the online softmax: one pass, and no score ever reaches memory.

A sum of exponentials relative to the largest score so far moves to a larger one: multiply by exp(old - new). So one
walk over the slots keeps three things, the largest score m, the sum of weights l, the weighted values acc, and K and V
of a block are read together. Scores carry a factor log2(e), because the hardware's exponential is that of two.
What is left: one program per head, and three sums or maxima of 64 slots that its warps wait for, 8 barriers a block.
Counted: 2,103,296 bytes moved, 2,098,180 distinct; 26.18 instructions; 4,160 barriers; 26,624 shuffles; 1 launch.
Source: Milakov & Gimelshein 2018 (arXiv:1805.02867).
"""

import torch
import triton
import triton.language as tl


@triton.jit
def attend(q, k, v, lengths, out, T: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    """Program (h, b) attends q[b, h] to the slots 0..n of its head, 64 at a time."""
    h, b = tl.program_id(0), tl.program_id(1)
    n = tl.load(lengths + b)
    row = b * H + h
    block, d = tl.arange(0, 64), tl.arange(0, D)
    qh = tl.load(q + row * D + d).to(tl.float32)
    cache = row.to(tl.int64) * T * D
    m = tl.full([], -1.0e30, tl.float32)  # finite, so that m - m_new never is inf - inf
    l = tl.zeros([], tl.float32)
    acc = tl.zeros([D], tl.float32)
    for first in range(0, n, 64):
        # 2. the keys and values of this block
        t = first + block
        at = cache + t[:, None] * D + d[None, :]
        kb = tl.load(k + at, mask=t[:, None] < n, other=0.0).to(tl.float32)
        vb = tl.load(v + at, mask=t[:, None] < n, other=0.0).to(tl.float32)
        # 3. scores of this block, as exponents of 2
        s = tl.sum(kb * qh[None, :], 1) * (D**-0.5 * 1.4426950408889634)
        s = tl.where(t < n, s, float("-inf"))
        # 4. new max; shrink the past
        m_new = tl.maximum(m, tl.max(s, 0))
        a = tl.exp2(m - m_new)
        m = m_new
        # 5. add the weights, and the values they weigh
        p = tl.exp2(s - m)
        l = l * a + tl.sum(p, 0)
        acc = acc * a + tl.sum(p[:, None] * vb, 0)
    tl.store(out + row * D + d, acc / tl.where(l == 0, 1.0, l))


def attention(q, k, v, lengths):
    """q (B, H, D), k and v (B, H, T, D), D a power of two, all contiguous; lengths (B,) int32 -> as q."""
    (B, H, D), T = q.shape, k.shape[2]
    out = torch.empty_like(q)
    attend[H, B](q, k, v, lengths, out, T, H, D, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    return out
