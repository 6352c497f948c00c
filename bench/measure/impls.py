"""Every impl behind one face: prefill the prompts, then one step per token, logits out each time."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from ... import reference
from ...gpt2 import GPT2, Config
from ...gpt2.generate import Cached, Uncached
from ...reference.cache import ContiguousCache
from ...reference.config import ContextFull


class Source(Protocol):
    """Where the next token's logits come from."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """B prompts -> logits (B, V)"""
        ...

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """The newest token of each row, (B,) -> logits (B, V)"""
        ...


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


class GraphReplay:
    """A cached source whose decode step is captured as a CUDA graph by the first prefill and replayed from then on.

    Only the impl "triton" can be: its grid is fixed by the capacity and it reads lengths on the device, whereas eager
    and sdpa slice the cache by numbers the host knows.
    """

    def __init__(self, source: Cached):
        self.source, self.cache = source, source.cache
        self.graph: torch.cuda.CUDAGraph | None = None

    def prefill(self, prompts):
        logits = self.source.prefill(prompts)
        if self.graph is None:
            self._capture(list(self.cache.host_lengths))
        return logits

    def step(self, ids):
        assert self.graph is not None, "prefill records the graph"
        lengths = self.cache.host_lengths
        if max(lengths) >= self.cache.capacity:
            raise ContextFull(max(lengths), 1, 0, f"the cache's {self.cache.capacity} slots")
        self.ids.copy_(ids)
        self.graph.replay()
        self.cache.host_lengths = [n + 1 for n in lengths]
        return self.logits.clone()  # the next replay writes over it

    def _capture(self, lengths: list[int]):
        """Record one step. It is run first to compile and to allocate; the cache is then as it was."""
        self.ids = torch.zeros(len(lengths), dtype=torch.long, device=self.cache.lengths.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.source.step(self.ids)
        torch.cuda.current_stream().wait_stream(stream)
        self.cache.set_lengths(lengths)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self.source.step(self.ids)
        self.cache.set_lengths(lengths)  # recording moved the host's count, and nothing on the device


def torch_source(model: GPT2, batch: int, capacity: int) -> Source:
    """The torch model's own way to decode, for `batch` sequences of up to `capacity` tokens."""
    if model.impl == "naive":
        return Uncached(model, capacity)
    return Cached(model, model.new_cache(batch, capacity))


def forced_logits(source: Source, prompts: Sequence[Sequence[int]], forced: np.ndarray) -> np.ndarray:
    """The logits that foretell each of the forced tokens, given all before it: (B, n) ids -> (B, n, V) float64."""
    logits = [source.prefill(prompts)]
    for t in range(forced.shape[1] - 1):
        logits.append(source.step(torch.from_numpy(forced[:, t].copy()).to(logits[0].device)))
    return torch.stack(logits, 1).double().cpu().numpy()
