"""The decode step's attention: one new token per sequence attends to its cache where it lies.

Two kernels. `attend_split` gives each program one split of one head's context, which it walks block by block with the
online softmax; `combine_splits` merges the splits of a long context. The numbered steps are those of the NumPy twin,
reference/decode_attention.py: read the two side by side.

Sources: online softmax, Milakov & Gimelshein 2018 (arXiv:1805.02867); splits over the context, Flash-Decoding, Dao,
Haziza, Massa & Sizov 2023 (crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

import math
import sys
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .backend import check_device, interpreting
from .checks import check_inputs, check_out, check_span
from .workspace import Workspace, fitting_workspace, max_splits

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError('the kernels need triton, which is published for Linux only; here, use impl="sdpa"') from error

CHUNK = 8  # splits merged at a time; more of them in registers would cost the whole kernel occupancy
LOG2E = math.log2(math.e)


@triton.jit
def split_size(n):
    """Slots per split, by the request's own length n alone: neighbours in the batch must not change its bits."""
    size = 128
    for _ in tl.static_range(5):  # pyright: ignore[reportGeneralTypeIssues]
        size = tl.where(n > 64 * size, 2 * size, size)
    return size


@triton.jit
def load_rows(base, row, stride_t, D: tl.constexpr, D_POW2: tl.constexpr):
    """Rows (R, ROWS) of a cache -> their values (R, ROWS, D_POW2), zero from column D on."""
    d = tl.arange(0, D_POW2)[None, None, :]
    at = base + row[:, :, None] * stride_t + d
    return tl.load(at) if D == D_POW2 else tl.load(at, mask=d < D, other=0.0)


@triton.jit
def store_result(out, lse, bh, m, l, acc, D: tl.constexpr, D_POW2: tl.constexpr, LOG2E: tl.constexpr):
    """Divide by the weights' sum; a sum of zero means nothing was attended to, and gives zeros."""
    d = tl.arange(0, D_POW2)
    total = tl.where(l == 0, 1.0, l)
    tl.store(out + bh * D + d, acc / total, mask=d < D)
    if lse is not None:
        tl.store(lse + bh, tl.where(l == 0, float("-inf"), (m + tl.log2(total)) / LOG2E))


@triton.jit
def attend_split(
    q, k, v, lengths, out, lse, part_m, part_l, part_acc,
    stride_qb, stride_qh, stride_kb, stride_kh, stride_kt, stride_vb, stride_vh, stride_vt, T,
    SCALE: tl.constexpr, LOG2E: tl.constexpr, LOWEST: tl.constexpr,
    D: tl.constexpr, D_POW2: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Program (split, h, b) attends q[b, h] to slots lo..hi of its cache, R * ROWS slots at a time."""
    split, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    ACC: tl.constexpr = part_acc.dtype.element_ty
    # 1. the slots of this split
    length = tl.load(lengths + b)
    n = tl.where((length < 0) | (length > T), 0, length)
    size = split_size(n)
    lo = split * size
    hi = tl.minimum(lo + size, n)
    if (lo >= hi) & (split > 0):
        return

    bh = b * tl.num_programs(1) + h
    d = tl.arange(0, D_POW2)
    qh = tl.load(q + b * stride_qb + h * stride_qh + d, mask=d < D, other=0.0).to(ACC)
    k += b * stride_kb + h.to(tl.int64) * stride_kh + lo.to(tl.int64) * stride_kt
    v += b * stride_vb + h.to(tl.int64) * stride_vh + lo.to(tl.int64) * stride_vt
    block = tl.arange(0, R)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
    m = tl.full([ROWS], LOWEST, ACC)
    l = tl.zeros([ROWS], ACC)
    acc = tl.zeros([ROWS, D_POW2], ACC)
    for start in range(0, hi - lo, R * ROWS):
        # 2. the rows of this block; past the end, the last one again
        row = start + block
        live = row < hi - lo
        row = tl.minimum(row, hi - lo - 1)
        kb = load_rows(k, row, stride_kt, D, D_POW2)
        vb = load_rows(v, row, stride_vt, D, D_POW2)
        # 3. scores of this block, as powers of two
        qk = kb.to(ACC) * qh[None, None, :]
        qk = qk if D % 16 == 0 else tl.where(qk != 0, qk, 0.0)  # a thread may hold one product: see 6
        s = tl.sum(qk, 2) * (SCALE * LOG2E)  # (R, ROWS)
        s = tl.where(live, s, float("-inf"))
        # 4. new max of each row; shrink the past
        m_new = tl.maximum(m, tl.max(s, 0))
        a = tl.exp2(m - m_new)
        m = m_new
        # 5. add the weights, and the values they weigh
        p = tl.exp2(s - m[None, :])
        l = l * a + tl.sum(p, 0)
        acc = acc * a[:, None] + tl.sum(p[:, :, None] * vb.to(ACC), 0)
    # 6. merge the rows
    m_new = tl.max(m, 0)
    a = tl.exp2(m - m_new)
    m = m_new
    l = tl.sum(tl.where(a > 0, l * a, 0.0), 0)  # select, lest a product be contracted with the sum of one thread only
    acc = tl.sum(tl.where(a[:, None] > 0, acc * a[:, None], 0.0), 0)  # (D_POW2,)
    # 7. a lone split is the result; the others wait to be combined
    if n <= size:
        l = tl.where(n == length, l, float("nan"))  # a length outside 0..T is answered, loudly, with NaN
        store_result(out, lse, bh, m, l, acc, D, D_POW2, LOG2E)
    else:
        at = bh * tl.num_programs(0) + split
        tl.store(part_m + at, m)
        tl.store(part_l + at, l)
        tl.store(part_acc + at * D + d, acc, mask=d < D)


@triton.jit
def combine_splits(
    lengths, out, lse, part_m, part_l, part_acc, T, SPLITS,
    LOG2E: tl.constexpr, LOWEST: tl.constexpr, D: tl.constexpr, D_POW2: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Program (h, b) merges the splits of out[b, h], CHUNK at a time, in their order."""
    h, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    ACC: tl.constexpr = part_acc.dtype.element_ty
    n = tl.load(lengths + b)
    size = split_size(n)
    if (n <= size) | (n > T):
        return

    bh = b * tl.num_programs(0) + h
    d = tl.arange(0, D_POW2)
    count = tl.cdiv(n, size)
    m = tl.full([], LOWEST, ACC)
    l = tl.zeros([], ACC)
    acc = tl.zeros([D_POW2], ACC)
    for first in range(0, count, CHUNK):
        # 8. the splits of this chunk; past the end, the last one again
        split = first + tl.arange(0, CHUNK)
        at = bh * SPLITS + tl.minimum(split, count - 1)
        mc = tl.where(split < count, tl.load(part_m + at), float("-inf"))
        lc = tl.load(part_l + at)
        accc = tl.load(part_acc + at[:, None] * D + d[None, :], mask=d[None, :] < D, other=0.0)
        # 9. new max; shrink the past
        m_new = tl.maximum(m, tl.max(mc, 0))
        a = tl.exp2(m - m_new)
        m = m_new
        # 10. add the splits
        p = tl.exp2(mc - m)
        l = l * a + tl.sum(p * lc, 0)
        acc = acc * a + tl.sum(p[:, None] * accc, 0)
    store_result(out, lse, bh, m, l, acc, D, D_POW2, LOG2E)


class Launch(NamedTuple):
    """One kernel launch, complete: `kernel[grid](**arguments, **options)`."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]


def tile(D: int, itemsize: int) -> dict[str, int]:
    """R, ROWS and num_warps for rows of D elements; the batch has no say, so that it cannot change a row's bits.

    A warp loads whole rows, 16 bytes a lane; R of them per lane are in flight, K's and V's at once. A row too wide for
    one load of one warp gets a lone warp: two would meet in shared memory to add up each score, inside the loop.
    float64 exists to be judged, mostly under the interpreter, whose time goes by blocks: it takes larger ones.
    """
    lanes = max(1, triton.next_power_of_2(D) * itemsize // 16)
    num_warps = 4 if lanes <= 32 else 1
    ROWS = max(1, 32 // lanes) * num_warps
    return {"R": min(8 if itemsize == 8 else 4, 128 // ROWS), "ROWS": ROWS, "num_warps": num_warps}


def strides(x: Tensor) -> list[int]:
    """Strides of all axes but the last. An axis of one element has none: 0 keeps 16-byte alignment in sight."""
    return [0 if n == 1 else stride for n, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True)]


def launches(q, k, v, lengths, scale: float, out, lse, parts: Workspace) -> list[Launch]:
    """Every launch of one call: shared by the launcher and by targets.py, which compiles them without a GPU."""
    B, H, T, D = k.shape
    S = max_splits(T)
    names = ("stride_qb", "stride_qh", "stride_kb", "stride_kh", "stride_kt", "stride_vb", "stride_vh", "stride_vt")
    shared = {"lengths": lengths, "out": out, "lse": lse, "T": T, "D": D, "D_POW2": triton.next_power_of_2(D)}
    shared |= {"part_m": parts.m, "part_l": parts.l, "part_acc": parts.acc}
    shared |= {"LOG2E": LOG2E, "LOWEST": torch.finfo(parts.acc.dtype).min}
    arguments = {"q": q, "k": k, "v": v, "SCALE": scale, **tile(D, k.element_size()), **shared}
    arguments |= zip(names, (*strides(q), *strides(k), *strides(v)), strict=True)
    options = {"num_warps": arguments.pop("num_warps"), "enable_fp_fusion": True}
    attend = Launch(attend_split, (S, H, B), arguments, options)
    if S == 1:
        return [attend]
    # One warp merges without barriers; float64 rows of 256 would take all its registers.
    options = {"num_warps": 1 if D * parts.acc.element_size() <= 1024 else 4, "enable_fp_fusion": True}
    return [attend, Launch(combine_splits, (H, B), {"SPLITS": S, "CHUNK": CHUNK, **shared}, options)]


def launch(q, k, v, lengths, scale, out, lse, part_m, part_l, part_acc) -> None:
    """Run the kernels; the body of torch.ops.kvproof.decode_attention."""
    T = k.shape[2]
    check_device(q.device)
    if lengths.device.type == "cpu" and ((lengths < 0) | (lengths > T)).any():
        raise ValueError(f"lengths are {lengths.tolist()}; the cache has {T} slots, so each must be 0..{T}")
    if out.numel() == 0:
        return
    # The interpreter's stores truncate to 16 bits, where a GPU's round to nearest: there, torch rounds.
    truncates = interpreting() and out.element_size() == 2
    o = torch.empty_like(out, dtype=torch.float32) if truncates else out
    parts = Workspace(part_m, part_l, part_acc)
    with torch.cuda.device_of(q):  # Triton launches on the current GPU, whichever the tensors are on
        for kernel, grid, arguments, options in launches(q, k, v, lengths, scale, o, lse, parts):
            kernel[grid](**arguments, **options)
    if truncates:
        out.copy_(o)


_op = torch.library.custom_op(
    "kvproof::decode_attention",
    launch,
    mutates_args=("out", "lse", "part_m", "part_l", "part_acc"),
    schema="(Tensor q, Tensor k, Tensor v, Tensor lengths, float scale, Tensor(a!) out, Tensor(b!)? lse, "
    "Tensor(c!) part_m, Tensor(d!) part_l, Tensor(e!) part_acc) -> ()",
)
_op.register_fake(lambda *args: None)


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    return_lse: bool = False,
    workspace: Workspace | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Let one new token per sequence attend to everything cached so far: softmax(q k^T * scale) v.

    q          (B, H, D)     float16 | bfloat16 | float32 | float64, 1 <= D <= 256; last axis contiguous
    k, v       (B, H, T, D)  same dtype; any strides on B, H, T, last axis contiguous; read in place, never copied.
                             A cache laid out (B, T, H, D) is passed as k.transpose(1, 2)
    lengths    (B,) int32    visible slots, 0 <= lengths[b] <= T, on the same device; slots from lengths[b] on are never
                             read; 0 gives zeros and lse = -inf
    scale      multiplies the scores; 1 / sqrt(D) if None. Each value compiles its own kernel
    workspace  made once by `workspace(...)` for this (B, H, T, D); allocated by every call if None
    out        (B, H, D)     contiguous, written and returned; allocated if None
    returns    (B, H, D) in q's dtype and, with return_lse, the scores' log-sum-exp (B, H): natural log, float32. Sums
               are float32 (all of it float64 for a float64 cache). Reads 2 * H * D * itemsize * sum(lengths) bytes.

    A row's bits do not depend on its batch. Raises ValueError if shapes, dtypes, strides or devices do not fit, or if
    lengths on the CPU leave 0..T (on a GPU, unseen by the host, they answer NaN); BackendError if the kernels cannot
    run on the tensors' device. Source: Milakov & Gimelshein 2018 (arXiv:1805.02867).
    """
    check_inputs(q, k, v, lengths)
    check_span(k, v)
    B, H, _, D = k.shape
    parts = fitting_workspace(workspace, k)
    if out is None:
        out = torch.empty(B, H, D, dtype=q.dtype, device=q.device)
    check_out(out, q)
    lse = torch.empty(B, H, dtype=parts.m.dtype, device=q.device) if return_lse else None
    _op(q, k, v, lengths, D**-0.5 if scale is None else float(scale), out, lse, *parts)
    return (out, lse) if lse is not None else out


class _Callable(ModuleType):
    """kvproof.kernels.decode_attention is this module's name and the function's: calling it calls the function."""

    def __call__(self, *args, **kwargs):
        return decode_attention(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
