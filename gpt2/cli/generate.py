"""`kvproof generate`: one prompt, several, or a file of them."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from .. import batch, sampling
from ..generate import Completion, check_fit, generate, to_ids
from ..model import GPT2
from ..stream import NotFinite
from ..weights import load
from .lock import locked
from .screen import Page, progress_bar

Listener = Callable[[int, int | None, str], None]


def emulated(args: argparse.Namespace) -> AbstractContextManager:
    """Where the call's kernels run if there is no GPU for them; "" if none is needed."""
    if args.impl != "triton" or not args.device.startswith("cpu"):
        return nullcontext("")
    from ...kernels.backend import without_gpu

    return without_gpu()


def load_model(args: argparse.Namespace) -> GPT2:
    """The model that --model, --dtype, --device and --impl mean."""
    return load(args.model, dtype=args.dtype, device=args.device, impl=args.impl)


class Clock:
    """Generates batch by batch and adds up what it took: seconds of prefill, seconds of decode, tokens decoded."""

    def __init__(self):
        self.prefill = self.decode = 0.0
        self.tokens = 0

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

    def __str__(self):
        rate = f", {self.tokens / self.decode:.1f} tokens/s" if self.tokens and self.decode else ""
        return f"prefill {self.prefill * 1e3:.1f} ms, decode {self.decode * 1e3:.1f} ms for {self.tokens} tokens{rate}"


def check_call(args: argparse.Namespace):
    """Raises ValueError for options that make no sense, before anything is read or loaded."""
    sampling.check(args.temperature, args.top_k, args.top_p)
    for name in ("batch", "max_tokens"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be 1 or more")
    if args.output and not args.prompt_file:
        raise ValueError("--output came without --prompt-file; redirect standard output instead")


def fitting_ids(
    model: GPT2, prompts: Sequence[str], max_tokens: int, place: Callable[[int], str] = "prompt {}".format
) -> list[list[int]]:
    """The ids of every prompt, all of them known to fit the model before the first is computed.

    place  how a message calls prompt i
    Raises ValueError.
    """
    ids = to_ids(model, prompts)
    model.check_prompts(ids)
    for row, one in enumerate(ids):
        try:
            check_fit([one], max_tokens, model.config.n_ctx, "n_ctx")
        except ValueError as error:
            raise ValueError(f"{place(row)}: {error}; lower --max-tokens or shorten it") from None
    return ids


def run_generate(args: argparse.Namespace):
    """The command; raises what is wrong as ValueError, OSError or FloatingPointError."""
    check_call(args)
    settings = {name: getattr(args, name) for name in ("temperature", "top_k", "top_p", "seed", "stop")}
    clock = Clock()
    with emulated(args) as emulator:
        if args.prompt_file:
            run_file(args, settings, clock)
        else:
            run_prompts(args, settings, clock)
    print(f"{clock} (triton on the {emulator}, not a GPU)" if emulator else clock, file=sys.stderr)


def run_prompts(args: argparse.Namespace, settings: dict, clock: Clock):
    """--prompt: texts, or JSON, on standard output."""
    model = load_model(args)
    ids = fitting_ids(model, args.prompt, args.max_tokens)
    how = settings | {"max_new_tokens": args.max_tokens, "kv_cache": args.kv_cache}
    asked = {"model": args.model, "dtype": args.dtype, "max_tokens": args.max_tokens} | settings
    for start in range(0, len(ids), args.batch):
        prompts = args.prompt[start : start + args.batch]
        page = Page(prompts, args.stream and not args.json)
        try:
            done = clock.generate(model, ids[start : start + args.batch], page.hear, first_row=start, **how)
        except NotFinite as error:
            raise NotFinite(start + error.row, error.after, f"prompt {start + error.row}") from None
        if args.json:
            for row, (prompt, one) in enumerate(zip(prompts, done, strict=True), start):
                print(batch.to_line(batch.record(row, prompt, asked, one)), end="", flush=True)
        else:
            page.close(done)


def run_file(args: argparse.Namespace, settings: dict, clock: Clock):
    """--prompt-file: JSONL to --output, resumed where it ends, or to standard output."""
    data = sys.stdin.buffer.read() if args.prompt_file == "-" else Path(args.prompt_file).read_bytes()
    name = "standard input" if args.prompt_file == "-" else args.prompt_file
    numbered = batch.prompt_lines(data, name)

    def place(row: int) -> str:
        return f"prompt {row} ({name}, line {numbered[row][0]})"

    prompts = [prompt for _, prompt in numbered]
    output = Path(args.output) if args.output else None
    with locked(output) if output else nullcontext():  # before the file is read: what it holds must stay true
        complete_file(args, settings, clock, prompts, place, output)


def complete_file(
    args: argparse.Namespace, settings: dict, clock: Clock, prompts: Sequence[str], place: Callable, output: Path | None
):
    """The prompts of a file, from where the output ends, each called place(i) in messages."""
    asked = {"model": args.model, "dtype": args.dtype, "max_tokens": args.max_tokens} | settings
    done, size = batch.lines_done(output, prompts, asked) if output else (0, 0)
    if done:
        print(f"{output} holds {done} of {len(prompts)} results; going on from there", file=sys.stderr)
    if done == len(prompts):
        return
    model = load_model(args)
    ids = fitting_ids(model, prompts, args.max_tokens, place)
    how = settings | {"max_new_tokens": args.max_tokens, "kv_cache": args.kv_cache}

    def complete(start: int, part: Sequence[str]) -> list[Completion]:
        try:
            return clock.generate(model, ids[start : start + len(part)], None, first_row=start, **how)
        except NotFinite as error:
            raise NotFinite(start + error.row, error.after, place(start + error.row)) from None

    write_results(batch.run(prompts, asked, args.batch, complete, done), output, size, done, len(prompts))


def write_results(batches: Iterator[str], output: Path | None, size: int, done: int, total: int):
    """Batches of lines to a file's first `size` bytes, which hold `done`, or to standard output.

    Raises KeyboardInterrupt or OSError with how far it came and what to do.
    """
    with progress_bar(total, "prompt", done) as bar:

        def wrote(lines: int):
            nonlocal done
            done += lines  # a bar that is not shown does not count
            bar.update(lines)

        try:
            if output:
                batch.write_journal(output, size, batches, wrote)
            else:
                for lines in batches:
                    print(lines, end="", flush=True)
                    wrote(lines.count("\n"))
        except KeyboardInterrupt:
            hint = "; the same command goes on from there" if output else ""
            raise KeyboardInterrupt(f"interrupted after {done} of {total} prompts{hint}") from None
        except OSError as error:
            if not output:
                raise
            why = f"{error.strerror} after {done} of {total} prompts; put it right, the same command goes on from there"
            raise OSError(error.errno, why, str(output)) from None
