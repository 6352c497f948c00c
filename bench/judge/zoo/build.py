"""Tiny random models of every causal LM of transformers, by their model_type."""

from typing import Any

import torch
from torch import nn

from .shrink import N_VOCAB, shrunk
from .sizes import NEEDS, NOT_BUILT

TOKENS = 12  # of the prompt that logits are scaled on: longer than every window
SPREAD = 0.1  # standard deviation of what is added to vectors: biases, weights of norms, decays


def known() -> dict[str, str]:
    """model_type -> name of the class, of every causal LM that the installed transformers has."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def models() -> dict[str, str | None]:
    """model_type -> why it cannot be built, None where it can; a model that goes by two names counts once."""
    from importlib.util import find_spec

    from transformers import CONFIG_MAPPING

    found: dict[str, str | None] = {}
    for name, made in known().items():
        own = CONFIG_MAPPING[name].model_type
        if any(other != name and known().get(other) == made for other in (own, f"{name}_text")):
            continue  # another name of that configuration, or one with a vision tower around the same text model
        missing = name in NEEDS and find_spec(NEEDS[name]) is None
        found[name] = NOT_BUILT.get(name) or (f"it needs the package {NEEDS[name]}" if missing else None)
    return found


def configured(model_type: str) -> tuple[Any, Any]:
    """(the class that AutoModelForCausalLM makes of this architecture, a small configuration of it)"""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind: Any = CONFIG_MAPPING[model_type]
    made: Any = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    inside = [type(x) for name in kind.sub_configs if (x := getattr(kind(), name, None)) is not None]
    return made, shrunk(made.config_class if made.config_class in inside else kind)


def build(model_type: str, seed: int = 0) -> Any:
    """A tiny causal LM in float32 and in eval mode, whose logits have an rms of 1 and depend on all earlier tokens.

    Raises ValueError for a name that transformers does not map to a causal LM and for models that cannot be run on
    token ids alone; what transformers raises where it cannot build this one.
    """
    if model_type not in known():
        raise ValueError(f"{model_type!r} is no causal LM of transformers; it has {', '.join(known())}")
    if model_type in NOT_BUILT:
        raise ValueError(f"{model_type} is not built: {NOT_BUILT[model_type]}; models() lists those that are")
    made, config = configured(model_type)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = made(config).eval().requires_grad_(False)
        draw(model)
        scale_logits(model)
    return model


def draw(model: nn.Module) -> None:
    """Draw matrices such that what comes out is as large as what goes in; move vectors off their constants.

    transformers draws matrices of standard deviation 0.02: two layers of width 32 then hardly move the logits, and a
    cache could hold anything.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for x in model.parameters():
        if not x.is_floating_point():
            continue
        if x.ndim < 2 or min(x.shape[-2:]) == 1:
            x.add_(SPREAD * torch.randn_like(x))
        elif id(x) in tables:
            x.normal_(std=x.shape[-1] ** -0.5)
        else:
            x.normal_(std=(x.shape[-2] * x.shape[-1]) ** -0.25)


def scale_logits(model: Any) -> None:
    """Scale the last projection such that logits have an rms of about 1."""
    head = model.get_output_embeddings()
    if isinstance(getattr(head, "weight", None), torch.Tensor):
        head.weight.mul_(1 / logits(model, prompt()).square().mean().sqrt())


def prompt(first: int = 3) -> torch.Tensor:
    """(1, 12) token ids, all but the first always the same."""
    ids = torch.arange(5, 5 + 7 * TOKENS, 7)[None] % N_VOCAB
    ids[:, 0] = first
    return ids


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(B, M, V) of ids (B, M), without a cache."""
    return model(ids, use_cache=False).logits
