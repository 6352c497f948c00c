"""A lock on a file of results: one run at a time writes it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .output_file import is_plain, naming, no_folder

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

ADVICE = "name another --output"


class OutputBusy(ValueError):
    """Another run is writing the output file."""


@contextmanager
def locked(path: Path, wait: bool = False, advice: str = ADVICE) -> Iterator[None]:
    """Hold the file's lock while the body runs; the kernel releases it when the process ends, however that happens.

    wait    for another run to release it, instead of raising OutputBusy at once
    advice  of OutputBusy's message: how to name another file

    A missing file is made, since a lock needs one, and removed if nothing was written to it; of a symbolic link the
    target is locked. A device or a pipe has no lock: opening a pipe would wait.
    Raises OutputBusy, or OSError if the file cannot be opened; without locks it warns on standard error.
    """
    if not is_plain(path):
        yield
        return
    target = Path(os.path.realpath(path))
    fd, made = hold(target, path, wait, advice)
    try:
        yield
    finally:
        # Still locked, so no other run has begun to write it, unless another file has replaced it.
        if made and os.fstat(fd).st_size == 0 and is_at(fd, target):
            target.unlink()
        os.close(fd)


def hold(target: Path, path: Path, wait: bool, advice: str) -> tuple[int, bool]:
    """(the locked file's descriptor, whether the file was made for it); path is its name in messages."""
    while True:
        made = not target.exists()
        writable = made or os.access(target, os.W_OK)  # a finished file may be read-only
        with naming(path):
            try:
                fd = os.open(target, os.O_CREAT | (os.O_RDWR if writable else os.O_RDONLY), 0o666)
            except FileNotFoundError:
                raise no_folder(target.parent) from None
        try:
            lock(fd, path, wait, advice)
            if is_at(fd, target):
                return fd, made
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its last holder removed or replaced it before we locked it


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one at the path."""
    return path.exists() and os.path.samestat(os.fstat(fd), path.stat())


def lock(fd: int, path: Path, wait: bool, advice: str):
    """Lock an open file or raise OutputBusy; without locks, warn."""
    try:
        if fcntl is None:
            raise OSError("this system has no fcntl")
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise OutputBusy(f"another run is writing {path}; wait for it, or {advice}") from None
    except OSError as error:
        why = error.strerror or error
        print(f"{path} cannot be locked ({why}); let no other run write it meanwhile", file=sys.stderr)
