"""The cached path over the paged cache of transformers' continuous batching: all rows packed into one pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..contract.pools.transformers_pool import TransformersPool
from ..contract.user_errors import user_code
from .checkpoint import attending
from .lm import CausalLM

PAGE = 4
ATTENTION = "sdpa"  # the paged one that runs on a CPU as well


def paged_logits(lm: CausalLM, model: Any, prompts: Sequence[Sequence[int]], forced: np.ndarray) -> torch.Tensor:
    """Logits (B, n, V): each prompt in a pass of its own, then one token of every row per pass.

    Raises UserCodeError for a model that the manager does not take, and for what it raises.
    """
    B, n = forced.shape
    pages = sum(-(-(len(prompt) + n) // PAGE) + 1 for prompt in prompts)
    with user_code(f"the paged cache of transformers, given {lm.name},"), attending(model, ATTENTION):
        pool = TransformersPool(model, max(8, pages), PAGE, tokens=max(128, *(len(prompt) + n for prompt in prompts)))
        states, found = [], []
        for prompt in prompts:
            state, logits = pool.start(list(prompt))
            states.append(state)
            found.append(logits)
        steps = [torch.stack(found)]
        for i in range(n - 1):
            steps.append(pool.extend_all(states, [[int(forced[b, i])] for b in range(B)]))
    return torch.stack(steps, 1)
