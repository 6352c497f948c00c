"""`kvproof batch`: OpenAI's batch lines from a file, completed by the engine."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from ..jobs import journal
from ..jobs.input_file import Input
from ..jobs.job import Job, new_job
from ..jobs.line import read_line
from ..jobs.render import BatchForm, question
from ..jobs.worker import Worker
from . import output_file
from .generate import emulated
from .lock import locked
from .progress import Progress
from .results import to_stdout, write_results


@contextmanager
def open_input(name: str) -> Iterator[BinaryIO]:
    """The input, able to seek: a pipe is first copied to a temporary file."""
    if name != "-" and Path(name).is_file():
        with open(name, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as spool:
        with nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as pipe:
            shutil.copyfileobj(pipe, spool)
        yield spool


def run_batch(args: argparse.Namespace):
    """The command.  Raises ValueError, OSError or FloatingPointError."""
    job = new_job(
        args.model, dtype=args.dtype, device=args.device, impl=args.impl, weights=args.weights, kv_dtype=args.kv_dtype,
        seed=args.seed, allow_special=args.allow_special,
    )  # fmt: skip
    output = None if args.output in (None, "-") else Path(args.output)
    args.impl = job.impl
    with open_input(args.input) as file, emulated(args) as emulator:
        if emulator:
            print(f"triton runs on the {emulator}, not a GPU", file=sys.stderr)
        if output is None or output_file.is_plain(output):
            with locked(output, advice=BatchForm.another) if output else nullcontext():
                answer(args, job, Input(file), output)
        else:
            with output_file.open_special(output) as pipe:

                def write(lines: str):
                    with output_file.naming(output):
                        output_file.pour(pipe, lines.encode())

                answer(args, job, Input(file), None, write)


def answer(
    args: argparse.Namespace, job: Job, lines: Input, output: Path | None, write: Callable[[str], object] = to_stdout
):
    """Answer the lines that the output does not yet hold."""
    questions = (question(job, read_line(index, line)) for index, line in lines.lines())
    done, size = journal.lines_done(output, BatchForm(), questions) if output else (0, 0)
    if done:
        print(f"{output} holds {done} of {lines.count} results; going on from there", file=sys.stderr)
    if done == lines.count:
        return
    if output:
        output_file.check_writable(output)
    with Progress(f"loading {args.model}"):
        options = {name: getattr(args, name) for name in ("running", "blocks", "page", "draft", "draft_from")}
        worker = Worker(job, check_files=False, **options)
    begun = time.perf_counter()

    def results() -> Iterator[str]:
        for _, line in worker.complete(lines.lines(done), lines.repeats):
            yield line

    with Progress("requests", lines.count, done, tokens=lambda: worker.tokens) as line:
        write_results(results(), output, size, line, write)
    seconds = time.perf_counter() - begun
    print(summary(job, lines.count - done, worker, seconds), file=sys.stderr)


def summary(job: Job, requests: int, worker: Worker, seconds: float) -> str:
    """The closing line."""
    rate = f", {worker.tokens / seconds:.1f} tokens/s" if worker.tokens and seconds else ""
    return (
        f"{requests} requests, {worker.errors} errors, {worker.tokens} tokens in {seconds:.1f} s{rate} "
        f"({job.impl}, {job.dtype}, {job.device})"
    )
