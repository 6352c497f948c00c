"""`kvproof batch --ray`: the workers of a job on a Ray cluster, or on a Ray of its own on this machine."""

import json
import logging
import os
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .input_file import Input
from .job import Job
from .ray_data import BATCH, Complete, need_ray, read_lines, start_tries

LEAST = 32  # lines for a worker at once
STORE = 256 << 20  # bytes of a local Ray's object store; lines need little
# While Ray starts: no statistics sent to its makers, no messages of its C++ parts. Whoever has set one keeps it.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


class RayFailed(RuntimeError):
    """The cluster or a worker failed, for a reason that is no line's."""


def check_address(address: str):
    """Raises ValueError unless it is "", "auto" or "host:port"."""
    if not re.fullmatch(r"|auto|[^/\s]+:\d+", address):
        raise ValueError(
            f"--ray {address} is no address of a cluster; write --ray auto on one of its nodes, --ray HOST:PORT, or "
            "--ray alone, after the files, for a Ray on this machine"
        )


def check_impl(job: Job):
    """Raises ValueError for an impl that a worker cannot run."""
    if job.impl == "triton" and not job.device.startswith("cuda"):
        raise ValueError('impl "triton" on a CPU is emulated in one process; leave --ray out, or use --impl numba')


class RayWorkers:
    """A job's workers on Ray; `complete` gives what one Worker gives, byte for byte.

    job      what is computed
    path     the input, a file that this machine can read
    address  of a cluster, "auto" or "host:port"; "" starts a Ray on this machine, and stops it
    workers  each with a model and an engine of its own; on a GPU of its own if the job's device is one
    threads  of each worker; None shares this machine's cores among the workers of a local Ray, and is 1 on a cluster
    size     lines that a worker takes at once; None: a quarter of its share, from LEAST to BATCH
    engine   options of the workers' engines

    tokens, errors, deaths  new tokens, error rows, and workers that died and were started again, so far

    Raises ImportError without Ray, ValueError for an address or an impl that does not fit.
    """

    def __init__(
        self,
        job: Job,
        path: str | Path,
        address: str = "",
        workers: int = 1,
        threads: int | None = None,
        size: int | None = None,
        **engine: Any,
    ):
        need_ray()
        check_address(address)
        self.gpus = int(job.device.startswith("cuda"))
        check_impl(job)
        self.job, self.path, self.address, self.workers, self.size = job, path, address, workers, size
        self.threads = threads or (1 if address else max(1, cores() // workers))
        self.engine = {"check_files": bool(address)} | engine
        self.tokens = self.errors = self.deaths = 0

    def complete(self, found: Input, skip: int = 0) -> Generator[tuple[int, str], None, None]:
        """Yield (line index, output line) for the lines that are not blank, in order, but for the first `skip`.

        found  the input as it was read

        Raises RayFailed; ValueError or ImportError where a worker did.
        """
        import ray

        with quiet(), self.cluster(), readable_errors(tries := start_tries()):
            tables = self.dataset(tries, found, skip).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
            for table in tables:
                self.deaths = ray.get(tries.deaths.remote())
                for index, output in zip(table["index"].to_pylist(), table["output"].to_pylist(), strict=True):
                    self.count(output)
                    yield index, output

    def dataset(self, tries: Any, found: Input, skip: int) -> Any:
        """The job's output as a dataset, in order; nothing runs yet."""
        import ray
        from ray.data import ActorPoolStrategy

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # long completions are no hang, which 30 minutes are to Ray 2.60
        left = found.count - skip
        size = self.size or min(max(LEAST, left // (4 * self.workers)), BATCH)
        busy = min(self.workers, max(1, -(-left // size)))
        return read_lines(self.path, skip, size, found).map_batches(
            Complete,
            fn_constructor_args=(self.job, tries, self.threads),
            fn_constructor_kwargs=self.engine,
            batch_size=size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=busy, max_tasks_in_flight_per_actor=1),
            num_cpus=self.threads,
            num_gpus=self.gpus or None,
        )

    @contextmanager
    def cluster(self) -> Iterator[None]:
        """Connected while the body runs; a local Ray is stopped after it. A program that is connected stays so."""
        import ray

        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {"address": self.address}
        if not self.address:
            cpus = self.workers * self.threads
            options = {"address": "local", "num_cpus": cpus, "object_store_memory": STORE, "include_dashboard": False}
        try:
            with quiet_start():
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            if not any(map(self.has_room, ray.nodes())):
                gpus = f" and {self.gpus} GPU" * self.gpus
                print(f"no node has {self.threads} cores{gpus} for a worker; waiting for one", file=sys.stderr)
            yield
        finally:
            ray.shutdown()

    def has_room(self, node: dict[str, Any]) -> bool:
        """Whether a node, as ray.nodes() gives it, can hold a worker."""
        has = node["Resources"]
        return node["Alive"] and has.get("CPU", 0) >= self.threads and has.get("GPU", 0) >= self.gpus

    def count(self, output: str):
        """Add a line's tokens or its error."""
        fields = json.loads(output)
        if fields["error"] is None:
            self.tokens += fields["response"]["body"]["usage"]["completion_tokens"]
        else:
            self.errors += 1


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def quiet_start() -> Iterator[None]:
    """QUIET in the environment, and standard error closed to C++, which prints before it reads QUIET."""
    unset = {name: value for name, value in QUIET.items() if name not in os.environ}
    os.environ.update(unset)
    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)
        for name in unset:
            del os.environ[name]


@contextmanager
def quiet() -> Iterator[None]:
    """Ray's messages go to the files of its session alone while the body runs; `deaths` counts what they would say."""
    from ray._private import worker as core  # it has no public switch

    consoles = [one for one in logging.getLogger("ray.data").handlers if isinstance(one, logging.StreamHandler)]
    levels = [one.level for one in consoles]
    shown = getattr(core, "_worker_logs_enabled", True)
    for one in consoles:
        one.setLevel(logging.CRITICAL + 1)
    core._worker_logs_enabled = False
    try:
        yield
    finally:
        core._worker_logs_enabled = shown
        for one, level in zip(consoles, levels, strict=True):
            one.setLevel(level)


@contextmanager
def readable_errors(tries: Any) -> Iterator[None]:
    """Ray's errors become RayFailed, but a worker's ValueError or ImportError is raised as itself."""
    import ray
    from ray.exceptions import RayError

    try:
        yield
    except Exception as error:
        if not isinstance(error, RayError) and not type(error).__module__.startswith("ray."):
            raise
        kind, text = ray.get(tries.failure.remote()) or ("", "")
        for known in (ValueError, ImportError):
            if kind == known.__name__:
                raise known(text) from error
        raise RayFailed(f"a worker failed with {kind}: {text}" if kind else f"Ray failed: {error}") from error
