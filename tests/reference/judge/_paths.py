"""Pairs of paths for the judge: torch's cache and NumPy's against whole sequences, and NumPy in float32 inside."""

import copy
from typing import Any

import ml_dtypes
import numpy as np
import torch

from kvproof.reference import forward
from kvproof.reference.cache import ContiguousCache, Int8Cache, PagedCache
from kvproof.reference.config import Config
from kvproof.reference.judge.faults import cached_logits
from kvproof.reference.synthetic import random_tensors
from kvproof.reference.weights import nest

from ..._gpt2_models import forced, random_prompts, torch_model
from ..._reference_models import cast, synthetic

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
        params = self.params(dtype, shift)
        return self.path(self.ids, params, self.config), forward(self.ids, params, self.config)

    def params(self, dtype, shift):
        if dtype in self.without:
            raise NotImplementedError(dtype)
        kind = np.dtype(dtype).type
        params = cast(self.params64, kind)
        return params | {"wte": {"weight": params["wte"]["weight"] * kind(1 + shift)}}


def paged(ids, params, config):
    return cached_logits(ids, params, config, PagedCache(config, len(ids), 32, params["wte"]["weight"].dtype, page=4))


class RoundedCache(ContiguousCache):
    """A cache that stores keys and values in a narrower float dtype than the model computes in."""

    def __init__(self, config, batch, capacity, dtype: Any, stored):
        super().__init__(config, batch, capacity, dtype)
        self.k, self.v = (np.zeros(self.k.shape, getattr(ml_dtypes, stored)) for _ in "kv")

    def read(self, layer, b):
        k, v = super().read(layer, b)
        return k.astype(self.dtype), v.astype(self.dtype)


class RoundedRows(ContiguousCache):
    """Fixed point: rows are rounded to multiples of 1/32 where they are attended to; no scale is kept."""

    def read(self, layer, b):
        return [np.rint(row * 32) / 32 for row in super().read(layer, b)]


class Stepping(NumpyPaths):
    """A cache that rounds to steps, token by token, against the same filled at once: "int8", a float, "fixed"."""

    def __init__(self, steps, seed, config=None):
        super().__init__(config=config or small_config((2, 16), 2), seed=seed)
        rng = np.random.default_rng(seed)
        self.ids, self.steps = rng.integers(61, size=(rng.integers(1, 5), rng.integers(8, 60))), steps

    def cache(self, dtype):
        config, batch = self.config, len(self.ids)
        kind: Any = np.dtype(dtype)
        if self.steps == "int8":
            return Int8Cache(config, batch, config.n_ctx, kind)
        if self.steps == "fixed":
            return RoundedRows(config, batch, config.n_ctx, kind)
        return RoundedCache(config, batch, config.n_ctx, kind, self.steps)

    def __call__(self, dtype, shift=0.0, path=None):
        stepped = path or (lambda ids, params, config: cached_logits(ids, params, config, self.cache(dtype)))
        params = self.params(dtype, shift)
        return stepped(self.ids, params, self.config), forward(self.ids, params, self.config, self.cache(dtype))


class Float32Inside(NumpyPaths):
    """The same, always in float32 whatever is asked for; the trusted path too unless it is `apart`."""

    apart = False

    def __call__(self, dtype, shift=0.0):
        a, b = super().__call__("float32", shift)
        return a, super().__call__(dtype, shift)[1] if self.apart else b
