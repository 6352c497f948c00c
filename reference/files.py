"""The files of a checkpoint's folder: which holds the weights, and what is wrong with a file that is none.

A clone without Git LFS, a saved error page and half a download all leave a file of the right name. The messages about
them are the same for the reference and for gpt2.
"""

import json
import re
from pathlib import Path
from typing import Any

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")  # as a folder names them, the likelier first
ADAPTER = "adapter_config.json"
OTHERS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".npz", ".distcp")

LFS_POINTER = b"version https://git-lfs"  # github.com/git-lfs/git-lfs, docs/spec.md
WEB_PAGE = re.compile(rb"<(!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)
# What the first bytes of a file say it is. A safetensors file begins with its header's length, then "{".
FORMATS = (
    (re.compile(rb"PK\x03\x04"), "a zip archive, as torch.save writes it", "name it pytorch_model.bin"),
    (re.compile(rb"\x80[\x02-\x05]"), "a pickle, as torch.save wrote it before 1.6", "name it pytorch_model.bin"),
    (re.compile(rb".{5}\0\0\0\{", re.DOTALL), "a safetensors file", "name it model.safetensors"),
    (re.compile(rb"GGUF"), "a GGUF file of llama.cpp", "take the checkpoint that it was made from"),
    (re.compile(rb"\x89HDF"), "an HDF5 file, as TensorFlow writes it", "save it from torch as model.safetensors"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd"), "a compressed file", "unpack it"),
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read as this GPT-2; the message names the file or the tensor."""


def beginning(path: Path, size: int = 512) -> bytes:
    """The file's first bytes; none if it cannot be read: its reader has the better message."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


def stand_in(path: Path) -> str | None:
    """What makes a file no checkpoint's (empty, a Git-LFS pointer, a web page), and the fix; else None."""
    head = beginning(path).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head and path.stat().st_size == 0:
        return "is empty; fetch it again"
    if head.startswith(LFS_POINTER):
        return "is a Git-LFS pointer, not the file it stands for; run `git lfs pull` in its clone, or download the file"
    if WEB_PAGE.match(head):
        return "is a web page, not the file; download the file itself (on the hub by /resolve/, not /blob/)"
    return None


def other_kind(path: Path) -> str:
    """The end of a message about unreadable weights: the kind of file that this is instead, or nothing."""
    head, pickled = beginning(path), path.suffix != ".safetensors"
    for magic, what, advice in FORMATS:
        if magic.match(head) and not ("torch.save" in what if pickled else "safetensors" in what):
            return f"; it is {what}: {advice}"
    if len(head) < 512 and head and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"; it is {len(head)} bytes of text: {head[:60].decode()!r}"
    return ""


def check_file(path: Path):
    """Raises CheckpointError for a file that is missing, empty, a Git-LFS pointer or a web page."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; a checkpoint keeps its files in one folder")
    if what := stand_in(path):
        raise CheckpointError(f"{path} {what}")


def read_json(path: Path) -> Any:
    """The value in a JSON file, with a byte-order mark or without.  Raises CheckpointError."""
    check_file(path)
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error


def find_weights(path: Path, names: tuple[str, ...] = SAFETENSORS) -> Path:
    """The file of weights or the index of shards at `path`: itself, or the first of `names` in the folder.

    Raises CheckpointError if there is none, with what is there instead, or if the folder holds an adapter.
    """
    if path.is_file():
        return path
    found = next((path / name for name in names if (path / name).is_file()), None)
    if (path / ADAPTER).is_file():
        raise CheckpointError(adapter(path, found))
    if found is not None:
        return found
    what = f"there is none of {', '.join(names)} in" if path.is_dir() else "there is no"
    only = "; the reference reads safetensors only" * (names is SAFETENSORS)
    raise CheckpointError(f"{what} {path}{only}{instead(path, names)}")


def adapter(folder: Path, weights: Path | None) -> str:
    """The message for a folder with a PEFT adapter: alone it is no model, beside weights it would change them."""
    raw = read_json(folder / ADAPTER)
    base = raw.get("base_model_name_or_path") if isinstance(raw, dict) else None
    base = f"its base model {str(base)[:80]!r}" if base else "its base model"
    where = f"beside {weights.name}" if weights else f"without {base}"
    return (
        f"{folder} holds an adapter ({ADAPTER}) {where}, and adapters are not applied here; merge it into its base "
        "(PEFT's merge_and_unload) and save the model, or remove the adapter's files"
    )


def instead(path: Path, names: tuple[str, ...]) -> str:
    """The end of a message: weights of other names in a folder, or one level below."""
    if not path.is_dir():
        return ""
    files = sorted(file.name for file in path.iterdir() if file.suffix in OTHERS)
    below = sorted(sub.name for sub in path.iterdir() if any((sub / name).is_file() for name in names))
    if below:
        return f"; there is one in {', '.join(below[-3:])} below it"
    return f"; of other names there is {', '.join(files[:3])}: a file can be named itself" if files else ""
