"""Hugging Face transformers as a peer: its GPT-2 with our weights, over its DynamicCache, its StaticCache or none.

Its products run in torch's own threads, which every impl shares.
"""

import inspect
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ....reference.config import Config
from .weights import open_weights

CACHE_NAMES = ("cache", "past_key_values", "cache_params")  # what releases and families call a forward's cache


def cache_name(model: Any) -> str | None:
    """What the forward of this Hugging Face model calls its cache; None where it takes none."""
    takes = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_NAMES if name in takes), None)


def empty_cache(config: Any, kind: str, slots: int, **more: Any) -> Any:
    """An empty cache of transformers: "dynamic", or "static" with so many slots; `more` is its constructor's."""
    from transformers import DynamicCache, StaticCache  # pyright: ignore[reportMissingImports]

    if kind == "dynamic":
        return DynamicCache(config=config, **more)
    return StaticCache(config=config, max_cache_len=slots, **more)


@lru_cache(maxsize=2)  # one cell needs two at most: half precision is held to float32 as well
def hf_model(name: str | Path, dtype: torch.dtype, device: torch.device) -> Any:
    """transformers' GPT2LMHeadModel with the weights of `load(name)`, for inference; nothing is downloaded by it.

    Holds one copy of the weights, and one tensor more while it loads. The head is tied where the config ties it,
    attention is transformers' "sdpa", and the activation the one that a published config.json names.
    """
    from transformers import GPT2LMHeadModel

    config, tensors = open_weights(name)
    first = next(tensors)
    with torch.device("meta"):
        model: Any = GPT2LMHeadModel(hf_config(config))
    if config.tie_word_embeddings:
        model.lm_head = torch.nn.Identity()  # else memory is asked for it, and the tie is lost on the way
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    place = dict(model.named_parameters())
    for key, tensor in chain([first], tensors):
        place[key if key.startswith("lm_head.") else f"transformer.{key}"].copy_(tensor)
    if config.tie_word_embeddings:
        with torch.device("meta"):
            model.lm_head = torch.nn.Linear(config.n_embd, config.n_vocab, bias=False)
        model.lm_head.weight = model.transformer.wte.weight
    return model


def hf_config(config: Config) -> Any:
    from transformers import GPT2Config

    attention: dict[str, Any] = {"attn_implementation": "sdpa"}  # which its signature does not name
    return GPT2Config(
        vocab_size=config.n_vocab,
        n_positions=config.n_ctx,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_inner=config.n_inner,
        activation_function="gelu_new" if config.gelu == "tanh" else "gelu",
        layer_norm_epsilon=config.layer_norm_epsilon,
        tie_word_embeddings=config.tie_word_embeddings,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=next(iter(config.end_tokens), None),
        eos_token_id=list(config.end_tokens) or None,
        **attention,
    )


class TransformersSource:
    """A transformers model with a DynamicCache, a StaticCache, or none, as a Source.

    model     from hf_model
    impl      hf-dynamic | hf-static | hf-uncached
    capacity  tokens of the longest sequence, its last new one left out

    Prompts of several lengths are padded on the left, with a mask and with positions counted from each row's own first
    token, as transformers wants it; equal ones go without either, which is its fast path.
    Source: transformers.DynamicCache, transformers.StaticCache.
    """

    def __init__(self, model: Any, impl: str, batch: int, capacity: int):
        self.model, self.impl, self.batch, self.capacity = model, impl, batch, capacity
        self.cache: Any = None
        self.cache_name = cache_name(model) or "past_key_values"

    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """B prompts, from an empty cache -> logits (B, V)"""
        self.cache = self._empty_cache()
        lengths = [len(prompt) for prompt in prompts]
        self.filled = max(lengths)
        ids = torch.zeros(self.batch, self.capacity, dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[self.filled - len(prompt) : self.filled] = torch.as_tensor(prompt)
        self.ids = ids.to(self.model.device)
        self.positions = None
        if min(lengths) < self.filled:
            slots, padding = torch.arange(self.capacity), self.filled - torch.tensor(lengths)[:, None]
            self.mask = (slots >= padding).to(self.model.device)  # (B, capacity)
            self.positions = (slots - padding).clamp(min=0).to(self.model.device)
        return self._logits(self.ids[:, : self.filled])

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """The newest token of each row, (B,) on the device -> logits (B, V)"""
        self.filled += 1
        if self.cache is not None:
            return self._logits(ids[:, None])
        self.ids[:, self.filled - 1] = ids
        return self._logits(self.ids[:, : self.filled])

    def _empty_cache(self) -> Any:
        if self.impl == "hf-uncached":
            return None
        if self.impl == "hf-static" and self.cache is not None:  # memory to use again
            self.cache.reset()
            return self.cache
        return empty_cache(self.model.config, self.impl.removeprefix("hf-"), self.capacity)

    @torch.no_grad()
    def _logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Pass on the newest tokens of each row, (B, M) -> logits (B, V) after them."""
        ragged = {}
        if self.positions is not None:
            positions = self.positions[:, self.filled - ids.shape[1] : self.filled]
            ragged = {"attention_mask": self.mask[:, : self.filled], "position_ids": positions}
        given = {self.cache_name: self.cache, "use_cache": self.cache is not None} | ragged
        out = self.model(ids, logits_to_keep=1, **given)
        return out.logits[:, -1]
