"""The README is true: its CPU commands run and print what it shows, and its excerpts stand in the files they name."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from kvproof.bench.measure.records import read
from kvproof.bench.plots import figures
from kvproof.bench.report.markdown import markdown

from . import _child

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROOMS = ("reference", "kernels", "gpt2", "bench", "tests")
PAGES = [ROOT / "README.md", *sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.md"))]
MACHINE = ("device", "python", "versions", "commit")  # lines that differ by machine


def examples():
    """(command, the output shown below it) of every console block of every page."""
    for block in re.findall(r"```console\n(.*?)```", "".join(page.read_text(encoding="utf-8") for page in PAGES), re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def stable(text):
    """The lines that are the same on every machine, with numbers masked: times, last bits and their reasons differ."""
    text = re.sub(r"^At \d+ new tokens after .*?(\n\n|\Z)", "", text, flags=re.S | re.M)
    text = re.sub(r",\s\w+'s\sof\s\d+", "", text)  # on a busy machine an impl may have fewer turns than the others
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    lines = (line for line in lines if line and not line.startswith(MACHINE))
    # A figure of the last digit may change the width of a column, and so the breaks of the lines under the table.
    return re.sub(r"\d[\d.]*(e-?\d+)?", "#", " ".join(lines))


@pytest.mark.parametrize(("command", "shown"), list(examples()), ids=[command for command, _ in examples()])
def test_a_command_prints_what_the_readme_shows(command, shown):
    program, *words = shlex.split(command)
    python = {"python": [sys.executable], "kvproof": [sys.executable, "-m", "kvproof.gpt2"]}[program]
    run = _child.run([*python, *words], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == int("--inject" in command or "--quantised" in command), run.stderr  # 1 says BUG
    parts = [re.escape(stable(part)) for part in shown.split("[…]\n")]  # what is left out may say anything
    assert re.fullmatch(".*".join(parts), stable(run.stdout)), run.stdout


def test_the_pages_show_the_main_job_the_generator_and_the_judge():
    commands = [command for command, _ in examples()]
    assert "python bench/decode.py --impl triton" in commands
    assert any(command.startswith("kvproof generate") for command in commands)
    assert any(command.startswith("kvproof verify") for command in commands)


def test_the_readme_is_as_short_as_it_was_promised():
    assert len(README.splitlines()) <= 150


def test_the_calls_from_python_run(tmp_path):
    pages = [(ROOT / room / "README.md").read_text(encoding="utf-8") for room in ("kernels/attention", "gpt2")]
    calls = [re.search(r"```python\n(.*?)```", page, re.S) for page in pages]
    (tmp_path / "calls.py").write_text("\n".join(call[1] for call in calls if call), encoding="utf-8")
    run = _child.run([sys.executable, tmp_path / "calls.py"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("length") == 2


@pytest.mark.parametrize(("page", "texts"), [("README.md", 2), ("gpt2/engine/README.md", 3)])
def test_the_calls_of_the_engine_run(page, texts, tmp_path):
    call = re.search(r"```python\n(from kvproof.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert call
    counted = call[1].replace("print(result.text)", "print('text:', repr(result.text))")
    (tmp_path / "call.py").write_text(counted, encoding="utf-8")
    run = _child.run([sys.executable, tmp_path / "call.py"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [line.startswith("text: ") for line in run.stdout.splitlines()] == [True] * texts


def test_the_two_window_excerpt_stands_in_both_files():
    windows = re.search(r"```python\n(.*?)```", README, re.S)
    assert windows
    names, *rows = [[x.strip() for x in f"{row}  |  ".split("  |  ")[:2]] for row in windows[1].splitlines()]
    assert [name.removeprefix("# ").split("/")[0] for name in names] == ["reference", "kernels"]
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        lines = [line.strip() for line in (ROOT / name.removeprefix("# ")).read_text(encoding="utf-8").splitlines()]
        lines += [re.sub(r"  # .*", "", line).strip() for line in lines]
        assert len([row for row in column if row]) > 5
        assert [row for row in column if row and row not in lines] == []


@pytest.mark.parametrize("page", [str(path.relative_to(ROOT)) for path in PAGES])
def test_every_file_that_a_readme_names_exists(page):
    names = re.findall(r"\]\((?!http)((?:\.\./)*\w[\w./-]*)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [name for name in names if not ((ROOT / page).parent / name).exists()] == []
    assert names or page != "README.md"


@pytest.mark.parametrize("name", re.findall(r"<!-- (bench/results/.*?\.jsonl) -->", README))
def test_a_table_of_the_readme_is_what_its_command_prints(name):
    shown = re.search(rf"<!-- {re.escape(name)} -->\n(.*?)\n<!-- end -->", README, re.S)
    assert shown
    assert shown[1] == "\n".join(markdown(read(ROOT / name)))


def test_the_pictures_are_drawn_from_the_committed_records_alone():
    pytest.importorskip("matplotlib")
    for results in (ROOT / "bench" / "results").glob("*.jsonl"):
        drawn = {name for name, figure in figures(results) if not isinstance(figure, str)}
        assert drawn == {picture.stem for picture in results.with_suffix("").glob("*.png")}


def test_the_machine_reports_the_race_that_the_readme_shows_and_no_other(tmp_path):
    readme = (ROOT / "kernels" / "ptx" / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(import numpy.*?ptx\.check\(total.*?)```\n\n```\n(.*?)```", readme, re.S)
    assert block
    path, mended = tmp_path / "total.py", tmp_path / "mended.py"
    path.write_text(block[1], encoding="utf-8")
    mended.write_text(block[1].replace('"relaxed"', '"acq_rel"'), encoding="utf-8")
    run = _child.run([sys.executable, path], capture_output=True, text=True)
    assert stable(run.stderr.strip().splitlines()[-1]) == stable(" ".join(block[2].split()))
    runpy.run_path(str(mended))
