"""How many ids a vocabulary may lack before the model's are no longer padding."""

import pytest

from kvproof.gpt2.checkpoint.fit import PAD, PUBLISHED_VOCAB, is_padding, most_padding


@pytest.mark.parametrize(
    ("known", "model", "padded"),
    [
        (*PUBLISHED_VOCAB, True),
        (2049, 2056, True),  # to a multiple of 8
        (2049, 2057, False),
        (2049, 2049 + PAD + 127, False),  # a multiple of 8, and too many
        (50257, 51200, True),  # to a multiple of 1024
        (61, 60, False),
    ],
)
def test_a_model_s_ids_are_padding_up_to_the_next_round_number(known, model, padded):
    assert is_padding(known, model) == padded


def test_padding_is_a_sixteenth_of_a_large_vocabulary():
    assert most_padding(61) == PAD
    assert most_padding(PUBLISHED_VOCAB[0]) == PUBLISHED_VOCAB[0] // 16
