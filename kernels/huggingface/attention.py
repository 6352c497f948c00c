"""attn_implementation="kvproof": a decode step goes to the kernel, everything else to torch."""

from typing import Any

from torch import Tensor

from .decode import decode
from .keywords import check_window, read, recording
from .masks import live_slots, selected
from .prefill import prefill


def attention(
    impl: str,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: Any = None,
    indices: Tensor | None = None,
    **keywords: Any,
) -> tuple[Tensor, None]:
    """The attention of a module of transformers, as its AttentionInterface calls it.

    impl       see `register_with_transformers`
    query      (B, H, M, D)
    key        (B, H_kv, T, D)  the model's cache, which a decode step reads where it lies; value (B, H_kv, T, D_v)
    attention_mask  (B or 1, 1, M, T) bool, or of floats that are added; None: see `masks.mask`
    dropout    of weights, in training; is_causal: of several queries without a mask, the module's own if None
    sliding_window  slots that a query sees, which the mask says too; indices (B, M, n): the only slots that it sees
    keywords   scaling, softcap, s_aux, sinks, position_bias; others have no effect or are refused, see keywords.py
    returns    (B, M, H, D_v) in query's dtype, contiguous, and no weights

    A decode step is one query per sequence that autograd does not record.

    Raises ValueError for what cannot be computed.
    """
    scores, B, T = read(module, query, keywords), key.shape[0], key.shape[2]
    if indices is not None:
        attention_mask = selected(attention_mask, indices, T)
    if query.shape[2] != 1 or recording(query, key, value):
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
        return prefill(module, query, key, value, attention_mask, scores, dropout, causal), None
    if dropout:
        raise ValueError(f"dropout is {dropout} in a decode step; call model.eval(), or decode with gradients enabled")
    if attention_mask is None:
        check_window(sliding_window, T)
    live = None if attention_mask is None else live_slots(attention_mask, B, T)
    return decode(impl, query, key, value, live, scores), None
