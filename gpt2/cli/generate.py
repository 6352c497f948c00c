"""`kvproof generate`: one prompt, several, or a file of them."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from .. import sampling
from ..arguments import strings
from ..engine import Engine, Event, Request
from ..engine.runner import RUNNERS
from ..generate import Completion, check_fit, encode, generate
from ..impls import resolve_impl
from ..jobs.fingerprint import fingerprint
from ..jobs.journal import LINES, lines_done, to_line
from ..jobs.prompts import Complete, PromptForm, PromptTask, in_batches, in_engine, question, record
from ..model import GPT2
from ..stream import Listener, NotFinite
from ..weights import as_device, as_dtype, load
from . import output_file
from .progress import Progress
from .prompt_file import prompt_lines
from .results import destination, to_stdout, write_results

SAMPLING = ("temperature", "top_k", "top_p", "seed", "stop")


def emulated(args: argparse.Namespace) -> AbstractContextManager:
    """The emulator of the call's kernels, a context that gives its name; "" if none is needed."""
    if args.impl != "triton" or not args.device.startswith("cpu"):
        return nullcontext("")
    from ...kernels.backend import without_gpu

    return without_gpu()


class Page:
    """Shows a batch's texts in order on standard output: the first as it is decoded, the others complete."""

    def __init__(self, prompts: Sequence[str], stream: bool):
        self.prompts, self.stream = prompts, stream
        self.begun = False

    def hear(self, row: int, token: int | None, text: str):
        if self.stream and row == 0:
            print(text if self.begun else self.prompts[0] + text, end="", flush=True)
            self.begun = True

    def close(self, done: Sequence[Completion]):
        for row, (prompt, one) in enumerate(zip(self.prompts, done, strict=True)):
            print("" if row == 0 and self.begun else f"{prompt}{one.text}", flush=True)


def load_model(args: argparse.Namespace, invariant: bool = False) -> GPT2:
    """The model of --model, --dtype, --weights, --device and --impl."""
    with Progress(f"loading {args.model}"):
        return load(
            args.model, dtype=args.dtype, device=args.device, impl=args.impl, weights=args.weights, invariant=invariant
        )


class Clock:
    """Adds up the seconds of prefill, seconds of decode and tokens decoded, batch by batch; of the request engine,
    whose steps are both, the seconds and tokens of all.
    """

    def __init__(self):
        self.prefill = self.decode = 0.0
        self.tokens = 0
        self.begun: float | None = None  # of the request engine

    def generate(self, model: GPT2, ids, listener: Listener | None, **settings) -> list[Completion]:
        first = last = None
        begun = time.perf_counter()

        def hear(row: int, token: int | None, text: str):
            nonlocal first, last
            if token is not None:
                last = time.perf_counter()
                first = last if first is None else first
            if listener:
                listener(row, token, text)

        done = generate(model, ids, stream=hear, **settings)
        if first is None or last is None:  # every row ended with its first token
            first = last = time.perf_counter()
        self.prefill += first - begun
        self.decode += last - first
        self.tokens += sum(max(len(one.ids) - 1, 0) for one in done)  # a row's first token comes from the prefill
        return done

    def start(self):
        """The request engine begins."""
        self.begun = time.perf_counter()

    def hear(self, event: Event):
        """What a step of the request engine brought."""
        self.tokens += len(event.ids)

    def __str__(self):
        if self.begun is not None:
            seconds = time.perf_counter() - self.begun
            return f"{self.tokens} tokens in {seconds:.1f} s, {self.tokens / seconds:.1f} tokens/s"
        rate = f", {self.tokens / self.decode:.1f} tokens/s" if self.tokens and self.decode else ""
        return f"prefill {self.prefill * 1e3:.1f} ms, decode {self.decode * 1e3:.1f} ms for {self.tokens} tokens{rate}"


def check_call(args: argparse.Namespace):
    """Raises ValueError for wrong options, before anything is read or loaded."""
    sampling.check(args.temperature, args.top_k, args.top_p)
    for name in ("batch", "max_tokens"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be 1 or more")
    strings("stop", args.stop)
    if args.output and not args.prompt_file:
        raise ValueError("--output came without --prompt-file; redirect standard output instead")


def asked(args: argparse.Namespace) -> dict:
    """All that a text depends on besides its prompt, as results record it; a resumed run must repeat it."""
    names = ("model", "dtype", "max_tokens", *SAMPLING, "impl", "kv_cache", "allow_special")
    found = {name: getattr(args, name) for name in names} | {"device": args.device.partition(":")[0]}
    return found | {"quantised": args.weights}  # not "weights", the fingerprint of the model's files


def fitting_ids(
    model: GPT2, prompts: Sequence[str], args: argparse.Namespace, place: Callable[[int], str] = "prompt {}".format
) -> list[list[int]]:
    """The ids of every prompt.  Raises ValueError unless all of them fit the model.

    place  name of prompt i in messages
    """
    ids = [prompt_ids(model, prompt, args, place(row)) for row, prompt in enumerate(prompts)]
    model.check_prompts(ids)
    for row, one in enumerate(ids):
        try:
            check_fit([one], args.max_tokens, model.config.n_ctx, "n_ctx")
        except ValueError as error:
            raise ValueError(f"{place(row)}: {error}; lower --max-tokens or shorten it") from None
    return ids


def prompt_ids(model: GPT2, prompt: str, args: argparse.Namespace, who: str) -> list[int]:
    """The ids of one prompt. <|endoftext|> in it is plain text, so that foreign text cannot end or begin one, unless
    --allow-special is set or it is the whole of --prompt.
    """
    plain = encode(model, prompt)
    assert model.tokenizer  # or encode has raised
    if args.unconditional:
        return [model.tokenizer.eot]
    if not prompt and args.prompt_file:
        raise ValueError(f"{who} is empty; --allow-special takes <|endoftext|> in its place, which starts from nothing")
    if not prompt:
        raise ValueError(f"{who} is empty; --unconditional starts from nothing, which is the end-of-text token alone")
    if args.prompt_file and not args.allow_special:
        return plain
    special = model.tokenizer.encode(prompt, special=True)
    return special if args.allow_special or special == [model.tokenizer.eot] else plain


def run_generate(args: argparse.Namespace):
    """The command.  Raises ValueError, OSError or FloatingPointError."""
    check_call(args)
    args.impl = resolve_impl(args.impl, as_device(args.device), as_dtype(args.dtype), args.weights)
    settings = {name: getattr(args, name) for name in SAMPLING}
    clock = Clock()
    with emulated(args) as emulator:
        if args.prompt_file:
            run_file(args, settings, clock)
        else:
            run_prompts(args, settings, clock)
    where = f"triton on the {emulator}, not a GPU" if emulator else f"{args.impl}, {args.dtype}, {args.device}"
    print(f"{clock} ({where})", file=sys.stderr)


def run_prompts(args: argparse.Namespace, settings: dict, clock: Clock):
    """--prompt or --unconditional: texts, or JSON, on standard output."""
    model = load_model(args)
    given = [""] if args.unconditional else args.prompt
    ids = fitting_ids(model, given, args)
    options = settings | {"max_new_tokens": args.max_tokens, "kv_cache": args.kv_cache}
    with Progress("prompts", len(ids), silent=args.stream and not args.json) as line:
        for start in range(0, len(ids), args.batch):
            prompts = given[start : start + args.batch]
            page = Page(prompts, args.stream and not args.json)
            try:
                done = clock.generate(model, ids[start : start + args.batch], page.hear, first_row=start, **options)
            except NotFinite as error:
                raise NotFinite(start + error.row, error.after, f"prompt {start + error.row}") from None
            line.clear()
            line.update(len(prompts))
            if args.json:
                for row, (prompt, one) in enumerate(zip(prompts, done, strict=True), start):
                    to_stdout(to_line(record(row, prompt, asked(args), one)))
            else:
                page.close(done)


def run_file(args: argparse.Namespace, settings: dict, clock: Clock):
    """--prompt-file: JSONL to --output, resumed where it ends, or to standard output."""
    data = sys.stdin.buffer.read() if args.prompt_file == "-" else Path(args.prompt_file).read_bytes()
    name = "standard input" if args.prompt_file == "-" else args.prompt_file
    numbered = prompt_lines(data, name)

    def place(row: int) -> str:
        return f"prompt {row} ({name}, line {numbered[row][0]})"

    prompts = [prompt for _, prompt in numbered]
    output = Path(args.output) if args.output else None
    with destination(output) as (path, write):
        complete_file(args, settings, clock, prompts, place, path, write)


def complete_file(
    args: argparse.Namespace,
    settings: dict,
    clock: Clock,
    prompts: Sequence[str],
    place: Callable,
    output: Path | None,
    write: Callable[[str], object],
):
    """Complete a file's prompts, each named place(i) in messages: append to the output, or call write."""
    job = asked(args) | {"weights": fingerprint(args.model)}
    questions = (question(index, prompt, job) for index, prompt in enumerate(prompts))
    done, size = lines_done(output, PromptForm(), questions) if output else (0, 0)
    if done:
        print(f"{output} holds {done} of {len(prompts)} results; going on from there", file=sys.stderr)
    if done == len(prompts):
        return
    if output:
        output_file.check_writable(output)
    by_engine = args.kv_cache and args.impl in RUNNERS
    model = load_model(args, invariant=by_engine and args.impl == "triton")
    ids = fitting_ids(model, prompts, args, place)
    options = settings | {"max_new_tokens": args.max_tokens}
    if by_engine:
        tasks = (
            PromptTask(index, prompts[index], job, place(index), [Request(ids[index], row=index, **options)])
            for index in range(done, len(prompts))
        )
        clock.start()
        chunks = in_engine(Engine(model, running=args.batch), tasks, args.batch, clock.hear)
    else:
        chunks = in_batches(prompts, job, args.batch, whole_batches(clock, model, ids, place, args, options), done)
    with Progress("prompts", len(prompts), done, tokens=lambda: clock.tokens) as line:
        write_results(chunks, output, size, line, write, LINES if by_engine else 1)


def whole_batches(clock: Clock, model: GPT2, ids, place: Callable, args: argparse.Namespace, options: dict) -> Complete:
    """What completes one batch after the other, for impls whose last bits depend on a batch's rows."""

    def complete(start: int, part: Sequence[str]) -> list[Completion]:
        rows = ids[start : start + len(part)]
        try:
            return clock.generate(model, rows, None, first_row=start, kv_cache=args.kv_cache, **options)
        except NotFinite as error:
            raise NotFinite(start + error.row, error.after, place(start + error.row)) from None

    return complete
