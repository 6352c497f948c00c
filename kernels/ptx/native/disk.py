"""Files of machine code: one for each key, read only if it is whole and this user's; the oldest go where they are many.

    kvproof machine code <sha256 of all that follows>\n
    {"key": ..., "sizes": [...], "names": [...]}\n
    <object files>

A file is written under another name and then renamed, so that no reader sees half of one, and two writers of one key
leave the same file whoever comes last.
"""

import contextlib
import hashlib
import json
import os
import stat
import sys
import tempfile
import time
from pathlib import Path

MAGIC = "kvproof machine code"
MOST = 256 << 20  # bytes of files, from which on those go that were used longest ago
FEW = MOST * 3 // 4  # bytes that stay then
HOUR = 3600  # how exactly the last use is noted, and what a writer has at most
TEMPORARY = ".writing-"


def folder() -> Path:
    """$KVPROOF_CACHE_DIR/ptx, else in the user's cache. Raises RuntimeError where the user has no home."""
    if chosen := os.environ.get("KVPROOF_CACHE_DIR"):
        return Path(chosen).expanduser().absolute() / "ptx"
    known = Path(os.environ.get("XDG_CACHE_HOME", ""))
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return (known if known.is_absolute() else usual) / "kvproof" / "ptx"


def path_of(key: str) -> Path:
    return folder() / f"{key}.code"


def ours(found: os.stat_result) -> bool:
    """Whether only this user, or root, can have written a file or into a folder."""
    mine = os.name != "posix" or found.st_uid in (os.geteuid(), 0)
    return mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def read(key: str) -> tuple[list[bytes], list[str]] | None:
    """The object files of a key and the names that they define; None if there are none that can be trusted."""
    try:
        path = path_of(key)
        if not ours(os.stat(path.parent)):
            return None
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            found, text = os.fstat(file.fileno()), file.read()
    except (OSError, RuntimeError):
        return None
    first, _, rest = text.partition(b"\n")
    if not ours(found) or first != f"{MAGIC} {hashlib.sha256(rest).hexdigest()}".encode():
        return None
    header, _, code = rest.partition(b"\n")
    known = json.loads(header)
    if known["key"] != key:
        return None
    if time.time() - found.st_mtime > HOUR:
        with contextlib.suppress(OSError):  # a folder that is only read
            os.utime(path)
    ends = [sum(known["sizes"][: n + 1]) for n in range(len(known["sizes"]))]
    return [code[end - size : end] for size, end in zip(known["sizes"], ends, strict=True)], known["names"]


def write(key: str, objects: list[bytes], names: list[str]) -> str:
    """Keep object files, for this user alone; "" or why they cannot be kept."""
    header = json.dumps({"key": key, "sizes": [len(x) for x in objects], "names": names})
    rest = b"\n".join([header.encode(), b"".join(objects)])
    temporary = None
    try:
        path = path_of(key)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not ours(os.stat(path.parent)):
            return f"{path.parent} can be written by other users"
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)  # mode 0600
        with open(handle, "wb") as file:
            file.write(f"{MAGIC} {hashlib.sha256(rest).hexdigest()}\n".encode() + rest)
        os.replace(temporary, path)
        temporary = None
        clear(path.parent)
    except (OSError, RuntimeError) as error:
        return str(error)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    return ""


def clear(at: Path) -> None:
    """Delete halves that a killed writer left and, of too many files, those that were used longest ago."""
    known = []
    for entry in os.scandir(at):
        with contextlib.suppress(OSError):  # another process was quicker
            found = entry.stat(follow_symlinks=False)
            half = entry.name.startswith(TEMPORARY) and time.time() - found.st_mtime > HOUR
            if half:
                os.unlink(entry.path)
            elif entry.name.endswith(".code"):
                known.append((found.st_mtime, found.st_size, entry.path))
    left = sum(size for _, size, _ in known)
    for _, size, path in sorted(known) if left > MOST else ():
        if left > FEW:
            left -= size
            with contextlib.suppress(OSError):
                os.unlink(path)
