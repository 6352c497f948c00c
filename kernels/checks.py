"""What the decode kernel takes, said before any launch."""

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_HEAD_DIM = 256
MAX_GRID = 65535  # CUDA's limit on the second and third axis of a grid


def describe(x: Tensor) -> str:
    return f"{x.dtype} {list(x.shape)} on {x.device}"


def check_inputs(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> None:
    """Raise ValueError unless q (B, H, D), k and v (B, H, T, D) and lengths (B,) belong together and fit the kernel."""
    if q.dim() != 3 or k.dim() != 4 or k.shape != v.shape or q.shape != (*k.shape[:2], k.shape[3]):
        raise ValueError(
            f"q is {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}; they must be (B, H, D), (B, H, T, D) and "
            "(B, H, T, D) with the same B, H and D; pass a (B, T, H, D) cache as k.transpose(1, 2)"
        )
    if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
        raise ValueError(
            f"q is {q.dtype}, k {k.dtype}, v {v.dtype}; all must be the same one of float16, bfloat16, float32, "
            "float64; convert q to the cache's dtype"
        )
    if not q.device == k.device == v.device == lengths.device:
        raise ValueError(
            f"q is on {q.device}, k on {k.device}, v on {v.device}, lengths on {lengths.device}; they must share one"
        )
    B, H, _, D = k.shape
    if lengths.dtype != torch.int32 or lengths.shape != (B,) or not lengths.is_contiguous():
        raise ValueError(f"lengths is {describe(lengths)}; it must be contiguous int32 of shape [{B}]")
    if not 1 <= D <= MAX_HEAD_DIM:
        raise ValueError(f'k has head_dim {D}; the kernel takes 1..{MAX_HEAD_DIM}; use impl="sdpa"')
    if max(B, H) > MAX_GRID:
        raise ValueError(f"k has B={B}, H={H}; the kernel takes up to {MAX_GRID} of each; split the batch")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if D > 1 and x.stride(-1) != 1:
            raise ValueError(
                f"{name} has strides {list(x.stride())}; the last axis must be contiguous (stride 1); "
                f"store the cache with head_dim last, or call {name}.contiguous()"
            )


def check_span(k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless 32-bit offsets reach every slot of a split, the longest that k's capacity allows."""
    slots = min(4096, max(128, k.shape[2] // 32))
    for name, x in (("k", k), ("v", v)):
        if x.stride(2) * slots >= 2**31:
            raise ValueError(
                f"{name} has {x.stride(2)} elements from one slot to the next, {slots} slots to a split; together they "
                "must stay below 2**31; lay the cache out as (B, H, T, D) or (B, T, H, D)"
            )


def check_out(out: Tensor, q: Tensor) -> None:
    """Raise ValueError unless `out` can take q's attention."""
    if (out.shape, out.dtype, out.device) != (q.shape, q.dtype, q.device) or not out.is_contiguous():
        raise ValueError(f"out is {describe(out)}, strides {list(out.stride())}; it must be contiguous {describe(q)}")
