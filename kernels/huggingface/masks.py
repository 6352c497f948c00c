"""What a query sees: transformers' mask, and the slots of the cache that it leaves to a decode step."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


def mask(*arguments: Any, **keywords: Any) -> Tensor | None:
    """The mask that models hand to attn_implementation="kvproof": that of "sdpa", (B, 1, M, T) bool, True where seen.

    For a decode step it has B * T entries. None says that all slots are seen or, of several queries, those up to each;
    a cache that counts its slots in a tensor, as a static one does, has unfilled ones, so there a step has a mask.
    """
    from transformers.masking_utils import sdpa_mask

    if keywords.get("q_length") == 1 and isinstance(keywords.get("q_offset"), Tensor):
        keywords["allow_is_causal_skip"] = False
    return sdpa_mask(*arguments, **keywords)


class LiveSlots(NamedTuple):
    """The slots that the one query of each sequence sees.

    first    (B,) int64, lengths (B,) int64: from slot `first` on so many, where none between is hidden
    table    (B, T) int32  where some are: a sequence's live slots in order, then the others
    start    the first slot of all sequences, if it is one and table is None
    longest  the largest length
    """

    first: Tensor
    lengths: Tensor
    table: Tensor | None
    start: int | None
    longest: int


def live_slots(attention_mask: Tensor, B: int, T: int) -> LiveSlots:
    """The slots that a decode step's mask shows, found once for all layers that are given the same mask.

    attention_mask  (B or 1, 1, 1, T) bool, True where seen; or of floats, 0 where seen and their lowest, or -inf, elsewhere

    Raises ValueError for a mask of another shape, or that adds anything else to scores.
    """
    kept = getattr(attention_mask, "_kvproof_live_slots", None)
    version = None if attention_mask.is_inference() else attention_mask._version  # in-place changes count it up
    if kept is not None and version is not None and kept[:3] == (version, B, T):
        return kept[3]
    live = found(visible(attention_mask, B, T))
    attention_mask._kvproof_live_slots = (version, B, T, live)  # pyright: ignore[reportAttributeAccessIssue]
    return live


def visible(attention_mask: Tensor, B: int, T: int) -> Tensor:
    """(B, T) bool: the slots that a decode step's mask shows; raises as `live_slots` does."""
    shape = tuple(attention_mask.shape)
    if len(shape) != 4 or shape[0] not in (1, B) or shape[1:] != (1, 1, T):
        raise ValueError(
            f"attention_mask is {list(shape)}; a decode step over {T} slots takes [{B}, 1, 1, {T}], the same for all "
            'heads; for a mask that differs by head use attn_implementation="eager"'
        )
    if attention_mask.dtype == torch.bool:
        seen = attention_mask
    else:
        seen = attention_mask == 0
        if not bool((seen | (attention_mask <= torch.finfo(attention_mask.dtype).min)).all()):
            raise ValueError(
                f"attention_mask is {attention_mask.dtype} and holds numbers that are neither 0 nor the lowest; a decode "
                'step takes masks that show or hide slots, not ones that add to scores; use attn_implementation="eager"'
            )
    return seen[:, 0, 0].expand(B, T)


def found(seen: Tensor) -> LiveSlots:
    """The live slots of seen (B, T) bool."""
    B, T = seen.shape
    lengths, numbers = seen.sum(1), torch.arange(T, device=seen.device)
    first = torch.where(seen, numbers, T).amin(1)
    last = torch.where(seen, numbers, -1).amax(1)
    first = torch.where(lengths == 0, 0, first)
    rows = torch.stack([first, lengths, last]).tolist()  # the only look at the numbers: on a GPU it waits
    runs = all(n == 0 or end - begin + 1 == n for begin, n, end in zip(*rows, strict=True))
    table = None if runs else torch.argsort(~seen, dim=1, stable=True).int()
    start = rows[0][0] if runs and len(set(rows[0])) == 1 else None
    return LiveSlots(first, lengths, table, start, max(rows[1], default=0))
