"""Attention over a KV cache: the prefill, and the decode step by three impls.

B sequences, H heads, T cache slots, D head_dim, E n_embd, M new tokens, n live slots. Dead slots may hold anything, NaN
included, and change no bit of a result.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from ..reference.config import Config
from .cache import Cache, CacheMismatch
from .int8_weights import Int8Linear
from .linear import ROWS, Conv1D


def causal(q, k, v):
    """Attention of M tokens to themselves and their past: softmax(q k^T / sqrt(D) + causal mask) v.

    q        (B, H, M, D)
    k, v     (B, H, n, D)  n >= M; the last M slots are the M tokens' own
    returns  (B, H, M, D)
    """
    M, n = q.shape[2], k.shape[2]
    if M == n:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # is_causal aligns at the top left; a later chunk of a prompt needs the bottom right.
    seen = torch.ones(M, n, dtype=torch.bool, device=q.device).tril(n - M)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def eager(q, cache: Cache, layer: int):
    """The decode step written out: matmul, softmax, matmul.  q (B, H, D) -> (B, H, D)

    Equal lengths read K and V where they lie. Ragged ones mask the scores and, since 0 * NaN is NaN, zero V in a copy.
    """
    n = max(cache.host_lengths)
    B, H, D = q.shape
    k, v = cache.read(layer, n)
    # Scaled inside the product, before it is rounded: q k^T alone can overflow float16.
    s = torch.baddbmm(q.new_empty(1), q.reshape(B * H, 1, D), k.flatten(0, 1).mT, beta=0, alpha=D**-0.5)
    s = s.view(B, H, 1, n)
    if min(cache.host_lengths) < n:
        live = torch.arange(n, device=q.device) < cache.lengths[:, None]  # (B, n)
        s = s.where(live[:, None, None], float("-inf"))
        v = v.where(live[:, None, :, None], 0)
    p = torch.softmax(s, -1, dtype=torch.promote_types(s.dtype, torch.float32)).to(v.dtype)
    return (p @ v)[:, :, 0]


def sdpa(q, cache: Cache, layer: int):
    """The decode step by torch's fused attention.  q (B, H, D) -> (B, H, D)

    It takes one length per call, so ragged sequences go one by one, each over its own live slots: no mask, no copy.
    """
    lengths = cache.host_lengths
    k, v = cache.read(layer, max(lengths))
    # In half precision a CPU takes a slow path for one row: the same row twice, no copy, takes 0.6 to 1.0 of the time.
    rows = 2 if q.itemsize == 2 and q.device.type == "cpu" else 1
    q = q[:, :, None].expand(-1, -1, rows, -1)  # (B, H, rows, D)
    if min(lengths) == max(lengths):
        return F.scaled_dot_product_attention(q, k, v)[:, :, 0]
    o = [
        F.scaled_dot_product_attention(q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n])
        for b, n in enumerate(lengths)
    ]
    return torch.cat(o)[:, :, 0]


def triton(q, cache: Cache, layer: int, k=None, v=None, lengths=None, invariant: bool = False):
    """The decode step by our kernel, which reads the cache in place and writes the new rows to it.

    q          (B, H, D), or (B, M, H, D) for M new tokens of each sequence, 1 <= M <= the cache's `new`
    k, v       like q: the new tokens' rows, to be written to their slots; None if the cache holds them already
    lengths    (B,) int32, slots that the last new token sees; None for the cache's own
    invariant  one engine for every M
    returns    like q
    """
    from ..kernels.attention import check_engine, decode_attention

    M = 1 if q.dim() == 3 else q.shape[1]
    if cache.workspace is not None and M > cache.new:
        raise CacheMismatch(
            f"the cache's workspace takes {cache.new} new token at a time and {M} came; make one with model.new_cache"
        )
    if cache.workspace is None:
        raise CacheMismatch("the cache was made for another impl and has no workspace; make one with model.new_cache")
    o = decode_attention(
        q, cache.k[layer], cache.v[layer], cache.lengths if lengths is None else lengths, k_new=k, v_new=v,
        block_table=cache.block_table, workspace=cache.workspace,
        k_scale=None if cache.k_scale is None else cache.k_scale[layer],
        v_scale=None if cache.v_scale is None else cache.v_scale[layer],
        engine=check_engine(None, q, False, 2) if invariant else None,
    )  # fmt: skip
    return cast(torch.Tensor, o)


def numba(q, cache: Cache, layer: int, k=None, v=None):
    """The decode step's attention by the compiled engine, which otherwise computes whole steps, see compiled.py.

    q, k, v  (B, H, D); k, v: the new tokens' rows, to be written to their slots; None if the cache holds them already
    """
    from .compiled import attention

    return attention(q, cache, layer, k, v)


# impl -> its decode step. "naive" recomputes everything and has none.
DECODE_STEP = {"naive": None, "eager": eager, "sdpa": sdpa, "triton": triton, "numba": numba}


class Attention(nn.Module):
    """Multi-head causal attention: of a whole sequence, or of new tokens to a cache.

    invariant  with a cache, a token's bits depend on nothing but what it attends to, see GPT2
    weights    None or "int8", see GPT2
    """

    def __init__(self, config: Config, invariant: bool = False, weights: str | None = None):
        super().__init__()
        self.n_head, self.invariant = config.n_head, invariant
        kind = Int8Linear if weights else Conv1D
        self.c_attn = kind(config.n_embd, 3 * config.n_embd, invariant)
        self.c_proj = kind(config.n_embd, config.n_embd, invariant)

    def split(self, x):
        """x (B, M, E) -> q, k, v (B, H, M, D)"""
        B, M, E = x.shape
        return self.c_attn(x).view(B, M, 3, self.n_head, E // self.n_head).permute(2, 0, 3, 1, 4)

    def merge(self, o):
        """o (B, H, M, D) -> (B, M, E)"""
        B, H, M, D = o.shape
        return self.c_proj(o.transpose(1, 2).reshape(B, M, H * D))

    def forward(self, x):
        """A whole sequence x (B, T, E), no cache -> (B, T, E)"""
        q, k, v = self.split(x)
        return self.merge(causal(q, k, v))

    def prefill(self, x, cache: Cache, layer: int, start: int):
        """M tokens of every sequence, x (B, M, E), that follow `start` cached ones -> (B, M, E)"""
        if self.invariant:
            return self.prefill_by_kernel(x, cache, layer, start)
        q, k, v = self.split(x)
        cache.write_span(layer, start, k, v)
        if start or cache.rounds:
            k, v = cache.read(layer, start + x.shape[1])
        return self.merge(causal(q, k, v))

    def prefill_by_kernel(self, x, cache: Cache, layer: int, start: int):
        """`prefill` by the decode step's own kernel, ROWS tokens at a time: a token then has the same bits by both."""
        B, M, E = x.shape
        cache.make_room(start + M)
        qkv = self.c_attn(x).view(B, M, 3, self.n_head, E // self.n_head)
        o = []
        for low in range(0, M, ROWS):
            q, k, v = qkv[:, low : low + ROWS].unbind(2)  # (B, up to ROWS, H, D) each
            lengths = torch.full_like(cache.lengths, start + low + q.shape[1])
            o.append(triton(q, cache, layer, k, v, lengths, invariant=True))
        return self.c_proj(torch.cat(o, 1).reshape(B, M, E))

    def decode(self, x, cache: Cache, layer: int, slots, step):
        """One token per sequence, x (B, E) -> (B, E): write its rows to the claimed slots and attend by `step`."""
        B, E = x.shape
        q, k, v = self.c_attn(x).view(B, 3, self.n_head, E // self.n_head).unbind(1)  # (B, H, D) each
        if step is triton:  # one launch that writes and attends
            return self.c_proj(triton(q, cache, layer, k, v, invariant=self.invariant).reshape(B, E))
        cache.write(layer, slots, k, v)
        return self.c_proj(step(q, cache, layer).reshape(B, E))
