"""A Hugging Face causal LM as a subject (see __init__.py): its cached forward against its uncached one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....gpt2.weights import as_device
from ..contract.positions import same
from ..contract.user_errors import UserCodeError
from ..tracing.module_tape import Columns, capture_modules
from ..tracing.tape import Activation, TracingError, capture, is_known
from .causal_lm import CACHES, CausalLM
from .checkpoint import attending
from .oracle import live_slots
from .ours import TorchSubject, scaled, stack_rows


class HuggingFaceSubject(TorchSubject):
    """Prefill and decode steps of a padded batch, against each sequence by itself, whole, unpadded and without a cache.

    Both are fed the same tokens, the uncached path's greedy ones in the widest dtype it runs in. A model that takes no
    padding (see contract/positions.py) decodes its sequences one at a time, unpadded.

    model                a local folder, or a causal LM in memory, copied for each dtype and left as it is
    prompts              ids of each sequence; shorter ones are padded on the left, with an attention mask. A number
                         draws two, of so many and half as many ids, always the same
    steps                logits per sequence that are compared, at least 1
    cache                "dynamic" | "static"
    left_padded          columns of padding beyond what the prompts' lengths ask for
    position_ids         give positions counted from each sequence's own first token; False leaves them to the
                         model, which for padded rows is the classical bug
    attn_implementation  what the cached path attends with: any name transformers knows, registered ones included; the
                         uncached path then runs under "sdpa", or "eager" where the model has no other
    device               for a model from a folder; one in memory stays where it is

    Raises ImportError where transformers is absent, ValueError for a folder that is none and arguments that do not fit,
    UserCodeError, a ValueError, for what the model itself raises.
    """

    question = "cached against uncached"
    name_b = "uncached forward, unpadded"
    prefilled = 1

    def __init__(
        self,
        model: str | Path | Any,
        *,
        prompts: Sequence[Sequence[int]] | int,
        steps: int = 8,
        cache: str = "dynamic",
        left_padded: int = 0,
        position_ids: bool = True,
        attn_implementation: str | None = None,
        device: str | torch.device = "cpu",
    ):
        if cache not in CACHES:
            raise ValueError(f"cache is {cache!r}; it must be one of {', '.join(CACHES)}")
        if steps < 1 or left_padded < 0:
            raise ValueError(f"steps is {steps} and left_padded {left_padded}; they start at 1 and at 0")
        self.lm = CausalLM(model, as_device(device))
        prompts = self.lm.drawn(prompts) if isinstance(prompts, int) else prompts
        if not len(prompts) or not all(map(len, prompts)):
            raise ValueError("prompts must be one or more sequences of at least one token id")
        self.prompts, self.steps, self.cache = prompts, steps, cache
        self.left_padded, self.position_ids, self.attn_implementation = left_padded, position_ids, attn_implementation
        self.lengths = np.array([len(prompt) for prompt in prompts]) + steps - 1
        self.positions = self.lengths[:, None] - steps + np.arange(steps)
        self.family = is_known(self.lm.model("float32"))  # by its modules' names
        self.width = max(map(len, prompts)) + left_padded  # columns of the prefill
        self._check_prompts()
        self.lm.check_causal()
        self.padding = self.width - self.lengths + steps - 1
        # Without position_ids padding itself is in question, whether or not the model takes it.
        self.together = not self.padding.any() or not position_ids or self._bears_padding()
        self.padded = self.together and bool(self.padding.any())
        if left_padded and not self.together:
            raise ValueError(
                f"padding on the left moves {self._reason()}; so it cannot be asked of a cache: leave --left-padded out"
            )
        self.name_a = ", ".join(self._words())

    def _check_prompts(self):
        lm, ids = self.lm, [i for prompt in self.prompts for i in prompt]
        wrong = next((i for i in ids if not 0 <= i < lm.n_vocab), None)
        if wrong is not None:
            raise ValueError(f"token id {wrong} came; {lm.name} has ids 0 to {lm.n_vocab - 1}")
        limit = getattr(lm.text, "max_position_embeddings", None)
        room = limit - (lm.counting.start or 0) if isinstance(limit, int) else self.width + self.steps
        if self.width + self.steps - 1 > room:
            raise ValueError(
                f"{self.width} prompt columns and {self.steps} steps do not fit the model's {room} positions"
            )

    def _words(self) -> list[str]:
        words = [f"{self.cache} cache", *(["left-padded"] if self.padded else [])]
        words += [] if self.position_ids or not self.padded else ["no position_ids"]
        words += [] if self.together else [f"one sequence at a time: padding moves {self._reason()}"]
        return [*words, *([self.attn_implementation] if self.attn_implementation else [])]

    def _reason(self) -> str:
        why = f": it {self.lm.counting.why}" if self.lm.counting.start is None else ""
        return f"the uncached logits of {self.lm.name}{why}"

    def _bears_padding(self) -> bool:
        """Whether the padded batch gives each sequence's own logits, both without a cache, in float32."""
        model = self.lm.model("float32")
        fed = torch.cat([self._columns(range(len(self.prompts))), torch.from_numpy(self.forced[:, :-1])], 1)
        try:
            batch = self.lm.forward(model, fed, **self.lm.ragged(self.padding, fed.shape[1], fed.shape[1]))
        except UserCodeError:
            return False
        return all(same(batch[b : b + 1, -self.steps :], self._alone(model, b)) for b in range(len(batch)))

    def _alone(self, model: Any, b: int, cache: Any = None) -> torch.Tensor:
        """Logits (1, n, V) of one sequence, all its tokens at once."""
        ids = torch.tensor([[*self.prompts[b], *self.forced[b, :-1].tolist()]])
        none = np.zeros(1, np.int64)
        return self.lm.forward(model, ids, cache, **self.lm.ragged(none, ids.shape[1], ids.shape[1]))[:, -self.steps :]

    def _columns(self, rows: Sequence[int]) -> torch.Tensor:
        """The prompts of these rows, (B, W), padded on the left to one width."""
        width = max(len(self.prompts[b]) for b in rows) + self.left_padded
        ids = torch.full((len(rows), width), self.lm.pad)
        for row, b in zip(ids, rows, strict=True):
            row[width - len(self.prompts[b]) :] = torch.as_tensor(self.prompts[b])
        return ids

    @cached_property
    def forced(self) -> np.ndarray:
        """The tokens that both are fed, (B, n) ids; the last of them is fed to neither."""
        model, rows = self.lm.model(self.lm.widest), []
        for prompt in self.prompts:
            ids = list(prompt)
            for _ in range(self.steps):
                ids.append(int(self.lm.forward(model, torch.tensor([ids]))[0, -1].argmax()))
            rows.append(ids[-self.steps :])
        return np.array(rows)

    def _run(self, which: str, dtype: str, shift: float, traced=False) -> tuple[np.ndarray, list[Activation]]:
        model, forced = self.lm.model(dtype), self.forced  # made before anything is shifted
        own = self.attn_implementation
        trusted = own and ("sdpa" if getattr(model, "_supports_sdpa", True) else "eager")
        rows = range(len(self.prompts))
        parts = [rows] if self.together else [[b] for b in rows]
        with scaled(model.get_input_embeddings().weight, shift), attending(model, own if which == "a" else trusted):
            if which == "b":
                runs = [self._whole(model, b, traced) for b in rows]
            else:
                runs = [self._cached(model, part, forced, traced) for part in parts]
        logits, traces = zip(*runs, strict=True)
        return np.concatenate(logits), stack_rows(traces)

    def trace_one(self, which: str, dtype: str = "float64", shift: float = 0.0) -> list[Activation]:
        try:
            return super().trace_one(which, dtype, shift)
        except TracingError:
            self.family = False  # from now on its modules are traced
            return super().trace_one(which, dtype, shift)

    def _cached(self, model: Any, rows: Sequence[int], forced: np.ndarray, traced: bool):
        """Prefill of these rows, padded to one width, then one token per sequence and step."""
        ids = self._columns(rows)
        width = ids.shape[1]
        padding = np.array([width - len(self.prompts[b]) for b in rows])
        with self._taped(model, torch.full((len(ids), 1), width - 1)) if traced else nullcontext() as tape:
            cache, logits = self.lm.new_cache(self.cache, width + self.steps - 1), []
            for step in range(self.steps):
                new = ids if step == 0 else torch.from_numpy(forced[list(rows), step - 1 : step].copy())
                more = self.lm.ragged(padding, width + step, new.shape[1], self.position_ids)
                if step and padding.any() and not self.lm.masks_steps:
                    del more["attention_mask"]
                logits.append(self.lm.forward(model, new, cache, **more)[:, -1:])
                if step == 0:
                    self.lm.check_filled(cache)
        found = torch.cat(logits, 1).double().cpu().numpy()
        return found, [*tape.activations(), *self._slots(cache, self.lengths[list(rows)], padding)] if tape else []

    def _whole(self, model: Any, b: int, traced: bool):
        """One sequence, all its tokens at once; a trace also fills a cache, only to see what it should hold."""
        where = torch.from_numpy(self.positions[b : b + 1])
        cache = self.lm.new_cache("dynamic", self.lengths[b]) if traced else None
        with self._taped(model, where) if traced else nullcontext() as tape:
            logits = self._alone(model, b, cache)
        found = logits.double().cpu().numpy()
        return found, [*tape.activations(), *self._slots(cache, self.lengths[b : b + 1])] if tape else []

    @contextmanager
    def _taped(self, model: Any, where: torch.Tensor) -> Iterator[Any]:
        """A tape of the tokens `where` (B, n) of a longer call: of its operations, or of its modules."""
        if self.family:
            with capture(model) as tape:
                tape.positions = where
                yield tape
        else:
            with capture_modules([model]) as tape:
                yield Columns(tape, where)

    def _slots(self, cache: Any, lengths: np.ndarray, start: np.ndarray | None = None) -> list[Activation]:
        """Each layer's live slots, the padding left out; nothing where a layer keeps something else, or not all."""
        found = []
        for layer, held in enumerate(cache.layers):
            k, v = (getattr(held, name, None) for name in ("keys", "values"))
            if not (isinstance(k, torch.Tensor) and isinstance(v, torch.Tensor) and k.ndim == 4 and k.shape == v.shape):
                return []
            k, v = (x.double().cpu().numpy() for x in (k, v))
            if k.shape[2] < max(lengths + (0 if start is None else start)):
                return []  # a window keeps no slot for its oldest tokens
            found.append(Activation(layer, "cache", live_slots(k, v, lengths, start)))
        return found
