"""Files of machine code and what belongs to it: one for each key, read only if it is whole and this user's.

A file is its digest, the names that the code defines, and an object file. It is written under another name and then
renamed, so that no reader sees half of one, and of two writers of one key it does not matter who comes last. Of too
many files the oldest go.
"""

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

MAGIC = b"kvproof machine code "
MOST = 256 << 20  # bytes of all files; a writer that leaves more deletes those that were used longest ago
HOUR = 3600  # how exactly the last use is noted, and what a writer has at most
TEMPORARY = ".writing-"
EARLIER = 4  # what a kernel has cost in earlier runs, so many times, is what it may still cost in later ones


def path_of(key: str) -> Path:
    """In $KVPROOF_CACHE_DIR, or the user's cache. Raises RuntimeError where the user has no home."""
    told = os.environ.get("KVPROOF_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "kvproof"
    return Path(told).expanduser().absolute() / "ptx" / f"{key}.code"


def ours(found: os.stat_result) -> bool:
    """Whether only this user, or root, can have written a file or into a folder."""
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o022


def digest(key: str, rest: bytes) -> bytes:
    return MAGIC + hashlib.sha256(key.encode() + rest).hexdigest().encode()


def read(key: str) -> tuple[bytes, list[str]] | None:
    """The object file of a key and the names that it defines; None if there is none that can be trusted."""
    try:
        path = path_of(key)
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            found, text = os.fstat(file.fileno()), file.read()
        first, _, rest = text.partition(b"\n")
        if first != digest(key, rest) or not ours(found) or not ours(os.stat(path.parent)):
            return None
        if time.time() - found.st_mtime > HOUR:
            with contextlib.suppress(OSError):  # a folder that is only read
                os.utime(path)
    except (OSError, RuntimeError):
        return None
    names, _, code = rest.partition(b"\n")
    return code, names.decode().split()


def write(key: str, code: bytes, names: list[str]) -> str:
    """Keep an object file, for this user alone; "" or why it cannot be kept."""
    rest = " ".join(names).encode() + b"\n" + code
    temporary = None
    try:
        path = path_of(key)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not ours(os.stat(path.parent)):
            return f"others may write into {path.parent}"
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)  # mode 0600
        with open(handle, "wb") as file:
            file.write(digest(key, rest) + b"\n" + rest)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # another process was quicker
            clear(path.parent)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary or "")
        return str(error)
    return ""


def spend(key: str, seconds: float) -> None:
    """Note what a kernel without machine code has cost, for processes to come."""
    with contextlib.suppress(OSError, RuntimeError):
        path = path_of(key).with_suffix(".spent")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "a") as file:
            file.write(f"{seconds:.4f}\n")


def spent(key: str, began: float = 0.0) -> float:
    """Seconds that all processes have noted; EARLIER times that, if all is from before a time."""
    try:
        path = path_of(key).with_suffix(".spent")
        seconds = sum(map(float, path.read_text().split()))
        return seconds * EARLIER if path.stat().st_mtime < began else seconds
    except (OSError, RuntimeError, ValueError):
        return 0.0


def clear(folder: Path) -> None:
    """Delete halves that a killed writer left and, of too many files, those that were used longest ago, a quarter."""
    known = [(found.st_mtime, found.st_size, x) for x in folder.iterdir() for found in [x.stat()]]
    left = sum(size for _, size, _ in known)
    enough = left if left <= MOST else MOST * 3 // 4
    for used, size, path in sorted(known):
        half = path.name.startswith(TEMPORARY)
        if (half and time.time() - used > HOUR) or (not half and left > enough):
            path.unlink(missing_ok=True)
            left -= size
