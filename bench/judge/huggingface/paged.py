"""The cached path over the paged cache of transformers' continuous batching: all rows packed into one pass."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..contract.pools.transformers_pool import TransformersPool
from ..contract.user_errors import user_code
from .caches import DoesNotApply
from .checkpoint import attending
from .lm import CausalLM

PAGE = 4


def paged_logits(lm: CausalLM, model: Any, prompts: Sequence[Sequence[int]], forced: np.ndarray) -> torch.Tensor:
    """Logits (B, n, V): each prompt in a pass of its own, then one token of every row per pass.

    Raises DoesNotApply for a model whose attention is no choice, UserCodeError for what the manager raises.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise DoesNotApply(f"{lm.name} does not attend through AttentionInterface, which the paged cache needs")
    B, n = forced.shape
    pages = sum(-(-(len(prompt) + n) // PAGE) + 1 for prompt in prompts)
    attention = "sdpa" if model._supports_sdpa else "paged|eager"  # both run on a CPU as well
    with quiet(), user_code(f"the paged cache of transformers, given {lm.name},"), attending(model, attention):
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


@contextmanager
def quiet() -> Iterator[None]:
    """Without the manager's log, which calls it an error that a CPU has no memory to plan."""
    logger = logging.getLogger("ContinuousBatchingLogger")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
