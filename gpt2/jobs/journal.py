"""The file of results: one JSON line per request, in input order, appended and synced in groups.

A kill leaves whole lines and at most one half line. Each line begins with what was asked, so the next run compares the
file with its own requests, resumes where it ends, and leaves the file of another job unchanged.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

LINES, SECONDS = 64, 1.0  # of results between two syncs, whichever comes first

Fields = dict[str, Any]


class OutputMismatch(ValueError):
    """The output file is not the beginning of this run; it is left unchanged."""


class Form(Protocol):
    """The lines of one kind of job."""

    required: str  # the field that every line of the kind has
    another: str  # advice that names another output
    unit: str  # what a line answers, in the plural

    def difference(self, found: Fields, asked: Fields) -> str | None:
        """How a line's first fields differ from those that this run would write, with the fix; None if they do not."""
        ...


def to_line(fields: Fields) -> str:
    """A result as one line of JSON in UTF-8; bytes of a prompt that are no text become escapes."""
    line = json.dumps(fields, ensure_ascii=False) + "\n"
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", line)


def lines_done(path: Path, form: Form, questions: Iterable[Fields]) -> tuple[int, int]:
    """The number of whole lines of this run in its output file, and their bytes; (0, 0) without a file.

    questions  the fields that each line begins with, in order; no more are taken than the file has lines

    Raises OutputMismatch unless every line answers its question, and a half line at the end begins the next.
    """
    if not path.exists():
        return 0, 0
    count = size = 0
    asked = iter(questions)
    with open(path, "rb") as file:
        for line in file:
            question = next(asked, None)
            if question is None:
                raise OutputMismatch(f"{path} holds more than this run's {count} {form.unit}; {form.another}")
            where = f"{path}, line {count + 1}"
            if not line.endswith(b"\n"):
                check_half(line, question, form, where)
                break
            check_line(line[:-1], question, form, where)
            count, size = count + 1, size + len(line)
    return count, size


def check_half(half: bytes, asked: Fields, form: Form, where: str):
    """Raises OutputMismatch unless a line without its end may be the beginning of the answer."""
    start = to_line(asked)[:-2].encode()  # without its "}" and newline
    if not (half.startswith(start) or start.startswith(half)):
        raise OutputMismatch(f"{where} is no result of this run; {form.another}")


def check_line(line: bytes, asked: Fields, form: Form, where: str):
    """Raises OutputMismatch with the difference unless a whole line answers the question."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or form.required not in found:
        raise OutputMismatch(f"{where} is no result of kvproof; {form.another}")
    if difference := form.difference(found, asked):
        raise OutputMismatch(f"{where} {difference}")
    if to_line(found).encode() != line + b"\n":
        raise OutputMismatch(
            f"{where} was rewritten by another program: {rewritten(line)}; put back what kvproof wrote or "
            f"{form.another}"
        )


def rewritten(line: bytes) -> str:
    """The difference between a rewritten line and the one that kvproof wrote."""
    if line.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte-order mark"
    return "it ends in CR LF" if line.endswith(b"\r") else "the same fields in another form"


def setting_difference(found: Any, asked: Fields, digest: str, another: str) -> str | None:
    """The first setting in which a line's job differs from this run's, with the fix; None if all agree.

    digest  name of the setting that is a digest of the model's files
    """
    found = found if isinstance(found, dict) else {}
    for name, value in asked.items():
        if found.get(name) == value:
            continue
        if name == digest and found.get(name):
            return f"was made when the model's files were others; put those back or {another}"
        return f"was made with {name} {found.get(name)!r}, this run has {value!r}; repeat the old settings or {another}"
    return None


def write_journal(
    path: Path,
    size: int,
    chunks: Iterable[str],
    wrote: Callable[[int], object],
    lines: int = LINES,
    seconds: float = SECONDS,
):
    """Append chunks of whole lines to the first `size` bytes of a file, as they come.

    wrote           called with the number of lines after each chunk
    lines, seconds  a sync follows so many lines, or the first chunk after so many seconds, and the last chunk
    """
    with open(path, "ab") as file:
        file.truncate(size)  # without the half line of a kill
        waiting, synced = 0, time.monotonic()
        try:
            for chunk in chunks:
                file.write(chunk.encode())
                file.flush()
                waiting += chunk.count("\n")
                if waiting >= lines or time.monotonic() - synced >= seconds:
                    os.fsync(file.fileno())
                    waiting, synced = 0, time.monotonic()
                wrote(chunk.count("\n"))
        finally:
            if waiting:
                os.fsync(file.fileno())
