"""Python programs in processes of their own: started, or forked from a process that has imported torch already."""

import atexit
import os
import pickle
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parent
# What importing torch does not read of the environment.
FREE = b"CUDA_VISIBLE_ HF_ KVPROOF_ PYTEST_ PYTHONIOENCODING PYTHONUNBUFFERED TORCHINDUCTOR_ TQDM_ TRITON_".split()


def words(file: str) -> list[str]:
    """What follows `python` on the command line to run `file`, a module under tests/, as __main__."""
    name = ".".join(("tests", *Path(file).relative_to(TESTS).with_suffix("").parts))
    program = (
        "import runpy, sys, types\n"
        f"tests = sys.modules['tests'] = types.ModuleType('tests'); tests.__path__ = [{str(TESTS)!r}]\n"
        f"runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    )
    return ["-c", program]


def run(command: list, timeout: float | None = None, check: bool = False, **options: Any) -> Any:
    """subprocess.run, of a Popen as below."""
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


class Popen(subprocess.Popen):
    """subprocess.Popen of [sys.executable, ...], whose process is forked from one that has imported torch.

    It is what a process that is started is, but no child of this one. Started it is where its environment differs in
    more than FREE, where it has options of Python other than -W, -c and -m, and where there is no Linux. What is about
    memory, or about how a program starts or what it imports, uses subprocess itself.
    """

    forked: socket.socket | None = None  # it says the process's number, and how it ended

    def __init__(self, command: list, *, stdin=None, stdout=None, stderr=None, text=None, cwd=None, env=None):
        super().__init__(command, stdin=stdin, stdout=stdout, stderr=stderr, text=text, cwd=cwd, env=env)

    def _execute_child(self, args, executable, preexec, close, passed, cwd, env, *rest):
        program = following(args)
        if program and (server := fork_server()):
            known = os.environb if env is None else {os.fsencode(name): os.fsencode(text) for name, text in env.items()}
            if server.environment == fixed(known):
                self.fork(server, (*program, dict(known), os.fspath(cwd or os.getcwd())), *rest[3:9])
                return
        super()._execute_child(args, executable, preexec, close, passed, cwd, env, *rest)  # pyright: ignore

    def fork(self, server: "ForkServer", request: tuple, *pipes: int) -> None:
        """Ask for a process; of each pair of pipes' ends it gets its own, and this process's stream for -1."""
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        streams = [own if end == -1 else end for own, end in enumerate((p2cread, c2pwrite, errwrite))]
        self.forked, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(server.requests, [pickle.dumps(request)], [theirs.fileno(), *streams])
        self._close_pipe_fds(*pipes)  # pyright: ignore
        self.pid, self._child_created = self.heard(), True

    def heard(self) -> int:
        assert self.forked
        if not (said := self.forked.recv(16)):
            raise RuntimeError("the process that forks has ended")
        return int(said)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.forked is None:
            return super().wait(timeout)
        if self.returncode is None:
            if not select.select([self.forked], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self.heard()
            self.forked.close()
        return self.returncode


def following(command: list) -> tuple[list[str], list[str]] | None:
    """(what follows `python`, what follows each -W); None where it is something else."""
    python, *words = map(os.fsdecode, command)
    count = 0
    while words[2 * count : 2 * count + 1] == ["-W"]:
        count += 1
    kind = words[2 * count : 2 * count + 1]
    plain = python == sys.executable and kind and (kind[0] in ("-c", "-m") or kind[0][:1] != "-")
    return (words, words[1 : 2 * count : 2]) if plain else None


def fixed(environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: text for name, text in environment.items() if not name.startswith(tuple(FREE))}


class ForkServer(NamedTuple):
    """The process of _fork_server.py.

    requests     its standard input
    environment  what it has beside FREE
    """

    requests: socket.socket
    environment: dict[bytes, bytes]


@cache
def fork_server() -> ForkServer | None:
    """Started once; None where it cannot be: it has several threads, or this is no Linux."""
    if not sys.platform.startswith("linux"):
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen([sys.executable, str(TESTS / "_fork_server.py")], stdin=theirs.fileno())

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ForkServer(ours, fixed(os.environb)) if ours.recv(16) == b"ready" else None
