"""Rung 4, row-private: no reduction in the loop, so no barrier in it; the rows are merged once, after it.

A tile is (R, ROWS, D): a warp loads whole rows, 16 bytes a lane, and each of the ROWS rows keeps an m, l and acc of its
own, which no other warp ever asks for. Left in the loop are sums over D by the lanes of a row, and over R in one lane.
A slot past the end is not masked but clamped: the last one again, with a score of -inf, so that loads stay whole. The 9
barriers left belong to the merge: the loop alone takes 19.9 instructions. The second kernel is that of the rung before.
Counted: 2,176,256 bytes moved, 541,960 distinct; 28.25 instructions; 2,304 barriers; 16,384 shuffles; 2 launches.
"""

import torch
import triton
import triton.language as tl

from .split import combine


@triton.jit
def attend(
    q, k, v, lengths, o, lse,
    T: tl.constexpr, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Program (split, h, b) attends q[b, h] to the slots of its split, R * ROWS at a time."""
    split, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    lo, hi = split * 128, tl.minimum(split * 128 + 128, tl.load(lengths + b))
    if lo >= hi:
        return
    row, d = b * H + h, tl.arange(0, D)
    qh = tl.load(q + row * D + d).to(tl.float32)
    block = tl.arange(0, R)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
    m, l, acc = tl.full([ROWS], -1.0e30, tl.float32), tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, D], tl.float32)
    for first in range(lo, hi, R * ROWS):
        t = tl.minimum(first + block, hi - 1)
        at = (row // G).to(tl.int64) * T * D + t[:, :, None] * D + d
        kb, vb = tl.load(k + at), tl.load(v + at)
        s = tl.sum(kb * qh, 2) * (D**-0.5 * 1.4426950408889634)  # (R, ROWS)
        s = tl.where(first + block < hi, s, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, 0))  # (ROWS,): of each row
        a, p, m = tl.exp2(m - m_new), tl.exp2(s - m_new), m_new
        l, acc = l * a + tl.sum(p, 0), acc * a[:, None] + tl.sum(p[:, :, None] * vb, 0)
    a, at = tl.exp2(m - tl.max(m, 0)), row * tl.num_programs(0) + split
    total = tl.sum(tl.where(a > 0, l * a, 0.0), 0)  # select: a product contracted with the sum in some
    acc = tl.sum(tl.where(a[:, None] > 0, acc * (a / total)[:, None], 0.0), 0)  # threads only makes copies differ
    tl.store(o + at * D + d, acc)
    tl.store(lse + at, tl.max(m, 0) + tl.log2(total))


def attention(q, k, v, lengths):
    """q (B, H, D), k and v (B, H_kv, T, D), D a power of two, all contiguous; lengths (B,) int32 -> as q."""
    (B, H, D), T, S = q.shape, k.shape[2], triton.cdiv(k.shape[2], 128)
    out, o, lse = torch.empty_like(q), *(q.new_empty(B * H, S, n, dtype=torch.float32) for n in (D, 1))
    ROWS = 4 * 32 * 16 // (D * k.element_size())  # by 4 warps of 32 lanes that load 16 bytes each
    attend[S, H, B](q, k, v, lengths, o, lse, T, H, H // k.shape[1], D, 64 // ROWS, ROWS, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    combine[(B * H,)](lengths, o, lse, out, S, H, D, num_warps=1, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    return out


if __name__ == "__main__":
    from .__main__ import show

    show("row_private")
