"""Keywords of a module's call: those that change scores are taken, what cannot be honoured is refused by name."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kvproof.kernels.huggingface.attention import attention
from kvproof.kernels.huggingface.keywords import REFUSED, WITHOUT_EFFECT

from ._models import model, tokens

MODULE = SimpleNamespace(is_causal=True, num_key_value_groups=2)


def call(module: Any = MODULE, M: Any = 1, T: Any = 6, impl: Any = "numba", D_v: Any = 8, **keywords: Any):
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, n, d, generator=rng) for h, n, d in ((4, M, 8), (2, T, 8), (2, T, D_v)))
    return attention(impl, module, q, k, v, keywords.pop("attention_mask", None), **keywords)[0]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_keyword_that_cannot_be_honoured_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} came; .*; leave it out, or use attn_implementation=\"eager\"$"):
        call(**{name: torch.ones(2)})
    assert call(**{name: None}).shape == (2, 1, 4, 8)


def test_an_unknown_keyword_is_refused_and_one_without_effect_is_not():
    with pytest.raises(
        ValueError, match=r"^tree_mask came from SimpleNamespace; what it does to attention is not known"
    ):
        call(tree_mask=torch.ones(2))
    plain = call()
    for name in WITHOUT_EFFECT:
        assert torch.equal(call(**{name: torch.ones(2)}), plain)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"dropout": 0.1}, "dropout is 0.1 in a decode step; call model.eval"),
        ({"position_bias": torch.zeros(1, 4, 1, 6)}, "position_bias came in a decode step"),
        ({"softcap": 5.0, "position_bias": torch.zeros(1, 4, 1, 6)}, "softcap and position_bias came together"),
        ({"sliding_window": 4}, "sliding_window is 4, the cache has 6 slots, and no mask came"),
        ({"M": 3}, "3 queries over 6 slots came without a mask"),
        ({"impl": "triton", "D_v": 16}, 'k has head_dim 8, v 16; impl "triton" takes one'),
        ({"s_aux": torch.zeros(3)}, r"sink_logits is \[3\] on cpu; it must be \[4\] or \[2, 4\]"),
    ],
)
def test_a_call_that_cannot_be_computed_says_what_came_and_what_to_do(keywords, words):
    with pytest.raises(ValueError, match=words):
        call(**keywords)


def test_a_module_with_sinks_that_hands_none_over_is_refused():
    module = SimpleNamespace(is_causal=True, sinks=torch.zeros(4))
    with pytest.raises(ValueError, match="has sinks and handed none over"):
        call(module)
    assert call(module, s_aux=module.sinks).shape == (2, 1, 4, 8)


def test_sinks_of_each_query_and_chosen_slots_are_taken():
    sinks = torch.arange(8.0).view(2, 4, 1, 1)
    alike = call(sinks=sinks.expand(2, 4, 1, 1))
    assert torch.allclose(alike[0], call(s_aux=sinks[0].flatten())[0])
    assert torch.allclose(alike[1], call(s_aux=sinks[1].flatten())[1])
    assert not torch.allclose(alike[0], alike[1])
    chosen = torch.tensor([[[0, 3]], [[5, 3]]])
    shown = torch.zeros(2, 1, 1, 6, dtype=torch.bool)
    for b, row in enumerate(chosen[:, 0]):
        shown[b, 0, 0, row] = True
    assert torch.equal(call(indices=chosen), call(attention_mask=shown))
    assert not torch.allclose(call(indices=chosen), call())


def test_weights_that_were_asked_for_are_refused_through_the_whole_model():
    made = model("llama")
    from kvproof.kernels.huggingface import register_with_transformers

    register_with_transformers()
    made.set_attn_implementation("kvproof")
    with pytest.raises(ValueError, match="output_attentions"), torch.no_grad():
        made(tokens()[0][None], output_attentions=True)


def test_values_of_another_width_than_keys_are_attended_to():
    assert call(D_v=16).shape == (2, 1, 4, 16)
