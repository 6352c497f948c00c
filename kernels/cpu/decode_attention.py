"""Decode attention over a cache that another model keeps, compiled for this CPU: any strides, grouped heads, any slots.

The cache is read where it lies, in its own dtype. Nothing here imports Numba: the machine code is loaded from a file,
or compiled by machine_code.py.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from .job import BLOCK, phases
from .machine_code import AttentionVariant, Engine, load
from .team import TEAM

CALL = """
    B H_kv group D D_v kb kh kt vb vh vt table_b sink_b
    q out k v table first lengths sink_logits scratch scratch_size threads phases
"""
JOB = np.dtype([(name, np.float64) for name in ("scale", "softcap")] + [(name, np.int64) for name in CALL.split()])
"""What one call is told.

    scale, softcap    of the scores; softcap 0 means none
    kb kh kt          elements from a sequence, head and slot of k to the next; vb vh vt those of v
    q, out            addresses of (B, H_kv, group, D) and (B, H_kv, group, D_v), in the dtype of sums, contiguous
    table             address of int32 slots, table_b from a sequence's to the next's; 0 for those from first[b] on
    first, lengths    addresses of (B,) int64
    sink_logits       address of a score per head, in the dtype of sums, sink_b from a sequence's to the next's; or 0
    scratch           scratch_size bytes per thread
    phases            counters of the phases of work, all 0, see phases.py
"""
CPU = torch.device("cpu")
ALONE = 2**20  # numbers of k and v that a thread reads before others have woken up
DTYPES = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@cache
def engine(dtype: torch.dtype) -> Engine:
    """The machine code for a cache of this dtype.  Raises NoEngine where it cannot run, CompilerFailed."""
    return load(AttentionVariant(DTYPES[dtype], "float64" if dtype == torch.float64 else "float32"))


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    first: Tensor | None = None,
    lengths: Tensor | None = None,
    slots: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sink_logits: Tensor | None = None,
) -> Tensor:
    """Let one query per sequence and head attend to slots of a cache: softmax(q k^T * scale) v.

    q        (B, H, D)       float64 | float32 | bfloat16 | float16
    k        (B, H_kv, T, D)  q's dtype, the last axis contiguous, others of any strides; query head h reads KV head
             h // (H / H_kv)
    v        (B, H_kv, T, D_v)  likewise
    first    (B,) int64  the first slot that a sequence sees; 0 if None
    lengths  (B,) int64  how many it sees; up to slot T if None. 0 gives zeros; other slots are never read
    slots    (B, N) int32  the slots, in any order, in place of first; N >= lengths[b]
    scale    of the scores; 1 / sqrt(D) if None
    softcap  s -> softcap * tanh(s / softcap) of the scaled scores
    sink_logits  (H,) or (B, H)  a score per head that takes weight and has no value
    returns  (B, H, D_v) in q's dtype. Sums are float32, float64 for float64

    Raises ValueError if shapes, dtypes, slots or strides do not fit; NoEngine where compiled code cannot run.
    """
    check(q, k, v, sink_logits)
    (B, H, D), (_, H_kv, T, D_v) = q.shape, v.shape
    if B == 0:
        return q.new_zeros(B, H, D_v)
    start, n = seen(B, T, first, lengths, slots)
    run, total = engine(q.dtype), torch.float64 if q.dtype == torch.float64 else torch.float32
    wide, out = q.to(total).contiguous(), torch.empty(B, H, D_v, dtype=total)
    table = None if slots is None else slots.contiguous()
    sunk = None if sink_logits is None else sink_logits.to(total).contiguous()
    group, size = H // H_kv, total.itemsize
    own = -(-(8 * BLOCK + size * (2 * BLOCK + group * (D + D_v + 2) + D_v)) // 128) * 128
    threads = 1 if B * H_kv * (D + D_v) * max(n) < ALONE else min(torch.get_num_threads(), B * H_kv)
    scratch, counters, bounds = torch.empty(own * threads, dtype=torch.uint8), phases(0), np.array([start, n])
    job = np.zeros(1, JOB)
    job["scale"], job["softcap"] = D**-0.5 if scale is None else scale, softcap or 0.0
    at = bounds.__array_interface__["data"][0]
    job.view(np.int64)[2:] = (
        B, H_kv, group, D, D_v, *k.stride()[:3], *v.stride()[:3],
        0 if table is None else table.shape[1], 0 if sunk is None or sunk.dim() == 1 else H,
        wide.data_ptr(), out.data_ptr(), k.data_ptr(), v.data_ptr(), 0 if table is None else table.data_ptr(),
        at, at + 8 * B, 0 if sunk is None else sunk.data_ptr(), scratch.data_ptr(), own, threads,
        counters.__array_interface__["data"][0],
    )  # fmt: skip
    TEAM.run(run, job, counters, threads)
    return out.to(q.dtype)


def check(q: Tensor, k: Tensor, v: Tensor, sink_logits: Tensor | None) -> None:
    """Raise ValueError unless the tensors of a call of `decode_attention` belong together."""
    if q.dim() != 3 or k.dim() != 4 or v.dim() != 4 or k.shape[:3] != v.shape[:3] or q.shape[2] != k.shape[3]:
        raise ValueError(f"{shapes(q, k, v)}; they must be (B, H, D), (B, H_kv, T, D) and (B, H_kv, T, D_v)")
    (B, H, _), (B_k, H_kv, _, _) = q.shape, k.shape
    if B_k != B or H_kv == 0 or H % H_kv:
        raise ValueError(f"{shapes(q, k, v)}; all must have B sequences, and H must be a multiple of H_kv")
    if q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        names = ", ".join(DTYPES.values())
        raise ValueError(f"q is {q.dtype}, k {k.dtype}, v {v.dtype}; all must be the same one of {names}")
    if not (q.device == k.device == v.device == CPU):
        raise ValueError(f"q is on {q.device}, k on {k.device}; all must be on the CPU: use kernels.attention on a GPU")
    for name, x in (("k", k), ("v", v)):
        if x.stride(3) != 1 and x.shape[3] > 1:
            raise ValueError(f"{name} has strides {list(x.stride())}; the last axis must be contiguous (stride 1)")
    if sink_logits is not None and (tuple(sink_logits.shape) not in ((H,), (B, H)) or sink_logits.device != CPU):
        raise ValueError(
            f"sink_logits is {list(sink_logits.shape)} on {sink_logits.device}; it must be [{H}] or [{B}, {H}] on the "
            "CPU, a score per head"
        )


def shapes(q: Tensor, k: Tensor, v: Tensor) -> str:
    return f"q is {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"


def seen(B: int, T: int, first: Tensor | None, lengths: Tensor | None, slots: Tensor | None) -> tuple[list, list]:
    """Each sequence's first slot and how many it sees.  Raises ValueError if one lies outside the cache's T."""
    for name, x in (("first", first), ("lengths", lengths)):
        if x is not None and (x.dtype != torch.int64 or tuple(x.shape) != (B,)):
            raise ValueError(f"{name} is {x.dtype} {list(x.shape)}; it must be int64 [{B}]")
    start = [0] * B if first is None else first.tolist()
    n = [T - at for at in start] if lengths is None else lengths.tolist()
    if slots is None:
        if not all(at >= 0 <= length <= T - at for at, length in zip(start, n, strict=True)):
            raise ValueError(f"first is {start}, lengths {n}; the cache has {T} slots to lie within")
        return start, n
    N = slots.shape[-1]
    if slots.dtype != torch.int32 or tuple(slots.shape) != (B, N):
        raise ValueError(f"slots is {slots.dtype} {list(slots.shape)}; it must be int32 [{B}, N]")
    if lengths is None or first is not None:
        raise ValueError("slots came without lengths, or with first; slots take lengths and nothing else")
    live = torch.arange(N) < lengths[:, None]
    if not 0 <= min(n) <= max(n) <= N or bool((live & ((slots < 0) | (slots >= T))).any()):
        raise ValueError(f"lengths are {n} of {N} slots; each of those must be 0..{T - 1}")
    return start, n
