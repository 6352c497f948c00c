"""One run at a time writes a file of results."""

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


class OutputBusy(ValueError):
    """Another run is writing the output file."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the file's lock while the body runs; the kernel lets it go with the process, however that ends.

    wait  until another run lets it go, instead of raising OutputBusy at once

    A file that is not there yet is made, since a lock needs one, and taken away again if nothing was written to it; of
    a symbolic link the target is locked. What is no regular file has no lock: opening a pipe would wait.
    Raises OutputBusy, or OSError if the file cannot be opened. Where the system or its file system has no locks, a line
    on standard error says so.
    """
    if not is_plain(path):
        yield
        return
    target = Path(os.path.realpath(path))
    fd, made = hold(target, path, wait)
    try:
        yield
    finally:
        # Still locked, so that nobody has begun to write it, unless it has been replaced by a file that is not ours.
        if made and os.fstat(fd).st_size == 0 and is_at(fd, target):
            target.unlink()
        os.close(fd)


def hold(target: Path, path: Path, wait: bool) -> tuple[int, bool]:
    """(the file's descriptor, locked; whether the file was made for it); path is what messages call it."""
    while True:
        made = not target.exists()
        writable = made or os.access(target, os.W_OK)  # a finished file may be read-only
        with naming(path):
            try:
                fd = os.open(target, os.O_CREAT | (os.O_RDWR if writable else os.O_RDONLY), 0o666)
            except FileNotFoundError:
                raise no_folder(target.parent) from None
        try:
            lock(fd, path, wait)
            if is_at(fd, target):
                return fd, made
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its last holder took it away or replaced it between our opening and locking it


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one at the path."""
    return path.exists() and os.path.samestat(os.fstat(fd), path.stat())


def lock(fd: int, path: Path, wait: bool):
    """Lock an open file or raise OutputBusy; says so where there are no locks."""
    try:
        if fcntl is None:
            raise OSError("this system has no fcntl")
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise OutputBusy(f"another run is writing {path}; wait for it, or name another --output") from None
    except OSError as error:
        why = error.strerror or error
        print(f"{path} cannot be locked ({why}); let no other run write it meanwhile", file=sys.stderr)
