"""The torch model at GPT-2's real size: syn-small, the 124M shape, which is random:gpt2."""

import pytest
import torch

from kvproof.gpt2 import GPT2, generate, load

from .._gpt2_models import CACHED, forced
from .._reference_models import F32_BAR, error, goldens


@pytest.fixture(scope="module")
def small(device) -> GPT2:
    return load("random:gpt2", device=device)


def test_uncached_logits_are_the_goldens(small, device):
    golden = goldens("syn-small")
    for prompt in "AB":
        logits = small(torch.as_tensor(golden[f"prompt_{prompt}"], device=device)[None])[0].cpu().numpy()
        assert error(logits[-1], golden[f"logits_{prompt}_last_f64"]) <= F32_BAR
        if prompt == "B":
            assert error(logits[:, golden["cols"]], golden["logits_B_cols_f32"]) <= F32_BAR
            lse = torch.logsumexp(torch.from_numpy(logits).double(), -1).numpy()
            assert error(lse, golden["logits_B_lse_f64"]) <= F32_BAR


@pytest.mark.parametrize("impl", CACHED)
def test_cached_logits_are_the_goldens(small, impl):
    golden, steps = goldens("syn-small"), 2 if impl == "triton" else 24
    ids = golden["prompt_B"][None]
    logits = forced(small.with_impl(impl), ids[:, :-steps], ids[:, -steps:])[0].cpu().numpy()
    assert error(logits[:, golden["cols"]], golden["logits_B_cols_f32"][-steps - 1 :]) <= F32_BAR
    assert error(logits[-1], golden["logits_B_last_f64"]) <= F32_BAR


@pytest.mark.parametrize(
    ("impl", "steps"),
    [
        *(("eager", 64), ("sdpa", 64), ("triton", 3), ("naive", 12)),
        *(pytest.param(impl, 64, marks=pytest.mark.exhaustive) for impl in ("naive", "triton")),
    ],
)
def test_greedy_ids_are_the_goldens(small, impl, steps):
    golden = goldens("syn-small")
    (done,) = generate(small.with_impl(impl), golden["greedy_A_prompt"].tolist(), max_new_tokens=steps)
    assert done.ids == golden["greedy_A_out"][:steps].tolist()


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 1}], ids=["greedy", "seeded"])
def test_four_prompts_batched_and_alone_become_the_same_texts(small, settings):
    prompts = ["Once", "The king said", "ROMEO: What light through yonder window breaks?", "In a hole"]
    together = generate(small, prompts, max_new_tokens=10, **settings)
    for row, prompt in enumerate(prompts):
        assert generate(small, prompt, max_new_tokens=10, first_row=row, **settings) == [together[row]]


def test_loss_is_the_goldens(small, device):
    golden = goldens("syn-small")
    nll = small.loss(torch.as_tensor(golden["loss_ids"], device=device)[None], "none")[0].cpu().numpy()
    assert error(nll, golden["loss_nll_f64"]) <= F32_BAR
