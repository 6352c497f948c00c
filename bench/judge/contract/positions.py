"""How a Hugging Face causal LM counts positions, found by asking it.

What a padded batch must be given beside its ids differs by family, and no attribute says so:
    GPT-2, Llama, most others  position_ids from 0
    RoBERTa and its relatives  position_ids from pad_token_id + 1, by themselves one for each id that is not the padding
    BART, XGLM, RoFormer       none, or none that they can be given: they count columns, those of padding too
    BLOOM, MPT, Mamba          none, and the mask suffices
So the model is run on one sequence with and without position_ids: those that change nothing are the ones it counts by
itself.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .user_errors import UserCodeError, said

SAME = 1e-4  # of the logits' rms, float32's rounding many times over; another position moves them by more


@dataclass(frozen=True)
class Positions:
    """What a model is to be given for token i of a sequence: position_ids start + i, or none where start is None.

    why     why none are
    """

    start: int | None
    why: str = ""


def positions_of(model: Any, forward: Callable[..., torch.Tensor], ids: torch.Tensor) -> Positions:
    """How the model, in float32, counts: from its logits of one sequence.

    forward  forward(ids (1, M), **more) -> logits (1, M, V), or (1, V) of the last token
    ids      (1, M) none of which is the padding
    """
    plain = forward(ids)
    count, why = torch.arange(ids.shape[1])[None], "takes no position_ids"
    if "position_ids" in inspect.signature(model.forward).parameters:
        for start in starts(model.config):
            try:
                given = forward(ids, position_ids=count + start)
            except UserCodeError as error:
                why = f"raises if it is given position_ids ({said(error.__cause__ or error)})"
                continue
            if same(given, plain):
                return Positions(start)
            why = "computes other logits if it is given position_ids, from whichever number"
    return Positions(None, why)


def starts(config: Any) -> list[int]:
    """The first positions to try, likeliest first."""
    pad = getattr(config.get_text_config(decoder=True), "pad_token_id", None)
    return list(dict.fromkeys([0, *([pad + 1] if isinstance(pad, int) and pad >= 0 else []), 1, 2]))


def padding_id(config: Any) -> int:
    """The id of padding columns: the config's, which some models look for, else 0."""
    text = config.get_text_config(decoder=True)
    pad, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", 0)
    return pad if isinstance(pad, int) and 0 <= pad < size else 0


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    a, b = (x.double().cpu() for x in (a, b))
    return bool((a - b).abs().max() <= SAME * b.square().mean().sqrt())
