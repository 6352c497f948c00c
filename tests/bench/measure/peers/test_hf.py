"""transformers as a peer: positions and mask of ragged rows, the fast path of equal ones, one model kept."""

import pytest
import torch

from kvproof.bench.measure import peers
from kvproof.reference.judge.parity import LOGIT_BARS

from ._truth import CPU, error_of, said_of, skip_without, source_for


@pytest.mark.parametrize("impl", peers.HF)
@pytest.mark.parametrize("lost", ["position_ids", "attention_mask"])
def test_a_ragged_batch_without_positions_or_mask_is_far_from_the_oracle(monkeypatch, impl, lost):
    prompts, said = said_of("ragged")
    source = source_for(impl, prompts)
    whole = source.model.forward

    def forward(*args, **kw):
        # A mask of ones, since without any transformers guesses from the positions where a row begins.
        kw[lost] = torch.ones_like(kw[lost]) if lost == "attention_mask" else None
        return whole(*args, **kw)

    monkeypatch.setattr(source.model, "forward", forward)
    assert error_of(source, prompts, said) > 100 * LOGIT_BARS["float32"]


@pytest.mark.parametrize("impl", peers.HF)
def test_equal_prompts_go_to_transformers_without_a_mask(monkeypatch, impl):
    prompts, _ = said_of("equal")
    source = source_for(impl, prompts)
    whole, seen = source.model.forward, []
    monkeypatch.setattr(source.model, "forward", lambda *args, **kw: seen.append((args, kw)) or whole(*args, **kw))
    source.prefill(prompts)
    logits = source.step(torch.tensor([1, 2, 3]))
    assert logits.shape == (3, source.model.config.vocab_size)
    assert all(kw.keys() == {source.cache_name, "use_cache", "logits_to_keep"} for _, kw in seen)
    assert [args[0].shape[1] for args, _ in seen] == ([5, 6] if impl == "hf-uncached" else [5, 1])
    assert {kw["use_cache"] for _, kw in seen} == {impl != "hf-uncached"}


def test_a_model_is_kept_and_its_head_shares_the_embedding_s_memory():
    skip_without("hf-dynamic")
    model = peers.hf_model("tiny", torch.float32, CPU)
    assert peers.hf_model("tiny", torch.float32, CPU) is model
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
