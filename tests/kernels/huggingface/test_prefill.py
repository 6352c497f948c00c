"""Several queries, and any that autograd records: as the model's own eager attention has it, gradients included."""

import pytest
import torch

from kvproof.kernels.huggingface import register_with_transformers

from ._models import OWN, model, tokens

BAR = 1e-5


def run(made, implementation, **given):
    made.set_attn_implementation(implementation)
    return made(use_cache=False, **given).logits


@pytest.fixture(autouse=True)
def _registered():
    register_with_transformers()


@pytest.mark.parametrize("family", OWN)
def test_a_padded_prefill_is_eager_s(family):
    made, ids = model(family), torch.stack([row[:6] for row in tokens()])
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    with torch.no_grad():
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        ours, eager = (run(made, implementation, **given) for implementation in ("kvproof", "eager"))
    shown = mask.bool()
    assert torch.isfinite(ours).all()  # rows that see nothing as well
    assert (ours - eager)[shown].abs().max() < BAR * eager.square().mean().sqrt() * 3


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("n", [6, 1])
def test_gradients_are_eager_s_for_one_query_as_well(family, n):
    made, ids, found = model(family), tokens()[0][None, :n], []
    embedding = made.get_input_embeddings().weight
    for implementation in ("kvproof", "eager"):
        embedding.requires_grad_(True)
        try:
            (gradient,) = torch.autograd.grad(run(made, implementation, input_ids=ids).square().sum(), embedding)
        finally:
            embedding.requires_grad_(False)
        found.append(gradient)
    ours, eager = found
    assert (ours - eager).abs().max() < 1e-4 * eager.abs().max()


def test_dropout_drops_weights_in_training():
    from kvproof.kernels.huggingface.keywords import Scores
    from kvproof.kernels.huggingface.prefill import formula

    q, k, v = torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), torch.ones(1, 2, 3, 8)
    scores = Scores(1.0, 5.0, None, None)
    torch.manual_seed(0)
    kept = formula(q, k, v, None, scores, False, 0.0)
    dropped = formula(q, k, v, None, scores, False, 0.5)
    assert torch.allclose(kept, torch.ones_like(kept))
    assert set((dropped * 3 / 2).round(decimals=4).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert not torch.allclose(dropped, kept)


def test_a_chunked_prefill_over_a_cache_is_the_whole_one():
    from kvproof.bench.measure.peers.hf import empty_cache

    for family in ("llama", "mistral", "gemma2", "gpt_oss"):
        made, ids = model(family), tokens()[0][None]
        for kind in ("dynamic", "static"):
            cache = empty_cache(made.config, kind, 20)
            with torch.no_grad():
                whole = run(made, "eager", input_ids=ids)
                made.set_attn_implementation("kvproof")
                parts = [made(part, cache=cache).logits for part in ids.split([4, 5, 1, 4], 1)]
            assert (torch.cat(parts, 1) - whole).abs().max() < 3 * BAR * whole.square().mean().sqrt(), (family, kind)
