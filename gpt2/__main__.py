"""The command line: `kvproof COMMAND`, also `python -m kvproof.gpt2 COMMAND`."""

import gc
import signal
import sys
from importlib.metadata import entry_points

from .cli.interrupt import INTERRUPTED, abandon_output, leave, quiet_ctrl_c


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    argv  the words after `kvproof`; None takes the process's, and its Ctrl-C

    Returns the exit code: 0, 1, 2 or 130 as in `kvproof --help`, or one of `kvproof verify --help`. Raises SystemExit,
    or for a bug of ours.
    """
    program, words = argv is None, sys.argv[1:] if argv is None else argv
    try:
        with quiet_ctrl_c(program):
            # A command of another part, which this one must not import: `verify` lives in bench/.
            for brought in entry_points(group="kvproof.commands", name=words[0] if words else ""):
                return brought.load()(words[1:])
            from .cli.parser import parser

            args = parser().parse_args(argv)
            from .cli.run import run
        code = run(args)
    except SystemExit:  # argparse's, which may have printed help
        abandon_output()
        raise
    except KeyboardInterrupt as stop:  # unfinished work has been undone on the way here
        print("kvproof:", str(stop) or "interrupted", file=sys.stderr)
        code = INTERRUPTED
    if program and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)  # all is written; a Ctrl-C while torch is torn down shows no traceback
    if program:
        gc.freeze()  # or Python searches all that torch left for garbage, which takes half a second
    return code


if __name__ == "__main__":
    sys.exit(main())
