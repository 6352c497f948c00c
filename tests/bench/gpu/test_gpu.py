"""bench/gpu: its rehearsal, its clock, its refusals, what a killed run keeps, and the notebook that runs it."""

import ast
import importlib.metadata
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kvproof.bench import decode
from kvproof.bench.gpu import __main__ as gpu
from kvproof.bench.gpu import attention as gpu_attention
from kvproof.bench.gpu import page as gpu_page
from kvproof.bench.gpu import parts as gpu_parts
from kvproof.bench.gpu.parts import Part

from ... import _child

ROOT = Path(__file__).parents[3]


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """Runs the command on parts that cost nothing: stage(parts, *options) -> exit code, state."""
    monkeypatch.setattr(gpu, "environment", lambda device: {"device": "cpu: x", "commit": "abc", "gpu": None})

    def run(parts, *options):
        monkeypatch.setattr(gpu_parts, "plan", lambda out, rehearse, datasheet: parts)
        code = gpu.main(["--rehearse", "--out", str(tmp_path), *options])
        return code, json.loads((tmp_path / "gpu.json").read_text())

    return run


def says(word: str, code: int = 0) -> list[str]:
    return ["-c", f"import sys; print({word!r}); sys.exit({code})"]


class Forked(_child.Popen):
    def __init__(self, command, *, start_new_session, preexec_fn, **options):
        super().__init__(command, **options)


def test_the_rehearsal_runs_every_part_and_reports(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_parts, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": Forked}))
    assert gpu.main(["--rehearse", "--out", str(tmp_path), "--minutes", "4"]) == 0
    state = json.loads((tmp_path / "gpu.json").read_text())
    ended = {name: entry["status"] for name, entry in state["parts"].items()}
    assert ended.pop("tests that need a GPU") == ended.pop("decode tiny as a CUDA graph") == "skipped"
    assert ended == {"kernel tests": "done", "attention kernels": "done", "decode tiny": "done"}
    assert state["parts"]["kernel tests"]["counts"] == {"passed": 2, "failed": 0, "error": 0, "skipped": 0}
    assert state["environment"]["versions"]["torch"] == importlib.metadata.version("torch")
    (decode,) = state["parts"]["decode tiny"]["records"]
    assert {row["impl"] for row in decode["impls"]} == {"naive", "sdpa"}
    page = (tmp_path / "gpu.html").read_text()
    for words in ("A REHEARSAL", "kernel tests: 2 passed.", "CUDA graphs need a GPU", "flash-attn: it needs a CUDA"):
        assert words in page
    assert str(tmp_path) not in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
@pytest.mark.parametrize("main", [gpu.main, lambda argv: gpu_attention.main([*argv, "results.jsonl"])])
def test_without_a_gpu_it_says_in_one_line_that_it_can_rehearse(main, capsys):
    assert main([]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "no CUDA GPU" in err
    assert "--rehearse" in err


def test_a_part_that_fails_or_hangs_takes_no_other_with_it(stage, tmp_path, monkeypatch):
    parts = [
        Part("fails", 1, says("broken <b>", 1)),
        Part("hangs", 0.1, ["-c", "import time; print('begun', flush=True); time.sleep(60)"]),
        Part("is not here", 1, says("never"), skip="no such thing"),
        Part("works", 1, says("fine")),
    ]
    monkeypatch.setattr(gpu_parts, "LEAST", 0.1)
    begun = time.monotonic()
    code, state = stage(parts, "--minutes", "0.4")
    assert time.monotonic() - begun < 12
    assert code == 1
    ended = {name: (entry["status"], entry["reason"]) for name, entry in state["parts"].items()}
    assert ended["fails"] == ("failed", "exit code 1: broken <b>")
    assert ended["hangs"][0] == "cut short"
    assert ended["is not here"] == ("skipped", "no such thing")
    assert ended["works"] == ("done", None)
    page = (tmp_path / "gpu.html").read_text()
    assert "<li>fails FAILED: exit code 1: broken &lt;b&gt;</li>" in page
    assert "<li>hangs was cut short: " in page
    assert "no such thing" in page


def test_a_rerun_does_what_was_not_done_and_nothing_twice(stage, tmp_path):
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    once = Part("once", 1, ["-c", count])
    assert stage([once, Part("flaky", 1, says("no", 1))])[0] == 1
    code, state = stage([once, Part("flaky", 1, says("yes"))])
    assert code == 0
    assert state["parts"]["flaky"]["closing"] == "yes"
    assert (tmp_path / "count").read_text() == "x"


def test_an_interrupt_is_one_line_and_keeps_what_is_done(stage, monkeypatch, capsys):
    real = gpu_parts.run

    def interrupted(part, out, seconds):
        if part.name == "b":
            raise KeyboardInterrupt
        return real(part, out, seconds)

    monkeypatch.setattr(gpu_parts, "run", interrupted)
    code, state = stage([Part("a", 1, says("a")), Part("b", 1, says("b"))])
    assert code == 130
    assert list(state["parts"]) == ["a"]
    assert capsys.readouterr().err.count("\n") == 1


def test_red_records_stay_red_when_a_rerun_of_their_command_finds_nothing_to_do(stage, tmp_path, monkeypatch):
    part = Part("decode", 1, says("held"), "decode.jsonl")
    row = {"impl": "triton", "refused": "900 GB/s is too much", "runs": [1]}
    monkeypatch.setattr(gpu_parts.records, "read", lambda path: [{"cell": {"batch": 8}, "impls": [row]}])
    monkeypatch.setattr(gpu_page, "render", lambda state: "")
    stage([])
    (tmp_path / "decode.jsonl").touch()
    code, state = stage([part])
    assert code == 1
    assert state["parts"]["decode"]["reason"] == "triton, batch 8: 900 GB/s is too much"


def test_results_of_another_commit_or_of_anything_else_are_not_mixed_with_these(stage, tmp_path, capsys, monkeypatch):
    stage([Part("a", 1, says("a"))])
    monkeypatch.setattr(gpu, "environment", lambda device: {"device": "cpu: x", "commit": "def", "gpu": None})
    assert stage([])[0] == 2
    (tmp_path / "gpu.json").write_text("[]")
    assert gpu.main(["--rehearse", "--out", str(tmp_path)]) == 2
    (tmp_path / "gpu.json").unlink()
    (tmp_path / "decode.jsonl").write_text("{}\n")
    assert gpu.main(["--rehearse", "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("--out") == err.count("\n") == 3
    assert (tmp_path / "decode.jsonl").read_text() == "{}\n"


def test_time_left_over_passes_on_and_skipped_parts_claim_none():
    parts = [Part("a", 1, []), Part("b", 1, [], skip="absent"), Part("c", 3, [])]
    assert gpu_parts.seconds_for(parts, 0, 100) == 25
    assert gpu_parts.seconds_for(parts, 2, 90) == 90
    plan = gpu_parts.plan(Path("/out"), False, 300.0)
    left = 600.0
    given = [gpu_parts.seconds_for(plan, at, left) for at in range(len(plan))]
    assert given[0] < 0.1 * 600
    assert plan[-1].name == "decode random:gpt2-medium as a CUDA graph"
    assert given[-1] == 600, "the last one may use all that is left"


def test_every_script_of_the_plan_takes_its_options():
    parsers = {"bench/decode.py": decode.parse, "kvproof.bench.gpu.attention": gpu_attention.parse}
    for rehearse in (True, False):
        commands = [part.command for part in gpu_parts.plan(Path("/out"), rehearse, 300.0)]
        scripts = [words[words[0] == "-m" :] for words in commands if words[:2] != ["-m", "pytest"]]
        assert len(scripts) == (3 if rehearse else 5)
        for script, *options in scripts:
            parsed = parsers[script](options)
            assert str(parsed.results).startswith("/out/")
    assert "tests/kernels/attention/test_interface.py" in gpu_parts.plan(Path("/out"), False, None)[0].command


def test_no_time_left_starts_nothing(tmp_path):
    entry = gpu_parts.run(Part("late", 1, says("x")), tmp_path, 1.0)
    assert (entry["status"], entry["reason"]) == ("skipped", "no time was left")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed parent")
def test_a_killed_run_leaves_no_child_on_the_gpu(tmp_path):
    program = (
        "from pathlib import Path; from kvproof.bench.gpu import parts as g\n"
        "code = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        f"g.run(g.Part('p', 1, ['-c', code]), Path({str(tmp_path)!r}), 60)"
    )
    parent = _child.Popen([sys.executable, "-c", program])
    log = tmp_path / "p.log"
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
    child = int(log.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [True, False])
def test_pytest_s_words_are_counted_test_by_test(workers):
    ends = [("PASSED", "a.py::t[x-1]"), ("FAILED", "a.py::u"), ("SKIPPED", "b.py::v"), ("PASSED", "b.py::w")]
    lines = [
        f"[gw1] [ 50%] {end} tests/{name}" if workers else f"tests/{name} {end} {'(why) ' * (end == 'SKIPPED')} [ 50%]"
        for end, name in ends
    ]
    lines += ["FAILED tests/a.py::u - assert 1 == 2", "=== 1 failed, 2 passed, 1 skipped in 3s ==="]
    counted = gpu_parts.pytest_counts(lines)
    assert counted["counts"] == {"passed": 2, "failed": 1, "error": 0, "skipped": 1}
    assert counted["failures"] == ["FAILED tests/a.py::u - assert 1 == 2"]


def notebook():
    return json.loads((ROOT / "bench" / "gpu" / "gpu.ipynb").read_text(encoding="utf-8"))


def test_the_notebook_is_well_formed_and_holds_no_outputs():
    book = notebook()
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in ids)
    for cell in book["cells"]:
        extra = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source", *extra}
        assert cell["cell_type"] in ("code", "markdown")
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_notebook_s_commands_exist():
    code = ["".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == "code"]
    commands = [line.strip()[1:] for text in code for line in text.splitlines() if line.strip().startswith("!")]
    for text in code:
        ast.parse(re.sub(r"^( *)[!%].*$", r"\1pass", text, flags=re.MULTILINE))
    (command,) = [shlex.split(line) for line in commands if "kvproof.bench" in line]
    assert command[:3] == ["python", "-m", "kvproof.bench.gpu"]
    args = gpu.parse(command[3:])
    assert not args.rehearse
    assert f'Path("{args.out}/gpu.html")' in "".join(code)
    assert f'"zip", "{args.out}"' in "".join(code)
    (install,) = [line for line in commands if "pip install" in line]
    extras = install[install.index("[") + 1 : install.index("]")].split(",")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert [name for name in extras if not re.search(rf"^{name} = \[", project, re.MULTILINE)] == []
    assert re.search(r'^REPOSITORY = ""$', "".join(code), re.MULTILINE), "no address is published yet"
