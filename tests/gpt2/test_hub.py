"""Models by name: real downloads, over HTTP, from a stand-in for the hub on this machine, each in its own process."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof.gpt2 import hub, load
from kvproof.gpt2.checkpoint import hub_cache

from ._hub_server import COMMIT, MEDIUM, MERGES, NEEDED, PLAIN, SHARDED, contents, fetch

DATA = Path(__file__).parents[1] / "data"


def test_the_first_download_brings_only_what_is_needed_and_the_second_no_bytes(server, tmp_path):
    folder, err = fetch(server, tmp_path, "ann/plain", TQDM_POSITION="-1")  # a bar though this is no terminal
    assert contents(folder) == NEEDED
    assert sorted(name for name, _ in server.gets()) == sorted(NEEDED)
    assert "ann/plain model.safetensors: 100%" in err
    server.asked.clear()
    again, _ = fetch(server, tmp_path, "ann/plain")
    assert again == folder
    assert server.asked
    assert not server.gets()


def test_a_pinned_commit_is_asked_for_once(server, tmp_path):
    folder, _ = fetch(server, tmp_path, "gpt2-medium")
    assert folder.name == MEDIUM.revision
    assert contents(folder) == NEEDED
    server.asked.clear()
    assert fetch(server, tmp_path, "gpt2-medium")[0] == folder
    assert fetch(server, tmp_path, f"openai-community/gpt2-medium@{MEDIUM.revision}")[0] == folder
    assert not server.asked
    assert fetch(server, tmp_path, "gpt2-medium@v1")[0].name == MEDIUM.revision  # any revision can be named


AWAY = [
    ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE", ""),
    # The discard port, where nobody listens.
    ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "does not answer", f"comes from the cache, commit {COMMIT}"),
]


@pytest.mark.parametrize(("away", "words", "aloud"), AWAY, ids=["offline", "no network"])
def test_away_the_cache_is_enough_and_without_it_the_error_says_what_to_run(server, tmp_path, away, words, aloud):
    _, err = fetch(server, tmp_path, "ann/plain", **away)
    assert words in err
    assert "kvproof download ann/plain" in err
    assert not server.asked
    folder, _ = fetch(server, tmp_path, "ann/plain")
    server.asked.clear()
    found, err = fetch(server, tmp_path, "ann/plain", **away)
    assert found == folder
    assert (aloud in err, bool(err)) == (True, bool(aloud))
    assert not server.asked
    server.ill = True
    assert fetch(server, tmp_path, "ann/plain")[0] == folder


def test_weights_that_are_not_the_published_ones_are_refused_before_their_bytes_are_asked_for(server, tmp_path):
    _, err = fetch(server, tmp_path, "gpt2")
    assert "not what was published" in err
    assert hub.KNOWN["gpt2"].sha256 in err
    assert not server.gets()


def test_a_revision_that_is_gone_says_how_to_name_another(server, tmp_path):
    server.repos[MEDIUM.repo].pop("v1")
    _, err = fetch(server, tmp_path, "gpt2-medium")
    assert f"no revision {MEDIUM.revision}" in err
    assert "gpt2-medium@REVISION" in err


def test_what_the_hub_lacks_is_named(server, tmp_path):
    assert "did you mean 'openai-community/gpt2-xl'?" in fetch(server, tmp_path, "openai-comunity/gpt2-xl")[1]
    assert "no safetensors" in fetch(server, tmp_path, "ann/pickled")[1]
    assert not server.gets()


def test_shards_come_with_their_index(server, tmp_path):
    folder, _ = fetch(server, tmp_path, "ann/sharded", tmp_path / "model")
    assert contents(folder) == SHARDED | MERGES


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ({"tokenizer.json"}, {"tokenizer.json"}),
        ({"tokenizer.json", "vocab.json"}, {"tokenizer.json"}),
        ({"tokenizer.json", "merges.txt", "vocab.json"}, {"tokenizer.json"}),
        ({"merges.txt", "vocab.json", "added_tokens.json"}, {"merges.txt", "vocab.json", "added_tokens.json"}),
        ({"merges.txt", "vocab.bpe"}, {"merges.txt"}),
        *(({"merges.txt", file}, {"merges.txt", file}) for file in hub_cache.BESIDE),
    ],
)
def test_a_repository_s_own_tokenizer_comes_with_it(server, tmp_path, there, wanted):
    bare = {name: data for name, data in PLAIN.items() if not name.startswith(("merges", "vocab", "tokenizer"))}
    server.repos["ann/own"] = {"main": (COMMIT, bare | {name: name.encode() for name in there})}
    folder, _ = fetch(server, tmp_path, "ann/own")
    assert contents(folder) == bare | {name: name.encode() for name in wanted}
    assert contents(fetch(server, tmp_path, "ann/own", tmp_path / "copy")[0]) == contents(folder)
    server.asked.clear()
    assert fetch(server, tmp_path, f"ann/own@{COMMIT}")[0] == folder  # all of it is in the cache
    assert not server.asked


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (("gpt2", "distilgpt2@main", "ann/my.gpt-2_x", "ann/plain@refs/pr/1"), True),
        (("tiny", "random:gpt2", "./gpt2", "/data/gpt2", "a/b/c", "runs/model.safetensors"), False),
        (("gpt2@", "../x", "", "a/b@../c", "a--b/c", "a/b."), False),
    ],
)
def test_names_of_the_hub_and_others(names, known):
    assert [hub.is_hub_name(name) for name in names] == [known] * len(names)


def test_a_known_name_is_pinned_however_it_is_spelled():
    assert hub.find("gpt2") == hub.find("openai-community/gpt2") == hub.KNOWN["gpt2"]
    assert hub.find("gpt2@main") == hub.Published("openai-community/gpt2", "main")
    assert hub.find("ann/plain").revision == "main"
    with pytest.raises(hub.HubError, match="did you mean 'gpt2-medium'"):
        hub.find("gpt2-mediun")


LOAD = """
import sys, numpy, torch
from kvproof.gpt2 import load
numpy.save(sys.argv[2], load(sys.argv[1])(torch.tensor([[1, 2, 3]])).numpy())
try:
    load(sys.argv[3])
except ValueError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def test_load_takes_a_model_of_the_hub_by_name_and_says_of_another_that_it_is_neither_here_nor_there(server, tmp_path):
    _, err = fetch(server, tmp_path, "ann/bare", tmp_path / "logits.npy", "runs/missing", PROGRAM=LOAD)
    assert "HubError: there is no folder or file runs/missing here, and as a model of the hub: " in err
    assert err.count("Error") == 1
    local = load(DATA / "variants" / "plain")
    assert np.array_equal(np.load(tmp_path / "logits.npy"), local(torch.tensor([[1, 2, 3]])).numpy())


def test_a_folder_of_a_known_name_is_reached_by_its_path(tmp_path, monkeypatch):
    shutil.copytree(DATA / "variants" / "plain", tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    assert load("./gpt2").config.n_vocab == load(Path("gpt2")).config.n_vocab == 11
