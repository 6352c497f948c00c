"""Bugs planted in the torch model for the tests of the divergence report: where each is and what it looks like.

A context manager plants each: it takes the model under test, impl "eager", and leaves it as it was.
"""

from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

from kvproof.gpt2.attention import DECODE_STEP
from kvproof.gpt2.cache import StaticCache

LAYER = 1
ATTENTION = (LAYER, "attention")
NAN = float("nan")


def reading(change):
    """Plant a wrong decode attention in LAYER: change(row, q (H, 1, D), k, v (B, H, T, D), n) -> o (H, 1, D)."""

    def plant(model):
        right = DECODE_STEP["eager"]

        def step(q, cache, layer):
            if layer != LAYER:
                return right(q, cache, layer)
            rows = [
                change(b, q[b, :, None], cache.k[layer], cache.v[layer], n) for b, n in enumerate(cache.host_lengths)
            ]
            return torch.stack(rows)[:, :, 0]

        return patch.dict(DECODE_STEP, eager=step)

    return plant


attend: Any = F.scaled_dot_product_attention


def simple(turn, **kw):
    """A wrong reading that is a turn of the live slots: turn(k or v (H, n, D)) -> what is read instead."""
    return reading(lambda b, q, k, v, n: attend(q, turn(k[b, :, :n]), turn(v[b, :, :n]), **kw))


def tail_skipped(b, q, k, v, n):
    n = n // 16 * 16
    return attend(q, k[b, :, :n], v[b, :, :n]) if n else torch.zeros_like(q)


def tail_unmasked(b, q, k, v, n):
    k, v = (F.pad(x[b, :, :n], (0, 0, 0, -n % 16)) for x in (k, v))
    return attend(q, k, v)


def dead_read(b, q, k, v, n):
    return attend(q, *(torch.cat([x[b, :, :n], torch.full_like(x[b, :, :1], NAN)], 1) for x in (k, v)))


def half(b, q, k, v, n):
    return attend(q.half(), k[b, :, :n].half(), v[b, :, :n].half()).to(q.dtype)


def one_head(b, q, k, v, n):
    turned = v[b, :, :n].clone()
    turned[2] = turned[2].flip(1)  # the columns of one head, read backwards
    return attend(q, k[b, :, :n], turned)


def writing(change):
    """Plant a wrong append in LAYER: change(cache, slots, k, v, right), right(slots, k, v) being the correct append."""

    def plant(model):
        correct = StaticCache.write

        def write(cache, layer, slots, k, v):
            def right(slots, k, v):
                correct(cache, layer, slots, k, v)

            if layer == LAYER:
                change(cache, slots, k, v, right)
            else:
                right(slots, k, v)

        return patch.object(StaticCache, "write", write)

    return plant


def lost(cache, slots, k, v, right):
    gone = int(cache.lengths[0]) == 23  # the slot keeps what was there before, here zeros
    right(slots, k * (not gone), v * (not gone))


def late(cache, slots, k, v, right):
    right((slots + 1).clamp(max=cache.capacity - 1), k, v)


def never(cache, slots, k, v, right):
    right(slots, k * NAN, v * NAN)


def patched(get, name, value):
    return lambda model: patch.object(get(model), name, value(model) if callable(value) else value)


def weights(get, turn):
    @contextmanager
    def plant(model):
        place = get(model)
        kept = place.weight.detach().clone()
        place.weight.copy_(turn(kept))
        try:
            yield
        finally:
            place.weight.copy_(kept)

    return plant


def decoding(get, turn):
    def plant(model):
        wrong = weights(get, turn)

        def decode(ids, cache):
            with wrong(model):
                return type(model).decode(model, ids, cache)

        return patch.object(model, "decode", decode)

    return plant


@contextmanager
def last_of_another(model):
    calls = []

    def turn(module, args):
        calls.append(args)
        return (args[0].flip(0),) if len(calls) == 1 else None

    handle = model.ln_f.register_forward_pre_hook(turn)
    try:
        yield
    finally:
        handle.remove()


def block(model):
    return model.blocks[LAYER]


# name -> (plant, (layer, operation), the explanation's kind and a part of its sentence: None where nothing explains it)
PLANTED = {
    "unscaled": (simple(lambda x: x, scale=1.0), ATTENTION, "scale", "not divided"),
    "scaled twice": (simple(lambda x: x, scale=1 / 8), ATTENTION, "scale", "twice"),
    "one slot short": (simple(lambda x: x[:, :-1]), ATTENTION, "length", "newest slot is not read"),
    "oldest slot dropped": (simple(lambda x: x[:, 1:]), ATTENTION, "length", "oldest slot"),
    "top-left mask": (simple(lambda x: x[:, :1]), ATTENTION, "mask", "top left"),
    "a window": (simple(lambda x: x[:, -4:]), ATTENTION, "window", "only the last 4 slots"),
    "a window that keeps the first slot": (
        simple(lambda x: torch.cat([x[:, :1], x[:, -3:]], 1)), ATTENTION, "window", "the first 1 and the last 3"),
    "heads rolled": (simple(lambda x: x.roll(-1, 0)), ATTENTION, "heads", "permuted"),
    "head zero": (simple(lambda x: x[:1].expand(x.shape)), ATTENTION, "heads", "head 0"),
    "keys for values": (
        reading(lambda b, q, k, v, n: attend(q, k[b, :, :n], k[b, :, :n])), ATTENTION, "values", "from the keys"),
    "tail block skipped": (reading(tail_skipped), ATTENTION, "tail", "block of 16 slots is skipped"),
    "tail unmasked": (reading(tail_unmasked), ATTENTION, "tail", "16 slots is read whole"),
    "rows mixed": (
        reading(lambda b, q, k, v, n: attend(q, k[min(b, 1), :, :n], v[min(b, 1), :, :n])), ATTENTION, "rows", "mixed"),
    "a dead slot read": (reading(dead_read), ATTENTION, None, "NaN or infinity"),
    "half precision inside": (reading(half), ATTENTION, "precision", "kept in float16"),
    "one head": (reading(one_head), ATTENTION, None, "head 2 of 4 alone"),
    "an append lost": (writing(lost), ATTENTION, "stale", "zeros"),
    "a slot late": (writing(late), ATTENTION, "length", "1 slot late"),
    "appends go nowhere": (writing(never), ATTENTION, None, "NaN or nothing at all"),
    "keys and values swapped": (
        writing(lambda cache, slots, k, v, right: right(slots, v, k)), ATTENTION, "values", "swapped"),
    "heads swapped": (
        writing(lambda cache, slots, k, v, right: right(slots, k.roll(1, 1), v.roll(1, 1))),
        ATTENTION, "heads", "another head"),
    "rows swapped": (
        writing(lambda cache, slots, k, v, right: right(slots, k.roll(1, 0), v.roll(1, 0))),
        ATTENTION, "slots", "slot 21 of sequence 0 that of token 5 of sequence 2"),
    "dtype narrowed": (
        writing(lambda cache, slots, k, v, right: right(slots, k.bfloat16().to(k), v.bfloat16().to(v))),
        ATTENTION, "precision", "in bfloat16"),
    "positions not advanced": (
        decoding(lambda model: model.wpe, lambda w: w.roll(1, 0)), (None, "embed"), "positions", "1 too small"),
    "another epsilon": (
        patched(lambda m: block(m).ln_2, "eps", 1e-4), (LAYER, "ln_2"), "norm", "epsilon is 1e-04, not 1e-05"),
    "another GELU": (patched(lambda m: block(m).mlp, "approximate", "none"), (LAYER, "mlp"), "mlp", "exact"),
    "c_proj untransposed": (
        weights(lambda m: block(m).attn.c_proj, lambda w: w.mT.clone()),
        (LAYER, "c_proj"), "projection", "untransposed"),
    "qkv split wrong": (
        weights(lambda m: block(m).attn.c_attn, lambda w: w.roll(8, 1)),
        (LAYER, "c_attn"), "projection", "columns are moved by 8"),
    "head not tied": (
        patched(lambda m: m, "logits", lambda m: lambda x: x @ m.wte.weight.roll(1, 0).mT),
        (None, "head"), "head", "tied"),
    "another token's logits": (last_of_another, (None, "ln_f"), "last token", "step 0 of sequence 2"),
}  # fmt: skip
