"""A file of prompts: one per line, or JSONL."""

import difflib
import json
import logging
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)
OPTIONS = (
    "model", "impl", "device", "dtype", "max_tokens", "temperature", "top_k", "top_p", "seed", "stop", "kv_cache",
)  # fmt: skip


class PromptFileError(ValueError):
    """A file of prompts that cannot be read as one; the message names the line."""


def prompt_lines(data: bytes, name: str) -> list[tuple[int, str]]:
    """(line number, prompt) of a file's bytes: one per line, or JSONL with a "prompt" field; blank lines are skipped.

    name  of the file, for messages; it is JSONL if this ends in .jsonl or the first line is an object with a "prompt"

    A warning names other fields, which are not read.
    Raises PromptFileError for bytes that are no UTF-8, a line that is no such object, or a file without prompts.
    """
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PromptFileError(f"{name}, line {line}: the file is no UTF-8 text; convert it first") from None
    numbered = [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise PromptFileError(f"{name} holds no prompt; write one per line")
    first = fields(numbered[0][1])
    if name.endswith(".jsonl") or dict(first).get("prompt") is not None:
        read = [(number, line, fields(line)) for number, line in numbered]
        prompts = [(number, json_prompt(line, found, f"{name}, line {number}")) for number, line, found in read]
        warn_of_unread([(number, key) for number, _, found in read for key, _ in found if key != "prompt"], name)
        return prompts
    if first:
        log.warning(
            '%s, line %d is a JSON object without "prompt", so its lines are taken as text', name, numbered[0][0]
        )
    return numbered


def fields(line: str) -> list[tuple[str, Any]]:
    """(name, value) of each field of a line that is a JSON object, repeated names included; else nothing."""
    try:
        record = json.loads(line, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return []
    return record if isinstance(record, Pairs) else []


class Pairs(list):
    """The fields of a JSON object in their order."""


def warn_of_unread(unread: Sequence[tuple[int, str]], name: str):
    """Warn of the fields, (line number, name) each, that are not read, with the likely intention."""
    first: dict[str, int] = {}
    for number, key in unread:
        first.setdefault(key, number)
    named = [f"{json.dumps(key[:40])} (line {number}{meant(key)})" for key, number in first.items()]
    if named:
        more = f" and {len(named) - 8} more" if len(named) > 8 else ""
        log.warning('%s: of a line only "prompt" is read, not %s%s', name, ", ".join(named[:8]), more)


def meant(key: str) -> str:
    """The likely intention of a field that is not read."""
    near = difflib.get_close_matches(key.lower().replace("-", "_"), ("prompt", *OPTIONS), 1, 0.75)
    if not near:
        return ""
    option = near[0].replace("_", "-")
    return '; did you mean "prompt"?' if near[0] == "prompt" else f"; --{option} sets it for all lines"


def json_prompt(line: str, found: Sequence[tuple[str, Any]], where: str) -> str:
    """The prompt of one JSONL line, a text that UTF-8 can write.  Raises PromptFileError."""
    named = [value for key, value in found if key == "prompt"]
    if len(named) > 1:
        raise PromptFileError(f'{where} has {len(named)} fields "prompt"; leave one')
    prompt = named[0] if named else None
    if not isinstance(prompt, str):
        near = difflib.get_close_matches("prompt", [key for key, _ in found if key != "prompt"], 1, 0.75)
        hint = f" (did you mean {json.dumps(near[0])}?)" if near else ""
        raise PromptFileError(f'{where} is no JSON object with a text "prompt"{hint}: {line[:60]}')
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise PromptFileError(f"{where}: the prompt holds half of a surrogate pair, which is no text") from None
    return prompt
