"""Whether a checkpoint is still the one it was: a digest of the files that make a model and its tokenizer."""

import hashlib
from pathlib import Path

from ...reference.files import SAFETENSORS, find_weights
from ..checkpoint.hub_cache import CONFIG, TOKENIZER
from ..checkpoint.pickles import PICKLES
from ..weights import checkpoint

# Beside the weights, where they are there: what decides on ids, on the end of a text and on the arithmetic.
BESIDE = (CONFIG, *TOKENIZER)
CHUNK = 1 << 20  # bytes


def fingerprint(name: str | Path) -> str | None:
    """16 hexadecimal digits of the SHA-256 of a model's files; None for a recipe, whose name says all.

    name  as `load` takes it

    Reads the weights once, from end to end.  Raises what `load` raises for a model that is not there.
    """
    path = checkpoint(name)
    if isinstance(path, str):
        return None
    weights = find_weights(path, (*SAFETENSORS, *PICKLES))
    folder = weights.parent
    shards = (
        sorted(folder.glob(f"*{Path(weights.name.split('.index')[0]).suffix}")) if weights.suffix == ".json" else []
    )
    digest = hashlib.sha256()
    for file in [weights, *shards, *(folder / beside for beside in BESIDE)]:
        if file.is_file():
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with open(file, "rb") as data:
                while chunk := data.read(CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()[:16]
