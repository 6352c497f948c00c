"""What a module of transformers hands to its attention beside q, k, v and the mask: taken, of no effect, or refused."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

# They tell other kernels what the mask says already, or concern other parts of a model.
WITHOUT_EFFECT = {
    "position_ids", "cache_position", "use_cache", "deterministic", "output_hidden_states", "output_router_logits",
    "num_items_in_batch", "logits_to_keep", "return_dict",
}  # fmt: skip
REFUSED = {
    "output_attentions": "no weights are kept by a kernel that never forms them",
    "block_indices": "the model chooses blocks of slots and leaves them out of the mask",
    "head_mask": "heads cannot be scaled within the kernel",
    "cu_seq_lens_q": "packed sequences come as position_ids, which the mask knows, or not at all",
    "cu_seq_lens_k": "packed sequences come as position_ids, which the mask knows, or not at all",
    "seq_idx": "packed sequences come as position_ids, which the mask knows, or not at all",
}
EAGER = 'use attn_implementation="eager"'


class Scores(NamedTuple):
    """What is done to scores q k^T.

    scale          a factor; softcap: then s -> softcap * tanh(s / softcap), None for none
    position_bias  (B or 1, H or 1, M, T), added; None for none
    sink_logits    (H,) or (B, H, M), scores without values; None for none
    """

    scale: float
    softcap: float | None
    position_bias: Tensor | None
    sink_logits: Tensor | None

    @property
    def plain(self) -> bool:
        return self.softcap is None and self.sink_logits is None


def read(module: Any, query: Tensor, keywords: dict[str, Any]) -> Scores:
    """The keywords of a call that change scores.  Raises ValueError for those that are refused or not known.

    query   (B, H, M, D)
    """
    given = {name: value for name, value in keywords.items() if value is not None and value is not False}
    scaling, softcap = given.pop("scaling", None), given.pop("softcap", None)
    bias, s_aux, sinks = (given.pop(name, None) for name in ("position_bias", "s_aux", "sinks"))
    for name in given:
        if name in REFUSED:
            raise ValueError(f"{name} came; {REFUSED[name]}; leave it out, or {EAGER}")
        if name not in WITHOUT_EFFECT:
            raise ValueError(
                f"{name} came from {type(module).__name__}; what it does to attention is not known here; {EAGER}"
            )
    if s_aux is None and sinks is None and isinstance(getattr(module, "sinks", None), Tensor):
        raise ValueError(f"{type(module).__name__} has sinks and handed none over (s_aux); {EAGER}")
    if softcap is not None and bias is not None:
        raise ValueError(f"softcap and position_bias came together; which is applied first is not known; {EAGER}")
    if sinks is not None:
        sinks = sinks.reshape(query.shape[:3])  # (B, H, M, 1): one per query
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return Scores(scale, softcap, bias, s_aux if sinks is None else sinks)


def check_window(window: Any, T: int) -> None:
    """Raise ValueError if no mask came and the cache has more slots than the module's window: some would be hidden."""
    if isinstance(window, int) and T > window:
        raise ValueError(
            f"sliding_window is {window}, the cache has {T} slots, and no mask came to say which are seen; the mask of "
            f'"kvproof" is registered by register_with_transformers(): call it, or {EAGER}'
        )


def recording(*tensors: Tensor) -> bool:
    """Whether autograd would have to differentiate what is computed from these."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
