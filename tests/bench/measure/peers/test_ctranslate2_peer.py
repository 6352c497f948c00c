"""CTranslate2 as a peer: what its own loop writes, how it is timed, and the batch that it would miscount."""

import numpy as np
import pytest
import torch

from kvproof.bench.measure.timing import OwnLoop, timed_greedy

from ._truth import CPU, STEPS, said_of, source_for


@pytest.mark.parametrize("rows", ["equal", "ragged", "single"])
def test_its_own_loop_writes_the_oracle_s_tokens_and_times_each(rows):
    prompts, said = said_of(rows)
    source = source_for("ctranslate2", prompts)
    assert isinstance(source, OwnLoop)
    run = timed_greedy(source, prompts, STEPS, CPU)
    assert run.ids == said.ids.tolist()
    assert len(run.steps) == STEPS - 1
    assert min(run.prefill, *run.steps) > 0


def test_logits_are_held_to_the_forced_tokens_not_to_its_own():
    prompts, said = said_of("ragged")
    source = source_for("ctranslate2", prompts)
    right = source.forced_logits(prompts, torch.tensor(said.ids))
    wrong = source.forced_logits(prompts, torch.tensor(said.ids[:, ::-1].copy()))
    assert torch.allclose(right[:, 0], wrong[:, 0], atol=1e-3), "before any of them was fed back"
    assert not np.isclose(right[:, 1], wrong[:, 1], atol=1e-1).all()


def test_longer_prompts_beside_one_of_a_single_token_are_refused():
    prompts, _ = said_of("with a single one")
    source = source_for("ctranslate2", prompts)
    with pytest.raises(ValueError, match=r"prompts of 1 to 9 tokens came; .* leave it out here"):
        source.timed_greedy(prompts, STEPS)
