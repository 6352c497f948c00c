"""Ctrl-C at any moment, and a closed or full standard output: an exit code, at most one line, no traceback."""

import os
import signal
import subprocess
import sys

import pytest

from kvproof.gpt2.__main__ import main

from ... import _child

PROGRAM = [sys.executable, "-m", "kvproof.gpt2"]


def test_the_module_runs_as_a_program_and_survives_a_closed_pipe():
    command = f"set -o pipefail; {' '.join(PROGRAM)} generate --prompt 'Once upon a time' --max-tokens 200 | head -c 10"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.stdout == "Once upon "
    assert run.returncode == 0
    assert not run.stderr


def test_a_full_disk_below_standard_output_is_one_line_and_exit_code_1():
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # fails at exit, not before
    with open("/dev/full", "w") as full:
        run = _child.run([*PROGRAM, "tokenize", "x"], stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert run.returncode == 1
    assert run.stderr == "kvproof: No space left on device\n"


def test_ctrl_c_is_one_line_and_exit_code_130():
    words = ["generate", "--prompt", "ROMEO:", "--max-tokens", "1000", "--no-kv-cache"]
    with _child.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout
        assert run.stdout.read(6) == b"ROMEO:"  # so it is generating
        run.send_signal(signal.SIGINT)
        _, err = run.communicate()
    assert run.returncode == 130
    assert err == b"kvproof: interrupted\n"


def interrupted(program: str, *words: str) -> subprocess.CompletedProcess:
    """A process in which `ctrl_c()` sends SIGINT to itself, where the program says."""
    begin = (
        "import os, signal, sys\n"
        "def ctrl_c(*_):\n    os.kill(os.getpid(), signal.SIGINT)\n    for _ in range(1000): pass  # until it arrives\n"
        "from kvproof.gpt2.__main__ import main\n"
    )
    return _child.run([sys.executable, "-c", begin + program, *words], capture_output=True, text=True)


def test_ctrl_c_while_a_command_is_imported_is_exit_code_130_and_silent():
    program = (
        "class Trap:\n"
        "    def __init__(self, trapped):\n        self.trapped = trapped\n"
        "    def find_spec(self, name, *_):\n        if name == self.trapped: ctrl_c()\n"
        "for module in ('argparse', 'kvproof.gpt2.cli.parser', 'kvproof.gpt2.cli.run'):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        sys.modules.pop(module, None)\n"
        "        sys.meta_path.insert(0, Trap(module))\n"
        "        sys.exit(main())\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
    )
    run = interrupted(program, "tokenize", "x")
    assert (run.returncode, run.stdout, run.stderr) == (0, "130\n130\n130\n", "")


SCRIPT = [sys.executable, "-c", "import sys; sys.argv[0] = 'kvproof'; from kvproof.gpt2.__main__ import main; main()"]


@pytest.mark.parametrize("program", [PROGRAM, SCRIPT], ids=["-m", "script"])
@pytest.mark.parametrize("module", ["numpy", "torch", "safetensors", "tiktoken"])
def test_ctrl_c_while_the_package_is_imported_is_exit_code_130_and_silent(tmp_path, program, module):
    trap = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(1000): pass\nraise SystemError\n"
    (tmp_path / f"{module}.py").write_text(trap)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path}
    run = subprocess.run([*program, "tokenize", "x"], env=env, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "")


@pytest.mark.parametrize("program", [PROGRAM, SCRIPT], ids=["-m", "script"])
@pytest.mark.parametrize("lines", [2, 100, 500, 900, 1100])
def test_ctrl_c_at_any_moment_of_a_start_shows_no_traceback(program, lines):
    words = ["generate", "--prompt", "A", "--max-tokens", "2"]
    command = [program[0], "-X", "importtime", *program[1:], *words]  # prints each module it has imported
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr
        err = iter(run.stderr)
        assert any("kvproof.gpt2.cli.interrupt" in line for line in err)
        for _ in range(lines):
            next(err)
        run.send_signal(signal.SIGINT)
        rest = [line for line in err if not line.startswith("import time:")]
    assert run.returncode == 130
    assert rest in ([], ["kvproof: interrupted\n"])


def test_ctrl_c_after_the_work_is_done_shows_no_traceback():
    run = interrupted("import atexit\natexit.register(ctrl_c)\nsys.exit(main())\n", "tokenize", "A")
    assert (run.returncode, run.stdout, run.stderr) == (130, "32\n", "")


def test_main_called_from_python_leaves_ctrl_c_to_its_caller():
    before = signal.getsignal(signal.SIGINT)
    assert main(["tokenize", "A"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
