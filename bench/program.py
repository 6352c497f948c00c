"""How a command of this folder starts, ends, refuses what does not fit, and writes a picture.

    if __name__ == "__main__":
        from kvproof.bench.program import starts

        starts()

    import torch  # and whatever else takes seconds

    if __name__ == "__main__":
        ends(main)

Importing it imports nothing but the standard library, since it must be there before torch is.
"""

import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import argparse

INTERRUPTED = 130  # the exit code that shells give a program ended by Ctrl-C


def starts():
    """Ctrl-C ends the process without a word until `ends` begins: thrown into an import it would be a traceback."""
    gc.disable()  # until then too: an import makes no garbage, and looking for it takes a tenth of torch's import
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where Ctrl-C is ignored
        signal.signal(signal.SIGINT, leave)


def leave(*_):
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


def parser_for(prog: str, about: str | None) -> "argparse.ArgumentParser":
    """A parser whose help shows `about`, a module's docstring, as it is."""
    import argparse

    return argparse.ArgumentParser(prog=prog, description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def refuses(command: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Decorates a main: a ValueError, an ImportError or an OSError is one line on standard error and exit code 2.

    command  the line's first words
    """

    def decorate(main: Callable[..., int]) -> Callable[..., int]:
        @wraps(main)
        def refusing(argv: list[str] | None = None) -> int:
            try:
                return main(argv)
            except BrokenPipeError:
                raise
            except (ValueError, ImportError, OSError) as error:
                print(f"{command}: {words(error)}", file=sys.stderr)
                return 2

        return refusing

    return decorate


def words(error: Exception) -> str:
    """An error in words: the file and what is wrong with it, or the package that is missing and how to get it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not here; python -m pip install -e '.[plots]'"
    return str(error)


def write_figure(path: Path, figure: Any) -> None:
    """Write a matplotlib Figure into a .png (the default), .svg, .pdf ... file, whole or not at all.

    Raises ValueError for a file type that matplotlib does not write, OSError as output_file.write does.
    """
    from kvproof.gpt2.cli import output_file  # brings torch

    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format=path.suffix[1:] or "png")
    output_file.write(path, picture.getvalue())


def abandon_output():
    """Where standard output takes no more, give what Python still wants to flush somewhere to go."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def numbers(text: str) -> list[int]:
    """ "128,256" -> [128, 256]; for argparse."""
    values = sorted({int(word) for word in text.split(",")})
    if values[0] < 1:
        import argparse

        raise argparse.ArgumentTypeError(f"{values[0]} came; each must be 1 or more")
    return values
