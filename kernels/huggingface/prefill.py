"""Several queries per sequence, or any that autograd records: torch's SDPA, or the formula where SDPA has no term."""

from typing import Any

import torch
from torch import Tensor

from .keywords import EAGER, Scores


def prefill(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scores: Scores, dropout: float, causal: bool
) -> Tensor:
    """Attention with gradients; shapes as in `attention`. softcap and sinks are computed by the formula.

    Raises ValueError for M > 1 causal queries over T != M slots without a mask: which see which is not known.
    """
    M, T = q.shape[2], k.shape[2]
    if mask is None and causal and M not in (1, T):
        raise ValueError(
            f'{M} queries over {T} slots came without a mask; the mask of "kvproof" says which see which, and is '
            f"registered by register_with_transformers(): call it, or {EAGER}"
        )
    if scores.plain:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, q, k, v, mask,
            dropout=dropout, scaling=scores.scale, is_causal=causal, position_bias=scores.position_bias,
        )[0]  # fmt: skip
    return formula(q, k, v, mask, scores, causal, dropout).transpose(1, 2).contiguous()


def formula(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scores: Scores, causal: bool, dropout: float
) -> Tensor:
    """softmax(softcap(q k^T * scale) + bias + mask, with sinks) v -> (B, H, M, D_v).

    It forms all B * H * M * T scores; weights are float32, or float64 for float64. Without a mask, query i of M > 1
    sees the slots up to i if causal.
    """
    (B, H, M, _), H_kv = q.shape, k.shape[1]
    if mask is None and causal and M > 1:
        mask = torch.ones(M, M, dtype=torch.bool, device=q.device).tril()
    k, v = (x.repeat_interleave(H // H_kv, 1) for x in (k, v))
    s = q @ k.transpose(2, 3) * scores.scale  # (B, H, M, T)
    if scores.softcap is not None:
        s = scores.softcap * torch.tanh(s / scores.softcap)
    if scores.position_bias is not None:
        s = s + scores.position_bias
    if mask is not None:  # the lowest number, not -inf: a row that sees nothing has finite weights
        s = s.masked_fill(~mask, torch.finfo(s.dtype).min) if mask.dtype == torch.bool else s + mask
    s = s.to(torch.promote_types(s.dtype, torch.float32))
    if scores.sink_logits is not None:
        sink = scores.sink_logits.to(s.dtype)
        sink = sink.view(1, H, 1, 1) if sink.dim() == 1 else sink[..., None]
        s = torch.cat([s, sink.expand(B, H, M, 1)], -1)
    p = torch.softmax(s, -1)[..., : k.shape[2]].to(v.dtype)
    return torch.nn.functional.dropout(p, dropout) @ v
