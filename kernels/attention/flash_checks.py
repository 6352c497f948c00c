"""What flash_attn_with_kvcache takes, checked by its own names before decode attention sees it."""

import torch
from torch import Tensor

from .checks import check_pages, describe


def check_call(q, k_cache, k, v, filled, cos, sin, block_table, cache_batch_idx, cache_leftpad) -> None:
    """Raise ValueError for what does not go together and `decode_attention` does not see, or not by these names."""
    if q.dim() != 4 or k_cache.dim() != 4 or q.shape[1] < 1:
        raise ValueError(f"q is {list(q.shape)}, k_cache {list(k_cache.shape)}; both have four axes, q (B, M, H, D)")
    if (k is None) != (v is None) or (k is not None and filled is None):
        raise ValueError("k, v and cache_seqlens came in part; to append, pass k, v and how many slots are filled")
    if (cos is None) != (sin is None) or (cos is not None and k is None):
        raise ValueError("rotary_cos came without rotary_sin, or without k; they rotate q and the new k; pass all")
    if block_table is not None and (cache_batch_idx is not None or cache_leftpad is not None):
        raise ValueError("block_table came with cache_batch_idx or cache_leftpad; let the table name the rows")
    B, D, H_kv = q.shape[0], q.shape[3], k_cache.shape[2]
    N = 0 if k is None else k.shape[1]
    for name, x in (("k", k), ("v", v)):
        if x is not None and (x.shape, x.dtype) != ((B, N, H_kv, D), q.dtype):
            raise ValueError(f"{name} is {describe(x)}; it must be {q.dtype} {[B, N, H_kv, D]}, as q and k_cache are")
    seqlens = filled if isinstance(filled, Tensor) else None
    indices = {"cache_seqlens": seqlens, "cache_batch_idx": cache_batch_idx, "cache_leftpad": cache_leftpad}
    for name, x in indices.items():
        if x is not None and (x.shape, x.dtype) != ((B,), torch.int32):
            raise ValueError(f"{name} is {describe(x)}; it must be torch.int32 {[B]}")
    read, rows = cache_batch_idx, k_cache.shape[0]
    if read is not None and read.device.type == "cpu" and ((read < 0) | (read >= rows)).any():
        raise ValueError(f"cache_batch_idx is {read.tolist()}; k_cache has rows 0..{rows - 1}")
    if cache_batch_idx is None and block_table is None and k_cache.shape[0] != B:
        raise ValueError(f"q has {B} sequences, k_cache {k_cache.shape[0]}; name their rows in cache_batch_idx")


def check_rotary(q, cos, sin, T: int) -> None:
    """Raise ValueError unless the tables rotate q (B, M, H, D) anywhere in a cache of T slots."""
    if cos.dim() != 2 or sin.shape != cos.shape or 2 * cos.shape[1] > q.shape[3] or cos.shape[0] < T:
        raise ValueError(
            f"rotary_cos is {list(cos.shape)}, rotary_sin {list(sin.shape)}; both must be (positions, rotary_dim / 2), "
            f"with {T} positions or more and rotary_dim up to head_dim {q.shape[3]}"
        )
    if (cos.dtype, sin.dtype) != (q.dtype, q.dtype):
        raise ValueError(f"rotary_cos is {cos.dtype}, rotary_sin {sin.dtype}, q {q.dtype}; they must be the same")


def check_filled(filled, leftpad, block_table, k_cache, N: int, T: int) -> None:
    """Raise ValueError if slots are filled, on the CPU, that do not exist, or lie in pages that do not.

    A GPU's numbers are not read back.
    """
    first = 0 if leftpad is None else leftpad
    if leftpad is not None and leftpad.device.type == "cpu" and (leftpad < 0).any():
        raise ValueError(f"cache_leftpad is {leftpad.tolist()}; each must be 0 or more: the first slot of its sequence")
    if filled.device.type == "cpu" and ((filled < first) | (filled + N > T)).any():
        raise ValueError(
            f"cache_seqlens are {filled.tolist()}, with {N} new rows to come; the cache has {T} slots, and sequences "
            f"begin at slot {first if leftpad is None else leftpad.tolist()} of them"
        )
    if block_table is not None and N:
        check_pages(block_table, filled + N, k_cache.shape[0], k_cache.shape[1], first=filled)  # where rows go
