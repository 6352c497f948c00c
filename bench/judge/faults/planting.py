"""Planting a bug in a running torch model, and taking it out again."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial, wraps

import torch

from ....gpt2.attention import DECODE_STEP, Attention
from ....gpt2.cache import StaticCache
from ....gpt2.model import GPT2
from ....reference.judge.faults import CACHED
from ..tracing.planted import Changes, planted


@dataclass(frozen=True)
class TorchFault:
    """The record of reference/judge/faults' Fault, with `inject(model)`, a context manager, in place of `apply`."""

    name: str
    kind: str
    inject: Callable[[GPT2], AbstractContextManager[None]]
    imitates: str
    link: str | None
    closest: bool
    place: tuple[int | None, str] | None
    seen_by: str


def torch_fault(link: str | None, place, seen_by=CACHED, closest=False):
    """Turn `plan(model) -> Changes` below into a TorchFault; its docstring is what the fault imitates."""

    def record(plan: Callable[[GPT2], Changes]) -> TorchFault:
        url = link and f"https://github.com/{link}"
        words = " ".join((plan.__doc__ or "").split())
        name = f"torch_{plan.__name__}"
        return TorchFault(name, "torch", lambda model: planted(plan(model)), words, url, closest, place, seen_by)

    return record


def in_decode(step: Callable[..., torch.Tensor]) -> Callable[[GPT2], Changes]:
    """Every block's decode step as step(q, k, v, cache, layer, slots, attend) -> o (B, H, D).

    q, k, v (B, H, D) are the new token's; attend(q, cache, layer) is the impl's attention over what a cache holds.
    """

    def changes(model: GPT2) -> Changes:
        return [(vars(block.attn), "decode", partial(decode_around, block.attn, step)) for block in model.blocks]

    return changes


def decode_around(attn: Attention, around, x, cache, layer, slots, step):
    """`Attention.decode` with `around`, a step of `in_decode`, between its projections."""
    B, E = x.shape
    q, k, v = attn.c_attn(x).view(B, 3, attn.n_head, E // attn.n_head).unbind(1)  # (B, H, D) each
    return attn.c_proj(around(q, k, v, cache, layer, slots, step).reshape(B, E))


def planting(changes: Callable[[Callable], Callable[[GPT2], Changes]], link: str, place, closest=False):
    """`torch_fault` for a function that `changes`, such as `in_decode`, puts into a model."""
    return lambda wrong: torch_fault(link, place, closest=closest)(wraps(wrong)(changes(wrong)))


def correct_step(q, k, v, cache, layer, slots, attend):
    """The step as it should be: write, then attend."""
    cache.write(layer, slots, k, v)
    return attend(q, cache, layer)


def seen(cache: StaticCache, **fields) -> StaticCache:
    """The same cache as a reader with some of its fields replaced would see it."""
    view = copy.copy(cache)
    vars(view).update(fields)
    return view


def with_lengths(cache: StaticCache, lengths: list[int]) -> StaticCache:
    """The same cache as a reader that takes other lengths would see it."""
    device = torch.tensor(lengths, dtype=torch.int32, device=cache.lengths.device)
    return seen(cache, lengths=device, host_lengths=lengths)


def decoding_at(positions: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[GPT2], Changes]:
    """`GPT2.decode` with new tokens standing at positions(slots (B,) int64); correct if it returns the slots."""

    def changes(model: GPT2) -> Changes:
        @torch.no_grad()
        def decode(ids, cache):
            slots, step = cache.claim(), DECODE_STEP[model.impl]
            at = positions(cache.lengths.long() - 1) % model.config.n_ctx
            x = model.wte(ids) + model.wpe.weight[at]  # (B, E)
            for layer, block in enumerate(model.blocks):
                x = block(x, partial(block.attn.decode, cache=cache, layer=layer, slots=slots, step=step))
            return model.logits(model.ln_f(x))

        return [(vars(model), "decode", decode)]

    return changes
