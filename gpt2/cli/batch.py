"""Many prompts from a file: complete them in batches, and resume a killed run.

The results are a journal: one JSON line per prompt, in input order, appended and synced batch by batch. A kill leaves
whole lines and at most one half line, from which the next run resumes.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..generate import Completion

Complete = Callable[[int, Sequence[str]], Sequence[Completion]]


class OutputMismatch(ValueError):
    """The output file is not the beginning of this run; it is left unchanged."""


def record(index: int, prompt: str, settings: dict[str, Any], done: Completion) -> dict[str, Any]:
    """A result: the question first, so that the beginning of its line is known before the work."""
    answer = {"text": done.text, "ids": done.ids, "prompt_tokens": len(done.prompt_ids)}
    return asked(index, prompt, settings) | answer | {"finish_reason": done.finish_reason}


def asked(index: int, prompt: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "prompt": prompt, "settings": settings}


def to_line(fields: dict[str, Any]) -> str:
    """A result as one line of JSON in UTF-8; bytes of a prompt that are no text become escapes."""
    line = json.dumps(fields, ensure_ascii=False) + "\n"
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", line)


def lines_done(path: Path, prompts: Sequence[str], settings: dict[str, Any]) -> tuple[int, int]:
    """The number of whole lines of this run in its output file, and their bytes; (0, 0) without a file.

    Raises OutputMismatch unless every line answers its prompt under the same settings, and a half line at the end
    begins the next.
    """
    if not path.exists():
        return 0, 0
    *lines, half = path.read_bytes().split(b"\n")
    if len(lines) > len(prompts) or (half and len(lines) == len(prompts)):
        raise OutputMismatch(f"{path} holds more than this run's {len(prompts)} prompts; name another --output")
    for index, (line, prompt) in enumerate(zip(lines, prompts, strict=False)):
        check_line(line, asked(index, prompt, settings), f"{path}, line {index + 1}")
    if half:
        start = to_line(asked(len(lines), prompts[len(lines)], settings))[:-2].encode()  # without its "}" and newline
        if not (half.startswith(start) or start.startswith(half)):
            raise OutputMismatch(f"{path}, line {len(lines) + 1} is no result of this run; name another --output")
    return len(lines), sum(len(line) + 1 for line in lines)


def check_line(line: bytes, expected: dict[str, Any], where: str):
    """Raises OutputMismatch with the difference unless a whole line answers the expected question."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "finish_reason" not in found:
        raise OutputMismatch(f"{where} is no result of kvproof; name another --output")
    if not isinstance(found.get("settings"), dict):
        found["settings"] = {}
    for name, value in expected["settings"].items():
        if found["settings"].get(name) != value:
            if name == "weights" and found["settings"].get(name):
                raise OutputMismatch(
                    f"{where} was made when the model's files were others; put those back or name another --output"
                )
            raise OutputMismatch(
                f"{where} was made with {name} {found['settings'].get(name)!r}, this run has {value!r}; "
                "repeat the old settings or name another --output"
            )
    for name in ("index", "prompt"):
        if found.get(name) != expected[name]:
            raise OutputMismatch(
                f"{where} answers {name} {str(found.get(name))[:40]!r}, this run has {str(expected[name])[:40]!r} "
                "there; give the same prompts or name another --output"
            )
    if to_line(found).encode() != line + b"\n":
        raise OutputMismatch(
            f"{where} was rewritten by another program: {rewritten(line)}; put back what kvproof wrote or name another "
            "--output"
        )


def rewritten(line: bytes) -> str:
    """The difference between a rewritten line and the one that kvproof wrote."""
    if line.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte-order mark"
    return "it ends in CR LF" if line.endswith(b"\r") else "the same fields in another form"


def run(prompts: Sequence[str], settings: dict, batch: int, complete: Complete, done: int = 0) -> Iterator[str]:
    """Yield the result lines of each batch, without the first `done` lines, which are written already.

    complete  called as complete(start, prompts) for the batch that begins at prompt `start`

    Batches begin at multiples of `batch` wherever a run was killed, since the last bits of a sum depend on its batch:
    a half-written batch is computed again in full, and its missing lines are yielded.
    """
    for start in range(done - done % batch, len(prompts), batch):
        part = prompts[start : start + batch]
        lines = [
            to_line(record(start + i, prompt, settings, result))
            for i, (prompt, result) in enumerate(zip(part, complete(start, part), strict=True))
        ]
        yield "".join(lines[max(done - start, 0) :])


def write_journal(path: Path, size: int, batches: Iterable[str], wrote: Callable[[int], object]):
    """Append batches of lines to the first `size` bytes of a file, each on the disk before the next is computed.

    wrote  called with the number of lines after each batch
    """
    with open(path, "ab") as file:
        file.truncate(size)  # without the half line of a kill
        for lines in batches:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())
            wrote(lines.count("\n"))
