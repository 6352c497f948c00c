"""The decode step recorded once as a CUDA graph and replayed: one launch where Python makes hundreds.

A graph addresses memory, not tensors, so it belongs to the cache and the weights it was recorded with; the lengths it
reads on the device, anew at each replay. Who uses two caches records two graphs.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from .cache import Cache, CacheMismatch
from .model import GPT2
from .step import Step, device_half

Work = Callable[[], torch.Tensor]  # launches something and returns where its result lies


class Recording(NamedTuple):
    """What was recorded: `replay()` runs it again, and writes its result over `result`."""

    replay: Callable[[], None]
    result: torch.Tensor


def cuda_recording(work: Work) -> Recording:
    """Record work() on the current CUDA device.

    It runs once beforehand, on a stream of its own, so that kernels compile and libraries allocate outside the graph;
    a second run must therefore find what the first one found.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return Recording(graph.replay, result)


class GraphStep(Step):
    """GPT2.decode for one model and one cache as a graph, recorded by the first step.

    record  cuda_recording, or what stands in for it where there is no GPU

    Raises ValueError unless the model's impl is "triton", CacheMismatch unless the cache was made for it. Steps of one
    graph go one after the other: they share its input, its output and the cache's workspace.
    """

    def __init__(self, model: GPT2, cache: Cache, record: Callable[[Work], Recording] = cuda_recording):
        super().__init__(model, cache, self._replay)
        self.record = record
        self.recording: Recording | None = None
        self.ids = torch.zeros(cache.batch, dtype=torch.long, device=model.device)

    def __call__(self, ids):
        """One new token per sequence, as GPT2.decode takes and returns it.

        Raises ContextFull if a sequence has no slot left, ValueError for ids that do not fit, CacheMismatch if the
        cache or the weights no longer lie where the graph was recorded; the cache is then as it was.
        """
        if self.recording is not None and self.addresses != self._addresses():
            raise CacheMismatch(
                "the cache's or the model's tensors have moved since the graph was recorded, and a replay would use "
                "the old memory; make a new GraphStep, or change tensors in place"
            )
        return super().__call__(ids)

    def _replay(self, ids):
        self.ids.copy_(ids)
        if self.recording is None:
            with torch.cuda.device_of(self.ids):
                self.recording = self.record(partial(device_half, self.ids, self.model, self.cache))
            self.addresses = self._addresses()
        self.recording.replay()
        return self.recording.result.clone()  # the next replay writes over it

    def _addresses(self) -> list[int]:
        """Where the cache lies and, of the weights, one: moving a model moves them all, and asking all costs time."""
        held = [self.model.wte.weight]
        for x in vars(self.cache).values():
            held += x if isinstance(x, (tuple, list)) else [x]
        return [x.data_ptr() for x in held if isinstance(x, torch.Tensor)]


def default_step(model: GPT2, cache: Cache) -> Callable[[torch.Tensor], torch.Tensor]:
    """How this model and cache decode unless told otherwise: the impl "triton" on CUDA as a graph, else model.decode.

    returns  a step: ids (B,) -> logits (B, V)
    """
    if model.impl == "triton" and model.device.type == "cuda":
        return GraphStep(model, cache)
    return partial(model.decode, cache=cache)
