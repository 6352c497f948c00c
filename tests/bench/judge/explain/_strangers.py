"""Bugs planted in tiny random models of transformers: what is wrong, and a part of its right explanation.

Both paths attend by one plain function, written here; the one under test by a wrong variant of it, or through a wrong
cache. The models are the libraries' own, rotations, windows, softcaps and sinks included.
"""

import functools
import importlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from kvproof.bench.judge.huggingface.subject import HuggingFaceSubject

HIDDEN = -torch.inf


def attend(module, query, key, value, mask, scaling=None, softcap=None, s_aux=None, change=None, **_):
    """softmax(softcap(scale q k^T) + mask) v with sinks, as transformers calls it; change(name, x) may spoil a step."""
    change = change or (lambda name, x: x)
    group = query.shape[1] // key.shape[1]
    key, value = change("kv", (key, value))
    key, value = (change("heads", x.repeat_interleave(group, 1)) for x in (key, value))
    s = query @ key.mT * change("scale", scaling if scaling is not None else query.shape[-1] ** -0.5)
    softcap = change("softcap", softcap)
    s = s if softcap is None else softcap * torch.tanh(s / softcap)
    seen = torch.ones(s.shape[-2:], dtype=torch.bool).tril(s.shape[-1] - s.shape[-2]).expand(s.shape[0], 1, -1, -1)
    if mask is not None:
        mask = mask[..., : s.shape[-1]]
        seen = mask if mask.dtype == torch.bool else mask > -1e4
    s = change("scores", s).masked_fill(~change("seen", seen), change("hidden", HIDDEN))
    s_aux = change("sinks", s_aux)
    if s_aux is not None:
        s = torch.cat([s, s_aux.to(s).reshape(1, -1, 1, 1).expand(*s.shape[:-1], 1)], -1)
    p = torch.softmax(s, -1).nan_to_num()  # a row of padding alone sees nothing
    p = change("weights", p[..., :-1] if s_aux is not None else p)
    return change("output", (p @ value).transpose(1, 2)), None


FAMILIES = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 6}),
    "gemma2": ("Gemma2", {"sliding_window": 6, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8,
                          "head_dim": 8}),
    "gpt_oss": ("GptOss", {"sliding_window": 6, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2,
                           "experts_implementation": "eager",
                           "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
}  # fmt: skip


@functools.cache
def stranger(family: str):
    """A tiny random causal LM, two query heads per key head, float32; its modelling module."""
    import transformers

    name, more = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, attn_implementation="eager", **more,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)
    for layer in model.model.layers:
        if hasattr(layer.self_attn, "sinks"):
            layer.self_attn.sinks.normal_(generator=torch.Generator().manual_seed(1))
    return model, importlib.import_module(f"transformers.models.{family}.modeling_{family}")


class Planted(HuggingFaceSubject):
    """A stranger whose cached path has a bug.

    change  for `attend`
    inside  a context manager that takes the model, open while the cached path runs
    """

    def __init__(self, family: str, change=None, inside=None, lengths=(11, 7), steps=5, **more):
        self.change, self.inside = change, inside
        model, self.module = stranger(family)
        rng = torch.Generator().manual_seed(2)
        prompts = [torch.randint(1, 61, (n,), generator=rng).tolist() for n in lengths]
        super().__init__(model, prompts=prompts, steps=steps, **more)

    def _run(self, which, dtype, shift, traced=False):
        def function(module, query, key, value, attention_mask=None, **kw):
            change = self.change if which == "a" else None
            spoil = change and functools.partial(change, decode=query.shape[2] == 1, layer=module.layer_idx)
            return attend(module, query, key, value, attention_mask, change=spoil, **kw)

        with ExitStack() as stack:
            stack.enter_context(patch.object(self.module, "eager_attention_forward", function))
            if which == "a" and self.inside:
                stack.enter_context(self.inside(vars(self).get("lm", self).model(dtype)))
            return super()._run(which, dtype, shift, traced)


def at(step: str, spoil, decode=None):
    """A change of one step of `attend`; in decode steps alone, in the prefill alone, or in both."""

    def change(name, x, **where):
        return spoil(x) if name == step and decode in (None, where["decode"]) else x

    return change


def window(w: int):
    """Only the last w slots, by the columns of the mask."""

    def spoil(seen):
        n = seen.shape[-1]
        t = torch.arange(n)
        return seen & (t > t[n - seen.shape[-2] :, None] - w)

    return spoil


def wide(seen):
    """The causal mask without a window, the padding still hidden."""
    n = seen.shape[-1]
    causal = torch.ones(seen.shape[-2], n, dtype=torch.bool).tril(n - seen.shape[-2])
    padding = seen.any(-2, keepdim=True) | (torch.arange(n) >= n - 7)  # the shortest prompt has 7 tokens
    return causal & padding.expand_as(seen)


def rounded(dtype):
    return lambda x: x.to(dtype).to(x)


def narrow_all(name, x, **_):
    if name in ("kv",):
        return tuple(y.bfloat16().to(y) for y in x)
    return x.bfloat16().to(x) if name in ("scores", "weights", "output") else x


def alibi(s):
    H, n = s.shape[1], s.shape[-1]
    slopes = 2.0 ** (-8.0 * torch.arange(1, H + 1, dtype=s.dtype) / H)
    t = torch.arange(n)
    return s - slopes[:, None, None] * (t[n - s.shape[-2] :, None] - t).abs()


def no_future_mask(seen):
    """Everything in a row's own columns is seen, what comes later too."""
    return seen[:, :, -1:].expand_as(seen)


def all_but(slot_from_end: int):
    def spoil(seen):
        seen = seen.clone()
        seen[..., -slot_from_end] = False
        return seen

    return spoil


def updating(spoil):
    """spoil(layer index, keys, values, tokens before) -> the keys and values that are written to the cache."""

    def plant(model):
        from transformers.cache_utils import DynamicCache

        own = DynamicCache.update

        def update(cache, keys, values, layer_idx, *rest, **kw):
            before = cache.get_seq_length(layer_idx)
            return own(cache, *spoil(layer_idx, keys, values, before), layer_idx, *rest, **kw)

        return patch.object(DynamicCache, "update", update)

    return plant


def lost(layer, k, v, before):
    """The third decode step's rows of layer 1 are zeros."""
    gone = layer == 1 and before == 13
    return (k * 0, v * 0) if gone else (k, v)


def earlier(layer, k, v, before):
    """A decode step's rows of layer 0 are those of the step before it."""
    if layer == 0 and k.shape[2] == 1:
        last = earlier.rows  # type: ignore[attr-defined]
        earlier.rows = (k, v)  # type: ignore[attr-defined]
        return last
    if layer == 0:
        earlier.rows = (k[:, :, -1:], v[:, :, -1:])  # type: ignore[attr-defined]
    return k, v


def turned(by: int):
    def plant(model):
        rotary = model.model.rotary_emb
        own = rotary.forward

        def forward(x, position_ids, *rest, **kw):
            return own(x, position_ids + by * (x.shape[1] == 1), *rest, **kw)

        return patch.object(rotary, "forward", forward)

    return plant


def other_activation(model):
    mlp = model.model.layers[1].mlp
    return patch.object(mlp, "forward", lambda x: mlp.down_proj(mlp.gate_proj(x).relu() * mlp.up_proj(x)))


@dataclass(frozen=True)
class Stranger:
    """A bug: how to plant it and a part of its right explanation; None where no hypothesis is it."""

    says: str | None
    change: Any = None
    inside: Any = None
    more: Any = None

    def subject(self, family: str) -> Planted:
        return Planted(family, self.change, self.inside, **(self.more or {}))


UNWINDOWED = "window of 6 slots is not applied"
EQUAL = {"lengths": (9, 9)}
STRANGERS = {
    "llama: not scaled": Stranger("not divided by √head_dim", at("scale", lambda c: 1.0)),
    "llama: scaled by a literal": Stranger("multiplied by 0.5", at("scale", lambda c: 0.5)),
    "llama: values from keys": Stranger("values are read from the keys", at("kv", lambda x: (x[0], x[0]))),
    "llama: heads tiled": Stranger("h mod H_kv", at("heads", lambda x: x[:, [0, 2, 1, 3]])),
    "llama: head zero": Stranger("every head reads head 0", at("heads", lambda x: x[:, [0, 0, 0, 0]])),
    "llama: one short in decode": Stranger("newest slot is not read", at("seen", all_but(1), True)),
    "llama: second newest hidden": Stranger("the slot 1 before the newest", at("seen", all_but(2), True)),
    "llama: prefill not causal": Stranger("the prefill is not causal", at("seen", no_future_mask, False)),
    "llama: equal rows, not causal": Stranger(
        "the prefill is not causal", at("seen", no_future_mask, False), more=EQUAL),
    "llama: padding attended": Stranger("padding before a sequence", at("seen", lambda x: torch.ones_like(x), True)),
    "llama: a window of 5": Stranger("only the last 5 slots", at("seen", window(5))),
    "llama: a window of 4, equal rows": Stranger("only the last 4 slots", at("seen", window(4)), more=EQUAL),
    "llama: a window in decode": Stranger("only the last 6 slots", at("seen", window(6), True)),
    "llama: softcap added": Stranger("softcap of 3", at("softcap", lambda c: 3.0)),
    "llama: a sink of zero": Stranger("denominator", at("sinks", lambda s: torch.zeros(4))),
    "llama: ALiBi": Stranger("ALiBi", at("scores", alibi)),
    "llama: rows mixed": Stranger(
        "rows of the batch are mixed", at("kv", lambda x: tuple(y.roll(1, 0) for y in x)), more=EQUAL),
    "llama: weights in float16": Stranger("rounded to float16", at("weights", rounded(torch.float16))),
    "llama: scores in bfloat16": Stranger("scores are rounded to bfloat16", at("scores", rounded(torch.bfloat16))),
    "llama: all in bfloat16": Stranger("kept in bfloat16", narrow_all),
    "llama: output halved": Stranger("multiplied by 0.5", at("output", lambda x: x / 2, True)),
    "llama: positions one on": Stranger("1 too large", inside=turned(1)),
    "llama: positions three back": Stranger("3 too small", inside=turned(-3)),
    "llama: an append lost": Stranger("zeros", inside=updating(lost)),
    "llama: an append of the step before": Stranger("1 slot late", inside=updating(earlier)),
    "llama: cache in bfloat16": Stranger(
        "in bfloat16", inside=updating(lambda i, k, v, n: (k.bfloat16().to(k), v.bfloat16().to(v)))),
    "llama: cache in float8": Stranger(
        "float8_e4m3fn",
        inside=updating(lambda i, k, v, n: tuple(x.float().to(torch.float8_e4m3fn).to(x) for x in (k, v)))),
    "llama: keys and values swapped": Stranger("swapped", inside=updating(lambda i, k, v, n: (v, k))),
    "llama: another activation": Stranger(None, inside=other_activation),
    "qwen3: a window of 5": Stranger("only the last 5 slots", at("seen", window(5))),
    "qwen3: scaled twice": Stranger("divided by √head_dim twice", at("scale", lambda c: c * c)),
    "mistral: window off in the prefill": Stranger(UNWINDOWED, at("seen", wide, False)),
    "mistral: window of 5": Stranger("a window of 5 slots", at("seen", window(5))),
    "mistral: prefill not causal": Stranger(
        "the prefill is not causal", at("seen", lambda s: s | s.mT, False), more=EQUAL),
    "gemma2: softcap dropped": Stranger("softcap of 2 is left out", at("softcap", lambda c: None)),
    "gemma2: another softcap": Stranger("softcap of 5, not of 2", at("softcap", lambda c: 5.0)),
    "gemma2: window off in the prefill": Stranger(UNWINDOWED, at("seen", wide, False)),
    "gemma2: values from keys": Stranger("values are read from the keys", at("kv", lambda x: (x[0], x[0]))),
    "gpt_oss: sinks dropped": Stranger("sinks are left out", at("sinks", lambda s: None)),
    "gpt_oss: sinks of other heads": Stranger(None, at("sinks", lambda s: s.roll(1, 0))),
    "gpt_oss: window off in the prefill": Stranger(UNWINDOWED, at("seen", wide, False)),
    "gpt_oss: a window of 4": Stranger("4 slots", at("seen", window(4))),
}  # fmt: skip
