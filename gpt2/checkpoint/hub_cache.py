"""The hub's cache: files downloaded into it whole, and models copied out of it.

huggingface_hub 2 keeps no partial file when a process dies, so this module downloads: a file grows beside the blobs,
resumes where it stopped, and becomes one once its digest is right. The library then makes the snapshot and the refs, so
that other tools read the same cache. Functions import it themselves, since its import reads the environment.
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from ...reference.files import SAFETENSORS
from ...reference.weights import CheckpointError, weight_map
from .vocabulary import MERGES, SIDE_FILES, VOCAB

(WEIGHTS, INDEX), CONFIG = SAFETENSORS, "config.json"
# Files that change the merges, the vocabulary or config.json; a model is not whole without them.
BESIDE = (*SIDE_FILES, "generation_config.json")
TOKENIZER = ("tokenizer.json", *MERGES, VOCAB, *BESIDE)


class HubError(ValueError):
    """A model that the hub does not have, or that did not arrive whole; the message gives the fix."""


def in_cache(repo: str, revision: str) -> Path | None:
    """The cached snapshot of this revision, if it has the config and all weights."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    weights = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        weights = shard_names(folder / INDEX)
    return folder if all((folder / file).is_file() for file in weights) else None


def obtain(repo: str, file: str, commit: str, size: int | None = None, sha256: str | None = None) -> Path:
    """The path of one cached file of a commit, downloaded if missing; size and sha256, if given, must match."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import WeakFileLock

    cached = try_to_load_from_cache(repo, file, revision=commit)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(repo, file, revision=commit)
    there = get_hf_file_metadata(url)
    if (there.size, there.etag) != (size or there.size, sha256 or there.etag):
        raise HubError(
            f"{repo} {file} is not what was published: the hub has {there.size} bytes with digest {there.etag}, "
            f"published are {size or 'as many'} bytes with {sha256}; see what HF_ENDPOINT is set to"
        )
    # A git sha1 or a sha256. Etags of another form, as mirrors have them, cannot be checked: the library downloads.
    if there.size is not None and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", there.etag or ""):
        cache, name = Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=repo, repo_type="model")
        blob, lock = cache / name / "blobs" / str(there.etag), cache / ".locks" / name / f"{there.etag}.lock"
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):  # the library's own lock of this file
            if not blob.exists():
                grow(blob, url, there.location, there.size, f"{repo} {file}")
    return Path(hf_hub_download(repo, file, revision=commit))


def grow(blob: Path, url: str, location: str, size: int, what: str):
    """Download into a file beside the blob, resuming an earlier try; rename it once its digest is right."""
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # a Range of compressed bytes would be another
    if urlsplit(url).netloc != urlsplit(location).netloc:
        headers.pop("authorization", None)  # storage elsewhere is addressed by signed links; the token is not its
    part = Path(f"{blob}.kvproof.part")
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    check_space(part, size, what)
    try:
        append(part, location, size, headers, what)
    except OSError as error:
        if is_full(error):
            part.unlink(missing_ok=True)
        raise
    if digest(part, blob.name) != blob.name:
        part.unlink()
        raise HubError(f"{what} came corrupted: its digest is not {blob.name}; nothing is kept of it, run it again")
    os.replace(part, blob)


def append(part: Path, location: str, size: int, headers: dict[str, str], what: str, tries: int = 5):
    """Download the rest of a file. huggingface_hub before 2 does not resume a cut connection, so try again."""
    from huggingface_hub.file_download import http_get

    try:
        with part.open("ab") as stream:
            http_get(
                location, stream, resume_size=stream.tell(), headers=headers, expected_size=size,
                displayed_filename=what,
            )  # fmt: skip
    except Exception as error:  # httpx or httpx2's, by the library's version
        if type(error).__name__ != "RemoteProtocolError" or tries == 1:
            raise
        append(part, location, size, headers, what, tries - 1)


def digest(path: Path, like: str) -> str:
    """The file's sha256 or, if `like` has 40 digits, its git sha1."""
    hasher = hashlib.sha256()
    if len(like) == 40:
        hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


def shard_names(index: Path) -> list[str]:
    """The files that an index of shards names.  Raises HubError for another file, or a name outside the folder."""
    try:
        names = set(weight_map(index).values())
    except CheckpointError:
        names = set()
    if not names:
        raise HubError(f"{index} has no weight_map from tensor names to file names")
    return sorted(names)


def check_space(part: Path, size: int, what: str):
    """Raises HubError if the disk has no room for the rest of a file."""
    needed = size - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise HubError(
            f"{what} needs {needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free on the disk of {part.parent}; "
            "make room there, or set HF_HOME to a folder on another disk"
        )


def copy_to(snapshot: Path, folder: Path) -> Path:
    """Copy a snapshot's model to a new folder, written aside and then renamed: it is whole or not there."""
    files = [WEIGHTS] if (snapshot / WEIGHTS).is_file() else [INDEX, *shard_names(snapshot / INDEX)]
    files += [CONFIG, *(file for file in TOKENIZER if (snapshot / file).is_file())]
    aside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for file in files:
            shutil.copyfile(snapshot / file, aside / file)
        aside.chmod(folder.parent.stat().st_mode & 0o777)  # mkdtemp's folder is its owner's alone
        if folder.is_dir():
            folder.rmdir()
        aside.rename(folder)
    except OSError as error:
        advice = "make room there" if is_full(error) else "name another folder"
        raise HubError(f"{folder} cannot be written: {error.strerror or error}; {advice}") from error
    finally:
        if aside is not None and aside != folder:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
