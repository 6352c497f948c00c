"""A batch of sequences decoded over one cache: the calls of the cached path, whatever scenario orders them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..contract.huggingface import can_go_back
from ..contract.user_errors import user_code
from .caches import OWN, DoesNotApply, layers_of
from .lm import CausalLM

SPARE = 4  # slots beyond the sequences: drafts, which are taken back


class Play:
    """The prompts of some rows, padded on the left to one width, and what the cache has been fed so far.

    prompts      ids of each row
    forced       (B, n) the tokens that follow; the last is fed to nobody
    extra        columns of padding beyond what the prompts' lengths ask for
    positions    give position_ids where rows are padded
    bare         give nothing but ids, mask and cache
    tape         told before each call which of its tokens are kept; None where nothing is recorded
    """

    def __init__(
        self, lm: CausalLM, model: Any, kind: str, prompts: Sequence[Sequence[int]], forced: np.ndarray, *,
        extra: int = 0, positions: bool = True, bare: bool = False, tape: Any = None,
    ):  # fmt: skip
        self.lm, self.model, self.kind, self.tape, self.bare = lm, model, kind, tape, bare
        self.prompts, self.forced, self.positions = prompts, torch.from_numpy(forced.copy()), positions
        self.width = max(map(len, prompts)) + extra
        self.padding = np.array([self.width - len(prompt) for prompt in prompts])
        self.slots = self.width + forced.shape[1] - 1 + SPARE
        self.cache: Any = None
        self.filled, self.rows = 0, np.arange(len(prompts))

    @property
    def columns(self) -> torch.Tensor:
        """The prompts, (B, width), padded on the left."""
        ids = torch.full((len(self.prompts), self.width), self.lm.pad)
        for row, prompt in zip(ids, self.prompts, strict=True):
            row[self.width - len(prompt) :] = torch.as_tensor(prompt)
        return ids

    def new_cache(self) -> Any:
        return self.lm.new_cache(self.kind, self.slots)

    def feed(self, ids: torch.Tensor, keep: Sequence[int] = ()) -> torch.Tensor:
        """Logits (B, M, V) of these ids, (B, M), appended to each row; those of the tokens `keep` are compared."""
        self.cache = self.new_cache() if self.cache is None else self.cache
        padding, first = self.padding[self.rows], not self.filled
        more = {} if self.bare else self.lm.ragged(padding, self.filled + ids.shape[1], ids.shape[1], self.positions)
        if not first and padding.any() and not self.lm.masks_steps(self.kind):
            del more["attention_mask"]
        back = np.array([int(np.argmax(self.rows == b)) for b in range(len(ids))])  # a row of each sequence
        if self.tape is not None:
            self.tape.at(back, torch.tensor(list(keep), dtype=torch.long).expand(len(ids), -1))
        logits = self.lm.forward(self.model, ids[self.rows], self.cache, **more)
        self.filled += ids.shape[1]
        if first:
            self.lm.check_filled(self.cache)
        return logits[back][:, list(keep)]

    def prefill(self) -> torch.Tensor:
        """Logits (B, 1, V) after the prompts, in one call."""
        return self.feed(self.columns, [self.width - 1])

    def crop(self, tokens: int):
        """Take the last tokens of every row back.  Raises DoesNotApply where the cache keeps nothing to go back to."""
        cache = self.cache
        if self.kind == OWN or not hasattr(cache, "crop"):
            raise DoesNotApply("its cache has no crop()")
        if stuck := [type(layer).__name__ for layer in layers_of(cache) if not can_go_back(layer)]:
            raise DoesNotApply(f"a {stuck[0]} cannot go back")
        with user_code(f"crop({-tokens}) of the {type(cache).__name__}", refusals=False):
            cache.crop(-tokens)  # a negative number is how many tokens go, in every release
        self.filled -= tokens

    def record_past(self):
        """Let windows and states keep what leaves them, as assisted generation does, so that crop() can go back."""
        self.cache = self.new_cache() if self.cache is None else self.cache
        if hasattr(self.cache, "activate_past_recording"):
            self.cache.activate_past_recording()

    def reorder(self, order: Sequence[int]):
        """Row i of the cache becomes what row order[i] was."""
        if self.kind == OWN or not hasattr(self.cache, "reorder_cache"):
            raise DoesNotApply("its cache has no reorder_cache()")
        with user_code(f"reorder_cache() of the {type(self.cache).__name__}", refusals=False):
            self.cache.reorder_cache(torch.tensor(order, device=self.model.device))
        self.rows = self.rows[list(order)]

    def reset(self):
        """Empty the cache for another use."""
        if self.kind == OWN or not hasattr(self.cache, "reset"):
            raise DoesNotApply("its cache has no reset()")
        with user_code(f"reset() of the {type(self.cache).__name__}", refusals=False):
            self.cache.reset()
        self.filled = 0

    def generate(self) -> torch.Tensor:
        """The logits (B, n, V) that the model's own generate() computes, whose choice of tokens is ours.

        They are taken from its forward, since generate() returns none wider than float32.
        """
        if not self.model.can_generate():
            raise DoesNotApply(f"{self.lm.name} has no generate()")
        from transformers import GenerationConfig, LogitsProcessorList

        def choose(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            only = torch.full_like(scores, -float("inf"))
            return only.scatter_(1, self.forced[:, ids.shape[1] - self.width, None].to(ids.device), 0.0)

        found: list[torch.Tensor] = []
        fed: list[int] = []
        given: dict[str, Any] = {} if self.kind == OWN else {self.lm.cache_name or "": self.new_cache()}
        n, mask = self.forced.shape[1], torch.arange(self.width) >= torch.from_numpy(self.padding)[:, None]
        config = GenerationConfig(max_new_tokens=n, do_sample=False, pad_token_id=self.lm.pad)
        own, self.model.generation_config = self.model.generation_config, GenerationConfig()  # without its end tokens
        try:
            with self._watched(found, fed), user_code(f"generate() of {self.lm.name}", refusals=False):
                self.model.generate(
                    self.columns.to(self.model.device), attention_mask=mask.long().to(self.model.device),
                    generation_config=config, logits_processor=LogitsProcessorList([choose]), **given,
                )  # fmt: skip
        finally:
            self.model.generation_config = own
        if fed != [self.width] + [1] * (n - 1):
            calls = ", ".join(map(str, fed))
            raise DoesNotApply(
                f"generate() gives {self.lm.name} {calls} tokens in turn; a cache lacks the prompt, then one per call"
            )
        return torch.cat(found, 1)

    @contextmanager
    def _watched(self, found: list[torch.Tensor], fed: list[int]) -> Iterator[None]:
        """Keep the last token's logits of each call of the model's forward, and how many tokens it is given."""

        def before(module: Any, args: tuple, given: dict[str, Any]):
            ids = next(x for x in (*args, given.get("input_ids")) if isinstance(x, torch.Tensor))
            fed.append(ids.shape[1])
            if self.tape is not None:
                self.tape.at(np.arange(len(ids)), torch.full((len(ids), 1), ids.shape[1] - 1))

        hooks = [
            self.model.register_forward_pre_hook(before, with_kwargs=True),
            self.model.register_forward_hook(lambda module, args, out: found.append(out.logits[:, -1:])),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
