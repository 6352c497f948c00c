"""What the peers' tests share: prompts of `tiny`, what the oracle says of them, and a peer's distance from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kvproof import reference
from kvproof.bench.measure import peers
from kvproof.bench.measure.gate import Truth, ask_oracle
from kvproof.bench.measure.impls import forced_logits
from kvproof.gpt2.weights import checkpoint
from kvproof.reference import model
from kvproof.reference.judge.parity import LOGIT_BARS, logit_error

CPU = torch.device("cpu")
STEPS = 4
LENGTHS = {"equal": (5, 5, 5), "ragged": (9, 2, 4), "single": (1, 1), "with a single one": (9, 1, 4)}
BAR = LOGIT_BARS["float32"]


def skip_without(impl: str):
    missing = [package for package in peers.PACKAGES[impl] if peers.version(package) is None]
    if missing:
        extra = peers.EXTRAS.get(impl, "peers")
        pytest.skip(f"{impl} needs {' and '.join(missing)}; python -m pip install -e '.[{extra}]'")


@contextmanager
def gelu_of(impl: str) -> Iterator[None]:
    """The oracle's GELU is the peer's: llama.cpp looks it up in a table of float16, by what rounds to float16."""
    exact = model.gelu
    with pytest.MonkeyPatch.context() as patch:
        if impl == "llamacpp":
            rounded = lambda x: x.astype(np.float16).astype(float)  # noqa: E731
            patch.setattr(model, "gelu", lambda x, kind: rounded(exact(rounded(x), kind)))
        yield


@cache
def said_of(rows: str, impl: str = "") -> tuple[list[list[int]], Truth]:
    """Prompts of tiny of these LENGTHS, and the answer of the oracle with this peer's GELU."""
    params, config = reference.load(checkpoint("tiny"))
    rng = np.random.default_rng(0)
    prompts = [rng.integers(config.n_vocab, size=n).tolist() for n in LENGTHS[rows]]
    with gelu_of(impl):
        return prompts, ask_oracle(prompts, params, config, STEPS)


def source_for(impl, prompts, name: str | Path = "tiny", dtype="float32", weights=None) -> Any:
    skip_without(impl)
    return peers.peer_source(impl, name, dtype, CPU, len(prompts), max(map(len, prompts)) + STEPS - 1, weights)


def error_of(source, prompts, truth) -> float:
    return logit_error(forced_logits(source, prompts, truth.ids), truth.logits)
