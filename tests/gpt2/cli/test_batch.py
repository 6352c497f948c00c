"""`kvproof batch`: a kill loses no line and changes no byte, another job's file is refused, pipes and full disks."""

import io
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kvproof.gpt2 import weights
from kvproof.gpt2.__main__ import main
from kvproof.gpt2.cli import batch
from kvproof.gpt2.engine import Engine

from ... import _child
from ..._engine import ENGINE
from ..jobs._lines import line
from ._limits import small_files

pytestmark = ENGINE
PROGRAM = [sys.executable, "-m", "kvproof.gpt2"]
WORDS = ["ROMEO:", "Once upon a time", "The king", "A", "There was a miller who had three sons, and", "O"]


def lines(count: int, tokens: int = 6) -> list[bytes]:
    """Good lines, bad lines, a blank one and a repeated name."""
    found = [
        line(str(i), prompt=WORDS[i % 6], max_tokens=1 + i * 5 % tokens, logprobs=i % 3 or None) for i in range(count)
    ]
    found[1::5] = [b"no\n" for _ in found[1::5]]
    found[3::7] = [line("0") for _ in found[3::7]]
    return [*found[:2], b"\n", *found[2:]]


def job(tmp_path: Path, data: list[bytes], *options: str) -> tuple[list[str], Path, Path]:
    """The command, its input and its output."""
    into, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    into.write_bytes(b"".join(data))
    return ["batch", str(into), str(out), "--running", "4", *options], into, out


def whole(command: list[str], capsys) -> bytes:
    """What the command writes to standard output."""
    capsys.readouterr()
    assert main([command[0], command[1], *command[3:]]) == 0
    return capsys.readouterr().out.encode()


def test_each_line_has_its_answer_in_order_and_the_last_line_counts(tmp_path, capsys):
    command, _, out = job(tmp_path, lines(12))
    assert main(command) == 0
    err = capsys.readouterr().err
    answers = [json.loads(text) for text in out.read_bytes().splitlines()]
    assert [answer["job"]["line"] for answer in answers] == [1, 2, *range(4, 14)]
    failed = [answer["job"]["line"] for answer in answers if answer["error"]]
    assert failed == [2, 5, 8, 12, 13]
    tokens = sum(a["response"]["body"]["usage"]["completion_tokens"] for a in answers if not a["error"])
    assert err.startswith(f"12 requests, 5 errors, {tokens} tokens in ")
    assert err.endswith(" tokens/s (numba, float32, cpu)\n")


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_run_cut_off_at_any_byte_goes_on_to_the_same_bytes(tmp_path, capsys, monkeypatch, step):
    command, _, out = job(tmp_path, lines(7, tokens=2))
    want = whole(command, capsys)
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    made, worker = batch.Worker, []

    def once(*args, **options):  # one model for all these runs
        worker.append(worker[0] if worker else made(*args, **options))
        return worker[-1]

    monkeypatch.setattr(batch, "Worker", once)
    for cut in range(0, len(want), step):
        out.write_bytes(want[:cut])
        assert main(command) == 0
        assert out.read_bytes() == want
    assert len(worker) > len(want) // step - 8


def kill_at(command: list[str], out: Path, size: int) -> int:
    """Start the program and kill it once its output has grown to so many bytes; its exit code."""
    with _child.Popen([*PROGRAM, *command], stderr=subprocess.DEVNULL) as run:
        while run.poll() is None and (not out.exists() or out.stat().st_size < size):
            time.sleep(0.001)
        run.send_signal(signal.SIGKILL)
    return run.returncode


@pytest.mark.parametrize(("count", "kills"), [(40, 2), pytest.param(400, 25, marks=pytest.mark.exhaustive)])
def test_a_run_killed_at_random_moments_gives_the_bytes_of_an_undisturbed_one(tmp_path, capsys, count, kills):
    command, _, out = job(tmp_path, lines(count, tokens=40))
    want, rng, sizes = whole(command, capsys), random.Random(0), [0]
    for target in sorted(rng.randrange(1, len(want) * 9 // 10) for _ in range(kills)):
        assert kill_at(command, out, target) == -signal.SIGKILL
        sizes.append(out.stat().st_size)
        assert want.startswith(out.read_bytes())
    assert sizes == sorted(sizes)
    assert 0 < sizes[-1] < len(want)
    assert main(command) == 0
    assert out.read_bytes() == want


def test_the_input_may_grow_and_nothing_else(tmp_path, capsys, monkeypatch):
    data = lines(6)
    command, into, out = job(tmp_path, data[:4])
    assert main(command) == 0
    into.write_bytes(b"".join(data))
    assert main(command) == 0
    assert f"{out} holds 3 of 6 results; going on from there" in capsys.readouterr().err
    held = out.read_bytes()
    assert held == whole(command, capsys)
    monkeypatch.setattr(batch, "Worker", None)  # nothing is computed
    for changed, said in (
        ([*data[:3], line("new"), *data[4:]], "line 3 answers another request than the input's line 4 now holds"),
        ([data[0], *data[2:]], "line 2 answers line 2 of the input, this run has line 3 there"),
        (data[:-1], "holds more than this run's 5 requests"),
        ([b"\n", *data], "line 1 answers line 1 of the input, this run has line 2 there"),
    ):
        into.write_bytes(b"".join(changed))
        assert main(command) == 2
        err = capsys.readouterr().err
        assert said in err
        assert "name another output file" in err
        assert out.read_bytes() == held
    into.write_bytes(b"".join(data))
    assert main(command) == 0, "it is finished, and no model is loaded"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--seed", "1"], "made with seed 0, this run has 1"),
        (["--dtype", "float64"], "made with dtype 'float32', this run has 'float64'"),
        (["--weights", "int8"], "made with weights None, this run has 'int8'"),
        (["--kv-dtype", "int8"], "made with kv_dtype None, this run has 'int8'"),
        (["--impl", "triton"], "made with impl 'numba', this run has 'triton'"),
        (["--allow-special"], "made with allow_special False, this run has True"),
        (["--model", "tiny"], "made with model "),
        ("model.safetensors", "made when the model's files were others"),
        ("vocab.bpe", "made when the model's files were others"),
        (b'"kvproof": 1', "made with kvproof 0, this run has 1"),
        (b'"device": "cpu"', "made with device 'cuda', this run has 'cpu'"),
    ],
)
def test_another_job_s_file_is_refused_with_the_difference(tmp_path, capsys, monkeypatch, change, said):
    model = shutil.copytree(weights.EMBEDDED["tiny"], tmp_path / "model")
    command, _, out = job(tmp_path, lines(3)[:2], "--model", str(model))
    assert main(command) == 0
    if isinstance(change, bytes):
        other = {b'"kvproof": 1': b'"kvproof": 0', b'"device": "cpu"': b'"device": "cuda"'}[change]
        out.write_bytes(out.read_bytes().replace(change, other))
        change = []
    if isinstance(change, str):
        (model / change).write_bytes((model / change).read_bytes()[:-1] + b" ")
        change = []
    held = out.read_bytes()
    monkeypatch.setattr(batch, "Worker", None)
    assert main([*command, *change]) == 2
    err = capsys.readouterr().err
    assert f"out.jsonl, line 1 was {said}" in err
    assert "name another output file" in err
    assert out.read_bytes() == held


def test_how_it_runs_is_no_part_of_the_job(tmp_path, capsys):
    command, _, out = job(tmp_path, lines(9))
    want = whole(command, capsys)
    out.write_bytes(b"".join(want.splitlines(keepends=True)[:3])[:-9])
    assert main([*command, "--running", "1", "--page", "8", "--draft", "3", "--blocks", "200"]) == 0
    assert out.read_bytes() == want


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (b"my notes", "line 1 is no result of this run"),
        (b"my notes\n", "line 1 is no result of kvproof"),
        (b"{}\n", "line 1 is no result of kvproof"),
        (b'{"error": null}\n', "line 1 was made with kvproof None"),
        ("crlf", "line 1 was rewritten by another program: it ends in CR LF"),
        ("form", "line 1 was rewritten by another program: the same fields in another form"),
        ("name", "line 1 was made for custom_id 'other', this run has '0'"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path, capsys, held, said):
    command, _, out = job(tmp_path, lines(2)[:1])
    if isinstance(held, str):
        first = whole(command, capsys)
        held = {
            "crlf": first.replace(b"\n", b"\r\n"),
            "form": first.replace(b": ", b":"),
            "name": first.replace(b'"custom_id": "0"', b'"custom_id": "other"'),
        }[held]
    out.write_bytes(held)
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert out.read_bytes() == held


def test_a_second_run_on_the_same_output_is_refused(tmp_path, capsys, monkeypatch):
    command, _, out = job(tmp_path, lines(5))
    want, seconds, step = whole(command, capsys), [], Engine.step

    def with_a_second(engine):
        if not seconds:
            run = _child.run([*PROGRAM, *command], capture_output=True, text=True)
            seconds.append((run.returncode, run.stderr))
        return step(engine)

    monkeypatch.setattr(Engine, "step", with_a_second)
    assert main(command) == 0
    said = f"kvproof: another run is writing {out}; wait for it, or name another output file\n"
    assert seconds == [(2, said)]
    assert out.read_bytes() == want


def test_ctrl_c_says_how_far_it_came_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    command, _, out = job(tmp_path, lines(9))
    want, step = whole(command, capsys), Engine.step

    def interrupted(engine):
        if out.read_bytes().count(b"\n") >= 4:
            raise KeyboardInterrupt
        return step(engine)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", interrupted)
        assert main(command) == 130
    done = out.read_bytes().count(b"\n")
    assert f"interrupted after {done} of 9 requests; the same command goes on from there" in capsys.readouterr().err
    assert main(command) == 0
    assert out.read_bytes() == want


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path, capsys):
    command, _, out = job(tmp_path, lines(6))
    want = whole(command, capsys)
    with small_files(2000):
        assert main(command) == 1
    shown, err = capsys.readouterr()
    held = want[:2000].count(b"\n")
    assert f"out.jsonl: File too large after {held} of 6 requests; put it right, the same command goes on" in err
    assert err.count("\n") == 1
    assert shown.encode() == want.splitlines(keepends=True)[held]
    assert out.read_bytes() == want[:2000]
    assert main(command) == 0
    assert out.read_bytes() == want


def test_a_file_that_cannot_be_written_is_known_before_a_model_is_loaded(tmp_path, capsys, monkeypatch):
    _, into, _ = job(tmp_path, lines(2))
    monkeypatch.setattr(batch, "Worker", None)
    for path, said in ((tmp_path / "no" / "out", "make the folder"), (tmp_path, "Is a directory; name a file")):
        assert main(["batch", str(into), str(path)]) == 2
        assert said in capsys.readouterr().err
    assert main(["batch", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "none: No such file or directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_finished_file_may_be_read_only(tmp_path, capsys):
    command, _, out = job(tmp_path, lines(3))
    assert main(command) == 0
    out.chmod(stat.S_IRUSR)
    assert main(command) == 0
    assert "holds 3 of 3 results" in capsys.readouterr().err


def test_pipes_in_and_out(tmp_path, capsys, monkeypatch):
    command, into, _ = job(tmp_path, lines(5))
    want = whole(command, capsys)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(into.read_bytes())))
    assert main(["batch", "-", "-", "--running", "4"]) == 0
    assert capsys.readouterr().out.encode() == want
    first, second, got = tmp_path / "first", tmp_path / "second", []
    for pipe in (first, second):
        os.mkfifo(pipe)
    ends = [
        threading.Thread(target=lambda: first.write_bytes(into.read_bytes())),
        threading.Thread(target=lambda: got.append(second.read_bytes())),
    ]
    for end in ends:
        end.start()
    assert main(["batch", str(first), str(second), "--running", "4"]) == 0
    for end in ends:
        end.join()
    assert got == [want]


def test_an_empty_input_is_no_work(tmp_path, capsys):
    command, _, out = job(tmp_path, [b"\n"])
    assert main(command) == 0
    assert capsys.readouterr().err == ""
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--impl", "sdpa"], "impl 'sdpa' gives a sequence other bits in another batch"),
        (["--seed", "-1"], "seed is -1; it must be a whole number"),
        (["--running", "0"], "running is 0"),
        (["--page", "0"], "page is 0"),
        (["--draft", "99"], "draft is 99"),
        (["--blocks", "3"], "3 blocks of 16 slots hold 48 tokens"),
        (["--model", "tinny"], "did you mean 'tiny'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, options, said):
    command, _, out = job(tmp_path, lines(2))
    assert main([*command, *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not out.exists()
