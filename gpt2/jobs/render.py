"""The lines of a job's output: OpenAI's batch lines with one more field, `job`, that a resumed run compares."""

from collections.abc import Sequence
from typing import Any

from ..engine import Result
from ..tokenizer import Tokenizer
from .body import BadRequest, Body
from .job import Job
from .journal import Fields, setting_difference, to_line
from .line import Line
from .logprobs import logprobs

PREFIX = "batch_req_"


class BatchForm:
    """The lines of `kvproof batch`, for the journal."""

    required, another, unit = "error", "name another output file", "requests"

    def difference(self, found: Fields, asked: Fields) -> str | None:
        mine = asked["job"]
        job = found["job"] if isinstance(found.get("job"), dict) else {}
        place = {"line": mine["line"], "input": mine["input"]}
        facts = {name: value for name, value in mine.items() if name not in place}
        if said := setting_difference(job, facts, "files", self.another):
            return said
        if job.get("line") != place["line"]:
            return (
                f"answers line {job.get('line')} of the input, this run has line {place['line']} there; give the same "
                f"lines, with new ones at the end, or {self.another}"
            )
        if job.get("input") != place["input"]:
            return (
                f"answers another request than the input's line {place['line']} now holds; put that back and append "
                f"new lines at the end, or {self.another}"
            )
        if any(found.get(name) != asked[name] for name in ("id", "custom_id")):
            named = found.get("custom_id")
            return f"was made for custom_id {named!r}, this run has {asked['custom_id']!r}; {self.another}"
        return None


def question(job: Job, line: Line) -> Fields:
    """What an output line begins with, known before the work. Its ids are digests, which repeat where the bytes do."""
    name = job.digest(str(line.index).encode(), line.data)[:24]
    place = {"line": line.index + 1, "input": line.digest}
    return {"id": f"{PREFIX}{name}", "custom_id": line.custom_id, "job": job.facts() | place}


def answered(asked: Fields, status: int, body: Fields, error: Fields | None) -> str:
    """An output line: its question, and OpenAI's response around a body."""
    request = f"req_{asked['id'].removeprefix(PREFIX)}"
    response = {"status_code": status, "request_id": request, "body": body}
    return to_line(asked | {"response": response, "error": error})


def failure(job: Job, line: Line, error: BadRequest, status: int = 400) -> str:
    """The output line of a request that cannot be answered.

    status  400 for a request at fault, 500 for the model
    """
    message, kind = f"line {line.index + 1}: {error}", "invalid_request_error" if status == 400 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": error.param, "code": error.code}}
    return answered(question(job, line), status, body, {"code": error.code, "message": message})


def repeated(job: Job, line: Line, first: int) -> str:
    """The output line of a request whose custom_id the line of index `first` has already."""
    advice = f"custom_id {line.custom_id!r} came first in line {first + 1}; give each line its own"
    return failure(job, line, BadRequest("duplicate_custom_id", advice, "custom_id"))


def success(
    job: Job, line: Line, body: Body, tokenizer: Tokenizer | None, results: Sequence[Result], texts: Sequence[str]
) -> str:
    """The output line of a request that was answered.

    results  `n` of each prompt, prompt after prompt
    texts    of the prompts, for `echo`
    """
    made = sum(len(one.ids) for one in results)
    read = sum(len(one.prompt_ids) for one in results[:: body.n])
    asked = question(job, line)
    completion = {
        "id": f"cmpl-{asked['id'].removeprefix(PREFIX)}",
        "object": "text_completion",
        "created": 0,  # no time, so that the same job gives the same bytes
        "model": job.model,
        "system_fingerprint": f"fp_{job.digest()[:10]}",
        "choices": [
            choice(index, body, tokenizer, one, texts[index // body.n] if body.echo else "")
            for index, one in enumerate(results)
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made},
    }
    return answered(asked, 200, completion, None)


def choice(index: int, body: Body, tokenizer: Tokenizer | None, done: Result, before: str) -> dict[str, Any]:
    """One choice of a completion; `before` is the echo of its prompt."""
    scores = None
    if body.logprobs is not None:
        assert tokenizer is not None
        assert done.logits is not None
        scores = logprobs(tokenizer, done.ids, done.text or "", done.logits, body.logprobs)
    found = {"text": before + (done.text or ""), "index": index, "finish_reason": done.finish_reason}
    found |= {"logprobs": scores}
    if body.return_token_ids:
        found |= {"prompt_token_ids": done.prompt_ids, "token_ids": done.ids}
    return found
