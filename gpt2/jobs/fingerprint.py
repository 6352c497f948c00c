"""A digest of a checkpoint's files, to see whether they have changed."""

import hashlib
from pathlib import Path

from ...reference.files import SAFETENSORS, find_weights
from ..checkpoint.hub_cache import CONFIG, TOKENIZER
from ..checkpoint.pickles import PICKLES
from ..weights import checkpoint

# Files beside the weights that change ids, end tokens or arithmetic.
BESIDE = (CONFIG, *TOKENIZER)
CHUNK = 1 << 20  # bytes


def fingerprint(name: str | Path) -> str | None:
    """16 hexadecimal digits of the SHA-256 of a model's files; None for a recipe "random:...".

    name  as `load` takes it

    Reads all the weights once.  Raises what `load` raises for an unknown model.
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
