"""A job on a Ray of its own whose workers have faults, as a program: INPUT OUTPUT WORKERS SIZE.

A line that asks for KILLS tokens kills its worker, always; for KILLS_ONCE tokens, the first time. A line that asks for
RAISES tokens raises inside the engine.
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kvproof.gpt2.jobs import ray_workers
from kvproof.gpt2.jobs.input_file import Input
from kvproof.gpt2.jobs.job import Job, new_job
from kvproof.gpt2.jobs.ray_data import Complete
from kvproof.gpt2.jobs.worker import Worker

KILLS, KILLS_ONCE, RAISES = 13, 14, 15
KILLED = "killed"  # a file beside the input, once a worker was killed


def job() -> Job:
    return new_job("tiny", impl="numba", seed=3)


def poison(worker: Worker):
    """Have its engine raise for a request of RAISES tokens."""
    add = worker.engine.add

    def raises(request, *rest):
        if request.max_new_tokens == RAISES:
            raise ValueError("poison")
        return add(request, *rest)

    worker.engine.add = raises  # pyright: ignore[reportAttributeAccessIssue]


class Faulty(Worker):
    """A worker that some lines kill; its folder remembers the first time."""

    folder = Path()

    def complete(
        self, lines: Iterable[tuple[int, bytes]], repeats: Mapping[int, int] | None = None
    ) -> Iterator[tuple[int, str]]:
        return super().complete(map(self.look, lines), repeats)

    def look(self, line: tuple[int, bytes]) -> tuple[int, bytes]:
        mark = self.folder / KILLED
        once = f'"max_tokens": {KILLS_ONCE},'.encode() in line[1] and not mark.exists()
        if once or f'"max_tokens": {KILLS},'.encode() in line[1]:
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return line


def main(path: str, output: str, workers: str, size: str):
    """The job's lines, written to `output` as they come; the workers that died to standard output."""
    folder = Path(path).parent

    class FaultyComplete(Complete):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            poison(self.worker)
            self.worker.__class__ = Faulty
            self.worker.folder = folder  # pyright: ignore[reportAttributeAccessIssue]

    ray_workers.Complete = FaultyComplete  # pyright: ignore[reportPrivateImportUsage]
    crew = ray_workers.RayWorkers(job(), path, workers=int(workers), threads=1, size=int(size))
    with open(path, "rb") as file, open(output, "w", encoding="utf-8") as out:
        for _, line in crew.complete(Input(file)):
            out.write(line)
            out.flush()
    print(crew.deaths, crew.errors)


if __name__ == "__main__":
    main(*sys.argv[1:])
