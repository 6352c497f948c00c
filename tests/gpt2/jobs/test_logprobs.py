"""Log-probabilities: those of the reference, with tokens and places that a reader can put together again."""

import numpy as np
import pytest

from kvproof.gpt2.jobs.logprobs import DECIMALS, log_softmax, logprobs, offsets, token_text
from kvproof.gpt2.tokenizer import gpt2_tokenizer
from kvproof.reference.sampling import weights

GPT2 = gpt2_tokenizer()
EURO = "€ ☃"  # of several tokens each


def drawn(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 50257), scale=3).astype(np.float32)


def test_they_are_the_logarithms_of_the_reference_s_probabilities():
    logits = drawn(3)
    logits[1] += 1e4
    logits[2, 5:] = -np.inf
    w = weights(logits.astype(np.float64))
    with np.errstate(divide="ignore"):
        want = np.log(w / w.sum(-1, keepdims=True))
    np.testing.assert_allclose(log_softmax(logits), want, rtol=0, atol=1e-11)


def test_each_token_has_its_own_and_the_best_beside_it():
    ids, logits = [464, 11, 314], drawn(4)  # one row more, of the end token
    logits[1, 11] = 50.0
    found = logprobs(GPT2, ids, "The, I", logits, 2)
    rows = log_softmax(logits)
    assert found["tokens"] == ["The", ",", " I"]
    assert found["text_offset"] == [0, 3, 4]
    assert found["token_logprobs"] == [round(rows[i, token], DECIMALS) + 0.0 for i, token in enumerate(ids)]
    assert found["token_logprobs"][1] == 0
    assert str(found["token_logprobs"][1]) == "0.0"
    for row, token, best in zip(rows, ids, found["top_logprobs"], strict=False):
        order = np.argsort(-row, kind="stable")[:2].tolist()
        expected = [*order, *({token} - {*order})]
        assert list(best) == [token_text(GPT2, i) for i in expected]
        assert list(best.values()) == [round(row[i], DECIMALS) + 0.0 for i in expected]


@pytest.mark.parametrize("top", range(6))
def test_there_are_as_many_as_asked_for_and_the_token_itself(top):
    logits = np.zeros((2, 50257), np.float32)  # all equal: the smallest ids come first
    found = logprobs(GPT2, [3, 40000], "$ Corker", logits, top)["top_logprobs"]
    names = [token_text(GPT2, i) for i in range(top)]
    assert list(found[0]) == (names if top > 3 else [*names, token_text(GPT2, 3)])
    assert list(found[1]) == [*names, token_text(GPT2, 40000)]


def test_padding_ids_have_no_probability():
    logits = drawn(1)
    padded = np.concatenate([logits, np.full((1, 47), 99, np.float32)], 1)
    assert logprobs(GPT2, [464], "The", padded, 5) == logprobs(GPT2, [464], "The", logits, 5)


def test_a_token_that_is_no_text_alone_shows_its_bytes_and_begins_where_its_character_does():
    ids = GPT2.encode(EURO)
    shown = [token_text(GPT2, i) for i in ids]
    assert any(text.startswith("bytes:\\x") for text in shown)
    data = b"".join(
        bytes.fromhex(text[6:].replace("\\x", "")) if text.startswith("bytes:") else text.encode() for text in shown
    )
    assert data.decode() == EURO
    places = offsets(GPT2, ids)
    assert places[0] == 0
    for i, place in enumerate(places):  # where the text so far ends, as far as it is sure
        assert place == len(GPT2.decode_bytes(ids[:i]).decode(errors="ignore"))


def test_tokens_behind_a_stop_string_are_left_out():
    ids = GPT2.encode("One two three")
    assert len(ids) == 3
    whole = logprobs(GPT2, ids, "One two three", drawn(3), 1)
    cut = logprobs(GPT2, ids, "One two"[:5], drawn(3), 1)  # a stop string in the middle of a token
    assert cut["tokens"] == ["One", " two"]
    for name in whole:
        assert cut[name] == whole[name][:2]


def test_no_tokens_have_no_logprobs():
    assert logprobs(GPT2, [], "", drawn(1), 2) == {
        "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": [],
    }  # fmt: skip
