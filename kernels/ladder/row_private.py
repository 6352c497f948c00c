"""Rung 4, row-private: no reduction in the loop, so no barrier in it; the rows are merged once, after it.

A block is (UNROLL, BLOCK_N, D): a warp loads whole rows, 16 bytes a lane, and each of BLOCK_N rows has an m, l and acc
that no other warp asks for. In the loop are sums over D, by the lanes of a row, and over UNROLL, in one lane: it takes
19.9 instructions, no barrier; the 9 left are the merge's. A slot past the end is the last one again, with score -inf.
Counted: 2,176,256 bytes moved, 2,114,824 distinct; 28.22 instructions; 2,304 barriers; 16,384 shuffles; 2 launches.
"""

import torch
import triton
import triton.language as tl

from .split import combine


@triton.jit
def attend(
    q, k, v, lengths, o, lse,
    T: tl.constexpr, H: tl.constexpr, D: tl.constexpr, UNROLL: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Program (split, h, b) attends q[b, h] to the slots of its split, UNROLL * BLOCK_N at a time."""
    split, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    # 1. the slots of this split
    lo, hi = split * 128, tl.minimum(split * 128 + 128, tl.load(lengths + b))
    if lo >= hi:
        return
    row, d = b * H + h, tl.arange(0, D)
    qh = tl.load(q + row * D + d).to(tl.float32)
    block = tl.arange(0, UNROLL)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    m, l = tl.full([BLOCK_N], -1.0e30, tl.float32), tl.zeros([BLOCK_N], tl.float32)
    acc = tl.zeros([BLOCK_N, D], tl.float32)
    for first in range(lo, hi, UNROLL * BLOCK_N):
        # 2. the keys and values of this block
        t = tl.minimum(first + block, hi - 1)
        at = row.to(tl.int64) * T * D + t[:, :, None] * D + d
        kb, vb = tl.load(k + at), tl.load(v + at)
        # 3. scores of this block, as exponents of 2
        s = tl.where(first + block < hi, tl.sum(kb * qh, 2) * (D**-0.5 * 1.4426950408889634), float("-inf"))
        # 4. new max; shrink the past
        m_new = tl.maximum(m, tl.max(s, 0))  # (BLOCK_N,): of each row
        a, p, m = tl.exp2(m - m_new), tl.exp2(s - m_new), m_new
        # 5. add the weights, and the values they weigh
        l, acc = l * a + tl.sum(p, 0), acc * a[:, None] + tl.sum(p[:, :, None] * vb, 0)
    # 6. merge the BLOCK_N sums
    a, at = tl.exp2(m - tl.max(m, 0)), row * tl.num_programs(0) + split
    total = tl.sum(tl.where(a > 0, l * a, 0.0), 0)  # select: a product contracted with the sum in some
    acc = tl.sum(tl.where(a[:, None] > 0, acc * (a / total)[:, None], 0.0), 0)  # threads only makes copies differ
    # 7. store this split's sums
    tl.store(o + at * D + d, acc)
    tl.store(lse + at, tl.max(m, 0) + tl.log2(total))


def attention(q, k, v, lengths):
    """q (B, H, D), k and v (B, H, T, D), D a power of two, all contiguous; lengths (B,) int32 -> as q."""
    (B, H, D), T, S = q.shape, k.shape[2], triton.cdiv(k.shape[2], 128)
    out, o, lse = torch.empty_like(q), *(q.new_empty(B * H, S, n, dtype=torch.float32) for n in (D, 1))
    BLOCK_N = 4 * 32 * 16 // (D * k.element_size())  # by 4 warps of 32 lanes that load 16 bytes each
    attend[S, H, B](q, k, v, lengths, o, lse, T, H, D, 64 // BLOCK_N, BLOCK_N, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    combine[(B * H,)](lengths, o, lse, out, S, H, D, num_warps=1, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    return out
