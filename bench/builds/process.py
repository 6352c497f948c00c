"""Processes of several builds, which take turns: who is asked runs, the others wait."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..measure.environment import commit

HERE = Path(__file__).resolve().parents[2]  # this build
CACHES = ("TRITON_CACHE_DIR", "KVPROOF_CACHE_DIR")
ENGINE = "KVPROOF_PTX_ENGINE"


class BuildFailed(ValueError):
    """A process of a build ended, or raised."""


class Build(NamedTuple):
    """A checkout and how its kernels run.

    title  for tables
    root   folder of the checkout, of whatever name
    env    what its processes have in their environment beside this one's
    """

    title: str
    root: Path
    env: dict[str, str]

    def environment(self, scratch: Path, caches: Path | None = None) -> dict[str, str]:
        """Of a process that imports this build as kvproof; scratch holds what that takes.

        caches  folder of Triton's cache and of compiled code; None leaves them as this process has them
        """
        place = scratch / self.root.as_posix().strip("/").replace("/", "+")
        if not place.exists():
            place.mkdir(parents=True)
            (place / "kvproof").symlink_to(self.root.resolve(), target_is_directory=True)
        known = {name: text for name, text in os.environ.items() if name not in ("TRITON_INTERPRET", ENGINE)}
        kept = {} if caches is None else {name: str(caches / name) for name in CACHES}
        return {**known, "PYTHONPATH": str(place), **kept, **self.env}

    def about(self) -> dict[str, Any]:
        sha, dirty = commit(self.root / "pyproject.toml")
        return {"title": self.title, "commit": sha, "dirty": dirty, "env": self.env}


class Worker:
    """A process that runs worker.py in a build."""

    def __init__(self, build: Build, scratch: Path, caches: Path | None = None):
        self.build = build
        command = [sys.executable, str(Path(__file__).with_name("worker.py"))]
        # Of its own session: Ctrl-C ends the asking process, which ends this one.
        self.process = subprocess.Popen(
            command, env=build.environment(scratch, caches), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def say(self, name: str, **arguments: Any) -> None:
        assert self.process.stdin
        with suppress(BrokenPipeError):  # `hear` says so
            print(json.dumps([name, arguments]), file=self.process.stdin, flush=True)

    def hear(self) -> dict[str, Any]:
        """Raises BuildFailed if the process does not answer, or with what it raised."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise BuildFailed(f"{self.build.title}: the process ended with exit code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise BuildFailed(f"{self.build.title}: {answer['error']}")
        return answer

    def ask(self, name: str, **arguments: Any) -> dict[str, Any]:
        self.say(name, **arguments)
        return self.hear()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with suppress(BrokenPipeError):
                pipe.close()


@contextmanager
def workers(builds: dict[str, Build]) -> Iterator[dict[str, Worker]]:
    """A process per build, under the same names; all are ready."""
    started: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for name, build in builds.items():
                started[name] = Worker(build, Path(scratch))
                started[name].say("ready")  # they start beside each other
            for worker in started.values():
                worker.hear()
            yield started
        finally:
            for worker in started.values():
                worker.close()


@contextmanager
def fresh(build: Build) -> Iterator[Worker]:
    """A process whose caches are empty, with what a launch needs imported."""
    with tempfile.TemporaryDirectory() as scratch:
        worker = Worker(build, Path(scratch), Path(scratch) / "caches")
        try:
            worker.ask("ready")
            yield worker
        finally:
            worker.close()
