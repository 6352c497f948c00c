"""A recorded decode step gives what model.decode gives, from lengths and tokens it finds at each replay."""

import numpy as np
import pytest
import torch

from kvproof.gpt2 import CacheMismatch, ContextFull
from kvproof.gpt2.graph import GraphStep, Recording, compiled_step, default_step

from .._gpt2_models import random_prompts, small_model
from .._refused import refused

PROMPTS = random_prompts(61, [3, 2])


class Tape:
    """Stands in for CUDA: warms up, records, and replays into the recorded memory without the host's Python around it.

    As on the device, recording runs nothing: what the recording run wrote is poison until a replay.
    """

    def __init__(self):
        self.runs = self.replays = 0

    def __call__(self, work) -> Recording:
        work()
        self.runs += 1
        self.work = work
        self.result = torch.full((2, 61), float("nan"), dtype=torch.float64)
        return Recording(self.replay, self.result)

    def replay(self):
        self.replays += 1
        self.result.copy_(self.work())


def blank(work) -> Recording:
    """A recording that does nothing, for tests of what is refused before it."""
    return Recording(lambda: None, torch.zeros(2, 61, dtype=torch.float64))


def recorded(capacity, record=None, device="cpu"):
    """A one-headed model's graph of a step, its prompts prefilled."""
    model = small_model(1, 4, device=device)[0].with_impl("triton")
    cache = model.new_cache(2, capacity)
    logits = model.prefill(PROMPTS, cache)
    return GraphStep(model, cache, record) if record else GraphStep(model, cache), logits


def test_replayed_steps_give_the_logits_of_plain_torch_at_lengths_that_grow():
    tape = Tape()
    step, _ = recorded(6, tape)
    plain = step.model.with_impl("sdpa")
    cache = plain.new_cache(2, 6)
    plain.prefill(PROMPTS, cache)
    kept = []
    for ids in torch.from_numpy(np.random.default_rng(1).integers(61, size=(3, 2))):
        want = plain.decode(ids, cache)
        kept.append((want, step(ids.to(torch.int32))))
        assert step.cache.host_lengths == step.cache.lengths.tolist() == cache.host_lengths
    assert (tape.runs, tape.replays) == (1, 3)
    for want, got in kept:  # compared at the end: a result must outlive the replays that follow it
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * max(1, want.abs().max().item()))


def test_one_graph_serves_a_cache_that_is_reset_and_filled_anew():
    tape = Tape()
    step, _ = recorded(6, tape)
    ids = torch.tensor([1, 2])
    first = [step(ids), step(ids)]
    step.cache.reset()
    step.model.prefill(PROMPTS, step.cache)
    assert torch.equal(torch.stack([step(ids), step(ids)]), torch.stack(first))
    assert tape.runs == 1


def test_a_step_without_room_is_refused_before_anything_runs_or_is_recorded():
    step, _ = recorded(4, blank)
    step(torch.tensor([1, 2]))
    refused(ContextFull, "cache's 4 slots", step, torch.tensor([3, 4]))
    assert step.ids.tolist() == [1, 2]
    assert step.cache.host_lengths == step.cache.lengths.tolist() == [4, 3]
    full, _ = recorded(3, blank)
    refused(ContextFull, "cache's 3 slots", full, torch.tensor([1, 2]))
    assert full.recording is None


@pytest.mark.parametrize("what", ["k", "lengths", "workspace", "weights"])
def test_a_graph_whose_memory_has_moved_is_refused(what):
    step, _ = recorded(6, blank)
    step(torch.tensor([1, 2]))
    cache = step.cache
    if what == "k":
        cache.k = (cache.k[0], cache.k[1].clone())
    elif what == "lengths":
        cache.lengths = cache.lengths.clone()
    elif what == "workspace":
        cache.workspace = type(cache.workspace)(*(x.clone() for x in cache.workspace))
    else:
        step.model = step.model.__class__(step.model.config, "triton").double()
    refused(CacheMismatch, "moved since the graph was recorded", step, torch.tensor([3, 4]))
    assert step.ids.tolist() == [1, 2]
    assert cache.host_lengths == cache.lengths.tolist() == [4, 3]


@pytest.mark.parametrize("ids", [torch.tensor([1]), torch.tensor([1.0, 2.0]), torch.tensor([[1], [2]])])
def test_ids_that_do_not_fit_are_refused_and_claim_no_slot(ids):
    step, _ = recorded(6, blank)
    refused(ValueError, r"pass \(2,\) int64 or int32 on cpu", step, ids)
    assert step.cache.host_lengths == [3, 2]


@pytest.mark.parametrize("make", [GraphStep, compiled_step])
def test_what_cannot_be_recorded_or_compiled_is_refused_in_words(make):
    model = small_model(2, 8)[0]
    triton, slicing = model.with_impl("triton"), "slices the cache by lengths of the host's"
    for impl in ("eager", "sdpa"):
        refused(ValueError, f"impl '{impl}' {slicing}", make, model.with_impl(impl), model.new_cache(2, 4))
    refused(CacheMismatch, "made for another impl", make, triton, model.with_impl("sdpa").new_cache(2, 4))
    narrow = small_model(1, 16)[0].with_impl("triton").new_cache(2, 4)
    refused(CacheMismatch, "1 heads, head_dim 16", make, triton, narrow)


def test_on_the_cpu_the_default_step_is_the_models_own():
    model = small_model(2, 8)[0].with_impl("triton")
    step = default_step(model, model.new_cache(2, 4))
    assert not isinstance(step, GraphStep)
    assert getattr(step, "func", None) == model.decode


@pytest.mark.gpu
def test_a_cuda_graph_gives_the_logits_of_model_decode_at_lengths_that_grow():
    step, logits = recorded(40, device="cuda")
    assert isinstance(default_step(step.model, step.cache), GraphStep)
    cache = step.model.new_cache(2, 40)
    step.model.prefill(PROMPTS, cache)
    ids = logits.argmax(-1)
    for _ in range(37):
        want, got = step.model.decode(ids, cache), step(ids)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * max(1, want.abs().max().item()))
        ids = got.argmax(-1)
    with pytest.raises(ContextFull):
        step(ids)


@pytest.mark.gpu
def test_a_replay_never_waits_for_the_gpu():
    step, logits = recorded(40, device="cuda")
    ids = step(logits.argmax(-1)).argmax(-1)  # recording compiles, and may wait for it
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(8):
            ids = step(ids).argmax(-1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.cache.lengths.tolist() == [12, 11]
