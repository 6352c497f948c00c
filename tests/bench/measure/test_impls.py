"""A source whose steps are replays of a graph is like any other: its logits, its host's count, its room."""

import numpy as np
import pytest
import torch

from kvproof.bench.measure.impls import forced_logits, torch_source
from kvproof.bench.measure.interleaved import Comparison, Models
from kvproof.gpt2 import ContextFull
from kvproof.gpt2.generate import Cached
from kvproof.gpt2.graph import GraphStep, Recording
from kvproof.reference.judge.parity import LOGIT_BARS

from ..._gpt2_models import random_prompts, small_model

PROMPTS = random_prompts(61, [3, 2])


def tape(work) -> Recording:
    """Stands in for CUDA: a replay does the work again, into the recorded memory."""
    result = work()
    return Recording(lambda: result.copy_(work()), result)


def sources():
    """A replayed source of a one-headed model, and one of the same model that is not."""
    model = small_model(1, 4)[0].with_impl("triton")
    cache = model.new_cache(2, 6)
    return Cached(model, cache, step=GraphStep(model, cache, tape)), torch_source(model, 2, 6)


def test_a_replayed_source_gives_the_logits_of_one_that_is_not():
    replayed, plain = sources()
    forced = np.array([[1, 2, 3, 4], [4, 3, 2, 1]])
    want = forced_logits(plain, PROMPTS, forced)
    for _ in range(2):  # the second run replays the first one's graph
        assert np.array_equal(forced_logits(replayed, PROMPTS, forced), want)
        assert replayed.cache.host_lengths == replayed.cache.lengths.tolist() == [6, 5]


def test_a_replay_past_the_cache_is_refused_before_it_is_launched():
    replayed, _ = sources()
    replayed.prefill(PROMPTS)
    replayed.cache.set_lengths([6, 5])
    with pytest.raises(ContextFull):
        replayed.step(torch.tensor([1, 2]))
    assert replayed.cache.lengths.tolist() == [6, 5]


def test_a_graph_is_recorded_only_where_it_is_asked_for(monkeypatch):
    recorded = []
    monkeypatch.setattr(GraphStep, "__call__", lambda step, ids: recorded.append(ids))
    model, ids = small_model(1, 4)[0].with_impl("triton"), torch.tensor([1, 2])
    torch_source(model, 2, 6, graph=True).step(ids)
    assert recorded == [ids]
    torch_source(model, 2, 6).step(ids)
    assert recorded == [ids]


@pytest.mark.parametrize("impl", ["numpy", "naive", "eager", "sdpa"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_int8_weights_meet_the_bars_of_floats_and_the_unquantised_oracle_is_far(impl, dtype):
    models = Models("tiny", torch.device("cpu"), "int8")
    comparison = Comparison(models, [[5, 6, 7], [9]], 4, dtype)
    parity = comparison.parity(impl)
    assert parity.green
    assert parity.bar == LOGIT_BARS[dtype]
    other = Comparison(Models("tiny", torch.device("cpu")), comparison.prompts, 4, "float64").truth
    assert np.abs(other.logits - comparison.truth.logits).max() > 1e-3
