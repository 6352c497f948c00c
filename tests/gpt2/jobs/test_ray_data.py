"""A job on Ray: its file is that of one worker, whoever is killed; the parts that need no Ray, without it."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvproof.gpt2.__main__ import main
from kvproof.gpt2.jobs import ray_data
from kvproof.gpt2.jobs.input_file import Input
from kvproof.gpt2.jobs.ray_data import TRIES, Complete, Tries, pieces, read_piece
from kvproof.gpt2.jobs.ray_workers import RayWorkers
from kvproof.gpt2.jobs.worker import Worker

from ... import _child
from ..._engine import ENGINE
from . import _ray_job
from ._lines import line

RAY = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray Data: pip install 'kvproof[ray]'")
ROOT = Path(__file__).parents[3]


def requests(count: int, **odd: int) -> list[bytes]:
    """Lines of input; odd names fields of _ray_job and the index of the line that has so many tokens."""
    tokens = {index: getattr(_ray_job, name) for name, index in odd.items()}
    prompts = ["ROMEO:", "Once upon a time", "The king", "A"]
    lines = [
        line(f"r{i}", prompt=prompts[i % 4] + " x" * (i % 5), max_tokens=tokens.get(i, 1 + i % 9), temperature=i % 2)
        for i in range(count)
    ]
    lines[3], lines[6], lines[9] = b"{bad\n", b" \n", lines[2].replace(b"ROMEO", b"JULIET")
    return lines


def expected(path: Path) -> bytes:
    """The output of one worker in this process."""
    worker = Worker(_ray_job.job())
    _ray_job.poison(worker)
    with open(path, "rb") as file:
        found = Input(file)
        return b"".join(text.encode() for _, text in worker.complete(found.lines(), found.repeats))


def run(path: Path, output: Path, workers: int, size: int = 4) -> list[str]:
    """_ray_job as a program.  Returns the workers that died and the error rows."""
    words = [*_child.words(_ray_job.__file__), *map(str, (path, output, workers, size))]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=path.parent)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path


@RAY
@ENGINE
@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.exhaustive), 2, pytest.param(3, marks=pytest.mark.exhaustive)]
)
def test_the_file_is_that_of_one_worker_with_a_worker_killed_and_a_line_that_raises(tmp_path, workers):
    path = write(tmp_path / "in.jsonl", requests(30, KILLS_ONCE=17, RAISES=21))
    deaths, errors = run(path, tmp_path / "out.jsonl", workers)
    assert (tmp_path / _ray_job.KILLED).exists()
    assert (int(deaths), int(errors)) == (1, 3)  # the line that is no JSON, a repeated custom_id, the one that raises
    assert (tmp_path / "out.jsonl").read_bytes() == expected(path)


@RAY
@ENGINE
@pytest.mark.exhaustive
def test_a_line_that_kills_every_worker_becomes_an_error_row(tmp_path):
    path = write(tmp_path / "in.jsonl", requests(16, KILLS=10))
    deaths, _ = run(path, tmp_path / "out.jsonl", 2)
    assert int(deaths) == 2 * TRIES
    found = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    want = expected(path).splitlines(keepends=True)
    killed = found.pop(9), want.pop(9)
    assert found == want
    error = json.loads(killed[0])
    assert error["custom_id"] == "r10"
    assert error["error"]["code"] == "worker_died"
    assert "died 3 times" in error["error"]["message"]


def rays() -> set[int]:
    """The processes with Ray's names, without the two agents that outlive a killed Ray by a minute."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"Agent" not in words and (words.startswith(b"ray::") or b"/ray/" in words):
            found.add(int(folder.name))
    return found


@RAY
@ENGINE
def test_a_killed_program_leaves_no_process_and_goes_on_where_its_file_ends(tmp_path):
    path, output = write(tmp_path / "in.jsonl", requests(200)), tmp_path / "out.jsonl"
    words = [sys.executable, "-m", "kvproof.gpt2", "batch", str(path), str(output), "--seed", "3", "--ray"]
    before = rays()
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, cwd=tmp_path) as first:
        while not output.exists() or output.stat().st_size == 0:
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    half = output.read_bytes()
    deadline = time.monotonic() + 60
    while rays() - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert rays() - before == set()
    want = expected(path)
    assert len(half) < len(want)
    second = subprocess.run([*words, "--workers", "2"], capture_output=True, text=True, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    held = half.count(b"\n")
    assert second.stderr.splitlines()[0] == f"{output} holds {held} of 199 results; going on from there"
    assert re.fullmatch(r"Ray on this machine: workers 2, threads of each \d+", second.stderr.splitlines()[1])
    assert len(second.stderr.splitlines()) == 3
    assert output.read_bytes() == want


@RAY
@ENGINE
@pytest.mark.exhaustive
def test_the_script_of_the_page_goes_on_from_its_checkpoint_after_a_kill(tmp_path):
    page = (ROOT / "gpt2" / "jobs" / "CLUSTER.md").read_text(encoding="utf-8")
    (script,) = re.findall("```python\n(.*?)```", page, re.DOTALL)
    for here, there in (
        ('ray.init("auto")', "ray.init(num_cpus=3, include_dashboard=False)"),
        ("/shared/job", str(tmp_path)),
        ('"gpt2", device="cuda"', '"tiny", impl="numba", seed=3'),
        ("size=8", "size=2"),
        ("num_gpus=1", "num_cpus=1"),
        ('in.jsonl"), ray', 'in.jsonl", size=32), ray'),
        ("batch_size=BATCH", "batch_size=32"),
    ):
        assert here in script
        script = script.replace(here, there)
    path = write(tmp_path / "in.jsonl", requests(400))
    (tmp_path / "job.py").write_text(script)
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    words = [sys.executable, "job.py"]
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path, env=environment
    ) as first:
        while len(list(tmp_path.glob("parts/*.parquet"))) < 2:
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    with pytest.raises(ValueError, match="has no result"):
        list(ray_data.join_parts(path, tmp_path / "parts"))
    kept = set(tmp_path.glob("done/*.parquet"))
    assert kept
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert kept <= set(tmp_path.glob("done/*"))
    assert (tmp_path / "out.jsonl").read_bytes() == expected(path)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_pieces_hold_each_line_once_in_order(tmp_path, size):
    rng = random.Random(0)
    for count in (0, 1, 2, 7, 64, 65, 200):
        ends = [rng.choice([b"\n", b"\r\n"]) for _ in range(count)]
        lines = [rng.choice([b"", b" ", b"{}", b"x" * 50]) + end for end in ends]
        path = write(tmp_path / "in.jsonl", [*lines, rng.choice([b"", b"end"])])
        with open(path, "rb") as file:
            found = Input(file)
            for skip in (0, 1, count // 2):
                cut = list(pieces(found, skip, size))
                parts = [read_piece(str(path), piece) for piece in cut]
                assert [(i, text.rstrip(b"\r\n")) for part in parts for i, text in part] == [
                    (i, text.rstrip(b"\r\n")) for i, text in found.lines(skip)
                ]
                assert all(len(part) == size for part in parts[:-1])


def test_pieces_end_where_the_file_ended_when_it_was_read(tmp_path):
    path = write(tmp_path / "in.jsonl", [b"a\n", b"b\n", b"c"])
    with open(path, "rb") as file:
        found = Input(file)
        with open(path, "ab") as more:
            more.write(b"c\nd\n")
        assert [read_piece(str(path), piece) for piece in pieces(found, 0, 2)] == [[(0, b"a"), (1, b"b")], [(2, b"c")]]


@RAY
def test_parts_are_joined_in_order_and_a_missing_or_double_line_is_named(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    path = write(tmp_path / "in.jsonl", [b"a\n", b"\n", b"b\n", b"c\n", b"d\n", b"e\n"])

    def joined(*files: list[int]) -> str:
        for old in tmp_path.glob("*.parquet"):
            old.unlink()
        for number, indices in enumerate(files):
            rows = {"index": pyarrow.array(indices, pyarrow.int64()), "output": [f"{i}\n" for i in indices]}
            write_table(pyarrow.table(rows), tmp_path / f"{number}.parquet")
        return "".join(ray_data.join_parts(path, tmp_path))

    assert joined([4, 2], [], [5, 0, 3]) == "0\n2\n3\n4\n5\n"
    for files, said in (
        ([], "line 1 has no result"),
        ([[4, 2], [5, 0]], "line 4 has no result"),
        ([[0, 2, 3, 4]], "line 6 has no result"),
        ([[0, 2, 3], [3, 4, 5]], "two results of line 4"),
        ([[0, 2, 3, 4, 5, 5]], "two results of line 6"),
    ):
        with pytest.raises(ValueError, match=said):
            joined(*files)


def test_a_piece_has_the_repeats_of_its_own_lines():
    parts = [(2, 0, 9), (5, 9, 20), (30, 25, 40)]
    repeats = {1: 0, 2: 0, 4: 3, 5: 0, 7: 1, 30: 29, 99: 2}
    assert ray_data.of_pieces(repeats, parts) == [{2: 0, 4: 3}, {5: 0, 7: 1}, {30: 29, 99: 2}]
    assert ray_data.of_pieces(repeats, []) == []


def remote(method):
    return SimpleNamespace(remote=method)


class Fragile:
    """A worker that dies of some lines, as an exception that stands for a kill."""

    def __init__(self, deadly: set[int]):
        self.deadly = deadly

    def complete(self, lines, repeats):
        for index, data in lines:
            if index in self.deadly:
                raise SystemExit
            yield index, data.decode()


def fragile(deadly: set[int]) -> Complete:
    found, tries = object.__new__(Complete), Tries()
    found.tries = SimpleNamespace(**{name: remote(getattr(tries, name)) for name in ("begin", "end", "deaths", "fail")})
    found.get, found.job, found.worker = lambda value: value, _ray_job.job(), Fragile(deadly)
    return found


def until_done(complete: Complete, lines) -> tuple[list[tuple[int, str]], int]:
    """What Ray does: the batch again after each death.  Returns the output and the deaths."""
    for deaths in range(100):
        try:
            return complete.complete(lines, {}), deaths
        except SystemExit:
            pass
    raise AssertionError("it goes on for ever")


def test_lines_that_kill_become_error_rows_and_the_others_are_completed():
    lines = [(i, b'{"custom_id": "a%d"}' % i) for i in range(8)]
    for deadly in (set(), {0}, {7}, {2, 5}):
        complete = fragile(deadly)
        done, deaths = until_done(complete, lines)
        assert deaths == complete.tries.deaths.remote() == (TRIES * (1 + len(deadly)) if deadly else 0)
        assert [i for i, _ in done] == list(range(8))
        for index, text in done:
            if index in deadly:
                assert json.loads(text)["error"]["code"] == "worker_died"
                assert json.loads(text)["custom_id"] == f"a{index}"
            else:
                assert text == lines[index][1].decode()
        assert until_done(fragile(set()), lines)[1] == 0


def test_a_worker_that_died_for_another_reason_leaves_no_trace():
    complete, lines = fragile({1}), [(0, b"a"), (1, b"b")]
    for _ in range(10):
        for _ in range(TRIES):
            with pytest.raises(SystemExit):
                complete.complete(lines, {})
        complete.worker.deadly = set()
        assert complete.complete(lines, {}) == [(0, "a"), (1, "b")]
        complete.worker.deadly = {1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ray", "in.jsonl", "out.jsonl"], "--ray in.jsonl is no address of a cluster; .* after the files"),
        (["in.jsonl", "out.jsonl", "--ray", "ray://host:10001"], "is no address of a cluster"),
        (["in.jsonl", "--ray"], "--ray needs files for input and output; in.jsonl and none came"),
        (["in.jsonl", "-", "--ray"], "--ray needs files for input and output; in.jsonl and - came"),
        (["-", "out.jsonl", "--ray"], "--ray needs files for input and output; - and out.jsonl came"),
        (["in.jsonl", "out.jsonl", "--workers", "2"], "--workers is 2; give 1 or more, together with --ray"),
        (["in.jsonl", "out.jsonl", "--ray", "--threads", "0"], "--threads is 0; give 1 or more"),
        (["in.jsonl", "out.jsonl", "--ray", "--impl", "triton"], "leave --ray out, or use --impl numba"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.setattr(ray_data, "need_ray", lambda: None)
    monkeypatch.setattr("kvproof.gpt2.jobs.ray_workers.need_ray", lambda: None)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", requests(12))
    assert main(["batch", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(said, err)
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_without_ray_the_error_names_the_extra(tmp_path, monkeypatch, capsys):
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", requests(12))
    assert main(["batch", "in.jsonl", "out.jsonl", "--ray"]) == 2
    assert re.search(r"pip install 'kvproof\[ray\]'\n$", capsys.readouterr().err)
    with pytest.raises(ImportError, match="pip install"):
        ray_data.read_lines(tmp_path / "in.jsonl")


def test_threads_share_the_cores_of_this_machine_alone(monkeypatch):
    monkeypatch.setattr("kvproof.gpt2.jobs.ray_workers.need_ray", lambda: None)
    monkeypatch.setattr("kvproof.gpt2.jobs.ray_workers.cores", lambda: 8)
    job = _ray_job.job()
    assert [RayWorkers(job, "x", "", workers).threads for workers in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    assert [RayWorkers(job, "x", "auto", 2).threads, RayWorkers(job, "x", "h:1", 2, 5).threads] == [1, 5]
