"""The tokenizer: GPT-2's own ids with all merges, the checkpoint's own with fewer, and no byte lost."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kvproof.gpt2.checkpoint.merges import ENDOFTEXT, PUBLISHED, TokenizerError, byte_alphabet
from kvproof.gpt2.checkpoint.vocabulary import folder_vocabulary
from kvproof.gpt2.tokenizer import Tokenizer, find_tokenizer, gpt2_tokenizer
from kvproof.gpt2.weights import EMBEDDED
from kvproof.reference.files import CheckpointError
from kvproof.reference.synthetic import SIZES

from .._refused import refused
from ._folders import write

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


def folder_tokenizer(folder):
    """The tokenizer of a folder's own files; None if it has none that differ from the published ones."""
    found = folder_vocabulary(folder)
    return None if found is None else Tokenizer(found)


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
        (b"\xff\xfe\x00", r"merges\.txt is no UTF-8 text"),
    ],
)
def test_a_file_that_holds_no_merges_is_named_with_its_line(tmp_path, content, message):
    path = write(tmp_path / "model", {"merges.txt": content}) / "merges.txt"
    refused(TokenizerError, message, Tokenizer.from_merges, path)


OWN = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # the special tokens come first, as ByteLevelBPETokenizer trains them
OWN_MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w"]


def own_vocab() -> dict[str, int]:
    """A vocabulary as byte-level BPE trainers number it: special tokens, bytes, merges."""
    tokens = [*OWN, *byte_alphabet(), *(merge.replace(" ", "") for merge in OWN_MERGES)]
    return {token: i for i, token in enumerate(tokens)}


def tokenizer_json(**changes) -> dict:
    model = {"type": "BPE", "vocab": own_vocab(), "merges": OWN_MERGES} | changes.pop("model", {})
    return {"model": model, "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}} | {
        "added_tokens": [{"id": i, "content": name, "special": True} for i, name in enumerate(OWN)], **changes
    }  # fmt: skip


OWN_FILES = {
    "merges.txt": "#version: 0.2\n" + "\n".join(OWN_MERGES),
    "vocab.json": own_vocab(),
    "tokenizer.json": tokenizer_json(),
}


@pytest.mark.parametrize("files", [("merges.txt", "vocab.json"), ("tokenizer.json",)])
def test_a_folder_s_own_ids_are_taken(tmp_path, files):
    write(tmp_path, {name: OWN_FILES[name] for name in files})
    own, vocab = folder_tokenizer(tmp_path), own_vocab()
    assert own is not None
    assert own.n_vocab == len(vocab)
    assert own.eot == 2
    assert own.encode("hello wé") == [vocab["hello"], vocab["Ġw"], vocab["Ã"], vocab["©"]]
    assert own.decode(own.encode("hello wé")) == "hello wé"
    assert own.encode(b"\xff") == [vocab["ÿ"]]
    assert own.encode("</s>", special=True) == [2]
    assert own.encode("<pad>", special=True) == [1] != own.encode("<pad>")
    assert own.decode([1, 2]) == "<pad></s>"


def test_the_published_vocabulary_makes_the_published_tokenizer(tmp_path):
    published = gpt2_tokenizer()
    assert folder_tokenizer(tmp_path) is None
    names = {byte: name for name, byte in byte_alphabet().items()}
    vocab = {"".join(names[b] for b in published.decode_bytes([i])): i for i in range(50257)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    assert folder_tokenizer(tmp_path) is None  # alone, it says that the published tokenizer fits
    (tmp_path / "merges.txt").write_bytes(PUBLISHED.read_bytes())
    own = folder_tokenizer(tmp_path)
    assert own is not None
    assert (own.eot, own.n_vocab) == (published.eot, published.n_vocab)
    for text in AWKWARD[:-1]:
        assert own.encode(text) == published.encode(text)


def swapped() -> dict[str, int]:
    vocab = own_vocab()
    return vocab | {"he": vocab["hell"], "hell": vocab["he"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", own_vocab(), "is not the published one and came without merges|lacks"),
        ("vocab.json", [1], "is no vocabulary"),
        ("tokenizer.json", [], "describes no tokenizer"),
        ("tokenizer.json", tokenizer_json(model={"type": "WordPiece"}), "no byte-level BPE"),
        ("tokenizer.json", tokenizer_json(normalizer={"type": "NFC"}), "no byte-level BPE"),
        ("tokenizer.json", tokenizer_json(pre_tokenizer={"type": "Metaspace"}), "cuts text into other pieces"),
        ("tokenizer.json", tokenizer_json(model={"vocab": swapped()}), "another order than the merges"),
        ("tokenizer.json", tokenizer_json(model={"vocab": own_vocab() | {"x": 7}}), "each once"),
        ("tokenizer.json", tokenizer_json(model={"merges": [*OWN_MERGES, "o o"]}), "lacks 'oo'"),
        ("tokenizer.json", tokenizer_json(added_tokens=[{"id": 300, "content": "<x>"}]), "each once"),
    ],
)
def test_a_tokenizer_that_is_not_of_gpt_2_s_kind_is_refused_in_words(tmp_path, name, content, message):
    refused(TokenizerError, message, folder_tokenizer, write(tmp_path, {name: content}))


@pytest.mark.parametrize("n_vocab", [50257, 50304])
def test_a_vocabulary_of_the_published_size_is_not_given_the_published_tokenizer_if_it_brings_its_own(
    tmp_path, caplog, n_vocab
):
    config = replace(SIZES["gpt2"], n_vocab=n_vocab)
    assert find_tokenizer(tmp_path, config) is gpt2_tokenizer()
    write(tmp_path, {"tokenizer.json": tokenizer_json()})
    refused(CheckpointError, f"makes 266 tokens, the model has {n_vocab}", find_tokenizer, tmp_path, config)
    own = find_tokenizer(tmp_path, replace(config, n_vocab=272))
    assert own is not None
    assert own.eot == 2
    assert not caplog.text
    write(tmp_path, {"tokenizer.json": tokenizer_json(model={"type": "WordPiece"})})
    assert find_tokenizer(tmp_path, config) is None
    assert "tokenizer.json is no byte-level BPE" in caplog.text
    assert caplog.text.count("\n") == 1
