"""The draw: the same from a seed, within its bounds, most short and a few long; and prompts of every kind of text."""

import numpy as np
import pytest

from kvproof.bench.requests import texts
from kvproof.bench.requests.draws import draw
from kvproof.bench.requests.texts import PROMPT, TEXTS, circles, ids, prompts
from kvproof.gpt2 import generate
from kvproof.gpt2.tokenizer import gpt2_tokenizer


def test_a_seed_draws_the_same_requests_and_another_draws_others():
    assert draw(20, 500, (8, 256), (8, 192), 3) == draw(20, 500, (8, 256), (8, 192), 3)
    assert draw(20, 500, (8, 256), (8, 192), 3) != draw(20, 500, (8, 256), (8, 192), 4)


def test_lengths_stay_within_their_bounds_and_have_a_long_tail():
    found = draw(400, 500, (8, 256), (8, 192), 0)
    for lengths, most in (([len(p) for p in found.prompts], 256), (found.new_tokens, 192)):
        assert min(lengths) >= 8
        assert max(lengths) == most
        assert np.percentile(lengths, 90) > 2.5 * np.median(lengths)
        assert np.mean(lengths) > 1.2 * np.median(lengths)
    assert 0 <= min(map(min, found.prompts))
    assert max(map(max, found.prompts)) < 500
    assert found.useful == sum(found.new_tokens)


def test_bounds_that_meet_draw_one_length():
    assert set(draw(9, 500, (5, 5), (1, 1), 0).new_tokens) == {1}


@pytest.mark.parametrize("text", [text for text in TEXTS if not text.circling], ids=lambda text: text.name)
def test_prompts_of_a_text_differ_and_are_no_longer_than_they_may_be(text):
    found = [ids(text, i, 50257, gpt2_tokenizer()) for i in range(8)]
    assert len(set(found)) == 8
    assert all(8 < len(prompt) <= PROMPT for prompt in found)


def test_a_text_for_a_model_without_a_tokenizer_is_refused_by_name():
    with pytest.raises(ValueError, match="'json' needs a tokenizer"):
        ids(TEXTS[1], 0, 500, None)


def test_a_repetitive_prompt_and_what_the_model_writes_after_it_go_in_a_circle(endless, tokenizer):
    begun = [ids(TEXTS[0], i, 2049, tokenizer) for i in range(20)]
    assert len(set(begun)) == 20
    for prompt in prompts(TEXTS[0], 2, endless, tokenizer):
        assert len(prompt) == PROMPT
        (alone,) = generate(endless, [prompt], max_new_tokens=60)
        assert circles((*prompt, *alone.ids))


def test_circles():
    assert circles((1, 2, 3) * 9)
    assert circles((7,) * 5)
    assert not circles((*(1, 2, 3) * 9, 4))
    assert not circles(tuple(range(50)))
    assert not circles(tuple(range(30)) * 3)  # longer than a circle may be


def test_a_model_that_never_circles_is_refused(endless, tokenizer, monkeypatch):
    monkeypatch.setattr(texts, "PERIOD", 0)
    monkeypatch.setattr(texts, "CANDIDATES", 2)
    with pytest.raises(ValueError, match="of 2 repetitive texts 0 go in a circle; 1 are needed"):
        prompts(TEXTS[0], 1, endless, tokenizer)
