"""A line of a job's input: OpenAI's batch line around a request."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from .body import BadRequest, Body, chat, read_body, shown, unknown

URL, CHAT = "/v1/completions", "/v1/chat/completions"
FIELDS = ("custom_id", "method", "url", "body")


@dataclass(frozen=True)
class Line:
    """A line of input.

    index      of the line in its file, blank lines counted
    data       its bytes, without the line's end
    custom_id  the caller's name for it, None if it has none
    asked      its request, or what is wrong with it
    """

    index: int
    data: bytes
    custom_id: str | None
    asked: Body | BadRequest

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of its bytes."""
        return hashlib.sha256(self.data).hexdigest()[:16]


def content(index: int, line: bytes) -> bytes:
    """A line's bytes without its end and, in the first line, without a byte-order mark; empty for a blank line."""
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    line = line.removeprefix(b"\xef\xbb\xbf") if index == 0 else line
    return line if line.strip() else b""


def read_line(index: int, line: bytes) -> Line:
    """A line read; what is wrong with it becomes its `asked`."""
    data = content(index, line)
    try:
        fields = read_object(data)
    except BadRequest as error:
        return Line(index, data, None, error)
    custom_id = fields.get("custom_id")
    custom_id = custom_id if isinstance(custom_id, str) else None
    try:
        return Line(index, data, custom_id, read_request(fields))
    except BadRequest as error:
        return Line(index, data, custom_id, error)


def read_object(data: bytes) -> dict[str, Any]:
    """The fields of a line.  Raises BadRequest unless it is an object of JSON in UTF-8, no name in it twice."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("invalid_json", f"byte {error.start + 1} is no UTF-8; write the file in UTF-8") from None
    try:
        found = json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except BadRequest:
        raise
    except (ValueError, RecursionError) as error:
        why = f"{error.msg}, at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)[:60]
        raise BadRequest("invalid_json", f"it is no JSON ({why}); one object must stand on a line") from None
    if not isinstance(found, dict):
        raise BadRequest("invalid_json", f"it is {shown(found)}; it must be an object with {', '.join(FIELDS)}")
    return found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object.  Raises BadRequest for a name that comes twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest("invalid_json", f"{shown(twice)} comes twice; leave one", twice)
    return fields


def no_number(name: str):
    raise BadRequest("invalid_json", f"{name} is no number of JSON; leave it out, or write a finite number")


def read_request(fields: dict[str, Any]) -> Body:
    """The request in a line's fields.  Raises BadRequest."""
    for name in fields:
        if name not in FIELDS:
            raise unknown(name, FIELDS, "line")
    for name in FIELDS:
        if name not in fields:
            raise BadRequest("missing_field", f"{name} is missing; a line has {', '.join(FIELDS)}", name)
    if not isinstance(fields["custom_id"], str) or not fields["custom_id"]:
        raise BadRequest(
            "invalid_value", f"custom_id is {shown(fields['custom_id'])}; it must be a text of its own", "custom_id"
        )
    if fields["method"] != "POST":
        raise BadRequest("invalid_value", f"method is {shown(fields['method'])}; it must be POST", "method")
    if fields["url"] == CHAT:
        raise chat("url")
    if fields["url"] != URL:
        raise BadRequest("invalid_value", f"url is {shown(fields['url'])}; it must be {URL}", "url")
    return read_body(fields["body"])
