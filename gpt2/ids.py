"""Token ids: prompts and tensors of them checked against a model's vocabulary, and prompts padded to one width."""

from collections.abc import Sequence

import torch

from ..reference.config import brief
from .arguments import is_row, tensor, whole_numbers

WHOLE = (torch.int64, torch.int32)


def pad(prompts: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """Prompts of any lengths -> (B, width) int64, zeros on the right; on the host."""
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = torch.as_tensor(prompt)
    return ids


def check_prompts(prompts: Sequence[Sequence[int]], n_vocab: int, first: int | None):
    """Raises ValueError unless prompts are one or more non-empty sequences of ids below n_vocab.

    first  the id that starts from nothing, which the message about an empty prompt names; None for none
    """
    if isinstance(prompts, str) or not is_row(prompts):
        raise ValueError(f"prompts are {brief(prompts)}; pass a list of sequences of token ids")
    if not len(prompts):
        raise ValueError("no prompts came; pass at least one sequence of token ids")
    for row, prompt in enumerate(prompts):
        ids = prompt if type(prompt) is list and set(map(type, prompt)) == {int} else whole_numbers(prompt)
        if not ids:
            hint = "" if first is None else f"; the end-of-text token alone, ids [{first}], starts from nothing"
            raise ValueError(f"prompt {row} is empty; GPT-2 needs at least one token{hint}")
        low, high = min(ids), max(ids)
        if low < 0 or high >= n_vocab:
            bad = low if low < 0 else high
            raise ValueError(f"prompt {row} holds token id {bad}; this model's ids are 0..{n_vocab - 1}")


def check_ids(ids, n_vocab: int, device: torch.device):
    """ids, if they are whole numbers (B, T) below n_vocab on this device; raises ValueError if not."""
    tensor("ids", ids, "(B, T)")
    if ids.ndim != 2 or not ids.numel() or ids.dtype not in WHOLE:
        raise ValueError(
            f"ids are {tuple(ids.shape)} {ids.dtype}; pass int64 or int32 ids of shape (B, T), B and T 1 or more"
        )
    if ids.device != device:
        raise ValueError(f"ids are on {ids.device}, the model on {device}; move one with .to(...)")
    low, high = ids.min().item(), ids.max().item()
    if low < 0 or high >= n_vocab:
        raise ValueError(f"token id {low if low < 0 else high} came; this model's ids are 0..{n_vocab - 1}")
    return ids
