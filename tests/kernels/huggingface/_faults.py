"""Wrong bridges to transformers, each with the run that must reject it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kvproof.kernels.huggingface import attention, decode, masks, prefill, registration

from ._models import LENGTHS


@dataclass(frozen=True)
class Fault:
    """What is wrong, in which function of which module, and the model, cache and padding that show it."""

    module: Any
    name: str
    wrong: Callable[[Any], Any]  # the right function -> the wrong one
    family: str = "llama"
    kind: str = "dynamic"
    side: str = "left"
    lengths: tuple[int, ...] = LENGTHS


def live(**changes: Callable[[masks.LiveSlots], Any]) -> Callable[[Any], Any]:
    """Change fields of the live slots that a mask shows."""

    def wrong(right):
        def change(seen):
            slots = right(seen)
            return slots._replace(start=None, **{name: make(slots) for name, make in changes.items()})

        return change

    return wrong


def scores(**changes: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Change what is done to scores."""

    def wrong(right):
        def change(*given):
            found = right(*given)
            return found._replace(**{name: make(found) for name, make in changes.items()})

        return change

    return wrong


def given(change: Callable[..., tuple]) -> Callable[[Any], Any]:
    """Change the arguments q, k, v, live, scores, sinks of a decode step."""
    return lambda right: lambda *arguments: right(*change(*arguments))


def kept_for_ever(right):
    """The live slots of the first mask of this size that ever came: a cache of lengths that nobody renews."""
    first = {}
    return lambda mask, B, T: first.setdefault((B, T), right(mask, B, T))


def other_kv_heads(q, k, v, *rest):
    """Query head h reads KV head h % H_kv."""
    H_kv = k.shape[1]
    order = torch.arange(q.shape[1]).view(-1, H_kv).T.flatten()
    return q[:, order], k, v, *rest


def causal_from_the_top(right):
    """Several queries without a mask see each other's future."""
    return lambda module, q, k, v, mask, found, dropout, causal: right(module, q, k, v, mask, found, dropout, False)


def everything(b, h, q, slot):
    """A mask function that hides nothing."""
    return slot >= 0


WINDOWED, CAPPED, SUNK = "mistral", "gemma2", "gpt_oss"
FAULTS = {
    "window_too_long_by_one": Fault(
        masks, "found", live(first=lambda s: (s.first - 1).clamp(min=0), lengths=lambda s: s.lengths + (s.first > 0)),
        WINDOWED),
    "window_too_short_by_one": Fault(
        masks, "found", live(first=lambda s: s.first + (s.lengths == 6), lengths=lambda s: s.lengths.clamp(max=5)),
        WINDOWED),
    "newest_slot_missed": Fault(masks, "found", live(lengths=lambda s: (s.lengths - 1).clamp(min=1))),
    "start_ignored": Fault(masks, "found", live(first=lambda s: 0 * s.first, lengths=lambda s: s.first + s.lengths)),
    "dead_slots_read": Fault(masks, "found", live(lengths=lambda s: s.lengths + 1), kind="static"),
    "slots_of_sequence_0_for_all": Fault(
        masks, "found", live(first=lambda s: s.first[:1].expand_as(s.first),
                             lengths=lambda s: s.lengths[:1].expand_as(s.lengths))),
    "holes_taken_for_a_run": Fault(masks, "found", live(table=lambda s: None), side="right"),
    "stale_lengths_of_a_static_cache": Fault(attention, "live_slots", kept_for_ever, kind="static"),
    "mask_dropped": Fault(
        attention, "live_slots", lambda right: lambda mask, B, T: right(torch.ones_like(mask), B, T), kind="static"),
    "mask_not_registered": Fault(registration, "mask", lambda right: lambda **sizes: None, kind="static"),
    "mask_shows_the_cache_to_all_queries": Fault(
        registration, "mask", lambda right: lambda **sizes: right(**{**sizes, "mask_function": everything})),
    "sinks_dropped": Fault(attention, "read", scores(sink_logits=lambda s: None), SUNK),
    "sinks_of_head_0_for_all": Fault(
        attention, "read", scores(sink_logits=lambda s: s.sink_logits[:1].expand_as(s.sink_logits).contiguous()), SUNK),
    "sinks_dropped_in_decode_steps": Fault(
        decode, "with_numba", given(lambda q, k, v, live, found, sinks: (q, k, v, live, found, None)), SUNK),
    "softcap_dropped": Fault(attention, "read", scores(softcap=lambda s: None), CAPPED),
    "softcap_dropped_in_prefill": Fault(
        prefill, "formula", lambda right: lambda q, k, v, mask, s, *rest: right(
            q, k, v, mask, s._replace(softcap=None), *rest), CAPPED),
    "softcap_doubled": Fault(attention, "read", scores(softcap=lambda s: 2 * s.softcap), CAPPED),
    "scale_dropped": Fault(attention, "read", scores(scale=lambda s: 8**-0.5), CAPPED),
    "scale_applied_twice": Fault(attention, "read", scores(scale=lambda s: s.scale**2)),
    "other_kv_heads": Fault(decode, "with_numba", given(other_kv_heads)),
    "values_read_from_keys": Fault(decode, "with_numba", given(lambda q, k, v, *rest: (q, k, k, *rest))),
    "prefill_not_causal": Fault(attention, "prefill", causal_from_the_top, lengths=(7, 7)),
}  # fmt: skip
