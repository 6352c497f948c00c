"""Where a job's lines go: appended to its file, or poured into a pipe or standard output, with progress shown."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..jobs import journal
from . import output_file
from .lock import ADVICE, locked
from .progress import Progress


def to_stdout(lines: str):
    print(lines, end="", flush=True)


@contextmanager
def destination(output: Path | None, advice: str = ADVICE) -> Iterator[tuple[Path | None, Callable[[str], object]]]:
    """Where a job's lines go: (the file, to_stdout) for a regular file, (None, what writes) for anything else.

    output  None is standard output. A regular file is locked before it is read: what it holds must stay true
    advice  how to name another file, if that one is locked
    """
    if output is None:
        yield None, to_stdout
    elif output_file.is_plain(output):
        with locked(output, advice=advice):
            yield output, to_stdout
    else:
        with output_file.open_special(output) as pipe:

            def write(lines: str):
                with output_file.naming(output):
                    output_file.pour(pipe, lines.encode())

            yield None, write


def write_results(
    chunks: Iterator[str],
    output: Path | None,
    size: int,
    line: Progress,
    write: Callable[[str], object] = to_stdout,
    group: int = journal.LINES,
):
    """Append chunks of lines to a file's first `size` bytes, or call write; the progress line counts them.

    group  lines between two syncs

    Raises KeyboardInterrupt or OSError with the number of lines done and the fix. A chunk that cannot be written is
    printed.
    """
    latest = [""]

    def seen() -> Iterator[str]:
        for latest[0] in chunks:
            yield latest[0]

    try:
        if output:
            journal.write_journal(output, size, seen(), line.update, group)
        else:
            for lines in seen():
                line.clear()  # where both are on one screen
                write(lines)
                line.update(lines.count("\n"))
    except KeyboardInterrupt:
        hint = "; the same command goes on from there" if output else ""
        raise KeyboardInterrupt(f"interrupted after {line.done} of {line.total} {line.what}{hint}") from None
    except OSError as error:
        if not output:
            raise
        to_stdout(latest[0])
        why = f"{error.strerror} after {line.done} of {line.total} {line.what}"
        hint = (
            "put it right, the same command goes on from there; results that are not in the file are on standard output"
        )
        raise OSError(error.errno, f"{why}; {hint}", str(output)) from None
