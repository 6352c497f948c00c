"""_child.py: a forked program finds what a started one finds, and ends as it does."""

import os
import signal
import subprocess
import sys
import time

import pytest

from . import _child

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere every process is started")
FOUND = """
import os, signal, sys, threading
main = sys.modules["__main__"]
print(sys.argv, sys.orig_argv, sys.path, sys.flags, sys.warnoptions, sep="\\n")
print(__name__, sorted(vars(main)), vars(main) is globals(), globals().get("__file__"), __loader__.__class__)
print(sorted(os.environ.items()), os.getcwd(), os.umask(0), os.getpgrp(), os.getsid(0), sep="\\n")
print(*map(signal.getsignal, (signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD)), signal.pthread_sigmask(0, ()))
print(*((x, x.encoding, x.line_buffering, x.write_through, x.errors) for x in (sys.stdin, sys.stdout, sys.stderr)))
print(sys.stdin.read(), sys.stdout is sys.__stdout__, len(threading.enumerate()), len(os.listdir("/proc/self/fd")))
print({"numba", "llvmlite", "triton", "transformers", "kvproof", "tests"} & {*sys.modules})
"""
OF_TORCH = """
import sys, warnings, safetensors.torch, torch
print(sys.warnoptions, *warnings.filters, sep="\\n")
print(torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.__config__.parallel_info())
"""


def ended(run, *words, **options) -> tuple[int, str, str]:
    done = run([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    return done.returncode, done.stdout, done.stderr


@LINUX
@pytest.mark.parametrize(
    ("words", "env"),
    [
        (("-c", FOUND), {}),
        (("-W", "error", "-m", "found"), {"PYTHONUNBUFFERED": "1"}),
        (("found.py",), {"HF_HOME": "x", "PYTHONIOENCODING": "latin-1"}),
        (("-W", "error", "-W", "ignore:a (b):DeprecationWarning", "-c", OF_TORCH), {}),
    ],
    ids=["-c", "-m", "file", "of torch"],
)
def test_a_forked_program_finds_what_a_started_one_finds(tmp_path, words, env):
    (tmp_path / "found.py").write_text(FOUND)
    env = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"} | env
    found = []
    for run in (_child.run, subprocess.run):
        with open(tmp_path / "found.py") as given:
            found.append(ended(run, *words, "a", "-b", cwd=tmp_path, env=env, stdin=given))
    assert found[0] == found[1]
    assert found[0][0] == 0


ENDS = {
    "code": "import sys; print('a', end=''); sys.exit(7)",
    "words": "raise SystemExit('no')",
    "at exit": "import atexit; atexit.register(print, 'bye'); print('a')",
    "C": "import ctypes; ctypes.CDLL(None).puts(b'of C')",
    "signal": "import os; os.kill(os.getpid(), 9)",
    "thread": "import threading, time; threading.Timer(0.2, print, ['late']).start()",
    "warning": "import warnings; warnings.warn('old', DeprecationWarning)",
    "memory": "import ctypes; ctypes.string_at(0)",
    "destructor": "class A:\n    def __del__(self): print('gone')\na = A()",
}


@pytest.mark.parametrize("program", ENDS.values(), ids=ENDS)
def test_it_ends_as_a_started_one_does(program):
    assert ended(_child.run, "-c", program) == ended(subprocess.run, "-c", program)


@pytest.mark.parametrize(("program", "code"), [("1 / 0", 1), ("raise KeyboardInterrupt", -signal.SIGINT)])
def test_an_exception_is_shown_and_its_exit_code_is_python_s(program, code):
    (forked, _, shown), started = (ended(run, "-c", program) for run in (_child.run, subprocess.run))
    assert forked == started[0] == code
    assert shown.splitlines()[-2:] == started[2].splitlines()[-2:]


@LINUX
def test_torch_is_there_at_once_and_random_numbers_are_its_own():
    program = "import os, sys; print(os.getppid(), 'torch' in sys.modules)\n"
    program += "import random, numpy, torch; print(random.random(), numpy.random.random(), torch.rand(()).item())"
    server = _child.fork_server()
    assert server
    env = {os.fsdecode(name): os.fsdecode(text) for name, text in server.environment.items()}
    (first, *one), (second, *other) = (ended(_child.run, "-c", program, env=env)[1].split() for _ in range(2))
    assert first == second != str(os.getpid())
    assert one[0] == other[0] == "True"
    assert not {*one[1:]} & {*other[1:]}
    assert len(one) == 4


@pytest.mark.parametrize(
    ("words", "env"),
    [(["-O", "-c"], {}), (["-I", "-c"], {}), (["-X", "dev", "-c"], {}), (["-c"], {"OMP_NUM_THREADS": "3"})],
)
def test_what_a_fork_could_not_have_is_started(words, env):
    program = "import os, sys; print(os.getppid(), 'torch' in sys.modules)"
    _, out, _ = ended(_child.run, *words, program, env=os.environ | env)
    assert out == f"{os.getpid()} False\n"


def test_a_process_can_be_waited_for_written_to_and_killed():
    program = "import sys; print(sys.stdin.readline(), end='', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with _child.Popen([sys.executable, "-c", program], **pipes) as process:
        assert process.stdin
        assert process.stdout
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        print("said", file=process.stdin, flush=True)
        assert process.stdout.readline() == "said\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == process.poll() == process.returncode == -signal.SIGTERM
        process.kill()  # it is gone, and so is nobody else
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        _child.run([sys.executable, "-c", "import time; time.sleep(30)"], timeout=0.1)
    assert time.monotonic() - begun < 20
    with pytest.raises(subprocess.CalledProcessError):
        _child.run([sys.executable, "-c", "raise SystemExit(2)"], check=True)


def test_processes_that_run_at_once_have_ends_of_their_own():
    program = "import sys; sys.stdin.read(); sys.exit(int(sys.argv[1]))"
    runs = [_child.Popen([sys.executable, "-c", program, str(i)], stdin=subprocess.PIPE) for i in range(5)]
    for i in (3, 0, 4, 2, 1):
        with runs[i] as process:
            assert process.poll() is None
        assert process.returncode == i
