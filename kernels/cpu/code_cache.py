"""Machine code on disk: one file per variant and key, read only if it is this user's, whole, and made for this machine.

    kvproof engine 1 <sha256 of all that follows>\n
    {"key": ..., "made": ..., "with": {...}}\n
    <the object file>

A file is written under another name and then renamed, so that readers never see half of one. Functions here raise
Unusable with the reason where an entry cannot be kept or must not be read; the caller says it.
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

MAGIC = "kvproof engine 1"
DAY = 24 * 3600
UNUSED = 30 * DAY  # after which an entry for other sources, versions or another CPU is deleted
TEMPORARY = ".writing-"


class Unusable(Exception):
    """An entry or a folder that must not be used; the message says why."""


def folder() -> Path:
    """Where machine code is kept: $KVPROOF_CACHE_DIR/machine_code, else in the user's cache.  Raises Unusable."""
    chosen = os.environ.get("KVPROOF_CACHE_DIR")
    try:
        base = Path(chosen).expanduser().absolute() if chosen else user_cache() / "kvproof"
    except RuntimeError as error:  # no home folder
        raise Unusable(str(error)) from error
    return base / "machine_code"


def user_cache() -> Path:
    """The platform's folder for caches of this user."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    told = Path(os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", ""))
    if told.is_absolute():
        return told
    return Path.home() / ("AppData/Local" if sys.platform == "win32" else ".cache")


def key_of(made: dict, sources: Path) -> str:
    """sha256 over the sources of the engine and what they are compiled with."""
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
    for path in sorted(sources.glob("*.py")):
        text = path.read_bytes()
        digest.update(f"\n{path.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def path_of(variant: tuple[str, ...], key: str) -> Path:
    """The file of a variant.  Raises Unusable where this user has no folder."""
    return folder() / f"{'-'.join(variant)}.{key[:32]}.engine"


def trusted(found: os.stat_result, path: Path) -> None:
    """Raise Unusable unless only this user, or root, can have written what was found at a path."""
    if os.name != "posix":
        return  # the user's folders are the user's alone
    if found.st_uid not in (os.geteuid(), 0):
        raise Unusable(f"{path} belongs to user {found.st_uid}, not to you ({os.geteuid()})")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unusable(f"{path} can be written by other users (mode {stat.S_IMODE(found.st_mode):o})")


def read(path: Path, key: str) -> bytes | None:
    """The object file of an entry, or None if there is none.

    Raises Unusable if it cannot be read, if others may have written it, or if it is damaged.
    """
    try:
        used, text = contents(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unusable(f"{path} cannot be read ({error.strerror})") from error
    first, _, rest = text.partition(b"\n")
    if first != f"{MAGIC} {hashlib.sha256(rest).hexdigest()}".encode():
        raise Unusable(f"{path} is damaged")
    header, _, code = rest.partition(b"\n")
    if not header.startswith(f'{{"key": "{key}", '.encode()):
        raise Unusable(f"{path} was made from other sources, by other versions or for another CPU")
    if time.time() - used > DAY:
        with contextlib.suppress(OSError):  # a read-only folder
            os.utime(path)
    return code


def contents(path: Path) -> tuple[float, bytes]:
    """When a file was last used, and what it holds.  Raises Unusable if others may have written it."""
    trusted(os.stat(path.parent), path.parent)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0))
    with open(handle, "rb") as file:
        trusted(found := os.fstat(handle), path)
        return found.st_mtime, file.read()


def write(path: Path, key: str, made: dict, code: bytes) -> None:
    """Keep an object file, readable and writable by this user alone; clears away what has long been unused.

    Raises Unusable where it cannot be kept.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rest = json.dumps({"key": key, "made": now, "with": made}).encode() + b"\n" + code
    temporary = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        trusted(path.parent.stat(), path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)  # mode 0600
        with open(handle, "wb") as file:
            file.write(f"{MAGIC} {hashlib.sha256(rest).hexdigest()}\n".encode() + rest)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise Unusable(f"{path.parent}: {error.strerror}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    clear(path)


def clear(kept: Path) -> None:
    """Delete entries of the same variant, and halves of entries, that no process has used for long."""
    variant = kept.name.partition(".")[0]
    for path in (*kept.parent.glob(f"{variant}.*.engine"), *kept.parent.glob(f"{TEMPORARY}*")):
        with contextlib.suppress(OSError):  # another process was quicker, or a folder that lets nothing be deleted
            if path != kept and time.time() - path.stat().st_mtime > UNUSED:
                path.unlink()
