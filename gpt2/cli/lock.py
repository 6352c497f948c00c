"""One run at a time writes an output file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


class OutputBusy(ValueError):
    """Another run is writing the output file."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file's lock while the body runs; the kernel lets it go with the process, however that ends.

    A file that is not there yet is made, since a lock needs one, and taken away again if nothing was written to it.
    Raises OutputBusy at once if another run holds the lock, OSError if the file cannot be opened. Where the system
    or its file system has no locks, a line on standard error says so.
    """
    if path.exists() and not path.is_file():  # no journal, as its reader will say; opening a pipe would wait
        yield
        return
    fd, made = hold(path)
    try:
        yield
    finally:
        if made and os.fstat(fd).st_size == 0:  # still locked, so that nobody has begun to write it
            path.unlink(missing_ok=True)
        os.close(fd)


def hold(path: Path) -> tuple[int, bool]:
    """(the file's descriptor, locked; whether the file was made for it)."""
    while True:
        made = not path.exists()
        writable = made or os.access(path, os.W_OK)  # a finished file may be read-only
        fd = os.open(path, os.O_CREAT | (os.O_RDWR if writable else os.O_RDONLY), 0o666)
        try:
            lock(fd, path)
            if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                return fd, made
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its last holder took it away between our opening and locking it


def lock(fd: int, path: Path):
    """Lock an open file or raise OutputBusy; says so where there are no locks."""
    try:
        if fcntl is None:
            raise OSError("this system has no fcntl")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputBusy(f"another run is writing {path}; wait for it, or name another --output") from None
    except OSError as error:
        why = error.strerror or error
        print(f"{path} cannot be locked ({why}); let no other run write it meanwhile", file=sys.stderr)
