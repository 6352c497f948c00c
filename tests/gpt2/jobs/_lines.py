"""Lines of input and output, and the form that OpenAI gives them, written down by hand."""

import json
from typing import Any

LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions"}


def line(custom_id: str = "a", **body) -> bytes:
    """A line of input with this body; a prompt unless it names one."""
    return json.dumps(LINE | {"custom_id": custom_id, "body": {"prompt": "ROMEO:"} | body}).encode() + b"\n"


TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}


def exactly(**fields: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no other."""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def either(*schemas: Any) -> dict[str, Any]:
    return {"oneOf": list(schemas)}


def many(schema: Any) -> dict[str, Any]:
    return {"type": "array", "items": schema}


NULL, NUMBER = {"type": "null"}, {"type": "number", "maximum": 0}
LOGPROBS = exactly(
    tokens=many(TEXT),
    token_logprobs=many(NUMBER),
    top_logprobs=many({"type": "object", "additionalProperties": NUMBER, "minProperties": 1, "maxProperties": 6}),
    text_offset=many(COUNT),
)
CHOICE = exactly(text=TEXT, index=COUNT, finish_reason={"enum": ["stop", "length"]}, logprobs=either(NULL, LOGPROBS))
COMPLETION = exactly(
    id={"type": "string", "pattern": "^cmpl-[0-9a-f]{24}$"},
    object={"const": "text_completion"},
    created={"const": 0},
    model=TEXT,
    system_fingerprint={"type": "string", "pattern": "^fp_[0-9a-f]{10}$"},
    choices=many(CHOICE) | {"minItems": 1},
    usage=exactly(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
)
FAILED = exactly(error=exactly(message=TEXT, type=TEXT, param=either(NULL, TEXT), code=TEXT))


def response(status: Any, body: Any) -> dict[str, Any]:
    return exactly(status_code=status, request_id={"type": "string", "pattern": "^req_[0-9a-f]{24}$"}, body=body)


def output(answer: Any, error: Any) -> dict[str, Any]:
    batch_id = {"type": "string", "pattern": "^batch_req_[0-9a-f]{24}$"}
    return exactly(id=batch_id, custom_id=either(NULL, TEXT), job={"type": "object"}, response=answer, error=error)


OUTPUT = either(
    output(response({"const": 200}, COMPLETION), NULL),
    output(response({"enum": [400, 500]}, FAILED), exactly(code=TEXT, message=TEXT)),
)
