"""Attention over a KV cache: the prefill, and the decode step's three spellings, chosen by `impl`.

B sequences, H heads, T cache slots, D head_dim, M new tokens, n live slots. Dead slots may hold anything, NaN included,
and change no bit of what is returned here.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..reference.config import Config
from .cache import CacheMismatch, StaticCache


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


def eager(q, cache: StaticCache, layer: int):
    """The decode step written out: matmul, softmax, matmul.  q (B, H, D) -> (B, H, D)

    Equal lengths read K and V where they lie. Ragged ones mask the scores and, since 0 * NaN is NaN, zero V in a copy.
    """
    n = max(cache.host_lengths)
    B, H, D = q.shape
    k, v = cache.k[layer][:, :, :n], cache.v[layer][:, :, :n]
    # Scaled inside the product, before it is rounded: q k^T alone can overflow float16.
    s = torch.baddbmm(q.new_empty(1), q.reshape(B * H, 1, D), k.flatten(0, 1).mT, beta=0, alpha=D**-0.5)
    s = s.view(B, H, 1, n)
    if min(cache.host_lengths) < n:
        live = torch.arange(n, device=q.device) < cache.lengths[:, None]  # (B, n)
        s = s.where(live[:, None, None], float("-inf"))
        v = v.where(live[:, None, :, None], 0)
    p = torch.softmax(s, -1, dtype=torch.promote_types(s.dtype, torch.float32)).to(v.dtype)
    return (p @ v)[:, :, 0]


def sdpa(q, cache: StaticCache, layer: int):
    """The decode step by torch's fused attention.  q (B, H, D) -> (B, H, D)

    It takes one length per call, so ragged sequences go one by one, each over its own live slots: no mask, no copy.
    """
    k, v, lengths = cache.k[layer], cache.v[layer], cache.host_lengths
    # In half precision a CPU takes a slow path for one row: the same row twice, no copy, takes 0.6 to 1.0 of the time.
    rows = 2 if q.itemsize == 2 and q.device.type == "cpu" else 1
    q = q[:, :, None].expand(-1, -1, rows, -1)  # (B, H, rows, D)
    if min(lengths) == max(lengths):
        n = lengths[0]
        return F.scaled_dot_product_attention(q, k[:, :, :n], v[:, :, :n])[:, :, 0]
    o = [
        F.scaled_dot_product_attention(q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n])
        for b, n in enumerate(lengths)
    ]
    return torch.cat(o)[:, :, 0]


def triton(q, cache: StaticCache, layer: int):
    """The decode step by our kernel, which reads the cache where it lies.  q (B, H, D) -> (B, H, D)"""
    from ..kernels.decode_attention import decode_attention

    if cache.workspace is None:
        raise CacheMismatch("the cache was made for another impl and has no workspace; make one with model.new_cache")
    return decode_attention(q, cache.k[layer], cache.v[layer], cache.lengths, workspace=cache.workspace)


# What `impl` may be. "naive" keeps no cache, so it has no decode step: the whole sequence is recomputed.
DECODE_STEP = {"naive": None, "eager": eager, "sdpa": sdpa, "triton": triton}


def check_impl(impl: str) -> str:
    """impl, if there is one of that name; raises ValueError if not."""
    if impl not in DECODE_STEP:
        raise ValueError(f"impl {impl!r} is not known; choose one of {', '.join(DECODE_STEP)}")
    return impl


def product(x, weight, bias=None):
    """x weight^T + bias, as F.linear gives it: by oneDNN for float32 on a CPU that has it, without gradients.

    x        (..., n_in)
    weight   (n_out, n_in)  any strides: Conv1D brings a transposed view; nothing is copied or packed
    bias     (n_out,) or None
    returns  (..., n_out)

    MKL, torch's own choice for float32, takes 1.1 to 1.9 times oneDNN's time on a CPU that is not Intel's. Only for one
    row by a Conv1D weight is it ahead; in half precision torch chooses oneDNN itself.
    """
    by_onednn = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_grad_enabled()
    one_row = x.numel() == x.shape[-1]
    if by_onednn and torch.backends.mkldnn.is_available() and (weight.is_contiguous() or not one_row):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class Conv1D(nn.Module):
    """x @ weight + bias, with the weight as GPT-2 checkpoints hold it: (n_in, n_out)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        # Long columns lie in memory one by one: a CPU then takes 0.6 to 0.9 of the time, for the same numbers.
        self.weight = nn.Parameter(torch.empty(n_out, n_in).mT if n_in > n_out else torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))

    def forward(self, x):
        return product(x, self.weight.mT, self.bias)


class Attention(nn.Module):
    """Multi-head causal attention: without a cache of a whole sequence to itself, with one of new tokens to all."""

    def __init__(self, config: Config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

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

    def prefill(self, x, cache: StaticCache, layer: int, start: int):
        """M tokens of every sequence, x (B, M, E), that follow `start` cached ones -> (B, M, E)"""
        q, k, v = self.split(x)
        cache.write_span(layer, start, k, v)
        if start:
            stop = start + x.shape[1]
            k, v = cache.k[layer][:, :, :stop], cache.v[layer][:, :, :stop]
        return self.merge(causal(q, k, v))

    def decode(self, x, cache: StaticCache, layer: int, slots, step):
        """One token per sequence, x (B, E), whose rows go to the claimed slots; step is of DECODE_STEP -> (B, E)"""
        B, E = x.shape
        q, k, v = self.c_attn(x).view(B, 3, self.n_head, E // self.n_head).unbind(1)  # (B, H, D) each
        cache.write(layer, slots, k, v)
        return self.c_proj(step(q, cache, layer).reshape(B, E))
