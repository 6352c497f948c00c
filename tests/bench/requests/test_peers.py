"""transformers' arms: the lone runs' tokens from requests of mixed lengths, and the settings that were asked for."""

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not here; python -m pip install -e '.[hf]'")

from kvproof.bench.requests.arms import Ask, lone
from kvproof.bench.requests.peers import HfStaticArm, PagedArm, endless

ASKS = [Ask((5, 6, 7), 4), Ask((9,), 1), Ask(tuple(range(20)), 6), Ask((1, 2), 3)]


@pytest.fixture(scope="module")
def peer():
    return endless("tiny", torch.float32)


@pytest.fixture
def truth(request):
    model = request.getfixturevalue("endless")
    return [lone(model, ask) for ask in ASKS]


@pytest.mark.parametrize(
    "make", [lambda peer: PagedArm(peer, 2), lambda peer: HfStaticArm(peer, 3)], ids=["paged", "static"]
)
def test_every_request_has_its_own_number_of_tokens_and_those_of_its_lone_run(peer, truth, make):
    arm = make(peer)
    for _ in range(2):  # a run leaves the model as it was
        with arm.ready(ASKS) as call:
            assert call() == truth


def test_continuous_batching_runs_as_many_as_were_asked_for_and_attends_by_sdpa(peer, monkeypatch):
    from transformers.generation.continuous_batching.scheduler import FIFOScheduler

    seen, usual = [], FIFOScheduler.schedule_batch

    def watched(self, *args, **kw):
        found = usual(self, *args, **kw)
        seen.append(len(found[0] or []))
        return found

    monkeypatch.setattr(FIFOScheduler, "schedule_batch", watched)
    with PagedArm(peer, 3).ready(ASKS) as call:
        call()
        assert peer.config._attn_implementation == "sdpa"
    assert max(seen) == 3


def test_a_failure_of_its_thread_is_raised_with_its_words(peer, monkeypatch):
    from transformers.generation.continuous_batching.model_runner import ModelRunner

    def fails(*_, **__):
        raise RuntimeError("planted")

    monkeypatch.setattr(ModelRunner, "compute_batch", fails)
    with pytest.raises(RuntimeError, match="planted"), PagedArm(peer, 2).ready(ASKS) as call:
        call()
