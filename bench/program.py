"""How a command of this folder begins and ends as a program: Ctrl-C and a closed pipe are no accidents.

    if __name__ == "__main__":
        from kvproof.bench.program import starts

        starts()

    import torch  # and whatever else takes seconds

    if __name__ == "__main__":
        ends(main)

Imports nothing but the standard library, since it must be there before torch is.
"""

import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 130  # the exit code that shells give a program ended by Ctrl-C


def starts():
    """Ctrl-C ends the process without a word until `ends` begins: thrown into an import it would be a traceback."""
    gc.disable()  # until then too: an import makes no garbage, and looking for it takes a tenth of torch's import
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where Ctrl-C is ignored
        signal.signal(signal.SIGINT, leave)


def leave(*_):
    """Exit at once."""
    os._exit(INTERRUPTED)


def ends(main: Callable[[], int], failed: int = 2) -> NoReturn:
    """Run main and leave with its exit code.

    A reader of standard output that has enough, as `head` has, ends it quietly with exit code 0; Ctrl-C ends it with
    130. failed is the exit code where the last of the output cannot be written, as on a full disk.
    """
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()  # what was imported
    gc.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a narrow encoding shows what it lacks as an escape
        sys.stdout.reconfigure(errors="backslashreplace")
    code = None
    try:
        try:
            code = main()
        except SystemExit as stop:  # argparse's, which may have printed help
            code = stop.code
        print(end="", flush=True)
    except BrokenPipeError:
        code = 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except OSError as error:  # of that flush: main answers for its own, and may have met the same
        if not code:
            print(f"{sys.argv[0]}: standard output: {error.strerror}", file=sys.stderr)
        code = code or failed
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # all is said; torch is torn down for a while
        signal.signal(signal.SIGINT, leave)
    abandon_output()
    gc.freeze()  # or Python searches all that torch left for garbage, which takes half a second
    sys.exit(code)


def words(error: OSError) -> str:
    """What is wrong with which file."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def abandon_output():
    """Where standard output takes no more, give what Python still wants to flush somewhere to go."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
