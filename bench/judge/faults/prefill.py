"""Bugs of the prefill: positions and masks of chunks, padding, an earlier run's rows."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from ....gpt2.model import GPT2
from .planting import Changes, planted, planting, torch_fault

EMBED, ATTENTION = (None, "embed"), (0, "attention")


def prefilling(prefill) -> Any:
    """prefill(model, prompts, cache, chunk=None) -> logits in the place of `GPT2.prefill`."""
    return lambda model: [(vars(model), "prefill", partial(prefill, model))]


def in_two(prompts, chunk) -> int:
    """The chunk asked for, or one that cuts the longest prompt in two: what only chunks show is shown by default."""
    return chunk or -(-max(map(len, prompts)) // 2)


@planting(prefilling, "huggingface/transformers/issues/43082", EMBED)
def positions_restart_at_chunks(model, prompts, cache, chunk=None):
    """each chunk of a prompt stands at position 0; invisible in prompts of one token"""
    chunk, weight = in_two(prompts, chunk), model.wpe.weight
    again = torch.cat([weight[:chunk]] * -(-len(weight) // chunk))[: len(weight)]
    with planted([(model.wpe._parameters, "weight", torch.nn.Parameter(again.detach()))]):
        return GPT2.prefill(model, prompts, cache, chunk)


def attending(model: GPT2, **how) -> Changes:
    """Every block's `Attention.prefill`, but with `how` for the mask: keywords of torch's fused attention."""

    def prefill_of(attn):
        def prefill(x, cache, layer, start):
            q, k, v = attn.split(x)
            cache.write_span(layer, start, k, v)
            stop = start + x.shape[1]
            k, v = cache.k[layer][:, :, :stop], cache.v[layer][:, :, :stop]
            return attn.merge(F.scaled_dot_product_attention(q, k, v, **how))

        return prefill

    return [(vars(block.attn), "prefill", prefill_of(block.attn)) for block in model.blocks]


@torch_fault("gittensor-ai-lab/sparkinfer/issues/3", ATTENTION)
def mask_top_left_in_chunks(model):
    """a later chunk's mask is aligned at the top left, as is_causal does; invisible in prompts of one token"""

    def prefill(model, prompts, cache, chunk=None):
        return GPT2.prefill(model, prompts, cache, in_two(prompts, chunk))

    return [*prefilling(prefill)(model), *attending(model, is_causal=True)]


@torch_fault("Mikyx-1/TinyLLM/issues/17", ATTENTION)
def prefill_unmasked(model):
    """a pass with a cache is taken for a decode step, which needs no mask; invisible in prompts of one token"""
    return attending(model)


@planting(prefilling, "huggingface/transformers/issues/14521", None)
def logits_at_padding(model, prompts, cache, chunk=None):
    """the next token is read off the last column, which is padding in a shorter prompt; invisible when all prompts are
    equally long"""
    longest, start = max(map(len, prompts)), cache.host_lengths[0]
    padded = [[*map(int, prompt), *[0] * (longest - len(prompt))] for prompt in prompts]
    logits = GPT2.prefill(model, padded, cache, chunk)
    cache.set_lengths([start + len(prompt) for prompt in prompts])
    return logits


@planting(prefilling, "casper-hansen/AutoAWQ/pull/178", ATTENTION, closest=True)
def slot_of_an_earlier_run(model, prompts, cache, chunk=None):
    """the cache was not reset: its first slot is still an earlier run's when decoding starts"""
    logits = GPT2.prefill(model, prompts, cache, chunk)
    for layer in range(len(model.blocks)):  # an earlier run's rows: as large as these, and not these
        cache.write_span(layer, 0, *(a[:, :, :1].flip(-1).clone() for a in (cache.k[layer], cache.v[layer])))
    return logits
