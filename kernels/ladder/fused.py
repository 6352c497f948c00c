"""Beyond decode.py, fused: one launch. The last program of a KV head to finish merges what all of them left.

The kernel of `grouped` is a function of this one. When its partial result is stored, a program adds one to its head's
counter; whoever finds live - 1 there is last and sees all the rest, for the addition releases its own stores and
acquires the others' (acq_rel; relaxed would be a race, and the machine says so). It merges in split order, whoever it
is, so the bits do not depend on the schedule, and sets the counter back to 0: clearing it from outside is a launch.
The launch saved costs a merge by whole programs. An aborted launch leaves the counter above 0, and what follows is
wrong in silence: whoever needs more than a lesson marks each partial with its launch, and checks the marks.
Counted: 631,360 bytes moved, 541,956 distinct; 9.61 instructions; 3,024 barriers; 5,760 shuffles; 1 launch.
"""

import torch
import triton
import triton.language as tl

from .grouped import attend


@triton.jit
def attend_and_merge(
    q, k, v, lengths, o, lse, done, out, T: tl.constexpr, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    """Program (split, j, b) attends as before; the last of (j, b) stores out[b, j * G ... j * G + G - 1]."""
    attend(q, k, v, lengths, o, lse, T, H, G, D)
    split, j, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n, counter = tl.load(lengths + b), done + b * (H // G) + j
    if (split > 0) & (split * 128 >= n):
        return  # dead; of a sequence of length 0, split 0 lives to store its zeros
    tl.debug_barrier()  # all threads of this program have stored, before one of them says so
    if tl.atomic_add(counter, 1, sem="acq_rel") != tl.maximum(tl.cdiv(n, 128), 1) - 1:
        return
    g, d = tl.arange(0, 16), tl.arange(0, D)
    row = b * H + j * G + tl.minimum(g, G - 1)
    m, l, acc = tl.full([16], -1.0e30, tl.float32), tl.zeros([16], tl.float32), tl.zeros([16, D], tl.float32)
    for i in range(tl.cdiv(n, 128)):
        at = row * tl.num_programs(0) + i
        # 9. new max; shrink the past
        m_new = tl.maximum(m, tl.load(lse + at))
        a, p, m = tl.exp2(m - m_new), tl.exp2(tl.load(lse + at) - m_new), m_new
        # 10. add the splits
        l, acc = l * a + p, acc * a[:, None] + p[:, None] * tl.load(o + at[:, None] * D + d)
    tl.store(out + row[:, None] * D + d, acc / tl.where(l == 0, 1.0, l)[:, None], mask=g[:, None] < G)
    tl.store(counter, 0)


def attention(q, k, v, lengths, work=None):
    """As `grouped`. work: (o, lse, done), done (B * H_kv,) int32 zeros, kept by the caller from call to call."""
    (B, H, D), (_, H_kv, T, _) = q.shape, k.shape
    S, out = triton.cdiv(T, 128), torch.empty_like(q)
    new = (q.new_empty(B * H, S, n, dtype=torch.float32) for n in (D, 1))
    o, lse, done = work or (*new, q.new_zeros(B * H_kv, dtype=torch.int32))
    attend_and_merge[S, H_kv, B](
        q, k, v, lengths, o, lse, done, out, T, H, H // H_kv, D, enable_fp_fusion=True,  # pyright: ignore[reportCallIssue]
    )  # fmt: skip
    return out
