"""The tokenizer: GPT-2's own ids with all merges, the checkpoint's own with fewer, and no byte lost."""

import json

import numpy as np
import pytest

from kvproof.gpt2.tokenizer import ENDOFTEXT, Tokenizer, TokenizerError, gpt2_tokenizer
from kvproof.gpt2.weights import EMBEDDED

AWKWARD = [
    "",
    " ",
    "\n\n  x",
    "naïve café",
    "日本語 🤗🏳️‍🌈",
    "don't they'll",
    "\u200b\x00",
    "a" * 300,
    ENDOFTEXT,
    "\udc80 lone",
]


def test_the_published_cases(data):
    cases = json.loads((data / "tokenizer" / "gpt2_tokenizer_cases.json").read_text())
    assert len(cases) == 47
    for case in cases:
        special = 50256 in case["ids"]
        assert gpt2_tokenizer().encode(case["text"], special=special) == case["ids"], case["text"]
        assert gpt2_tokenizer().decode(case["ids"]) == case["text"]


@pytest.mark.parametrize(
    "tokenizer", [gpt2_tokenizer(), Tokenizer.from_merges(EMBEDDED["tiny"] / "vocab.bpe")], ids=["gpt2", "tiny"]
)
def test_any_text_and_any_bytes_round_trip(tokenizer):
    for text in AWKWARD[:-1]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 3, 50, 1000):
        blob = rng.integers(256, size=size, dtype=np.uint8).tobytes()
        assert tokenizer.decode_bytes(tokenizer.encode(blob)) == blob
    assert tokenizer.decode_bytes(tokenizer.encode(bytes(range(256)))) == bytes(range(256))


def test_endoftext_is_special_only_when_asked_for():
    tokenizer = gpt2_tokenizer()
    assert tokenizer.encode(ENDOFTEXT, special=True) == [50256] == [tokenizer.eot]
    assert 50256 not in tokenizer.encode(ENDOFTEXT)
    assert tokenizer.decode([50256]) == ENDOFTEXT


def test_fewer_merges_make_a_smaller_vocabulary_of_the_same_ids():
    tiny = Tokenizer.from_merges(EMBEDDED["tiny"] / "vocab.bpe")
    assert tiny.n_vocab == 257 + 1792
    assert tiny.eot == 2048
    for token in range(2048):
        assert tiny.decode_bytes([token]) == gpt2_tokenizer().decode_bytes([token])


def test_a_wrong_id_is_named():
    with pytest.raises(TokenizerError, match=r"id 50257 has no text; this tokenizer's ids are 0\.\.50256"):
        gpt2_tokenizer().decode([1, 50257])
    with pytest.raises(TokenizerError, match="id -1"):
        gpt2_tokenizer().decode([-1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("#version: 0.2\nĠ t\nno merge here\n", "line 3: 'no merge here' is no merge"),
        ("Ġ t\nzz t\n", "line 2: 'zz t' merges an unknown token"),
        ("Ġ t\nĠ t\n", "line 2: 'Ġ t' merges an unknown token or makes one twice"),
        ('{"a": 1}', "line 1"),
    ],
)
def test_a_file_that_holds_no_merges_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "merges.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_merges(path)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenizerError, match=r"merges\.txt is no UTF-8 text"):
        Tokenizer.from_merges(tmp_path / "merges.txt")
