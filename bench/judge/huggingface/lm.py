"""A causal LM of transformers, driven by the conventions of its own code: dtypes, caches, positions, padding."""

import inspect
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....gpt2.weights import as_dtype
from ...measure.peers import CACHE_NAMES, cache_name
from ..contract.positions import Positions, padding_id, positions_of, same
from ..contract.user_errors import UserCodeError, refusal, said, user_code
from .caches import KEPT_BY_US, KINDS, OWN, DoesNotApply, dynamic, layers_of, tensors_of
from .checkpoint import read_model
from .quantised import kept_by_us
from .wide import float64_throughout, widen_buffers

COLUMNS = 3  # of padding, to see what a decode step makes of the mask
# Fields of a forward's result that its parameters share and that carry nothing from one call to the next.
NO_STATE = {"input_ids", "inputs_embeds", "attention_mask", "position_ids", "labels", "hidden_states"}


class OwnState:
    """What a forward gives back and takes again, by the parameters' names: a cache of the model's own."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}


def vocabulary(model: Any) -> int:
    """How many token ids there are: rows of the embedding, or of each of several."""
    table = embedding(model)
    return getattr(table, "num_embeddings", None) or table.weight.shape[0]


def embedding(model: Any) -> Any:
    """The module that holds the embedding of ids; the first of several."""
    table = model.get_input_embeddings()
    return table[0] if isinstance(table, torch.nn.ModuleList) else table


class CausalLM:
    """The model in every dtype that is asked for, each loaded once, or copied where it came in memory.

    Raises UserCodeError, a ValueError, for what the model itself raises.
    """

    def __init__(self, source: str | Path | Any, device: torch.device):
        self.source, self.device = source, device
        self._models: dict[str, Any] = {}
        self._masks_steps: dict[str, bool] = {}
        model = self.model("float32")
        self.name, self.config = type(model).__name__, model.config
        self.text = model.config.get_text_config(decoder=True)
        self.n_vocab = vocabulary(model)
        self.wants = inspect.signature(model.forward).parameters
        self.takes_any = any(p.kind is p.VAR_KEYWORD for p in self.wants.values())
        self.cache_name = cache_name(model)

    def model(self, dtype: str) -> Any:
        if dtype not in self._models:
            self._models[dtype] = read_model(self.source, as_dtype(dtype), self.device)
        return self._models[dtype]

    @torch.no_grad()
    def forward(self, model: Any, ids: torch.Tensor, cache: Any = None, **more) -> torch.Tensor:
        """Logits (B, M, V) of ids (B, M), whose keys and values go into the cache, if there is one."""
        given: dict[str, Any] = {**more, "use_cache": cache is not None}
        if isinstance(cache, OwnState):
            given |= cache.given
        elif cache is not None and self.cache_name:
            given[self.cache_name] = cache
        given = {name: value for name, value in given.items() if self.takes_any or name in self.wants}
        given = {name: x.to(model.device) if isinstance(x, torch.Tensor) else x for name, x in given.items()}
        static = type(cache).__name__ == "StaticCache"
        what, advice = self.name + " with a StaticCache" * static, "--cache dynamic may suit it" * static
        with user_code(what, advice, refusals=getattr(model, "dtype", None) != torch.float32):
            out = model(ids.to(model.device), **given)
            logits = out.logits
        if logits.ndim != 3 or logits.shape[1] != ids.shape[1]:
            raise UserCodeError(f"{self.name} gave logits {tuple(logits.shape)} for ids {tuple(ids.shape)}")
        if isinstance(cache, OwnState):
            cache.given = {name: out[name] for name in self.carried(out)}
        return logits

    def carried(self, out: Any) -> list[str]:
        """The fields of a forward's result that the next call takes."""
        names = [name for name in tuple(out) if name in self.wants or (self.takes_any and name in CACHE_NAMES)]
        return [name for name in names if name not in NO_STATE and out[name] is not None]

    @cached_property
    def widens(self) -> bool:
        """Whether the model runs with float64 throughout, see wide.py."""
        model = self.model("float64")
        narrow = widen_buffers(model)
        try:
            with float64_throughout():
                cache = self.new_cache(self.default_cache, 8)
                self.forward(model, self.ids(3), cache)
                self.forward(model, self.ids(4)[:, 3:], cache)
                self.forward(model, self.ids(3))
        except (UserCodeError, NotImplementedError):  # float64 as the model takes it is what remains
            narrow()
            return False
        return True

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

    def masks_steps(self, kind: str) -> bool:
        """Whether decode steps take the mask of all columns so far: recurrent layers want it in the prefill alone.

        Found on a padded sequence: without the mask where only that gives the logits of the sequence by itself.
        """
        if kind not in self._masks_steps:
            model, ids = self.model("float32"), self.ids(6)
            alone = self.forward(model, ids)[:, -1:]
            padded = torch.cat([torch.full((1, COLUMNS), self.pad), ids], 1)
            self._masks_steps[kind] = [self._agrees(kind, padded, alone, on) for on in (True, False)] != [False, True]
        return self._masks_steps[kind]

    def _agrees(self, kind: str, ids: torch.Tensor, alone: torch.Tensor, masked: bool) -> bool:
        """Whether the last of ids (1, M), padded by COLUMNS, decodes to these logits with a mask or without one."""
        model, padding = self.model("float32"), np.array([COLUMNS])
        cache, slots = self.new_cache(kind, ids.shape[1]), ids.shape[1]
        more = self.ragged(padding, slots, 1)
        more = more if masked else {name: x for name, x in more.items() if name != "attention_mask"}
        try:
            self.forward(model, ids[:, :-1], cache, **self.ragged(padding, slots - 1, slots - 1))
            return same(self.forward(model, ids[:, -1:], cache, **more)[:, -1:], alone)
        except UserCodeError:
            return False

    @cached_property
    def windows(self) -> list[int]:
        """The tokens that each layer with a window keeps, by the config."""
        with user_code(f"the cache dynamic for {self.name}", refusals=False):
            layers = dynamic(self.config, 8).layers if self.cache_name else []
        return [layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False)]

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
        """Raise ValueError where a token's logits change with later tokens: no cache can decode with such a model."""
        model, ids = self.model("float32"), self.ids(6)
        short, long = (self.forward(model, ids[:, :n])[:, :3] for n in (3, 6))
        if same(short, long):
            return
        if not same(self.forward(model, ids), self.forward(model, ids)):
            raise ValueError(f"{self.name} gives other logits each time it is called, so no two paths can be compared")
        switch = next((name for name in ("is_decoder", "causal") if getattr(self.text, name, None) is False), None)
        if switch:
            raise ValueError(
                f"{self.name} attends to later tokens, since its config says {switch}=False, so no cache can decode "
                f"with it; set {switch}=True in its config"
            )
        apart = (short - long).abs().max() / long.square().mean().sqrt()
        raise ValueError(
            f"{self.name} gives a token other logits once later ones follow, by {apart:.1g} of their rms and without a "
            "cache, so no cache can decode with it: it attends to later tokens, or its uncached forward is wrong"
        )

    @cached_property
    def default_cache(self) -> str:
        """ "dynamic", or "own" where the model takes no cache of transformers, or leaves it empty.

        Raises ValueError where it gives nothing back that its next call takes, and what it raises with either.
        """
        model, ids, why = self.model("float32"), self.ids(3), f"its forward takes none of {', '.join(CACHE_NAMES)}"
        first: ValueError | None = None
        if self.cache_name:
            try:
                cache = self.new_cache("dynamic", 8)
                self.forward(model, ids, cache)
                self.check_filled(cache)
                return "dynamic"
            except ValueError as error:
                first, why = error, said(error)
        try:
            own = OwnState()
            self.forward(model, ids, own)
            if own.given:
                return OWN
        except ValueError as error:
            first = first or error
        if isinstance(first, UserCodeError):
            raise first
        raise ValueError(
            f"{self.name} has no cached path to judge: {why}, and it gives back nothing that its next call takes; if "
            "it keeps a cache of its own, write its two paths as functions for --callable"
        )

    def new_cache(self, kind: str, slots: int) -> Any:
        """An empty cache of a kind of caches.py.  Raises UserCodeError where it cannot be had for this model."""
        if kind == OWN:
            return OwnState()
        if kind.startswith(KEPT_BY_US):
            with user_code(f"the rounding of the cache {kind}"):
                return kept_by_us(kind.removeprefix(KEPT_BY_US), self.config, slots)
        make = KINDS[kind].make
        assert make is not None, "the others are made elsewhere"
        if not self.cache_name:
            names = ", ".join(CACHE_NAMES)
            raise DoesNotApply(f"{self.name} takes no cache of transformers ({names}); use --cache {OWN}")
        advice = "--cache dynamic may suit it" * (kind != "dynamic")
        with user_code(f"the cache {kind} for {self.name}", advice, refusals=False):
            layers = dynamic(self.config, slots).layers
        KINDS[kind].needs(layers)
        with user_code(f"the cache {kind} for {self.name}", advice, refusals=False):
            return make(self.config, slots)

    def check_filled(self, cache: Any):
        """Raise ValueError where a prefill left nothing in the cache, which a step cannot do without."""
        held = cache.given if isinstance(cache, OwnState) else [vars(layer) for layer in layers_of(cache)]
        if not tensors_of(held):
            raise DoesNotApply(
                f"{self.name} left the cache it was given empty, so there is no cached path to judge; --cache {OWN} "
                "takes what it gives back itself"
            )
