"""flash_attn_with_kvcache with flash-attn 2's arguments and meaning, on `decode_attention`: for code that calls it.

Caches are passed on as views and read in place. Where flash-attn's masks are wider than decode attention's (a window
to the right, ALiBi over tokens to come), they are composed of calls of it: see `look_around` and `bias_both_ways`.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import MAX_NEW
from .flash_checks import check_call, check_filled, check_rotary
from .merge import merge_state
from .op import decode_attention


class View(NamedTuple):
    """Caches as `decode_attention` takes them: (B, H_kv, T, D), or pages (P, H_kv, page, D) and their table."""

    k: Tensor
    v: Tensor
    table: Tensor | None

    @property
    def capacity(self) -> int:
        return self.k.shape[2] * (1 if self.table is None else self.table.shape[1])


def flash_attn_with_kvcache(
    q,
    k_cache,
    v_cache,
    k=None,
    v=None,
    rotary_cos=None,
    rotary_sin=None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    rotary_interleaved=True,
    alibi_slopes=None,
    num_splits=0,
    return_softmax_lse=False,
):
    """Attend to a cache after appending to it, if k and v are given, as flash-attn's function of this name does.

    q          (B, M, H, D)  float16 | bfloat16 | float32 | float64, any M
    k_cache, v_cache  (B_cache, T, H_kv, D), or with block_table pages (P, page, H_kv, D) of any size; q's dtype; any
               strides but the last, which is contiguous. k and v are written to them
    k, v       (B, N, H_kv, D)  rows for the slots from cache_seqlens on; N need not be M
    rotary_cos, rotary_sin  (T or more, rotary_dim / 2)  rotate the first rotary_dim of k, and of q, from position
               cache_seqlens on; all of q at that one position if neither causal nor in a window. Need k
    cache_seqlens  int or (B,) int32  slots filled before the call; None if all are
    cache_batch_idx  (B,) int32  row of the cache of each sequence; cache_leftpad (B,) int32 its first slot. Neither
               goes with block_table; leftpad looks every slot up, in a table of B * T entries made by the call
    causal, window_size  token i of M stands at p = n - M + i, n the slots with k appended; it sees those from p - left
               to p + right, right = 0 if causal, a negative one being endless. No slot seen gives zeros
    softcap, alibi_slopes  s -> softcap * tanh(s / softcap), unless 0; then s - slope * |p - t|, (H,) or (B, H) float32
    num_splits  accepted and without effect: splits go by the length alone, so that a row's bits do not depend on B
    returns    (B, M, H, D) and, with return_softmax_lse, the scores' log-sum-exp (B, H, M): natural log, float32
               (float64 for float64), -inf where no slot is seen

    Three differences from flash-attn: there, lse is +inf where no slot is seen, and lacks slope * p for causal ALiBi
    without a window; and its dtypes, page and rotary sizes are fewer. One launch for M = N up to 16 (without k, any M
    up to 16) where right is 0 or all is seen; else more launches, which read the cache once per 16 tokens, or, for a
    window to the right and for more than 16 tokens with ALiBi that are not causal, once per token.

    Raises ValueError if arguments do not fit; BackendError if kernels cannot run on the device.
    Source: github.com/Dao-AILab/flash-attention, flash_attn/flash_attn_interface.py, version 2.8.
    """
    rotary, where = (rotary_cos, rotary_sin), (block_table, cache_batch_idx, cache_leftpad)
    check_call(q, k_cache, k, v, cache_seqlens, *rotary, *where)
    q = q if q.stride(-1) == 1 else q.contiguous()
    k, v = (x if x is None or x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    cache = view_of(k_cache, v_cache, len(q), *where)
    M, N, T = q.shape[1], 0 if k is None else k.shape[1], cache.capacity
    filled = T if cache_seqlens is None else cache_seqlens
    if not isinstance(filled, Tensor):
        filled = torch.full(q.shape[:1], filled, dtype=torch.int32, device=q.device)
    check_filled(filled, cache_leftpad, block_table, k_cache, N, T)
    # Endless, as a window wider than the cache is too; what is left of it after that decides how q is rotated.
    left, right = (None if int(w) < 0 or int(w) >= T else int(w) for w in window_size)
    right = 0 if causal else right
    if rotary_cos is not None:
        check_rotary(q, *rotary, T)
        moving = left is not None or right is not None
        q = rotate(q, *rotary, filled, rotary_interleaved, moving)
        k = rotate(k, *rotary, filled, rotary_interleaved, True)
    n = (filled if cache_leftpad is None else filled - cache_leftpad) + N
    right = M - 1 if right is None else min(right, M - 1)
    everything = left is None and right == M - 1 and (alibi_slopes is None or M <= MAX_NEW)
    one = M <= MAX_NEW and (right == 0 or everything)
    new = {"k_new": k, "v_new": v} if k is not None and N == M and one else {}
    if k is not None and not new:
        write_rows(cache, n - N, k, v)
    options = {"scale": softmax_scale, "softcap": softcap or None, "alibi_slopes": alibi_slopes}
    window = None if left is None else left + 1
    if right == 0 or everything:
        o, lse = look_back(q, cache, n, window=window, causal=right == 0, **new, **options)
    elif alibi_slopes is None:
        o, lse = look_around(q, cache, n, window, right, **options)
    else:
        o, lse = bias_both_ways(q, cache, n, window, right, **options)
    return (o, lse.transpose(1, 2).contiguous()) if return_softmax_lse else o


def look_back(q, cache: View, n, *, causal=True, **options) -> tuple[Tensor, Tensor]:
    """Attention of q (B, M, H, D), the last tokens of n (B,), 16 at a time: o and lse (B, M, H)."""
    M = q.shape[1]
    pieces = []
    for i in range(0, M, MAX_NEW):
        end = min(i + MAX_NEW, M)
        lengths = (n - (M - end)).clamp(min=0) if causal and end < M else n
        call: dict[str, Any] = {"block_table": cache.table, "causal": causal, "return_lse": True, **options}
        pieces.append(decode_attention(q[:, i:end], cache.k, cache.v, lengths, **call))
    return pieces[0] if len(pieces) == 1 else joined(pieces)


def joined(pieces) -> tuple[Tensor, Tensor]:
    """o (B, M, H, D) and lse (B, M, H) of tokens that follow each other."""
    o, lse = zip(*pieces, strict=True)
    return torch.cat(o, 1), torch.cat(lse, 1)


def look_around(
    q, cache: View, n, window, right, ahead=False, *, alibi_slopes=None, **options
) -> tuple[Tensor, Tensor]:
    """The same, with `right` < M slots to the right in sight: each token stands at the last slot that it sees.

    Tokens become sequences of their own, B to a token, that share the cache through a table. Those near the end see
    fewer slots ahead, and a window is compiled in: each of them is a call of its own if there is one. With `ahead`
    only the slots to the right are seen.
    """
    B, M, H, D = q.shape
    table = cache.table
    if table is None:  # a sequence is one page
        table = torch.arange(B, dtype=torch.int32, device=q.device)[:, None]
    one_by_one = ahead or window is not None
    edges = [0, *range(max(M - right, 1), M + 1)] if one_by_one else [0, M]
    pieces = []
    for i, end in pairwise(edges):
        more = (M - 1 - torch.arange(i, end, dtype=torch.int32, device=q.device)).clamp(max=right)  # slots ahead
        position = n[:, None] - M + torch.arange(i, end, dtype=torch.int32, device=q.device)
        seen = min(right, M - 1 - i)
        if ahead and not seen:  # the last token
            break
        call: dict[str, Any] = {**options, "window": seen if ahead else window if window is None else window + seen}
        if alibi_slopes is not None:
            call["alibi_slopes"] = alibi_slopes.expand(B, H).repeat_interleave(end - i, 0)
        lengths = (position + more + 1).clamp(min=0).flatten().int()
        rows = table.repeat_interleave(end - i, 0)
        tokens = q[:, i:end].reshape(-1, H, D)
        o, lse = decode_attention(tokens, cache.k, cache.v, lengths, block_table=rows, return_lse=True, **call)
        pieces.append((o.view(B, end - i, H, D), lse.view(B, end - i, H)))
    return joined(pieces)


def bias_both_ways(q, cache: View, n, window, right, *, alibi_slopes, **options) -> tuple[Tensor, Tensor]:
    """The same, with scores lowered by the slope times |p - t|: the slots up to p and those ahead, merged.

    Seen from the last slot in sight, e ahead of p, a slope of the other sign gives slope * (p + e - t): too high by
    slope * e for every slot ahead, which their log-sum-exp gives back.
    """
    M = q.shape[1]
    o, lse = look_back(q, cache, n, window=window, alibi_slopes=alibi_slopes, **options)
    o_ahead, lse_ahead = look_around(q, cache, n, window, right, ahead=True, alibi_slopes=-alibi_slopes, **options)
    more = (M - 1 - torch.arange(M - 1, device=q.device)).clamp(max=right).to(lse.dtype)
    lse_ahead = lse_ahead - more[:, None] * alibi_slopes.to(lse.dtype).view(-1, 1, q.shape[2])
    merged = merge_state(o[:, :-1], lse[:, :-1], o_ahead, lse_ahead)
    return torch.cat([merged[0], o[:, -1:]], 1), torch.cat([merged[1], lse[:, -1:]], 1)


def view_of(k_cache, v_cache, B: int, block_table, cache_batch_idx, cache_leftpad) -> View:
    """The caches (B_cache, T, H_kv, D), or pages of them, and where each sequence lies in them."""
    k, v = k_cache.transpose(1, 2), v_cache.transpose(1, 2)
    if cache_leftpad is not None:  # every slot is a page, so that a sequence may begin anywhere
        rows, T = k_cache.shape[:2]
        for name, x in (("k_cache", k_cache), ("v_cache", v_cache)):
            if rows > 1 and x.stride(0) != T * x.stride(1):
                raise ValueError(
                    f"{name} has strides {list(x.stride())} and came with cache_leftpad; a sequence's {T} slots must "
                    "then follow the last one's: store it so, or move sequences to slot 0 and leave cache_leftpad out"
                )
        first = torch.arange(B, device=k.device) if cache_batch_idx is None else cache_batch_idx
        slot = torch.arange(T, device=k.device) + cache_leftpad[:, None]
        table = (first[:, None] * T + slot.clamp(max=T - 1)).int()
        k, v = (x.view(rows * T, 1, *x.shape[2:]).transpose(1, 2) for x in (k_cache, v_cache))
        return View(k, v, table)
    return View(k, v, block_table if cache_batch_idx is None else cache_batch_idx[:, None])  # or a row is a page


def write_rows(cache: View, old, k, v) -> None:
    """Write k, v (B, N, H_kv, D) to the slots from old (B,) on."""
    slot = old[:, None].long() + torch.arange(k.shape[1], device=k.device)
    if cache.table is None:
        page = torch.arange(len(k), device=k.device)[:, None]
    else:
        page = cache.table.gather(1, slot // cache.k.shape[2]).long()
        slot = slot % cache.k.shape[2]
    cache.k[page, :, slot] = k
    cache.v[page, :, slot] = v


def rotate(x, cos, sin, first, interleaved: bool, moving: bool):
    """Rotate pairs of x (B, M, H, D) by the angles of positions first (B,), and onwards if moving; rounded once."""
    half = cos.shape[1]
    position = first[:, None].long() + torch.arange(x.shape[1], device=x.device) * moving
    exact = torch.promote_types(x.dtype, torch.float32)
    c, s = (table[position].to(exact)[:, :, None] for table in (cos, sin))  # (B, M, 1, half)
    turned, rest = x[..., : 2 * half].to(exact), x[..., 2 * half :]
    pairs = turned.unflatten(-1, (half, 2)) if interleaved else turned.unflatten(-1, (2, half)).transpose(-1, -2)
    a, b = pairs.unbind(-1)
    pairs = torch.stack([a * c - b * s, a * s + b * c], -1)
    turned = (pairs if interleaved else pairs.transpose(-1, -2)).flatten(-2)
    return torch.cat([turned.to(x.dtype), rest], -1)
