"""Pairs of paths for the judge: torch's cache and NumPy's against whole sequences, and NumPy in float32 inside."""

import copy
from typing import Any

import numpy as np
import torch
from gpt2_models import forced, random_prompts, torch_model
from reference_models import synthetic

from kvproof.reference import forward
from kvproof.reference.cache import PagedCache
from kvproof.reference.config import Config
from kvproof.reference.faults import cached_logits
from kvproof.reference.synthetic import random_tensors
from kvproof.reference.weights import nest

HEADS = ((1, 16), (2, 16), (4, 8), (5, 12))


def small_config(heads, layers):
    H, D = heads
    return Config(n_vocab=61, n_ctx=80, n_embd=H * D, n_head=H, n_layer=layers, n_inner=2 * H * D)


class TorchPaths:
    """Ragged prompts and six forced tokens through an impl's cache, against the whole sequences without one."""

    def __init__(self, heads, layers, seed, impl="sdpa"):
        self.config, self.seed, self.impl = small_config(heads, layers), seed, impl
        rng = np.random.default_rng(seed)
        self.prompts = random_prompts(61, rng.integers(1, 60, 3), seed)
        self.tokens = rng.integers(61, size=(3, 6))
        self.models = {}

    def model(self, dtype, shift):
        if dtype not in self.models:
            self.models[dtype] = torch_model(self.config, self.seed, dtype, self.impl)
        model = copy.deepcopy(self.models[dtype])
        with torch.no_grad():
            model.wte.weight.mul_(1 + shift)
        return model

    def __call__(self, dtype, shift=0.0):
        model = self.model(dtype, shift)
        with torch.no_grad():
            whole = [
                model(torch.tensor([[*prompt, *row.tolist()]]))[0, len(prompt) - 1 :]
                for prompt, row in zip(self.prompts, self.tokens, strict=True)
            ]
        return forced(model, self.prompts, self.tokens), torch.stack(whole)


class NumpyPaths:
    """A cached path through the oracle's arithmetic against `forward`; no half precision."""

    def __init__(self, path=cached_logits, config=None, seed=2, ids=None, without=()):
        self.params64, self.config = synthetic("syn-hd32")
        if config is not None:
            self.config = config
            self.params64 = nest({name: x.astype(np.float64) for name, x in random_tensors(config, seed)})
        rng = np.random.default_rng(seed)
        self.ids = rng.integers(self.config.n_vocab, size=(2, 24)) if ids is None else ids
        self.path, self.without = path, ("bfloat16", "float16", *without)

    def __call__(self, dtype, shift=0.0):
        if dtype in self.without:
            raise NotImplementedError(dtype)
        kind = np.dtype(dtype).type
        params = cast(self.params64, kind)
        params = params | {"wte": {"weight": params["wte"]["weight"] * kind(1 + shift)}}
        return self.path(self.ids, params, self.config), forward(self.ids, params, self.config)


def cast(tree, kind) -> Any:
    """The same nested weights in another dtype."""
    if isinstance(tree, dict):
        return {name: cast(value, kind) for name, value in tree.items()}
    return [cast(value, kind) for value in tree] if isinstance(tree, list) else tree.astype(kind)


def paged(ids, params, config):
    return cached_logits(ids, params, config, PagedCache(config, len(ids), 32, params["wte"]["weight"].dtype, page=4))


class Float32Inside(NumpyPaths):
    """The same, always in float32 whatever is asked for; the trusted path too unless it is `apart`."""

    apart = False

    def __call__(self, dtype, shift=0.0):
        a, b = super().__call__("float32", shift)
        return a, super().__call__(dtype, shift)[1] if self.apart else b
