"""What the torch model's tests share: the golden models in torch, and small random ones beside their oracle."""

from functools import cache, partial

import numpy as np
import torch

from kvproof.gpt2 import GPT2
from kvproof.gpt2.generate import Cached, forced_logits
from kvproof.gpt2.weights import as_dtype, build
from kvproof.reference.config import Config
from kvproof.reference.synthetic import random_tensors
from kvproof.reference.weights import nest

from ._reference_models import SEEDS, goldens

CACHED = ("eager", "sdpa", "triton")
IMPLS = ("naive", *CACHED)


def torch_model(config: Config, seed: int, dtype="float64", impl="sdpa", device="cpu") -> GPT2:
    """The synthetic model of this config in torch."""
    tensors = ((name, torch.from_numpy(array)) for name, array in random_tensors(config, seed))
    return build(config, tensors, None, as_dtype(dtype), torch.device(device), impl)


@cache
def golden_model(name, dtype="float64", device="cpu") -> GPT2:
    """syn-tiny or syn-hd32 in torch; `with_impl` gives it another decode step."""
    return torch_model(Config.from_dict(goldens(name)["info"]["config"]), SEEDS[name], dtype, device=device)


@cache
def small_model(n_head, head_dim, dtype="float64", device="cpu"):
    """Two layers with these heads: the torch model, and the oracle's params in float64."""
    E = n_head * head_dim
    config = Config(n_vocab=61, n_ctx=160, n_embd=E, n_head=n_head, n_layer=2, n_inner=2 * E)
    params = nest({name: array.astype(np.float64) for name, array in random_tensors(config, 0)})
    return torch_model(config, 0, dtype, device=device), params


def random_prompts(n_vocab, lengths, seed=0):
    """One list of random ids per length."""
    rng = np.random.default_rng(seed)
    return [rng.integers(n_vocab, size=n).tolist() for n in lengths]


def forced(model, prompts, tokens, chunk=None):
    """Logits (B, 1 + M, V) after each prompt and after each of the tokens (B, M) that follow it, by the cache."""
    cache = model.new_cache(len(prompts), max(map(len, prompts)) + tokens.shape[1])
    source = Cached(model, cache, chunk, partial(model.decode, cache=cache))
    ids = torch.nn.functional.pad(torch.as_tensor(tokens), (0, 1))  # the last one is not fed
    return forced_logits(source, prompts, ids)
