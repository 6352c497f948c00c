"""`kvproof batch`: OpenAI's batch lines from a file, completed by the engine."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from ..jobs import journal
from ..jobs.input_file import Input
from ..jobs.job import Job, new_job
from ..jobs.line import read_line
from ..jobs.ray_workers import RayWorkers, check_address, check_impl
from ..jobs.render import BatchForm, question
from ..jobs.worker import Worker
from . import output_file
from .generate import emulated
from .progress import Progress
from .results import destination, write_results


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
    check_ray(args)
    job = new_job(
        args.model, dtype=args.dtype, device=args.device, impl=args.impl, weights=args.weights, kv_dtype=args.kv_dtype,
        seed=args.seed, allow_special=args.allow_special,
    )  # fmt: skip
    output = None if args.output in (None, "-") else Path(args.output)
    args.impl = job.impl
    if args.ray is not None:
        check_impl(job)
    with open_input(args.input) as file, emulated(args) as emulator:
        if emulator:
            print(f"triton runs on the {emulator}, not a GPU", file=sys.stderr)
        with destination(output, BatchForm.another) as (path, write):
            answer(args, job, Input(file), path, write)


def answer(args: argparse.Namespace, job: Job, lines: Input, output: Path | None, write: Callable[[str], object]):
    """Answer the lines that the output does not yet hold."""
    questions = (question(job, read_line(index, line)) for index, line in lines.lines())
    done, size = journal.lines_done(output, BatchForm(), questions) if output else (0, 0)
    if done:
        print(f"{output} holds {done} of {lines.count} results; going on from there", file=sys.stderr)
    if done == lines.count:
        return
    if output:
        output_file.check_writable(output)
    worker, answers = start(args, job, lines, done)
    begun = time.perf_counter()
    with closing(answers), Progress("requests", lines.count, done, tokens=lambda: worker.tokens) as line:
        write_results((text for _, text in answers), output, size, line, write)
    seconds = time.perf_counter() - begun
    print(summary(job, lines.count - done, worker, seconds), file=sys.stderr)


def start(args: argparse.Namespace, job: Job, lines: Input, done: int) -> tuple[Worker | RayWorkers, Any]:
    """Who completes the lines, and a generator of (index, output line) for those that are not done."""
    options = {name: getattr(args, name) for name in ("running", "blocks", "page", "draft", "draft_from")}
    if args.ray is None:
        with Progress(f"loading {args.model}"):
            worker = Worker(job, check_files=False, **options)
        return worker, worker.complete(lines.lines(done), lines.repeats)
    crew = RayWorkers(job, args.input, args.ray, args.workers or 1, args.threads, **options)
    where = f"the cluster at {args.ray}" if args.ray else "this machine"
    print(f"Ray on {where}: workers {crew.workers}, threads of each {crew.threads}", file=sys.stderr)
    return crew, crew.complete(lines, done)


def check_ray(args: argparse.Namespace):
    """Raises ValueError where --ray and the other options do not go together."""
    for name in ("workers", "threads"):
        if (number := getattr(args, name)) is not None and (args.ray is None or number < 1):
            raise ValueError(f"--{name} is {number}; give 1 or more, together with --ray")
    check_address(args.ray or "")
    if args.ray is not None and not (Path(args.input).is_file() and args.output not in (None, "-")):
        raise ValueError(f"--ray needs files for input and output; {args.input} and {args.output or 'none'} came")


def summary(job: Job, requests: int, worker: Worker | RayWorkers, seconds: float) -> str:
    """The closing line."""
    died = f", {worker.deaths} workers died" if isinstance(worker, RayWorkers) and worker.deaths else ""
    rate = f", {worker.tokens / seconds:.1f} tokens/s" if worker.tokens and seconds else ""
    return (
        f"{requests} requests, {worker.errors} errors{died}, {worker.tokens} tokens in {seconds:.1f} s{rate} "
        f"({job.impl}, {job.dtype}, {job.device})"
    )
