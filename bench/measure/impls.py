"""Every impl behind one face: prefill the prompts, then one step per token, logits out each time."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from ... import reference
from ...gpt2 import GPT2, Config
from ...gpt2.generate import Cached, Source, Uncached
from ...gpt2.generate import forced_logits as forced_tensor
from ...gpt2.graph import GraphStep
from ...reference.cache import ContiguousCache
from .timing import OwnLoop


class Oracle:
    """The NumPy GPT-2 with its contiguous cache, as a Source."""

    def __init__(self, params: dict, config: Config, batch: int, capacity: int):
        self.params, self.config = params, config
        self.cache = ContiguousCache(config, batch, capacity, params["wte"]["weight"].dtype)

    def prefill(self, prompts):
        self.cache.reset()
        rows = [
            reference.forward(np.array([prompt]), self.params, self.config, self.cache.row(b))[:, -1]
            for b, prompt in enumerate(prompts)
        ]
        return torch.from_numpy(np.concatenate(rows))

    def step(self, ids):
        return torch.from_numpy(reference.forward(ids.numpy()[:, None], self.params, self.config, self.cache)[:, 0])


def torch_source(model: GPT2, batch: int, capacity: int, graph: bool = False, page: int | None = None) -> Source:
    """The torch model's own way to decode, for `batch` sequences of up to `capacity` tokens.

    page   slots per page of a paged cache; None for a static one
    graph  its decode steps are replays of a CUDA graph, recorded by the first; without, each is launched by Python
    """
    if model.impl == "naive":
        return Uncached(model, capacity)
    cache = model.new_cache(batch, capacity, page)
    return Cached(model, cache, step=GraphStep(model, cache) if graph else partial(model.decode, cache=cache))


def forced_logits(source: Source | OwnLoop, prompts: Sequence[Sequence[int]], forced: np.ndarray) -> np.ndarray:
    """The logits of each of the forced tokens, given all before it: (B, n) ids -> (B, n, V) float64."""
    ids = torch.tensor(forced)
    own = isinstance(source, OwnLoop)
    logits = source.forced_logits(prompts, ids) if own else forced_tensor(source, prompts, ids)
    return logits.double().cpu().numpy()
