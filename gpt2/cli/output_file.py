"""Writes a file that the user names, whole or not at all.

A regular file is replaced by a new one with its permissions and owner; a symbolic link stays, and its target is
replaced. A device, a pipe or this process's /dev/stdout is opened and written to. A folder is refused.
"""

import errno
import io
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROBE = 512  # bytes, one sector: a full disk has no room for them
# Errors of a folder that takes no new file, or does not let one replace another: the file is then overwritten.
IN_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)
OWN = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
NAMED = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}

Name = str | os.PathLike[str]


def own_descriptor(path: Name) -> int | None:
    """The open descriptor of a path such as /dev/stdout or /dev/fd/3, through links; None for any other."""
    name = os.path.abspath(path)
    for _ in range(40):  # as many links as Linux follows
        if found := OWN.fullmatch(name):
            return int(found[1])
        if name in NAMED:
            return NAMED[name]
        if not os.path.islink(name):
            return None
        name = os.path.normpath(os.path.join(os.path.dirname(name), os.readlink(name)))
    return None


def is_plain(path: Name) -> bool:
    """Whether the path is a regular file, or free; False for a device, a pipe or an open descriptor.

    Raises IsADirectoryError for a folder, OSError for a socket or a path that cannot be followed.
    """
    if own_descriptor(path) is not None:
        return False
    with naming(path):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            if not os.path.basename(path):
                raise
            return True
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, f"{os.strerror(errno.EISDIR)}; name a file in it")
        if stat.S_ISSOCK(mode):
            raise OSError(errno.ENXIO, "it is a socket, which cannot be opened; name a file or a pipe")
        return stat.S_ISREG(mode)


@contextmanager
def naming(path: Name) -> Iterator[None]:
    """An OSError of the body names this path, as the user wrote it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from None


def check_writable(path: Name):
    """Raises OSError unless `write` can write there now; leaves nothing behind. Call it before the work."""
    if not is_plain(path):
        fd = own_descriptor(path)
        with naming(path):
            if fd is not None:
                os.fstat(fd)
            elif not os.access(path, os.W_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return
    target = os.path.realpath(path)
    with naming(path):
        there = os.path.exists(target)
        if there:
            os.close(os.open(target, os.O_WRONLY))
        try:
            probe(os.path.dirname(target))
        except OSError as error:
            if not (there and error.errno in IN_PLACE):
                raise


def check_folder(folder: Name):
    """Raises OSError unless a folder, existing or not, can take files; leaves nothing behind."""
    place = os.path.realpath(folder)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    with naming(folder):
        if not os.path.isdir(place):
            raise OSError(errno.ENOTDIR, f"{os.strerror(errno.ENOTDIR)}; name a folder")
        probe(place)


def probe(folder: str):
    """Write a small file into a folder and remove it.  Raises OSError if that fails or the disk is full."""
    fd, name = new_file(folder)
    try:
        with open(fd, "wb") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(fd)
    finally:
        os.unlink(name)


def new_file(folder: str) -> tuple[int, str]:
    """(descriptor, path) of a new file in a folder, with default permissions."""
    name = os.path.join(folder, f".kvproof-{secrets.token_hex(6)}.part")
    try:
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), name
    except FileNotFoundError:
        raise no_folder(folder) from None


def no_folder(folder: str | Path) -> OSError:
    """The error for a folder that is missing or takes no new file."""
    if os.path.isdir(folder):
        return OSError(errno.EACCES, f"the folder {folder} takes no new file")
    return OSError(errno.ENOENT, f"{os.strerror(errno.ENOENT)}; make the folder {folder} first")


def write(path: Name, data: bytes | str):
    """Make `data`, a text in UTF-8 or bytes, the content of a file.

    Raises OSError with the path as given. A regular file is then unchanged, unless it could only be overwritten: in a
    folder that takes no new file, with a second name (a hard link), or of another owner.
    """
    data = data.encode() if isinstance(data, str) else data
    if not is_plain(path):
        with naming(path), open_special(path) as file:
            pour(file, data)
        return
    target = os.path.realpath(path)
    with naming(path):
        there = os.stat(target) if os.path.exists(target) else None
        if there:
            os.close(os.open(target, os.O_WRONLY))  # a read-only file is not replaced either
        if there and there.st_nlink > 1:
            write_over(target, data)
            return
        try:
            replace(target, data, there)
        except OSError as error:
            if there is None or error.errno not in IN_PLACE:
                raise
            write_over(target, data)


def open_special(path: Name) -> io.FileIO:
    """Open a device, a pipe or a descriptor for writing; a pipe waits for its reader."""
    fd = own_descriptor(path)
    if fd is None:
        return open(path, "wb", buffering=0)
    for stream in (sys.stdout, sys.stderr):  # earlier prints come first
        stream.flush()
    return open(os.dup(fd), "wb", buffering=0)


def pour(file: io.FileIO, data: bytes):
    """Write all of data, however little the device takes at once."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def replace(target: str, data: bytes, there: os.stat_result | None):
    """Replace a file by a new one with the permissions and owner of the old."""
    fd, aside = new_file(os.path.dirname(target))
    try:
        with open(fd, "wb") as file:
            if there:
                take_after(fd, target, there)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(aside, target)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def take_after(fd: int, target: str, there: os.stat_result):
    """Give an open file the owner, permissions and extended attributes of the one it will replace."""
    if not hasattr(os, "fchown"):  # not on Windows
        return
    new = os.fstat(fd)
    if (new.st_uid, new.st_gid) != (there.st_uid, there.st_gid):
        os.fchown(fd, there.st_uid, there.st_gid)
    os.fchmod(fd, stat.S_IMODE(there.st_mode))
    for name in attributes(target):
        os.setxattr(fd, name, os.getxattr(target, name))


def attributes(target: str) -> list[str]:
    """A file's extended attributes, such as access control lists, without the system's; none if unsupported."""
    try:
        return [name for name in os.listxattr(target) if not name.startswith("security.")]
    except (AttributeError, OSError):  # not on macOS; not on every file system
        return []


def write_over(target: str, data: bytes):
    """Overwrite a file in place."""
    with open(target, "r+b") as file:
        file.write(data)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
