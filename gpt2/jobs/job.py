"""What a job's output depends on besides its input."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..arguments import check_kv_dtype, check_weights, flag, whole
from ..impls import AUTO, resolve_impl
from ..weights import as_device, as_dtype
from .fingerprint import fingerprint

VERSION = 1  # of the output's format; another number where the same input gives other bytes


@dataclass(frozen=True)
class Job:
    """The model and the settings of a job: each line of output is a function of these and of its line of input.

    model          as `load` takes it
    files          digest of the model's files; None for a recipe "random:..."
    dtype, device, impl, weights  as `load` takes them, impl not "auto"; of a device only its kind counts
    kv_dtype       of the KV cache: None for the model's dtype, or "int8"
    seed           of the requests that name none
    allow_special  whether <|endoftext|> in a prompt's text is that token
    """

    model: str
    files: str | None
    dtype: str
    device: str
    impl: str
    weights: str | None
    kv_dtype: str | None
    seed: int
    allow_special: bool

    def facts(self) -> dict[str, Any]:
        """The job as each line of output records it."""
        return {"kvproof": VERSION} | vars(self) | {"device": self.device.partition(":")[0]}

    def digest(self, *parts: bytes) -> str:
        """40 hexadecimal digits of the SHA-256 of this job and of these bytes."""
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in (as_json(self), *parts))
        return hashlib.sha256(framed).hexdigest()[:40]


@lru_cache(8)
def as_json(job: Job) -> bytes:
    """A job's facts as JSON."""
    return json.dumps(job.facts()).encode()


def new_job(
    model: str = "tiny",
    *,
    dtype: str = "float32",
    device: str = "cpu",
    impl: str = AUTO,
    weights: str | None = None,
    kv_dtype: str | None = None,
    seed: int = 0,
    allow_special: bool = False,
) -> Job:
    """The job of these settings. Reads the model's files once, for their digest.

    impl  "auto" is numba on a CPU and triton on a GPU

    Raises ValueError for a setting that does not fit, or what `load` raises for an unknown model.
    """
    place, width = as_device(device), as_dtype(dtype)
    impl = "triton" if impl == AUTO and place.type == "cuda" else resolve_impl(impl, place, width, weights)
    seed = whole("seed", seed, "a whole number from 0 to 2**64 - 1", 0, 2**64 - 1)
    return Job(
        model=str(model),
        files=fingerprint(model),
        dtype=str(width).removeprefix("torch."),
        device=str(place),
        impl=impl,
        weights=check_weights(weights),
        kv_dtype=check_kv_dtype(kv_dtype),
        seed=seed,
        allow_special=flag("allow_special", allow_special),
    )
