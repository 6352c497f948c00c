"""The decode step as one program for every step: compiled by torch, or recorded as a CUDA graph and replayed.

The host counts the new tokens; the device computes from the lengths where they lie and from nothing of the host's. Only
the impl "triton" has such a step: eager and sdpa slice the cache by lengths that the host knows.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from .cache import Cache, CacheMismatch
from .ids import WHOLE
from .model import GPT2

Run = Callable[[torch.Tensor], torch.Tensor]  # a decode step: ids (B,) -> logits (B, V)
Work = Callable[[], torch.Tensor]  # launches something and returns where its result lies


@torch.no_grad()
def device_step(ids, model: GPT2, cache: Cache):
    """The device's part of a decode step, after `cache.claim`: it changes no length, so running it again is harmless.

    ids      (B,) int64 or int32, on the model's device; the tokens of slots lengths - 1
    returns  (B, V) logits
    """
    return model.step(ids, cache, cache.lengths.long() - 1)


class Step:
    """GPT2.decode for one model and one cache, its device's part done by `run`: ids (B,) -> logits (B, V).

    Raises ValueError unless the model's impl is "triton", CacheMismatch unless the cache was made for it.
    """

    def __init__(self, model: GPT2, cache: Cache, run: Run):
        if model.impl != "triton":
            raise ValueError(
                f"impl {model.impl!r} slices the cache by lengths of the host's; only 'triton' reads them on the "
                "device; call model.decode, or use model.with_impl('triton')"
            )
        cache.check_fits(model.config, cache.batch, model.dtype, model.device)
        if cache.workspace is None:
            raise CacheMismatch("the cache was made for another impl and has no workspace; use model.new_cache")
        self.model, self.cache, self.run = model, cache, run

    def __call__(self, ids):
        """One new token per sequence, as GPT2.decode takes and returns it.

        Raises ContextFull if a sequence has no slot left, ValueError for ids that do not fit; the cache is then as it
        was and nothing has run.
        """
        batch, device = self.cache.batch, self.model.device
        if ids.shape != (batch,) or ids.dtype not in WHOLE or ids.device != device:
            raise ValueError(
                f"ids are {tuple(ids.shape)} {ids.dtype} on {ids.device}; pass ({batch},) int64 or int32 on {device}, "
                "one id per sequence of the cache"
            )
        before = self.cache.host_lengths
        self.cache.claim()
        with self.cache.undone_if_interrupted(before):
            return self.run(ids)


def compiled_step(model: GPT2, cache: Cache, backend: str | Callable = "inductor", **options) -> Step:
    """The decode step compiled by torch as one graph, once for all steps.

    backend, options  torch.compile's. Inductor's graph reads and writes the cache where it lies; "aot_eager", torch's
                      tool to debug with, clones what any in-place operation writes and copies it back
    """
    run = torch.compile(partial(device_step, model=model, cache=cache), backend=backend, fullgraph=True, **options)
    return Step(model, cache, run)


class Recording(NamedTuple):
    """A recorded launch: `replay()` runs it again, and writes its result over `result`."""

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
    """GPT2.decode for one model and one cache as a CUDA graph, recorded by the first step: one launch for hundreds.

    record  cuda_recording, or what stands in for it where there is no GPU

    A graph addresses memory, not tensors, so it belongs to the cache and the weights it was recorded with: record one
    for each cache. Steps of one graph go one after the other: they share its input, its output and the cache's
    workspace.
    """

    def __init__(self, model: GPT2, cache: Cache, record: Callable[[Work], Recording] = cuda_recording):
        super().__init__(model, cache, self._replay)
        self.record = record
        self.recording: Recording | None = None
        self.ids = torch.zeros(cache.batch, dtype=torch.long, device=model.device)

    def __call__(self, ids):
        """As Step's.  Raises CacheMismatch too, if the cache or the weights no longer lie where they were recorded."""
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
                self.recording = self.record(partial(device_step, self.ids, self.model, self.cache))
            self.addresses = self._addresses()
        self.recording.replay()
        return self.recording.result.clone()  # the next replay writes over it

    def _addresses(self) -> list[int]:
        """The addresses of the cache and of one weight: moving a model moves them all, and asking all costs time."""
        held = [self.model.wte.weight]
        for x in vars(self.cache).values():
            held += x if isinstance(x, (tuple, list)) else [x]
        return [x.data_ptr() for x in held if isinstance(x, torch.Tensor)]


def default_step(model: GPT2, cache: Cache) -> Run:
    """This model's decode step for this cache, ids (B,) -> logits (B, V): on CUDA a graph for the impl "triton"."""
    if model.impl == "triton" and model.device.type == "cuda":
        return GraphStep(model, cache)
    return partial(model.decode, cache=cache)
