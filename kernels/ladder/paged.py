"""Rung 6, paged: the cache is a pool of small pages, and a block table says which of them hold a sequence's slots.

A contiguous cache reserves T slots for every sequence, most of them empty; a pool hands out pages as they are needed.
Slot t lies in page table[b, t // PAGE] at offset t % PAGE: one more load to find a slot, and everything else stays.
Table entries past the length may hold anything: slots are clamped first, so none is read. Page offsets are int64.
Counted: 580,864 bytes moved, 542,216 distinct; 9.47 instructions; 2,880 barriers; 5,760 shuffles; 2 launches.
Source: PagedAttention, Kwon et al. 2023 (arXiv:2309.06180).
"""

import torch
import triton
import triton.language as tl

from .split import combine


@triton.jit
def attend(
    q, k, v, lengths, table, o, lse, N, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr
):  # fmt: skip
    """Program (split, j, b) attends the query heads j * G ... j * G + G - 1 to the slots of its split."""
    split, j, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    lo, hi = split * 128, tl.minimum(split * 128 + 128, tl.load(lengths + b))
    if lo >= hi:
        return
    g, d = tl.arange(0, 16), tl.arange(0, D)
    row = b * H + j * G + tl.minimum(g, G - 1)
    qh = tl.broadcast_to(tl.load(q + row[:, None] * D + d)[None, :, :], [4, 16, D])
    block = tl.arange(0, 4)[:, None] * 16 + tl.arange(0, 16)[None, :]
    m, l, acc = tl.full([4, 16], -1.0e30, tl.float32), tl.zeros([4, 16], tl.float32), tl.zeros([4, 16, D], tl.float32)
    for first in range(lo, hi, 64):
        t = tl.minimum(first + block, hi - 1)
        at = (tl.load(table + b * N + t // PAGE).to(tl.int64) * (H // G) + j) * PAGE + t % PAGE
        at = at[:, :, None] * D + d
        kb, vb = tl.load(k + at), tl.load(v + at)
        s = tl.dot(qh, tl.permute(kb, 0, 2, 1)) * (D**-0.5 * 1.4426950408889634)  # (4, 16 heads, 16 slots)
        s = tl.where((first + block < hi)[:, None, :], s, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, 2))
        a, p, m = tl.exp2(m - m_new), tl.exp2(s - m_new[:, :, None]), m_new
        l, acc = l * a + tl.sum(p, 2), tl.dot(p.to(vb.dtype), vb, acc * a[:, :, None])
    a = tl.exp2(m - tl.max(m, 0))
    total, at = tl.sum(l * a, 0), row * tl.num_programs(0) + split
    tl.store(o + at[:, None] * D + d, tl.sum(acc * (a / total)[:, :, None], 0), mask=g[:, None] < G)
    tl.store(lse + at, tl.max(m, 0) + tl.log2(total), mask=g < G)


def attention(q, k, v, lengths, table):
    """k, v are pages (P, H_kv, PAGE, D) and table is (B, N) int32, each sequence's pages; else as the rung before."""
    (B, H, D), (_, H_kv, PAGE, _), N = q.shape, k.shape, table.shape[1]
    S = triton.cdiv(N * PAGE, 128)
    out, o, lse = torch.empty_like(q), *(q.new_empty(B * H, S, n, dtype=torch.float32) for n in (D, 1))
    attend[S, H_kv, B](q, k, v, lengths, table, o, lse, N, H, H // H_kv, D, PAGE, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    combine[(B * H,)](lengths, o, lse, out, S, H, D, num_warps=1, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    return out


if __name__ == "__main__":
    from .__main__ import show

    show("paged")
