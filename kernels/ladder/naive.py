"""Rung 1, the textbook: softmax(q k^T / sqrt(D)) v, one program per query head, three passes over its row.

As in the formula, each pass ends before the next begins. So the scores have to wait somewhere, and a row of any length
fits only in memory: T floats per head are written, read, written and read again. Every sum over a tile is shared by the
whole program, and its warps wait for each other at each one. H programs are all there is: most of a GPU stays dark.

Counted: 2,463,744 bytes moved, 2,130,948 distinct; 25.64 instructions; 3,296 barriers; 22,976 shuffles; 1 launch.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def attend(q, k, v, lengths, scores, out, T: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    """Program (h, b) attends q[b, h] to the slots 0..n of its head."""
    h, b = tl.program_id(0), tl.program_id(1)
    n = tl.load(lengths + b)
    row = b * H + h
    block, every, d = tl.arange(0, 64), tl.arange(0, T), tl.arange(0, D)
    qh = tl.load(q + row * D + d).to(tl.float32)
    cache = row.to(tl.int64) * T * D
    # the scores, to memory; dead slots, from n on, are never read
    for first in range(0, n, 64):
        t = first + block
        at = cache + t[:, None] * D + d[None, :]
        kb = tl.load(k + at, mask=t[:, None] < n, other=0.0).to(tl.float32)
        tl.store(scores + row * T + t, tl.sum(kb * qh[None, :], 1) * D**-0.5, mask=t < n)
    tl.debug_barrier()  # the thread that reads a score is not the one that stored it
    # softmax, in place: exponentials of the distance to the largest, over their sum
    s = tl.load(scores + row * T + every, mask=every < n, other=float("-inf"))
    e = tl.exp(s - tl.max(s, 0))
    tl.store(scores + row * T + every, e / tl.sum(e, 0), mask=every < n)
    tl.debug_barrier()
    # the values, weighed
    acc = tl.zeros([D], tl.float32)
    for first in range(0, n, 64):
        t = first + block
        at = cache + t[:, None] * D + d[None, :]
        vb = tl.load(v + at, mask=t[:, None] < n, other=0.0).to(tl.float32)
        p = tl.load(scores + row * T + t, mask=t < n, other=0.0)
        acc += tl.sum(p[:, None] * vb, 0)
    tl.store(out + row * D + d, acc)  # n = 0: nothing was added


def attention(q, k, v, lengths):
    """q (B, H, D), k and v (B, H, T, D), T and D powers of two, all contiguous; lengths (B,) int32 -> as q."""
    (B, H, D), T = q.shape, k.shape[2]
    out, scores = torch.empty_like(q), q.new_empty(B, H, T, dtype=torch.float32)
    attend[H, B](q, k, v, lengths, scores, out, T, H, D, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
    return out
