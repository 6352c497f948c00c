"""Quiet exits of the program: at Ctrl-C during its start, and when its output is closed.

Imports no torch, since it must work while torch is imported.
"""

import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = 130  # the exit code that shells give a program ended by Ctrl-C


def leave(*_):
    """Exit at once. A KeyboardInterrupt during an import may be swallowed, or shown as a traceback."""
    os._exit(INTERRUPTED)


@contextmanager
def quiet_ctrl_c(program: bool, on: bool = False):
    """Ctrl-C exits at once while the body runs.

    program  False changes nothing: in another program's process, or where it is ignored, Ctrl-C keeps its meaning
    on       and after it, until the next body of this kind has run
    """
    ours = (
        program
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) in (signal.default_int_handler, leave)
    )
    if ours:
        signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        if ours and not on:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def starting(argv0: str) -> bool:
    """Whether this import starts our program: sys.argv[0] is then as `kvproof` or `python -m` set it."""
    return argv0 == "-m" or Path(argv0).stem == "kvproof"


def runs_main() -> bool:
    """Whether __main__ follows this import for sure, and so whether it may leave Ctrl-C to it.

    `python -m other` has the same sys.argv[0] while it imports what stands above `other`.
    """
    words = sys.orig_argv
    return "-m" not in words or words[words.index("-m") + 1 :][:1] == ["kvproof.gpt2"]


def abandon_output():
    """If standard output is closed, send what Python flushes at exit to /dev/null."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
