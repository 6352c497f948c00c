"""A Hugging Face causal LM as a subject (see subjects.py): its cached forward against its uncached one."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...gpt2.tracing import Activation, Tape, capture
from ...gpt2.weights import as_dtype
from .callables import find_function
from .oracle import live_slots
from .subjects import TorchSubject, scaled, stack_rows

CACHES = ("dynamic", "static")


class HuggingFaceSubject(TorchSubject):
    """Prefill and decode steps of a padded batch, against each sequence by itself, whole, unpadded and without a cache.

    Both are fed the same tokens, the uncached path's greedy ones in float64.

    model                a local folder, or a causal LM in memory, which is copied for each dtype and left as it is
    prompts              ids of each sequence; shorter ones are padded on the left, with an attention mask
    steps                logits per sequence that are compared, at least 1
    cache                "dynamic" | "static"
    left_padded          columns of padding beyond what the prompts' lengths ask for
    position_ids         give positions counted from each sequence's own first token; False leaves the model to guess,
                         which for padded rows is the classical bug
    attn_implementation  what the cached path attends with: any name transformers knows, registered ones included; the
                         uncached path then runs under "sdpa"

    Raises ImportError where transformers is absent, ValueError for a folder that is none and arguments that do not fit.
    """

    question = "cached against uncached"
    name_b = "uncached forward, unpadded"
    prefilled = 1

    def __init__(
        self,
        model: str | Path | Any,
        *,
        prompts: Sequence[Sequence[int]],
        steps: int = 8,
        cache: str = "dynamic",
        left_padded: int = 0,
        position_ids: bool = True,
        attn_implementation: str | None = None,
    ):
        if cache not in CACHES:
            raise ValueError(f"cache is {cache!r}; it must be one of {', '.join(CACHES)}")
        if steps < 1 or left_padded < 0:
            raise ValueError(f"steps is {steps} and left_padded {left_padded}; they start at 1 and at 0")
        if not len(prompts) or not all(map(len, prompts)):
            raise ValueError("prompts must be one or more sequences of at least one token id")
        self.source, self.prompts, self.steps, self.cache = model, prompts, steps, cache
        self.position_ids, self.attn_implementation = position_ids, attn_implementation
        self._models: dict[str, Any] = {}
        config = self.model("float32").config
        limit = getattr(config, "max_position_embeddings", None)
        self.width = max(map(len, prompts)) + left_padded  # columns of the prefill
        if limit is not None and self.width + steps - 1 > limit:
            raise ValueError(f"{self.width} prompt columns and {steps} steps do not fit the model's {limit} positions")
        self.layers, self.query_heads = config.num_hidden_layers, config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.query_heads
        lengths = np.array([len(prompt) for prompt in prompts])
        self.padding, self.lengths = self.width - lengths, lengths + steps - 1
        self.positions = lengths[:, None] - 1 + np.arange(steps)
        words = [f"{cache} cache", *(["left-padded"] if self.padded else [])]
        words += [] if position_ids or not self.padded else ["no position_ids"]
        self.name_a = ", ".join([*words, *([attn_implementation] if attn_implementation else [])])

    @property
    def padded(self) -> bool:
        return bool(self.padding.any())

    def model(self, dtype: str) -> Any:
        """The model in this dtype, for inference; a copy where it came in memory."""
        if dtype not in self._models:
            self._models[dtype] = read_model(self.source, as_dtype(dtype))
        return self._models[dtype]

    @cached_property
    def forced(self) -> np.ndarray:
        """The tokens that both are fed, (B, n) ids; the last of them is only foretold."""
        model, rows = self.model("float64"), []
        for prompt in self.prompts:
            ids = list(prompt)
            for _ in range(self.steps):
                ids.append(int(self._forward(model, torch.tensor([ids]), use_cache=False)[0, -1].argmax()))
            rows.append(ids[-self.steps :])
        return np.array(rows)

    def _run(self, which: str, dtype: str, shift: float, traced=False) -> tuple[np.ndarray, list[Activation]]:
        model, forced = self.model(dtype), self.forced  # made before anything is shifted
        other = self.attn_implementation
        with scaled(model.get_input_embeddings().weight, shift):
            if which == "b":
                with attending(model, other and "sdpa"):
                    rows = [self._whole(model, b, forced[b], traced) for b in range(len(self.prompts))]
                return np.concatenate([logits for logits, _ in rows]), stack_rows([trace for _, trace in rows])
            with attending(model, other), capture(model) if traced else nullcontext() as tape:
                return self._cached(model, forced, tape)

    def _cached(self, model: Any, forced: np.ndarray, tape: Tape | None):
        """The padded batch: prefill, then one token per sequence and step."""
        ids = torch.zeros(len(self.prompts), self.width, dtype=torch.long)
        for row, prompt in zip(ids, self.prompts, strict=True):
            row[self.width - len(prompt) :] = torch.as_tensor(prompt)
        if tape:
            tape.positions = torch.full((len(ids), 1), self.width - 1)
        cache, logits = self._new_cache(model), []
        for step in range(self.steps):
            new = ids if step == 0 else torch.from_numpy(forced[:, step - 1 : step].copy())
            filled = self.width + step
            logits.append(
                self._forward(model, new, past_key_values=cache, **self._ragged(filled, new.shape[1]))[:, -1:]
            )
        found = torch.cat(logits, 1).double().cpu().numpy()
        return found, [*tape.activations(), *self._slots(cache, self.lengths, self.padding)] if tape else []

    def _whole(self, model: Any, b: int, forced: np.ndarray, traced: bool):
        """One sequence, all its tokens at once; a trace also fills a cache, only to see what it should hold."""
        ids, where = (
            torch.tensor([[*self.prompts[b], *forced[:-1].tolist()]]),
            torch.from_numpy(self.positions[b : b + 1]),
        )
        cache = self._new_cache(model, "dynamic") if traced else None
        with capture(model) if traced else nullcontext() as tape:
            if tape:
                tape.positions = where
            logits = self._forward(model, ids, past_key_values=cache, use_cache=traced)[:, where[0]]
        found = logits.double().cpu().numpy()
        return found, [*tape.activations(), *self._slots(cache, self.lengths[b : b + 1])] if tape else []

    @torch.no_grad()
    def _forward(self, model: Any, ids: torch.Tensor, **kw) -> torch.Tensor:
        device = model.device
        kw = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in kw.items()}
        return model(ids.to(device), **kw).logits

    def _ragged(self, filled: int, new: int) -> dict[str, torch.Tensor]:
        """What a padded batch is given beside its ids; nothing where no row is padded."""
        if not self.padded:
            return {}
        slots, padding = torch.arange(filled), torch.from_numpy(self.padding)[:, None]
        extra = {"attention_mask": (slots >= padding).long()}
        if self.position_ids:
            extra["position_ids"] = (slots - padding).clamp(min=0)[:, -new:]
        return extra

    def _new_cache(self, model: Any, kind: str | None = None) -> Any:
        from transformers import DynamicCache, StaticCache

        if (kind or self.cache) == "dynamic":
            return DynamicCache(config=model.config)
        return StaticCache(config=model.config, max_cache_len=self.width + self.steps - 1)

    def _slots(self, cache: Any, lengths: np.ndarray, start: np.ndarray | None = None) -> list[Activation]:
        """Each layer's live slots, the padding left out."""
        found = []
        for layer, held in enumerate(cache.layers):
            k, v = (x.double().cpu().numpy() for x in (held.keys, held.values))
            if k.shape[2] < max(lengths + (0 if start is None else start)):
                return []  # a window keeps no slot for its oldest tokens
            found.append(Activation(layer, "cache", live_slots(k, v, lengths, start)))
        return found


def read_model(source: str | Path | Any, dtype: torch.dtype) -> Any:
    """A causal LM in `dtype` from a local folder, nothing downloaded, or a copy of one in memory."""
    if isinstance(source, torch.nn.Module):
        twin = copy.deepcopy(source).eval().requires_grad_(False)
        for parameter in twin.parameters():  # buffers stay: rotary frequencies are float32 in every checkpoint's dtype
            parameter.data = parameter.data.to(dtype)
        return twin
    if not (Path(source) / "config.json").is_file():
        raise ValueError(f"{source} has no config.json; pass the local folder of a Hugging Face causal LM")
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise ImportError("transformers is not here; python -m pip install -e '.[peers]'") from error

    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, local_files_only=True)
    return model.eval().requires_grad_(False)


def attention_named(name: str | None) -> str | None:
    """A name that transformers knows: of a function of the user's, once it has been registered."""
    if name is None or ":" not in name:
        return name
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError as error:
        raise ImportError("transformers is not here; python -m pip install -e '.[peers]'") from error
    AttentionInterface.register("kvproof", find_function(name))
    AttentionMaskInterface.register("kvproof", sdpa_mask)
    return "kvproof"


@contextmanager
def attending(model: Any, name: str | None) -> Iterator[None]:
    """The model attends by `name` while the context is open; None leaves it as it is."""
    before = model.config._attn_implementation
    if name is not None:
        model.set_attn_implementation(name)
    try:
        yield
    finally:
        if name is not None:
            model.set_attn_implementation(before)
