"""Rung 5, paged: the cache is a pool of small pages, and a block table says which of them hold a sequence's slots.

A contiguous cache reserves T slots for every sequence, most of them empty; a pool hands out pages as they are needed.
Slot t lies in page table[b, t // PAGE], in row t % PAGE: one more load to find a slot, and everything else stays.
Table entries past the length may hold anything: slots are clamped first, so none is read. Page offsets are int64.
Counted: 2,241,792 bytes moved, 2,115,080 distinct; 30.87 instructions; 2,304 barriers; 16,384 shuffles; 2 launches.
Source: PagedAttention, Kwon et al. 2023 (arXiv:2309.06180).
"""

import torch
import triton
import triton.language as tl

from .split import combine


@triton.jit
def attend(
    q, k, v, lengths, table, o, lse, N,
    H: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, UNROLL: tl.constexpr, BLOCK_N: tl.constexpr,
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
        at = (tl.load(table + b * N + t // PAGE).to(tl.int64) * H + h) * PAGE + t % PAGE
        kb, vb = tl.load(k + at[:, :, None] * D + d), tl.load(v + at[:, :, None] * D + d)
        # 3. scores of this block, as exponents of 2
        s = tl.where(first + block < hi, tl.sum(kb * qh, 2) * (D**-0.5 * 1.4426950408889634), float("-inf"))
        # 4. new max; shrink the past
        m_new = tl.maximum(m, tl.max(s, 0))
        a, p, m = tl.exp2(m - m_new), tl.exp2(s - m_new), m_new
        # 5. add the weights, and the values they weigh
        l, acc = l * a + tl.sum(p, 0), acc * a[:, None] + tl.sum(p[:, :, None] * vb, 0)
    # 6. merge the BLOCK_N sums
    a, at = tl.exp2(m - tl.max(m, 0)), row * tl.num_programs(0) + split
    total = tl.sum(tl.where(a > 0, l * a, 0.0), 0)
    # 7. store this split's sums
    tl.store(o + at * D + d, tl.sum(tl.where(a[:, None] > 0, acc * (a / total)[:, None], 0.0), 0))
    tl.store(lse + at, tl.max(m, 0) + tl.log2(total))


def attention(q, k, v, lengths, table):
    """k, v are pages (P, H, PAGE, D) and table is (B, N) int32, each sequence's pages; else as the rung before."""
    (B, H, D), PAGE, N = q.shape, k.shape[2], table.shape[1]
    S, BLOCK_N = triton.cdiv(N * PAGE, 128), 4 * 32 * 16 // (D * k.element_size())
    out, o, lse = torch.empty_like(q), *(q.new_empty(B * H, S, n, dtype=torch.float32) for n in (D, 1))
    attend[S, H, B](q, k, v, lengths, table, o, lse, N, H, D, PAGE, 64 // BLOCK_N, BLOCK_N, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    combine[(B * H,)](lengths, o, lse, out, S, H, D, num_warps=1, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    return out
