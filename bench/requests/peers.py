"""The arms that are transformers': its continuous batching, which `generate_batch` runs, and its static `generate`.

Both have our weights, in torch's own threads. `generate_batch` gives all requests one number of new tokens, so the
requests go one by one to the manager that it runs, which takes a number for each. On a CPU it computes attention by
torch's sdpa: all sequences of a step are one row, and a mask keeps them apart.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch

from ..measure.peers.hf import hf_model
from .arms import Ask, Ids, in_batches

PAGE = 16  # tokens per block, as ours; from 16 to 256 its speed is the same
PATIENCE = 60.0  # seconds in which its thread must start


def endless(name: str, dtype: torch.dtype) -> Any:
    """transformers' GPT-2 with our weights, and no end token, which `generate` would take from the model's settings."""
    model = hf_model(name, dtype, torch.device("cpu"))
    model.generation_config.eos_token_id = None
    return model


def greedy(new_tokens: int, end: int | None) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(do_sample=False, max_new_tokens=new_tokens, eos_token_id=end, pad_token_id=0)


@dataclass
class PagedArm:
    """transformers' continuous batching: a manager of its own for each run, made and started before the clock is.

    running      requests in a batch at most
    step_tokens  tokens of a step at most, prompts and newest together
    """

    model: Any
    running: int
    step_tokens: int = 256
    peer: bool = True
    drafts: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return f"generate_batch-{self.running}"

    @property
    def settings(self) -> dict[str, Any]:
        return {"running": self.running, "page": PAGE, "step_tokens": self.step_tokens, "prefix_sharing": False}

    @contextmanager
    def ready(self, asks: Sequence[Ask]) -> Iterator[Callable[[], Ids]]:
        from transformers import ContinuousBatchingConfig

        blocks = sum(ceil((len(ask.prompt) + ask.new_tokens) / PAGE) for ask in asks)  # room for all: none is evicted
        config = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=blocks,
            max_batch_tokens=self.step_tokens,
            max_requests_per_batch=self.running,
            allow_block_sharing=False,  # no two requests begin alike
        )
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # it misses psutil, and needs it not
        manager = self.model.init_continuous_batching(greedy(1, -1), config)
        manager.start()
        try:
            wait_for(lambda: manager.batch_processor is not None, manager)
            yield lambda: answer(manager, asks)
        finally:
            manager.stop(block=True)
            manager.destroy()


def wait_for(arrived: Callable[[], bool], manager: Any):
    """Wait until the manager's thread has made its memory.  Raises RuntimeError if it does not."""
    begun = time.monotonic()
    while not arrived():
        if not manager.is_running() or time.monotonic() - begun > PATIENCE:
            raise RuntimeError(f"generate_batch did not start: {manager.background_thread_status.fatal_error}")
        time.sleep(0.01)


def answer(manager: Any, asks: Sequence[Ask]) -> Ids:
    """Every request's new tokens.  Raises RuntimeError if the manager's thread ends or a request fails."""
    numbers = [manager.add_request(list(ask.prompt), max_new_tokens=ask.new_tokens) for ask in asks]
    found: dict[str, list[int]] = {}
    while len(found) < len(numbers):
        one = manager.get_result(timeout=1)
        if one is None:
            if not manager.is_running():
                raise RuntimeError(f"generate_batch stopped: {manager.background_thread_status.fatal_error}")
        elif one.error is not None:
            raise RuntimeError(f"generate_batch: {one.request_id}: {one.error}")
        elif one.is_finished():
            found[one.request_id] = list(one.generated_tokens)
    return [found[number] for number in numbers]


@dataclass
class HfStaticArm:
    """transformers' `generate`, prompts padded on the left: each batch runs until its longest is done."""

    model: Any
    batch: int
    peer: bool = True
    drafts: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return f"hf-generate-{self.batch}"

    @property
    def settings(self) -> dict[str, Any]:
        return {"batch": self.batch, "cache": "DynamicCache"}

    @contextmanager
    def ready(self, asks: Sequence[Ask]) -> Iterator[Callable[[], Ids]]:
        yield lambda: in_batches(asks, self.batch, False, self.answer)

    @torch.no_grad()
    def answer(self, part: Sequence[Ask]) -> Ids:
        width = max(len(ask.prompt) for ask in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, ask in enumerate(part):
            ids[row, width - len(ask.prompt) :] = torch.tensor(ask.prompt)
            mask[row, width - len(ask.prompt) :] = 1
        settings = greedy(max(ask.new_tokens for ask in part), None)
        return self.model.generate(ids, attention_mask=mask, generation_config=settings)[:, width:].tolist()
