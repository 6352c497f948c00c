"""Rung 3, split the context (flash-decoding): a program takes 128 slots of one head, and a second kernel adds up.

H programs leave most of a GPU idle; T / 128 times as many fill it. Each stores its result o, and lse, the log2 of its
sum of weights: enough to combine them. Splits begin at fixed slots, so that a batch changes no bit. The price:
results in memory, a second launch. Source: Dao et al. 2023 (crfm.stanford.edu/2023/10/12/flashdecoding.html).
Counted: 2,176,256 bytes moved, 2,114,824 distinct; 30.84 instructions; 4,608 barriers; 26,624 shuffles; 2 launches.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def attend(q, k, v, lengths, o, lse, T: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    """Program (split, h, b) attends q[b, h] to the slots of its split."""
    split, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    # 1. the slots of this split
    lo, hi = split * 128, tl.minimum(split * 128 + 128, tl.load(lengths + b))
    if lo >= hi:
        return  # the grid fits the capacity T, so that the host need not know the lengths
    row, block, d = b * H + h, tl.arange(0, 64), tl.arange(0, D)
    qh = tl.load(q + row * D + d).to(tl.float32)
    m, l, acc = tl.full([], -1.0e30, tl.float32), tl.zeros([], tl.float32), tl.zeros([D], tl.float32)
    for first in range(lo, hi, 64):
        # 2. the keys and values of this block
        at, live = row.to(tl.int64) * T * D + (first + block)[:, None] * D + d, first + block < hi
        kb, vb = tl.load(k + at, live[:, None], other=0.0), tl.load(v + at, live[:, None], other=0.0)
        # 3. scores of this block, as exponents of 2
        s = tl.where(live, tl.sum(kb * qh, 1) * (D**-0.5 * 1.4426950408889634), float("-inf"))
        # 4. new max; shrink the past
        m_new = tl.maximum(m, tl.max(s, 0))
        a, p, m = tl.exp2(m - m_new), tl.exp2(s - m_new), m_new
        # 5. add the weights, and the values they weigh
        l, acc = l * a + tl.sum(p, 0), acc * a + tl.sum(p[:, None] * vb, 0)
    # 7. store this split's sums
    tl.store(lse + row * tl.num_programs(0) + split, m + tl.log2(l))
    tl.store(o + (row * tl.num_programs(0) + split) * D + d, acc / l)


@triton.jit
def combine(lengths, o, lse, out, S, H: tl.constexpr, D: tl.constexpr):
    row, d = tl.program_id(0), tl.arange(0, D)  # row = b * H + h, whose live splits are merged in their order
    m, l, acc = tl.full([], -1.0e30, tl.float32), tl.zeros([], tl.float32), tl.zeros([D], tl.float32)
    for at in range(row * S, row * S + tl.cdiv(tl.load(lengths + row // H), 128)):
        # 9. new max; shrink the past
        m_new = tl.maximum(m, tl.load(lse + at))
        a, p, m = tl.exp2(m - m_new), tl.exp2(tl.load(lse + at) - m_new), m_new
        # 10. add the splits
        l, acc = l * a + p, acc * a + p * tl.load(o + at * D + d)
    tl.store(out + row * D + d, acc / tl.where(l == 0, 1.0, l))


def attention(q, k, v, lengths):
    """q (B, H, D), k and v (B, H, T, D), D a power of two, all contiguous; lengths (B,) int32 -> as q."""
    (B, H, D), T, S = q.shape, k.shape[2], triton.cdiv(k.shape[2], 128)
    out, o, lse = torch.empty_like(q), *(q.new_empty(B * H, S, n, dtype=torch.float32) for n in (D, 1))
    attend[S, H, B](q, k, v, lengths, o, lse, T, H, D, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    combine[(B * H,)](lengths, o, lse, out, S, H, D, num_warps=1, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    return out
