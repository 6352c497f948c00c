"""A replayed graph is a source like any other: its logits, its host's count, its room."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kvproof.bench.measure.impls import GraphReplay, forced_logits, torch_source
from kvproof.gpt2 import ContextFull, load
from kvproof.gpt2.generate import Cached

PROMPTS = [[5, 6, 7], [8, 9]]


class FakeGraph:
    """Replays a step as CUDA would: into the memory of the recorded one, and without the host's Python."""

    def bind(self, replay: GraphReplay):
        self.owner = replay
        return self

    def replay(self):
        cache = self.owner.cache
        host = cache.host_lengths
        self.owner.logits.copy_(self.owner.source.step(self.owner.ids))
        cache.host_lengths = host


@pytest.fixture
def replay(monkeypatch) -> GraphReplay:
    """A replayed eager source of tiny, with a graph that needs no GPU."""
    model = load("tiny", impl="eager")
    source = GraphReplay(Cached(model, model.new_cache(2, 6)))
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, fake in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: nullcontext(),
        "CUDAGraph": lambda: FakeGraph().bind(source),
        "graph": lambda _: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return source


def test_a_replayed_step_gives_the_logits_of_the_step_it_recorded(replay):
    forced = np.array([[1, 2, 3, 4], [4, 3, 2, 1]])
    want = forced_logits(torch_source(replay.source.model, 2, 6), PROMPTS, forced)
    for _ in range(2):  # the second run replays the first one's graph
        assert np.array_equal(forced_logits(replay, PROMPTS, forced), want)
        assert replay.cache.host_lengths == replay.cache.lengths.tolist() == [6, 5]


def test_a_replay_past_the_cache_is_refused_before_it_is_launched(replay):
    replay.prefill(PROMPTS)
    for _ in range(3):
        replay.step(torch.tensor([1, 2]))
    with pytest.raises(ContextFull):
        replay.step(torch.tensor([1, 2]))
    assert replay.cache.lengths.tolist() == [6, 5]
