"""The commands of bench/ as programs: Ctrl-C while they start, a reader that has enough, a disk that is full."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .. import _child

BENCH = Path(__file__).parents[2] / "bench"
FILES = [path for path in BENCH.glob("*.py") if '\nif __name__ == "__main__"' in path.read_text("utf-8")]
ROOMS = [path.parent.name for path in BENCH.glob("*/__main__.py")]
COMMANDS = {path.name: [str(path)] for path in FILES} | {room: ["-m", f"kvproof.bench.{room}"] for room in ROOMS}


def test_there_are_commands_to_try():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_while_a_command_is_imported_ends_it_without_a_word(tmp_path, command):
    trap = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(1000): pass\nraise SystemError\n"
    for name in ("argparse", "json"):  # the first thing that each imports
        (tmp_path / f"{name}.py").write_text(trap)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [sys.executable, *COMMANDS[command]], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "")


PRINTING = {
    "memory": ["-m", "kvproof.bench.memory"],
    "help": ["-m", "kvproof.bench.roofline", "--help"],
    "kvproof's help": ["-m", "kvproof.gpt2", "--help"],
    "verify": ["-m", "kvproof.gpt2", "verify", "--faults"],
}


@pytest.mark.parametrize("name", PRINTING)
def test_a_reader_that_has_enough_ends_a_command_quietly(name):
    read, write = os.pipe()
    os.close(read)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    run = _child.run([sys.executable, *PRINTING[name]], stdout=write, stderr=subprocess.PIPE, cwd=BENCH.parent, env=env)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, b"")


def test_a_full_disk_below_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        run = _child.run([sys.executable, *COMMANDS["memory"]], stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 2
    assert "No space left on device" in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_main_runs_ends_it_without_a_traceback(sent):
    program = "import time\nfrom kvproof.bench.program import ends, starts\nstarts()\n"
    program += "def main():\n    print('on', flush=True)\n    time.sleep(60)\nends(main)\n"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout
        assert run.stdout.readline() == b"on\n"
        run.send_signal(sent)
        begun = time.monotonic()
        _, err = run.communicate()
    assert time.monotonic() - begun < 5
    assert run.returncode == (130 if sent == signal.SIGINT else -signal.SIGTERM)
    assert err == (b"interrupted\n" if sent == signal.SIGINT else b"")
