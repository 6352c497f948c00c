"""How a process of ours leaves without a word: at Ctrl-C while nothing is under way, and when nobody reads on.

Light: it must be there before torch is.
"""

import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = 130  # the exit code that shells give a program ended by Ctrl-C


def leave(*_):
    """Exit at once. No KeyboardInterrupt: thrown into an import it may be swallowed there, or shown as a traceback."""
    os._exit(INTERRUPTED)


@contextmanager
def quiet_ctrl_c(program: bool):
    """Ctrl-C leaves at once while the body runs.

    program  False changes nothing: in a process of somebody else Ctrl-C is not ours to decide, nor where it is ignored
    """
    ours = (
        program
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def starting(argv0: str) -> bool:
    """Whether an import is made to start a program of ours: sys.argv[0] as `kvproof` or `python -m` have it then."""
    return argv0 == "-m" or Path(argv0).stem == "kvproof"


def abandon_output():
    """Where standard output takes no more, give what Python still wants to flush at exit somewhere to go."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
