"""Models of the hub by name: at a pinned commit, the needed files alone, in the cache at HF_HOME.

Functions import huggingface_hub themselves, since it reads HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE on import.
"""

import difflib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from .checkpoint.hub_cache import (
    BESIDE,
    CONFIG,
    INDEX,
    MERGES,
    WEIGHTS,
    HubError,
    copy_to,
    in_cache,
    is_full,
    obtain,
    shard_names,
)


@dataclass(frozen=True)
class Published:
    """A repository of the hub at one revision; size (bytes) and sha256 of model.safetensors, if known."""

    repo: str
    revision: str
    size: int | None = None
    sha256: str | None = None


# The commits of main that many public projects pin. A commit that the hub no longer has is an error.
KNOWN = {
    "gpt2": Published(
        "openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        548_105_171, "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    ),
    "gpt2-medium": Published("openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
    "gpt2-large": Published("openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
    "gpt2-xl": Published(
        "openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2",
        None, "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
    ),
    "distilgpt2": Published(
        "distilbert/distilgpt2", "2290a62682d06624634c1f46a6ad5be0f47f38aa",
        352_824_413, "e1ff18884359fe8beb795a5f414feb85a6ce3d929ad019c0d958c039d2b94a1b",
    ),
}  # fmt: skip
NAME = re.compile(r"((?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?")
FILE_ENDINGS = (".safetensors", ".json", ".bin", ".pt", ".pth")  # a mistyped path, not a repository
COMMIT = re.compile(r"[0-9a-f]{40}")
log = logging.getLogger(__name__)


def is_hub_name(name: str) -> bool:
    """Whether name has the form of a hub model: one of KNOWN or "owner/name", each also with "@revision"."""
    match = NAME.fullmatch(name)
    if match is None or name.endswith(FILE_ENDINGS) or ".." in name:
        return False
    return match[1] in KNOWN or ("/" in match[1] and "--" not in match[1] and not match[1].endswith((".", "-")))


def find(name: str) -> Published:
    """The repository and revision of a name: "@revision" if given, else the pinned commit of KNOWN, else main.

    Raises HubError for a name of another form, with the closest known one.
    """
    if not is_hub_name(name):
        raise HubError(f"{name!r} is no model of the hub; use {', '.join(KNOWN)} or owner/name{suggestion(name)}")
    repo, _, revision = name.partition("@")
    pinned = {known.repo: known for known in KNOWN.values()} | KNOWN
    if repo not in pinned:
        return Published(repo, revision or "main")
    return pinned[repo] if revision in ("", pinned[repo].revision) else Published(pinned[repo].repo, revision)


def suggestion(name: str) -> str:
    """The end of an error: the known name closest to this one, or nothing."""
    names = [*KNOWN, *(known.repo for known in KNOWN.values())]
    close = difflib.get_close_matches(name.partition("@")[0], names, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def fetch(name: str, folder: Path | None = None) -> Path:
    """A local folder with the model's config.json, safetensors (one file, or an index and shards) and tokenizer files.

    name    a name of KNOWN, or "owner/name", each also with "@revision" (a branch, tag or commit)
    folder  None leaves the files in the hub's cache, under HF_HOME; else they are copied into this new folder,
            completely or not at all

    A cached commit is not requested again. An interrupted download resumes where it stopped. A progress bar goes to
    standard error; no token is needed. Raises HubError, also if the network or the disk fails.
    """
    source = find(name)
    if folder is not None and (folder.is_file() or (folder.is_dir() and any(folder.iterdir()))):
        raise HubError(f"{folder} is there and not empty; name a folder that is new or empty")
    try:
        snapshot = in_cache(source.repo, source.revision) if COMMIT.fullmatch(source.revision) else None
        if snapshot is None or not has_tokenizer(snapshot):
            snapshot = download(name, source)
    except HubError:
        raise
    except Exception as error:  # the library's errors have other classes in other versions
        snapshot = in_cache(source.repo, source.revision) if unreachable(error) else None
        if snapshot is None:
            raise explain(name, source, error) from error
        if not is_offline():
            log.warning("the hub does not answer; %s comes from the cache, commit %s", name, snapshot.name)
        if not has_tokenizer(snapshot):
            log.warning("the cache holds no merges of %s; its tokenizer may be another", name)
    return snapshot if folder is None else copy_to(snapshot, folder)


def download(name: str, source: Published) -> Path:
    """Download a model's missing files into the cache; config.json comes last: where it is, the model is complete."""
    from huggingface_hub import HfApi, constants, hf_hub_download

    info = HfApi().model_info(source.repo, revision=source.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    there, commit = {file.rfilename for file in info.siblings or []}, str(info.sha)
    if CONFIG not in there:
        raise HubError(f"{name} has no {CONFIG} on the hub; it is no GPT-2 that can be loaded")
    if WEIGHTS in there:
        files = [WEIGHTS]
    elif INDEX in there:
        files = [INDEX, *shard_names(obtain(source.repo, INDEX, commit))]
    else:
        raise HubError(f"{name} has no safetensors on the hub; name a repository or revision that has {WEIGHTS}")
    files += tokenizer_files(source, there)
    lost = [file for file in files if file not in there]
    if lost:
        raise HubError(f"the index of {name} names {lost[0]}, which the hub does not have; try another revision")
    for file in files:
        size, sha256 = (source.size, source.sha256) if file == WEIGHTS else (None, None)
        obtain(source.repo, file, commit, size, sha256)
    snapshot = obtain(source.repo, CONFIG, commit).parent
    if source.revision != commit and in_cache(source.repo, source.revision) != snapshot:
        hf_hub_download(source.repo, CONFIG, revision=source.revision)  # notes which commit main was, for offline use
    return snapshot


def tokenizer_files(source: Published, there: set[str]) -> list[str]:
    """The files of a repository that give its tokenizer and end tokens: for published models, the merges alone.

    Else tokenizer.json, or merges and vocab.json, and the files beside them, as transformers chooses.
    """
    merges = [file for file in MERGES if file in there][:1]
    if source.repo in {known.repo for known in KNOWN.values()} and merges:
        return merges
    wanted = ["tokenizer.json"] if "tokenizer.json" in there else [*merges, "vocab.json"]
    return [file for file in (*wanted, *BESIDE) if file in there]


def has_tokenizer(snapshot: Path) -> bool:
    return any((snapshot / file).is_file() for file in (*MERGES, "tokenizer.json"))


def is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def unreachable(error: Exception) -> bool:
    """Whether the hub did not answer, or answered with a server error."""
    from huggingface_hub.utils import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    network = type(error).__module__.split(".")[0] in ("httpx2", "httpx", "requests")  # which one, its versions differ
    return network or isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError))


def explain(name: str, source: Published, error: Exception) -> HubError:
    """The library's error as a HubError: what happened and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.utils import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    first = (str(error).strip().splitlines() or [""])[0]
    elsewhere = f"on a machine with a network run `kvproof download {name} FOLDER` and use that folder here"
    if is_offline():
        return HubError(f"{name} is not in the cache and HF_HUB_OFFLINE is set; unset it, or {elsewhere}")
    if isinstance(error, GatedRepoError):
        return HubError(f"{source.repo} is gated: accept its terms on the hub, then set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(f"the hub has no {source.repo}, or it is private{suggestion(source.repo)}")
    if isinstance(error, RevisionNotFoundError):
        repo = name.partition("@")[0]
        return HubError(
            f"the hub has no revision {source.revision} of {source.repo}; name another as {repo}@REVISION, "
            f"{repo}@main being the newest"
        )
    if is_full(error):
        return HubError(f"the disk of {constants.HF_HUB_CACHE} is full; make room, or set HF_HOME to another disk")
    if isinstance(error, OSError) and error.filename:
        return HubError(f"{error.filename} cannot be used: {error.strerror}; set HF_HOME to a folder of yours")
    if unreachable(error):
        return HubError(
            f"{name} is not all in the cache and {constants.ENDPOINT} does not answer ({type(error).__name__}: {first})"
            f"; run it again to go on when the network is back, or {elsewhere}"
        )
    return HubError(f"{name} did not arrive: {type(error).__name__}: {first}; run it again")
