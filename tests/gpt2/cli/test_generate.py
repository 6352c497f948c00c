"""`generate --prompt-file`: prompts completed in order, resumed after a kill, no line lost or doubled."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from kvproof.gpt2 import generate, load, weights
from kvproof.gpt2.__main__ import main
from kvproof.gpt2.cli import generate as cli_generate
from kvproof.gpt2.cli import output_file
from kvproof.gpt2.engine import Engine
from kvproof.gpt2.jobs import journal

from ... import _child
from ..._engine import ENGINE
from ._limits import small_files

WORDS = ["ROMEO:", "Once upon a time", "The king", "A", "There was a miller who had three sons, and", "O"]
SEEDED = ["--temperature", "0.9", "--top-k", "40", "--seed", "5"]


def job(tmp_path, text, *options):
    """The command that completes a file of prompts with this text, and a path for --output."""
    prompts = tmp_path / "p.txt"
    prompts.write_text(text)
    return ["generate", "--prompt-file", str(prompts), *options], tmp_path / "out.jsonl"


def printed(command, capsys):
    """What the command writes to standard output."""
    assert main(command) == 0
    return capsys.readouterr().out


def test_generate_cut_into_batches_gives_what_it_gives_whole():
    seeded = partial(generate, load("tiny", dtype="float64"), max_new_tokens=6, temperature=1.2, seed=4)
    whole = seeded(WORDS)
    assert seeded(WORDS[:4]) + seeded(WORDS[4:], first_row=4) == whole
    assert seeded(WORDS[4])[0].ids != whole[4].ids


@pytest.mark.parametrize("size", ["1", "4", "100"])
def test_the_command_answers_each_prompt_in_order_whatever_the_batch(tmp_path, capsys, size):
    assert main(job(tmp_path, "\n".join(WORDS), "--max-tokens", "6", "--batch", size, *SEEDED)[0]) == 0
    out, err = capsys.readouterr()
    model = load("tiny")
    for index, (text, result) in enumerate(zip(WORDS, map(json.loads, out.splitlines()), strict=True)):
        (want,) = generate(model, text, max_new_tokens=6, temperature=0.9, top_k=40, seed=5, first_row=index)
        assert (result["index"], result["prompt"]) == (index, text)
        assert (result["ids"], result["text"], result["finish_reason"]) == (want.ids, want.text, want.finish_reason)
    assert "tokens/s" in err
    assert "%|" not in err  # no progress bar where no terminal is


def test_a_prompt_that_does_not_fit_is_named_before_anything_is_written(tmp_path, capsys):
    command, out = job(tmp_path, "fine\n" + "word " * 1100, "--batch", "1")
    assert main([*command, "--output", str(out)]) == 2
    assert "p.txt, line 2): 100 new tokens after" in capsys.readouterr().err
    assert not out.exists()


def test_a_finished_run_loads_no_model(tmp_path, capsys, monkeypatch):
    command, out = job(tmp_path, "\n".join(WORDS[:2]), "--max-tokens", "2")
    command += ["--output", str(out)]
    assert main(command) == 0
    before = out.read_bytes()
    monkeypatch.setattr(cli_generate, "load", None)
    assert main(command) == 0
    assert "holds 2 of 2 results" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*command, "--temperature", "1"]) == 2
    assert "made with temperature 0.0, this run has 1.0" in capsys.readouterr().err


def test_a_run_with_other_weights_does_not_go_on(tmp_path, capsys):
    command, out = job(tmp_path, "\n".join(WORDS[:2]), "--max-tokens", "2")
    for first, then, words in (
        ([], ["--weights", "int8"], "quantised None, this run has 'int8'"),
        (["--weights", "int8"], [], "quantised 'int8', this run has None"),
    ):
        assert main([*command, "--output", str(out), *first]) == 0
        assert main([*command, "--output", str(out), *then]) == 2
        assert words in capsys.readouterr().err
        out.unlink()


def test_ctrl_c_says_how_far_it_came_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    command, out = job(tmp_path, "\n".join(WORDS), "--max-tokens", "4", "--batch", "2", "--impl", "sdpa", *SEEDED)
    whole, calls = printed(command, capsys), []

    def interrupted(*args, **options):
        calls.append(options["first_row"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(*args, **options)

    monkeypatch.setattr(cli_generate, "generate", interrupted)
    assert main([*command, "--output", str(out)]) == 130
    assert "interrupted after 2 of 6 prompts; the same command goes on" in capsys.readouterr().err
    assert main([*command, "--output", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == whole
    assert calls == [0, 2, 2, 4]


@ENGINE
def test_ctrl_c_in_the_engine_keeps_the_lines_that_are_done(tmp_path, capsys, monkeypatch):
    command, out = job(tmp_path, "\n".join(WORDS), "--max-tokens", "4", "--batch", "2", "--impl", "numba", *SEEDED)
    whole, step = printed(command, capsys), Engine.step

    def interrupted(engine):
        if out.read_bytes().count(b"\n") == 2:
            raise KeyboardInterrupt
        return step(engine)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", interrupted)
        assert main([*command, "--output", str(out)]) == 130
    assert "interrupted after 2 of 6 prompts; the same command goes on" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "".join(whole.splitlines(keepends=True)[:2])
    assert main([*command, "--output", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == whole


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path, capsys):
    command, out = job(tmp_path, "\n".join(WORDS), "--max-tokens", "6", "--batch", "1")
    whole = printed(command, capsys)
    with small_files(1024):
        assert main([*command, "--output", str(out)]) == 1
    held, err = whole.encode()[:1024].count(b"\n"), capsys.readouterr().err
    assert f"out.jsonl: File too large after {held} of 6 prompts; put it right, the same command goes on" in err
    assert err.count("\n") == 1
    assert out.read_bytes() == whole.encode()[:1024]
    assert main([*command, "--output", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == whole


@pytest.mark.parametrize(
    ("impl", "size", "kept"),
    [("sdpa", "1", 4), ("sdpa", "3", 3), *[pytest.param("numba", s, 4, marks=ENGINE) for s in "13"]],
)
def test_nan_names_the_prompt_s_place_in_the_file_and_what_came_before_is_kept(
    tmp_path, capsys, monkeypatch, impl, size, kept
):
    text = "A\nB\n\nC\nD\nE" + " E" * 17 + "\nF\n"  # E alone reaches position 20, after 3 new tokens
    command, out = job(tmp_path, text, "--max-tokens", "4", "--batch", size, "--impl", impl)
    whole, model = printed(command, capsys).splitlines(), load("tiny", impl=impl)
    model.wpe.weight[20:] = float("nan")
    monkeypatch.setattr(cli_generate, "load", lambda *_, **__: model)
    assert main([*command, "--output", str(out)]) == 1
    assert f"prompt 4 ({tmp_path / 'p.txt'}, line 6): the logits after 3 new tokens hold NaN" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8").splitlines() == whole[:kept]


def test_nan_names_the_prompt_among_all_those_of_the_call(capsys, monkeypatch):
    model = load("tiny")
    model.wpe.weight[20:] = float("nan")
    monkeypatch.setattr(cli_generate, "load", lambda *_, **__: model)
    words = [word for prompt in ("A", "B", "E " * 30) for word in ("--prompt", prompt)]
    assert main(["generate", *words, "--batch", "2", "--max-tokens", "2"]) == 1
    assert "kvproof: prompt 2: the logits after 0 new tokens hold NaN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "tokens", "size"), [(30, 20, 2), pytest.param(300, 40, 7, marks=pytest.mark.exhaustive)]
)
def test_a_run_killed_three_times_equals_an_undisturbed_one(tmp_path, capsys, count, tokens, size):
    text = "".join(f"{WORDS[i % len(WORDS)]} {i}\n" for i in range(count))
    command, out = job(tmp_path, text, "--max-tokens", str(tokens), "--batch", str(size), *SEEDED)
    killed = []
    for part in (1, 2, 3):
        program = [sys.executable, "-m", "kvproof.gpt2", *command, "--output", str(out)]
        with _child.Popen(program, stderr=subprocess.DEVNULL) as run:
            while not out.exists() or out.read_bytes().count(b"\n") < part * count // 5:
                assert run.poll() is None, "it ended before it could be killed"
                time.sleep(0.002)
            run.send_signal(signal.SIGKILL)
        assert run.returncode == -signal.SIGKILL
        killed.append(out.read_bytes().count(b"\n"))
    assert 0 < killed[0] < killed[1] < killed[2] < count
    assert main([*command, "--output", str(out)]) == 0
    got = out.read_text(encoding="utf-8")
    assert [json.loads(line)["index"] for line in got.splitlines()] == list(range(count))
    assert printed(command, capsys) == got


def job_of_two(tmp_path):
    """A copied model, an output, and the command that writes two prompts' texts to it."""
    model = shutil.copytree(weights.EMBEDDED["tiny"], tmp_path / "model")
    command, out = job(tmp_path, "A\nB\n", "--model", str(model), "--impl", "sdpa", "--max-tokens", "2")
    return model, out, [*command, "--output", str(out)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--impl", "eager"], "made with impl 'sdpa', this run has 'eager'"),
        pytest.param(["--impl", "auto"], "made with impl 'sdpa', this run has 'numba'", marks=ENGINE),
        (["--no-kv-cache"], "made with kv_cache True, this run has False"),
        (["--dtype", "float64"], "made with dtype 'float32'"),
        (["--top-p", "0.5"], "made with top_p None, this run has 0.5"),
        (["--stop", "x"], "made with stop [], this run has ['x']"),
        (["--allow-special"], "made with allow_special False"),
        ("model.safetensors", "made when the model's files were others"),
        ("vocab.bpe", "made when the model's files were others"),
        ("config.json", "made when the model's files were others"),
    ],
)
def test_another_job_does_not_go_on_in_a_file(tmp_path, capsys, monkeypatch, change, said):
    model, out, command = job_of_two(tmp_path)
    assert main(command) == 0
    out.write_bytes(held := out.read_bytes().splitlines(keepends=True)[0])
    if isinstance(change, str):
        (model / change).write_bytes((model / change).read_bytes()[:-1] + b" ")
        change = []
    monkeypatch.setattr(cli_generate, "load", None)  # nothing is computed
    assert main([*command, *change]) == 2
    err = capsys.readouterr().err
    assert f"out.jsonl, line 1 was {said}" in err
    assert "name another --output" in err
    assert out.read_bytes() == held


def test_the_same_job_goes_on_whatever_the_batch_and_the_folder_s_other_files(tmp_path):
    model, out, command = job_of_two(tmp_path)
    assert main(command) == 0
    whole = out.read_bytes()
    out.write_bytes(whole.splitlines(keepends=True)[0])
    (model / "notes.txt").write_text("mine")
    assert main([*command, "--batch", "1"]) == 0
    assert out.read_bytes() == whole


@pytest.mark.parametrize("kind", ["pipe", "/dev/null", "link", "dangling link"])
def test_results_go_where_the_path_leads(tmp_path, capsys, kind):
    command, path = job(tmp_path, "A\nB\n", "--max-tokens", "2")
    whole, got = printed(command, capsys), []
    if kind == "pipe":
        os.mkfifo(path)
        reader = threading.Thread(target=lambda: got.append(path.read_text()))
        reader.start()
    elif kind == "/dev/null":
        path = Path(kind)
    else:
        path.symlink_to("goal")
        if kind == "link":
            (tmp_path / "goal").touch()
    assert main([*command, "--output", str(path)]) == 0
    if kind == "pipe":
        reader.join()
        assert got == [whole]
        assert path.is_fifo()
    elif kind == "/dev/null":
        assert path.is_char_device()
    else:
        assert path.is_symlink()
        assert (tmp_path / "goal").read_text() == whole


def test_a_file_that_cannot_be_written_is_known_before_a_model_is_loaded(tmp_path, capsys, monkeypatch):
    command, out = job(tmp_path, "A\nB\n")
    monkeypatch.setattr(cli_generate, "load", None)
    for path, said in ((tmp_path / "no" / "out", "make the folder"), (tmp_path, "Is a directory; name a file")):
        assert main([*command, "--output", str(path)]) == 2
        assert said in capsys.readouterr().err

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output_file, "probe", full)
    assert main([*command, "--output", str(out)]) == 1
    assert f"{out}: No space left on device" in capsys.readouterr().err
    assert not out.exists()


@ENGINE
@pytest.mark.parametrize("more", [["--impl", "numba"], ["--impl", "sdpa"], ["--impl", "numba", "--no-kv-cache"]])
def test_the_engine_completes_a_file_where_the_impl_keeps_bits(tmp_path, monkeypatch, more):
    command, out = job(tmp_path, "A\nB\n", "--max-tokens", "2", *more)
    made, init = [], Engine.__init__

    def noted(engine, model, **options):
        made.append(options["running"])
        init(engine, model, **options)

    monkeypatch.setattr(Engine, "__init__", noted)
    assert main([*command, "--output", str(out), "--batch", "3"]) == 0
    assert made == ([3] if more == ["--impl", "numba"] else [])


def test_a_batch_that_could_not_be_kept_is_printed(tmp_path, capsys, monkeypatch):
    command, out = job(tmp_path, "A\nB\n", "--max-tokens", "2", "--batch", "1")
    whole = printed(command, capsys)

    def full(path, size, batches, wrote, lines):
        next(batches)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "write_journal", full)
    assert main([*command, "--output", str(out)]) == 1
    shown, said = capsys.readouterr()
    assert shown == whole.splitlines(keepends=True)[0]
    assert "No space left on device after 0 of 2 prompts; put it right" in said
