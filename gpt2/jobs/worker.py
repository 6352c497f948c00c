"""A worker: the model and its engine, which turn lines of input into lines of output."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from ..engine import Engine, Event, Request, Result
from ..generate import check_fit, encode
from ..model import GPT2
from ..stream import NotFinite
from ..weights import load
from .body import BadRequest, Body
from .fingerprint import fingerprint
from .in_order import REFUSED, in_order
from .job import Job
from .line import Line, read_line
from .render import failure, repeated, success

AHEAD = 2  # windows of `running` requests in the engine: a finished one is replaced without a pause


class LineTask:
    """A line of input on its way through the engine."""

    def __init__(self, worker: "Worker", line: Line, first: int | None):
        self.worker, self.line = worker, line
        self.requests: list[Request] = []
        self.failed: str | None = None
        if first is not None:
            self.failed = repeated(worker.job, line, first)
        else:
            try:
                self.requests = worker.requests(line)
            except BadRequest as error:
                self.failed = failure(worker.job, line, error)

    def finish(self, results: list[Result]) -> str:
        if self.failed is None:
            self.failed = self.failure(results)
        if self.failed is not None:
            self.worker.errors += 1
            return self.failed
        assert isinstance(self.line.asked, Body)
        return self.worker.render(self.line, self.line.asked, results)

    def failure(self, results: list[Result]) -> str | None:
        """The error row, if one of the results is none. The engine's own words name a request by its number there."""
        for place, one in enumerate(results):
            who = f"choice {place}"
            if one.finish_reason == "error":
                error = BadRequest("model_error", str(NotFinite(0, len(one.ids), who)))
                return failure(self.worker.job, self.line, error, 500)
            if one.finish_reason == REFUSED:
                return failure(self.worker.job, self.line, BadRequest("invalid_value", f"{who}: {one.error}"))
        return None


class Worker:
    """A job's model in an engine.

    job             what is computed; `new_job` makes it
    check_files     compare this machine's files of the model with the job's
    engine_options  running, blocks, page, step_tokens, draft, draft_from: none of them changes a byte of the output

    tokens, errors  new tokens and error rows so far

    Raises what `load` and `Engine` raise, and ValueError if the files are others or blocks hold less than a sequence.
    """

    def __init__(self, job: Job, check_files: bool = True, **engine_options):
        if check_files and (found := fingerprint(job.model)) != job.files:
            raise ValueError(
                f"the files of model {job.model!r} have digest {found} here, the job's have {job.files}; copy the "
                "model's files from where the job began"
            )
        blocks, page = engine_options.get("blocks"), engine_options.get("page", 16)
        self.job = job
        invariant = job.impl == "triton"
        self.model: GPT2 = load(
            job.model, dtype=job.dtype, device=job.device, impl=job.impl, invariant=invariant, weights=job.weights
        )
        n_ctx = self.model.config.n_ctx
        if blocks is not None and blocks * page < n_ctx:
            raise ValueError(
                f"{blocks} blocks of {page} slots hold {blocks * page} tokens, and a request may need n_ctx {n_ctx}; "
                f"give {-(-n_ctx // page)} blocks or more"
            )
        self.engine = Engine(self.model, kv_dtype=job.kv_dtype, **engine_options)
        self.window = AHEAD * self.engine.scheduler.most
        self.tokens = self.errors = 0

    def complete(
        self, lines: Iterable[tuple[int, bytes]], repeats: Mapping[int, int] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Yield (line index, output line) for each (line index, input line), in order; a bad line gives an error row.

        lines    taken as the engine has room; none of them blank
        repeats  index of a line -> of the line whose custom_id it repeats
        """
        found = repeats or {}
        tasks = (LineTask(self, read_line(index, line), found.get(index)) for index, line in lines)
        for task, line in in_order(self.engine, tasks, self.window, self.model.config.n_vocab, self.hear):
            yield task.line.index, line

    def hear(self, event: Event):
        self.tokens += len(event.ids)

    def requests(self, line: Line) -> list[Request]:
        """The engine's requests of a line, `n` of each prompt.  Raises BadRequest."""
        if isinstance(line.asked, BadRequest):
            raise line.asked
        body, found = line.asked, []
        if self.model.tokenizer is None:
            check_without_text(body)
        make = partial(
            Request,
            max_new_tokens=body.max_tokens,
            temperature=body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
            stop=body.stop,
            logits=body.logprobs is not None,
        )
        for prompt in body.prompts:
            ids = self.prompt_ids(prompt, body)
            for _ in range(body.n):
                seed, row = self.stream(line, body, len(found))
                found.append(make(prompt=ids, seed=seed, row=row))
        return found

    def stream(self, line: Line, body: Body, choice: int) -> tuple[int, int]:
        """(seed, row) of the stream that a choice draws from."""
        if body.seed is not None:
            return body.seed, choice
        return self.job.seed, (choice << 32) + line.index

    def prompt_ids(self, prompt: str | list[int], body: Body) -> list[int]:
        """The ids of a prompt that fits the model.  Raises BadRequest."""
        try:
            ids = self.encode(prompt) if isinstance(prompt, str) else prompt
            self.model.check_prompts([ids])
            if body.echo and self.model.tokenizer:
                self.model.tokenizer.decode_bytes(ids)  # ids without a text have no echo
        except ValueError as error:
            said = str(error).replace("prompt 0", "prompt")
            raise BadRequest("invalid_value", said, "prompt") from None
        try:
            check_fit([ids], body.max_tokens, self.model.config.n_ctx, "n_ctx")
        except ValueError as error:
            said = f"{error}; lower max_tokens or shorten the prompt"
            raise BadRequest("context_length_exceeded", said, "prompt") from None
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text. <|endoftext|> in it is plain text unless the job allows special tokens."""
        if self.job.allow_special and self.model.tokenizer:
            return self.model.tokenizer.encode(text, special=True)
        return encode(self.model, text)

    def render(self, line: Line, body: Body, results: list[Result]) -> str:
        """The output line of a line that was answered."""
        tokenizer, texts = self.model.tokenizer, []
        if body.echo:
            texts = [p if isinstance(p, str) else tokenizer.decode(p) if tokenizer else "" for p in body.prompts]
        return success(self.job, line, body, tokenizer, results, texts)


def check_without_text(body: Body):
    """Raises BadRequest unless a model without a tokenizer can answer."""
    if body.stop or body.logprobs is not None or body.echo or not body.return_token_ids:
        advice = "set return_token_ids to true, and leave out stop, logprobs and echo"
        raise BadRequest("unsupported", f"the model has no tokenizer and gives no text; {advice}", "prompt")
