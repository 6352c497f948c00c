"""A causal LM of transformers, driven by the conventions of its own code: dtypes, caches, positions, padding."""

import inspect
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....gpt2.weights import as_dtype
from ...measure.peers import CACHE_NAMES, cache_name, empty_cache
from ..contract.positions import Positions, padding_id, positions_of, same
from ..contract.user_errors import UserCodeError, refusal, user_code
from .checkpoint import read_model

CACHES = ("dynamic", "static")
COLUMNS = 3  # of padding, to see what a decode step makes of the mask


class CausalLM:
    """The model in every dtype that is asked for, each loaded once, or copied where it came in memory.

    Raises ValueError for a model that takes no cache; UserCodeError, a ValueError, for what the model itself raises.
    """

    def __init__(self, source: str | Path | Any, device: torch.device):
        self.source, self.device = source, device
        self._models: dict[str, Any] = {}
        model = self.model("float32")
        self.name, self.config = type(model).__name__, model.config
        self.text = model.config.get_text_config(decoder=True)
        self.n_vocab = model.get_input_embeddings().num_embeddings
        self.wants = inspect.signature(model.forward).parameters
        self.takes_any = any(p.kind is p.VAR_KEYWORD for p in self.wants.values())
        self.cache_name = cache_name(model)
        if self.cache_name is None:
            raise ValueError(
                f"{self.name} takes no cache of transformers ({', '.join(CACHE_NAMES)}), so there is no cached path to "
                "judge; write its own two paths as functions for --callable"
            )

    def model(self, dtype: str) -> Any:
        if dtype not in self._models:
            self._models[dtype] = read_model(self.source, as_dtype(dtype), self.device)
        return self._models[dtype]

    @torch.no_grad()
    def forward(self, model: Any, ids: torch.Tensor, cache: Any = None, **more) -> torch.Tensor:
        """Logits (B, M, V) of ids (B, M), whose keys and values go into the cache, if there is one."""
        given: dict[str, Any] = {**more, "use_cache": cache is not None}
        if cache is not None and self.cache_name:
            given[self.cache_name] = cache
        given = {name: value for name, value in given.items() if self.takes_any or name in self.wants}
        given = {name: x.to(model.device) if isinstance(x, torch.Tensor) else x for name, x in given.items()}
        static = type(cache).__name__ == "StaticCache"
        with user_code(self.name + " with a StaticCache" * static, "--cache dynamic may suit it" * static):
            return model(ids.to(model.device), **given).logits

    @cached_property
    def widest(self) -> str:
        try:
            self.forward(self.model("float64"), self.ids(2))
        except (ValueError, NotImplementedError) as error:
            if refusal(error, "float64", "float32") is None:
                raise
            return "float32"
        return "float64"

    @cached_property
    def counting(self) -> Positions:
        model = self.model("float32")
        return positions_of(model, lambda ids, **more: self.forward(model, ids, **more), self.ids(6))

    @cached_property
    def masks_steps(self) -> bool:
        """Whether decode steps take the mask of all columns so far: recurrent layers want it in the prefill alone.

        Found on a padded sequence: without the mask where only that gives the logits of the sequence by itself.
        """
        model, ids = self.model("float32"), self.ids(6)
        alone, padding = self.forward(model, ids)[:, -1:], np.array([COLUMNS])
        padded = torch.cat([torch.full((1, COLUMNS), self.pad), ids], 1)
        agree = []
        for masked in (True, False):
            cache, slots = self.new_cache("dynamic", padded.shape[1]), padded.shape[1]
            self.forward(model, padded[:, :-1], cache, **self.ragged(padding, slots - 1, slots - 1))
            more = self.ragged(padding, slots, 1)
            more = more if masked else {name: x for name, x in more.items() if name != "attention_mask"}
            try:
                agree.append(same(self.forward(model, padded[:, -1:], cache, **more)[:, -1:], alone))
            except UserCodeError:
                agree.append(False)
        return agree != [False, True]

    @property
    def derives(self) -> bool:
        """Whether the model counts the ids that are not the padding's, as RoBERTa does."""
        return bool(self.counting.start)

    @property
    def pad(self) -> int:
        """The id of padding columns, where it counts."""
        return padding_id(self.config) if self.derives else 0

    def ragged(self, padding: np.ndarray, filled: int, new: int, positions: bool = True) -> dict[str, torch.Tensor]:
        """The mask and positions of a batch, (B,) columns of padding before each row, for its last `new` columns."""
        slots, first, more = torch.arange(filled), torch.from_numpy(padding)[:, None], {}
        if padding.any():
            more["attention_mask"] = (slots >= first).long()
        start = self.counting.start
        if positions and start is not None and (padding.any() or self.derives):
            more["position_ids"] = ((slots - first).clamp(min=0) + start)[:, -new:]
        return more

    def ids(self, n: int) -> torch.Tensor:
        """(1, n) ids that are not the padding's."""
        return (torch.arange(n)[None] % (self.n_vocab - 1) + 1 + padding_id(self.config)) % self.n_vocab

    def drawn(self, length: int) -> list[list[int]]:
        """Two prompts, of `length` and half as many ids, none of them the padding's."""
        pad = padding_id(self.config)
        ids = [i * 7919 % self.n_vocab for i in range(1, length + 1)]
        ids = [(i + 1) % self.n_vocab if i == pad else i for i in ids]
        return [ids, ids[: max(1, length // 2)]]

    def check_causal(self):
        """Raise ValueError for an encoder, by its config and by what it computes: its tokens see later ones."""
        switch = next((name for name in ("is_decoder", "causal") if getattr(self.text, name, None) is False), None)
        if switch is None:
            return
        model, ids = self.model("float32"), self.ids(3)
        short, long = (self.forward(model, ids[:, :n])[:, :2] for n in (2, 3))
        if not same(short, long):
            raise ValueError(
                f"{self.name} attends to later tokens, since its config says {switch}=False, so no cache can decode "
                f"with it; set {switch}=True in its config"
            )

    def new_cache(self, kind: str, slots: int) -> Any:
        advice = "--cache dynamic may suit it" * (kind == "static")
        with user_code(f"a {kind} cache for {self.name}", advice, refusals=False):
            return empty_cache(self.config, kind, slots)

    def check_filled(self, cache: Any):
        """Raise ValueError where a prefill left nothing in the cache, which a step cannot do without."""
        held = [x for layer in cache.layers for x in vars(layer).values()]
        held += [y for x in held if isinstance(x, dict) for y in x.values()]
        if not any(isinstance(x, torch.Tensor) for x in held):
            raise ValueError(
                f"{self.name} left the cache it was given empty, so there is no cached path to judge; if it keeps one "
                "of its own, write its two paths as functions for --callable"
            )
