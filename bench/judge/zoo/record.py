"""What a tiny model is, in one record: its size, what it attends with, the cache it makes, what moves its logits."""

import copy
from typing import Any

import torch

from .build import logits, prompt

CACHES = ("cache", "past_key_values", "cache_params", "rnn_state", "state", "mems", "past_buckets_states")


def record(model_type: str, model: Any, seconds: float) -> dict[str, Any]:
    """The model's record, for one JSON line.

    first_token  how far the last logits move, at most, when the first of 12 tokens is another one
    causal       whether earlier logits stay as they are when the last token is another one
    cache        class of what a forward with use_cache=True returns, what it raises, None for a model that keeps none
    float64      "runs", "runs with eager experts", or what it raises
    """
    text = model.config.get_text_config(decoder=True)
    here, other = logits(model, prompt()), logits(model, prompt(4))
    last = prompt()
    last[:, -1] = 4
    return {
        "model_type": model_type,
        "class": type(model).__name__,
        "parameters": sum(x.numel() for x in model.parameters()),
        "seconds": round(seconds, 3),
        "logits_rms": round(float(here.square().mean().sqrt()), 3),
        "first_token": round(float((here - other)[0, -1].abs().max()), 4),
        "causal": bool(torch.allclose(here[:, :-1], logits(model, last)[:, :-1], atol=1e-5)),
        "heads": first(text, "num_attention_heads", "n_head", "num_heads"),
        "kv_heads": first(text, "num_key_value_heads", "num_kv_heads"),
        "layer_types": first(text, "layer_types"),
        "attention_interface": bool(getattr(model, "_supports_attention_backend", False)),
        "cache": cache_of(model),
        "float64": in_float64(model),
    }


def first(config: Any, *names: str) -> Any:
    return next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)


@torch.no_grad()
def cache_of(model: Any) -> str | None:
    try:
        out = model(prompt(), use_cache=True)
    except Exception as error:
        return said(error)
    found = next((out[name] for name in CACHES if out.get(name) is not None), None)
    return None if found is None else type(found).__name__


def in_float64(model: Any) -> str:
    twin = copy.deepcopy(model).double()
    try:
        logits(twin, prompt())
        return "runs"
    except Exception as error:
        refused = said(error)
    if getattr(twin.config, "_experts_implementation", None) in (None, "eager"):
        return refused
    twin.set_experts_implementation("eager")
    try:
        logits(twin, prompt())
        return "runs with eager experts"
    except Exception as error:
        return said(error)


def said(error: Exception) -> str:
    """The exception's type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
