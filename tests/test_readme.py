"""The README is true: its CPU commands run and print what it shows, and its excerpts stand in the files they name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MACHINE = ("device", "python", "versions", "commit")  # lines that differ by machine


def examples():
    """(command, the output shown below it) of every console block."""
    for block in re.findall(r"```console\n(.*?)```", README, re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def stable(text):
    """The lines that are the same on every machine, with numbers masked: times, last bits and their reasons differ."""
    text = re.sub(r"^At \d+ new tokens after .*?(\n\n|\Z)", "", text, flags=re.S | re.M)
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    lines = (line for line in lines if line and not line.startswith(MACHINE))
    # A figure of the last digit may change the width of a column, and so the breaks of the lines under the table.
    return re.sub(r"\d[\d.]*(e-?\d+)?", "#", " ".join(lines))


@pytest.mark.parametrize(("command", "shown"), list(examples()), ids=[command for command, _ in examples()])
def test_a_command_prints_what_the_readme_shows(command, shown):
    words = command.replace("python ", f"{sys.executable} ", 1) if command.startswith("python ") else command
    words = re.sub(r"^kvproof ", f"{sys.executable} -m kvproof.gpt2 ", words)
    run = subprocess.run(words, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert stable(run.stdout) == stable(shown)


def test_the_readme_shows_the_main_job_and_the_generator():
    commands = [command for command, _ in examples()]
    assert "python bench/decode.py --impl triton" in commands
    assert any(command.startswith("kvproof generate") for command in commands)


def test_the_two_window_excerpt_stands_in_both_files():
    windows = re.search(r"```python\n(.*?)```", README, re.S)
    assert windows
    for name, rows in (("reference", 0), ("kernels", 1)):
        lines = [line.strip() for line in (ROOT / name / "decode_attention.py").read_text().splitlines()]
        column = [re.split(r"  \|  ?", row + "  |  ")[rows].strip() for row in windows[1].splitlines()[1:]]
        column = [row for row in column if row]
        assert len(column) > 8
        missing = [row for row in column if row not in [re.sub(r"  # .*", "", line).strip() for line in lines] + lines]
        assert not missing


def test_every_file_the_readme_names_exists():
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / name).exists(), name
