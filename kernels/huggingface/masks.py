"""What a query sees: transformers' mask, and the slots of the cache that it leaves to a decode step."""

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .keywords import EAGER


def mask(*, config: Any = None, **keywords: Any) -> Tensor | None:
    """The mask that models hand to attn_implementation="kvproof", of B * M * T entries; T of them at a decode step.

    That of "sdpa", bool, True where seen, or None where the queries are the last ones and see all slots up to their
    own, whatever the model cuts away afterwards. Models without SDPA add to their masks: they get that of "eager",
    floats, and never None.
    """
    from transformers.masking_utils import eager_mask, sdpa_mask

    if not has_sdpa(type(config).__module__.replace("configuration_", "modeling_")):
        return ours(eager_mask(**keywords))
    end = keywords.get("q_offset", 0), keywords["q_length"], keywords.get("kv_offset", 0), keywords["kv_length"]
    skip = keywords.get("allow_is_causal_skip", True) and shows_all(*end)
    return ours(sdpa_mask(**{**keywords, "allow_is_causal_skip": skip}))


def ours(made: Tensor | None) -> Tensor | None:
    """The mask, known as one that nobody but us and the model has: its live slots may be kept on it."""
    if made is not None:
        made._kvproof_made = True  # pyright: ignore[reportAttributeAccessIssue]
    return made


def has_sdpa(file: str) -> bool:
    """Whether a model of this module says that it supports SDPA, so that is_causal is right and masks may be bool."""
    found = vars(sys.modules[file]).values() if file in sys.modules else ()
    return any(isinstance(x, type) and x.__module__ == file and getattr(x, "_supports_sdpa", False) for x in found)


def shows_all(q_offset: Any, q_length: int, kv_offset: int, kv_length: int) -> bool:
    """Whether None can stand for a causal mask: no slot lies behind the last query, nor any before several of them.

    A static cache counts in a tensor and has unfilled slots.
    """
    if isinstance(q_offset, Tensor) or q_offset + q_length != kv_offset + kv_length:
        return False
    return q_length in (1, kv_length)


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
    """The slots that a decode step's mask shows, found once for all layers that are given the same mask of ours.

    A mask of the user's own is looked at anew for each layer: it may have been written through .data or NumPy.

    attention_mask  (B or 1, 1, 1, T) bool, True where seen; or of floats, 0 where seen, their lowest or -inf elsewhere

    Raises ValueError for a mask of another shape, or that adds anything else to scores.
    """
    if not getattr(attention_mask, "_kvproof_made", False):
        return found(visible(attention_mask, B, T))
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
            f"heads; {EAGER}"
        )
    if attention_mask.dtype == torch.bool:
        seen = attention_mask
    elif not attention_mask.is_floating_point():
        raise ValueError(f"attention_mask is {attention_mask.dtype}; give bool, or floats of 0 and -inf; {EAGER}")
    else:
        seen = attention_mask == 0
        if not bool((seen | (attention_mask <= torch.finfo(attention_mask.dtype).min)).all()):
            raise ValueError(
                f"attention_mask is {attention_mask.dtype} and has numbers that are neither 0 nor the lowest; a decode "
                f"step takes masks that show or hide slots, not ones that add to scores; {EAGER}"
            )
    return seen[:, 0, 0].expand(B, T)


def found(seen: Tensor) -> LiveSlots:
    """The live slots of seen (B, T) bool."""
    T = seen.shape[1]
    lengths, numbers = seen.sum(1), torch.arange(T, device=seen.device)
    first = torch.where(seen, numbers, T).amin(1)
    last = torch.where(seen, numbers, -1).amax(1)
    first = torch.where(lengths == 0, 0, first)
    rows = torch.stack([first, lengths, last]).tolist()  # the only look at the numbers: on a GPU it waits
    runs = all(n == 0 or end - begin + 1 == n for begin, n, end in zip(*rows, strict=True))
    table = None if runs else torch.argsort(~seen, dim=1, stable=True).int()
    start = rows[0][0] if runs and len(set(rows[0])) == 1 else None
    return LiveSlots(first, lengths, table, start, max(rows[1], default=0))


def selected(attention_mask: Tensor | None, indices: Tensor, T: int) -> Tensor:
    """The mask (B, 1, M, T) that shows only what it showed among the slots of indices (B, M, n)."""
    among = torch.zeros(*indices.shape[:2], T, dtype=torch.bool, device=indices.device)
    among = among.scatter_(-1, indices.long(), True)[:, None]
    if attention_mask is None:
        return among
    if attention_mask.dtype == torch.bool:
        return attention_mask & among
    return attention_mask.masked_fill(~among, torch.finfo(attention_mask.dtype).min)
