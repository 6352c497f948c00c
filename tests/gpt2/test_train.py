"""The embedded checkpoint: small enough for the package, as its log says, writing words, and made by its script."""

import copy
import errno
import json
import os
import re

import pytest
import torch
import torch.nn.functional as F

from kvproof.bench.plots import losses
from kvproof.gpt2 import generate, load
from kvproof.gpt2 import train as training
from kvproof.gpt2.weights import EMBEDDED

TINY = EMBEDDED["tiny"]


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in (TINY / "loss.jsonl").read_text().splitlines()]


def test_its_shape_is_the_one_promised(tiny):
    config = tiny.config
    assert (config.head_dim, config.n_ctx, config.n_vocab) == (32, 1024, 257 + 1792)
    assert 1.4e6 < sum(p.numel() for p in tiny.parameters()) < 1.7e6
    assert (TINY / "model.safetensors").stat().st_size < 3.3e6


def test_the_held_out_losses_are_those_of_its_log(tiny, rows):
    best = min(rows, key=lambda row: row["held_out"])
    _, held_out = training.read_corpora(tiny.tokenizer)
    for name, loss in training.evaluate(tiny, held_out).items():
        # The log is of float32 weights, the file holds float16: their rounding moves a mean by less than 1e-3.
        assert loss == pytest.approx(best[name], abs=1e-3)


def test_the_last_positions_are_trained_too(tiny):
    _, held_out = training.read_corpora(tiny.tokenizer)
    ids = held_out["tinyshakespeare"][: 1025 * 20].view(20, 1025)
    untrained = copy.deepcopy(tiny)
    torch.nn.init.normal_(untrained.wpe.weight[896:], std=0.02, generator=torch.Generator().manual_seed(0))

    def late(model):  # the loss of the last 128 positions alone
        return F.cross_entropy(model.logits(model.hidden(ids[:, :-1])[:, -128:]).mT, ids[:, -128:])

    assert late(tiny) < late(untrained) - 0.03, "training on these positions lowers the loss"


def test_it_writes_the_words_of_its_corpora(tiny):
    known = set()
    for path in (training.HERE / "corpus").glob("*.txt"):
        known |= set(re.findall(r"[a-z]+", path.read_text().lower()))
    texts = generate(tiny, ["Once upon a time", "ROMEO:"] * 3, max_new_tokens=150, temperature=0.6, top_p=0.9, seed=0)
    words = re.findall(r"[a-z]+", " ".join(done.text or "" for done in texts).lower())
    assert len(words) > 300
    assert sum(word in known for word in words) / len(words) > 0.9
    noise = tiny.tokenizer.decode(torch.randint(2048, (900,), generator=torch.Generator().manual_seed(0)).tolist())
    words = re.findall(r"[a-z]+", noise.lower())
    assert sum(word in known for word in words) / len(words) < 0.5, "noise has fewer known words"


def test_the_script_makes_a_checkpoint_that_loads(tmp_path, capsys):
    training.train(steps=2, tokens=2048, peak=3e-3, every=2, out=tmp_path)
    (row,) = [json.loads(line) for line in (tmp_path / "loss.jsonl").read_text().splitlines()]
    assert row["tokens"] == 4096
    assert 6.5 < row["held_out"] < 7.7, "two steps from uniform guessing, log 2049 = 7.6"
    assert json.loads(capsys.readouterr().out) == row
    model = load(tmp_path)
    assert model.config == load("tiny").config
    assert generate(model, "Once", max_new_tokens=3)[0].text


def test_the_log_shows_the_loss_falling_to_the_one_kept(rows):
    held_out = [row["held_out"] for row in rows]
    assert held_out[0] > 4.5 > 4.0 > min(held_out)
    assert rows[-1]["tokens"] > 5e6


def test_its_merges_are_the_first_of_gpt_2_s():
    published = (TINY.parent.parent / "data" / "vocab.bpe").read_text(encoding="utf-8").splitlines()
    assert (TINY / "vocab.bpe").read_text(encoding="utf-8").splitlines() == published[:1793]
    assert len(published) == 50001


@pytest.fixture
def corpus(tmp_path):
    """A folder of two short texts."""
    folder, text = tmp_path / "corpus", (training.CORPUS / "tinyshakespeare.txt").read_text()
    folder.mkdir()
    for name, start in (("one", 0), ("two", 20_000)):
        (folder / f"{name}.txt").write_text(text[start : start + 6000])
    return folder


QUICK = ["--steps", "1", "--tokens", "1024", "--every", "1"]


def test_without_options_it_writes_into_tiny_here_and_not_in_the_package(tmp_path, corpus, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = {path.name: path.read_bytes() for path in TINY.iterdir()}
    assert training.main([*QUICK, "--out", str(TINY)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert training.main([*QUICK, "--corpus", str(corpus)]) == 0
    assert {path.name: path.read_bytes() for path in TINY.iterdir()} == packaged
    assert load("./tiny").config == load("tiny").config
    (row,) = [json.loads(line) for line in (tmp_path / "tiny" / "loss.jsonl").read_text().splitlines()]
    assert {"one", "two"} < set(row)
    assert losses([row]).axes[0].get_legend().get_texts()[2].get_text() == "one"


@pytest.mark.parametrize("held", ["model.safetensors", "notes", "folder/"])
def test_a_folder_that_holds_something_is_left_alone_unless_forced(tmp_path, corpus, capsys, held):
    out = tmp_path / "out"
    out.mkdir()
    (out / held).mkdir() if held.endswith("/") else (out / held).write_text("mine")
    words = [*QUICK, "--corpus", str(corpus), "--out", str(out)]
    assert training.main(words) == 2
    assert "add --force" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [held.rstrip("/")]
    assert training.main([*words, "--force"]) == 0
    assert load(out).config.n_layer == 6


def test_texts_too_short_or_not_there_as_in_a_wheel_are_refused_with_advice(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "CORPUS", tmp_path / "corpus")
    assert training.main([*QUICK, "--out", str(tmp_path / "out")]) == 2
    assert "not in an installed package; name a folder that does with --corpus" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("A king.")
    assert training.main([*QUICK, "--corpus", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "are too short" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--steps", "0"], "--steps is 0"), (["--tokens", "100"], "1024 or more"), (["--lr", "nan"], "--lr is nan")],
)
def test_a_setting_that_trains_nothing_is_refused(capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        training.main(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_full_disk_is_one_line_after_what_was_measured(tmp_path, corpus, capsys, monkeypatch):
    def full(path, data):
        if path.name == "model.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(training, "write", full)
    assert training.main([*QUICK, "--corpus", str(corpus), "--out", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["step"] == 1
    assert "model.safetensors: No space left on device" in err
    assert err.count("\n") == 1
