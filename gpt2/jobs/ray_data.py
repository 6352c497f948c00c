"""Ray Data's parts of a job: a file's lines as a dataset, and the class whose copies complete them.

CLUSTER.md puts them together in a script, and ray_workers.py for `kvproof batch --ray`. Ray is imported where it is
used, since it may be absent.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import numpy as np

from .body import BadRequest
from .input_file import Input
from .job import Job
from .line import content, read_line
from .render import failure

# Lines that a worker takes at once, and repeats if it dies. At their end its engine runs half empty: with 32 sequences
# at once, of 1 to 100 tokens, 64 lines took 1.52 and 512 took 1.06 times the steps of an endless stream (simulated).
BATCH = 512
TRIES = 3  # of lines whose worker dies: together, and then each alone

Piece = tuple[int, int, int]  # of a file: index of the first line, first byte, byte after the last


def need_ray():
    """Raises ImportError with the fix unless Ray Data is installed."""
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ImportError(f"Ray Data cannot be imported ({error}); pip install 'kvproof[ray]'") from None


def pieces(found: Input, skip: int = 0, size: int = BATCH) -> Iterator[Piece]:
    """Cut a job's input into pieces of `size` lines, blank ones not counted and the first `skip` left out."""
    at = begin = count = first = 0
    found.file.seek(0)
    for index, line in enumerate(found.file):
        line = line[: found.size - at]
        if content(index, line):
            if skip:
                skip -= 1
            else:
                first, begin = (index, at) if count == 0 else (first, begin)
                count += 1
        at += len(line)
        if count == size:
            yield first, begin, at
            count = 0
        if at >= found.size:
            break
    if count:
        yield first, begin, at


def read_piece(path: str, piece: Piece) -> list[tuple[int, bytes]]:
    """(index, line) of each line of a piece that is not blank."""
    first, begin, end = piece
    with open(path, "rb") as file:
        file.seek(begin)
        lines = file.read(end - begin).split(b"\n")
    return [(index, line) for index, line in enumerate(lines, first) if content(index, line)]


def read_table(path: str, piece: Piece, repeats: dict[int, int]) -> Iterator[Any]:
    """A piece as an Arrow table with the columns of read_lines."""
    import pyarrow

    lines = read_piece(path, piece)
    columns = {
        "index": pyarrow.array([index for index, _ in lines], pyarrow.int64()),
        "line": pyarrow.array([line for _, line in lines], pyarrow.large_binary()),
        "repeats": pyarrow.array([repeats.get(index) for index, _ in lines], pyarrow.int64()),
    }
    yield pyarrow.table(columns)


def of_pieces(repeats: dict[int, int], parts: list[Piece]) -> list[dict[int, int]]:
    """The repeats of each piece's own lines, so that no task carries all of them."""
    found: list[dict[int, int]] = [{} for _ in parts]
    firsts = [first for first, *_ in parts]
    for index, first in repeats.items():
        if firsts and index >= firsts[0]:
            found[bisect_right(firsts, index) - 1][index] = first
    return found


def read_lines(path: str | Path, skip: int = 0, size: int = BATCH, found: Input | None = None) -> Any:
    """The lines of a job's input as a ray.data.Dataset, a block per `size` lines, in order.

    Columns: index (int64, of the line in the file), line (large_binary) and repeats (int64: index of the line whose
    custom_id this one repeats, null for most).

    path   a file that this machine can read; other nodes have its lines from this one, by Ray
    skip   lines to leave out, blank ones not counted
    found  the file as it was read before; None reads it

    Raises ImportError without Ray, OSError for a file that cannot be read.
    """
    need_ray()
    import ray
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    with nullcontext() if found else open(path, "rb") as file:
        found = found or Input(file)  # pyright: ignore[reportArgumentType]
        parts = list(pieces(found, skip, size))
    name, repeats = str(Path(path).absolute()), of_pieces(found.repeats, parts)

    class Lines(Datasource):
        supports_distributed_reads = False  # pyright: ignore[reportAssignmentType] # Ray then reads on this node

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
            facts = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
            return [ReadTask(partial(read_table, name, *given), facts) for given in zip(parts, repeats, strict=True)]

    return ray.data.read_datasource(Lines(), num_cpus=0, override_num_blocks=max(len(parts), 1))


class Tries:
    """What happened to the workers: an actor, since they do not outlive it.

    It counts work that began and did not end, since its process died, and keeps the latest error.
    """

    def __init__(self):
        self.open: dict[Hashable, int] = {}
        self.died = 0
        self.error: tuple[str, str] | None = None

    def begin(self, work: Hashable) -> int:
        """The number of times that this work has begun since it last ended.

        work  a tuple, or the index of a line, which is a part of such work
        """
        self.open[work] = self.open.get(work, 0) + 1
        self.died += isinstance(work, tuple) and self.open[work] > 1
        return self.open[work]

    def end(self, work: Hashable):
        """The work is done."""
        self.open.pop(work, None)

    def deaths(self) -> int:
        """The number of processes that died at work which has begun again."""
        return self.died

    def fail(self, kind: str, text: str):
        """Note a worker's error, by the name of its class."""
        self.error = kind, text

    def failure(self) -> tuple[str, str] | None:
        """The latest error of a worker."""
        return self.error


def start_tries() -> Any:
    """A Tries in a process of its own, which ends with this program."""
    need_ray()
    import ray

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tries).remote()


class Complete:
    """Completes batches of lines in a worker: for map_batches over an actor pool, batch_format="pyarrow".

    job      whose model the worker loads
    tries    of start_tries()
    threads  that the worker's engine uses
    engine   options of the worker

    Ray starts a worker that died again, and runs its batch again, without end. So tries are counted: a batch that
    killed TRIES workers is completed line by line, and a line that killed TRIES workers alone becomes an error row.
    """

    def __init__(self, job: Job, tries: Any, threads: int = 1, **engine: Any):
        import ray
        import torch

        from .worker import Worker

        self.job = replace(job, device=job.device.partition(":")[0])  # Ray shows a worker its own GPU alone
        self.tries, self.get = tries, cast(Any, ray.get)
        start = "start", ray.get_runtime_context().get_actor_id()
        if self.begin(start) > TRIES:
            raise RuntimeError(f"a worker died {TRIES} times while it loaded {job.model}; give its node more memory")
        torch.set_num_threads(threads)
        with self.reported():
            self.worker: Any = Worker(self.job, **engine)
        self.end(start)

    @contextmanager
    def reported(self) -> Iterator[None]:
        """An error is noted, since of the error that reaches the program Ray keeps pages of text alone."""
        try:
            yield
        except Exception as error:
            self.get(self.tries.fail.remote(type(error).__name__, str(error)))
            raise

    def begin(self, work: Hashable) -> int:
        return self.get(self.tries.begin.remote(work))

    def end(self, work: Hashable):
        self.get(self.tries.end.remote(work))

    def __call__(self, batch: Any) -> Any:
        """From read_lines' columns to index (int64) and output (large_string: a line of JSON)."""
        import pyarrow

        index, line, first = (batch[name].to_pylist() for name in ("index", "line", "repeats"))
        repeats = {i: j for i, j in zip(index, first, strict=True) if j is not None}
        with self.reported():
            done = self.complete(list(zip(index, line, strict=True)), repeats)
        columns = {
            "index": pyarrow.array([index for index, _ in done], pyarrow.int64()),
            "output": pyarrow.array([output for _, output in done], pyarrow.large_string()),
        }
        return pyarrow.table(columns)

    def complete(self, lines: list[tuple[int, bytes]], repeats: dict[int, int]) -> list[tuple[int, str]]:
        """The lines together, or one by one if together they killed workers."""
        work = lines[0][0], lines[-1][0]
        if self.begin(work) <= TRIES:
            done = list(self.worker.complete(lines, repeats))
        else:
            done = [self.alone(line, repeats) for line in lines]
        self.end(work)
        return done

    def alone(self, line: tuple[int, bytes], repeats: dict[int, int]) -> tuple[int, str]:
        """A line, or its error row if alone it killed workers."""
        index, data = line
        if self.begin(index) > TRIES:  # and stays begun: the batch may die of another line
            why = BadRequest("worker_died", f"the worker died {TRIES} times at this request: killed, or out of memory")
            return index, failure(self.job, read_line(index, data), why, 500)
        (done,) = self.worker.complete([line], repeats)
        self.end(index)
        return done


def join_parts(path: str | Path, parts: str | Path) -> Iterator[str]:
    """The output lines of a job whose results a dataset has written as Parquet files, in order.

    path   the job's input
    parts  the folder of write_parquet

    Raises ValueError if a line has no result, or two.
    """
    from pyarrow.parquet import read_table as read_part

    files = sorted(Path(parts).glob("*.parquet"))
    indices = [read_part(file, columns=["index"])["index"].to_numpy() for file in files]
    done = np.concatenate([np.empty(0, np.int64), *indices])
    begins = np.cumsum([0, *map(len, indices)])

    @lru_cache(maxsize=8)  # batches stand beside their neighbours, in no order within a file
    def outputs(number: int) -> Any:
        return read_part(files[number], columns=["output"])["output"]

    order = np.argsort(done, kind="stable").tolist()
    with open(path, "rb") as file:
        wanted = (index for index, _ in Input(file).lines())
        for index, place in zip_longest(wanted, order, fillvalue=-1):
            found = -1 if place == -1 else int(done[place])
            if found == -1 or found > index > -1:
                raise ValueError(f"line {index + 1} has no result in {parts}; run the job again for the rest")
            if found != index:
                raise ValueError(f"{parts} has two results of line {found + 1}; empty it and the checkpoint's folder")
            number = int(np.searchsorted(begins, place, "right")) - 1
            yield outputs(number)[place - int(begins[number])].as_py()
