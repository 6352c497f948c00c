"""The logits of sequences by a model and its cache, as hashes: those of one sequence in any company must be equal."""

import hashlib
from collections.abc import Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch

from kvproof.gpt2 import GPT2
from kvproof.kernels.cpu import engine


@contextmanager
def threads(n: int):
    """The engine runs on n threads, also where there is so little to do that it would take one."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with patch.object(engine, "ALONE", 0):
            yield
    finally:
        torch.set_num_threads(before)


def run(
    model: GPT2, prompts: Sequence[list[int]], forced: torch.Tensor, page=None, chunk=None, kv_dtype=None
) -> torch.Tensor:
    """Logits (B, 1 + n, V) after each prompt and after each of the forced tokens (B, n)."""
    capacity = max(map(len, prompts)) + forced.shape[1]
    cache = model.new_cache(len(prompts), capacity, page, kv_dtype=kv_dtype)
    logits = [model.prefill(prompts, cache, chunk)]
    return torch.stack([*logits, *(model.decode(ids.contiguous(), cache) for ids in forced.T)], 1)


def hashes(logits: torch.Tensor) -> list[str]:
    """One hash of all the bits of each sequence."""
    return [hashlib.sha256(row.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest() for row in logits]
