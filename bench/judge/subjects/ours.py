"""Our impls as a subject, one against another; and what every subject with a torch model shares."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .... import reference
from ....gpt2 import GPT2
from ....gpt2.cache import Cache
from ....gpt2.generate import check_fit
from ....gpt2.ids import pad
from ....gpt2.int8_weights import Int8Table, dequantised
from ....gpt2.weights import as_dtype, build
from ...measure.impls import Oracle, Source, forced_logits, torch_source
from ...measure.interleaved import IMPLS, Models
from ...measure.timing import timed_greedy
from ..tracing.tape import Activation, Tape, capture
from .oracle import NUMPY_DTYPES, capture_numpy, live_slots, shifted
from .oracle import traced as numpy_trace


class TorchSubject(ABC):
    """Paths and traces of a subject that runs either of its paths by `_run`."""

    def paths(self, dtype: str, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Logits (B, n, V) float64 of both at `positions`, each run in `dtype`."""
        return self._run("a", dtype, shift)[0], self._run("b", dtype, shift)[0]

    def trace_one(self, which: str, dtype: str = "float64", shift: float = 0.0) -> list[Activation]:
        """The activations of path "a" or "b" at `positions`."""
        return self._run(which, dtype, shift, traced=True)[1]

    def trace(self, dtype: str = "float64") -> tuple[list[Activation], list[Activation]]:
        """The activations of both at `positions`."""
        return self.trace_one("a", dtype), self.trace_one("b", dtype)

    @abstractmethod
    def _run(self, which: str, dtype: str, shift: float, traced=False) -> tuple[np.ndarray, list[Activation]]:
        """The logits of path "a" or "b" and, if `traced`, its activations."""
        ...


class OurSubject(TorchSubject):
    """One of our impls against another, both fed the same tokens: greedy ones in float64.

    model    a name that `load` takes, or Models of one
    a, b     numpy | naive | eager | sdpa | triton | numba. "naive" recomputes; "numpy" as b recomputes in NumPy, and in
             half precision, where NumPy has no arithmetic, "naive" stands in for it
    prompts  ids of each sequence, of any lengths
    steps    logits per sequence that are compared, at least 1: the prefill's, then one decode step's each
    page     slots per page of the caches of a and b, where those are torch's; None for static ones
    inject   a context manager that makes a's torch model wrong while it is open, such as a planted fault's
    weights  as `load` takes it, where model is a name

    Raises ValueError for what does not fit together or does not fit the model.
    """

    prefilled = 1

    def __init__(
        self,
        model: str | Path | Models,
        a: str,
        b: str = "naive",
        *,
        prompts: Sequence[Sequence[int]],
        steps: int = 8,
        device: str = "cpu",
        inject: Callable[[GPT2], AbstractContextManager] | None = None,
        weights: str | None = None,
        page: int | None = None,
    ):
        for impl in (a, b):
            if impl not in IMPLS:
                raise ValueError(f"impl {impl!r} is not known; choose one of {', '.join(IMPLS)}")
        if a == b and inject is None:
            raise ValueError(f"{a} came twice; compare it with another of {', '.join(IMPLS)}")
        if a in ("numpy", "numba") and inject:
            raise ValueError(f"a torch fault cannot be injected into {a}; choose another impl")
        if page is not None and (page < 1 or a in ("numpy", "naive")):
            raise ValueError(f"page is {page} for {a}; a page has 1 slot or more, and numpy and naive have no pages")
        if steps < 1:
            raise ValueError(f"steps is {steps}; at least 1 position must be compared")
        self.models = model if isinstance(model, Models) else Models(str(model), torch.device(device), weights)
        self.weights = self.models.weights
        self.name_a, self.name_b, self.prompts, self.steps, self.inject = a, b, prompts, steps, inject
        self.page = page
        gpt2 = self.models.torch("float64")
        gpt2.check_prompts(prompts)
        check_fit(prompts, steps, gpt2.config.n_ctx, "n_ctx")
        self.config = gpt2.config
        self.positions = np.array([[len(prompt) - 1] for prompt in prompts]) + np.arange(steps)
        self.lengths = self.positions[:, -1] + 1
        self.question = question_of(a, b)

    @cached_property
    def forced(self) -> np.ndarray:
        """The tokens that both are fed, (B, n) ids; the last of them is fed to neither."""
        source = self._source(self.models.torch("float64"))
        return np.array(timed_greedy(source, self.prompts, self.steps, self.models.device).ids)

    @cached_property
    def ids(self) -> torch.Tensor:
        """Whole sequences, (B, T) int64, padded on the right, where causal attention cannot see it."""
        fed = [[*prompt, *row[:-1].tolist()] for prompt, row in zip(self.prompts, self.forced, strict=True)]
        return pad(fed, int(self.lengths.max())).to(self.models.device)

    def _model(self, impl: str, dtype: str, shift: float) -> GPT2:
        """The torch model of one path. The engine reads 8-bit weights as they are; a shift is smaller than what their
        float32 scales can hold, so under one it gets a model of their values."""
        if impl == "numba" and self.weights and shift:
            return self._values[dtype]
        return self.models.torch(dtype, impl)

    @cached_property
    def _values(self) -> dict[str, GPT2]:
        """Models of the quantised weights' values, in floats."""
        place, dtypes = self.models.device, {name: as_dtype(name) for name in NUMPY_DTYPES}
        named = {name: flat(dequantised(self.models.torch(name), name)) for name in dtypes}
        return {name: build(self.config, named[name], None, dtype, place, "numba") for name, dtype in dtypes.items()}

    def _source(self, model: GPT2) -> Source:
        return torch_source(model, len(self.prompts), int(self.lengths.max()), page=self.page)

    def _run(self, which: str, dtype: str, shift: float, traced=False) -> tuple[np.ndarray, list[Activation]]:
        """One path's logits and, if `traced`, its activations."""
        impl = self.name_a if which == "a" else self.name_b
        if impl == "numpy" and dtype in NUMPY_DTYPES:
            return self._run_numpy(which, dtype, shift, traced)
        if impl == "numpy" and which == "a":
            raise NotImplementedError(f"NumPy has no arithmetic in {dtype}; it computes in float64 and float32")
        model = self._model("naive" if impl == "numpy" else impl, dtype, shift)
        ids, forced = self.ids, self.forced  # made before anything is shifted or broken
        wrong = self.inject(model) if self.inject and which == "a" else nullcontext()
        with scaled_table(model, shift), wrong, capture(model) if traced else nullcontext() as tape:
            if model.impl == "naive":
                logits = recompute(model, ids, self.positions, tape)
                return logits, [*tape.activations(), *self._recomputed_cache(tape)] if tape else []
            source = Watched(self._source(model), tape, self.prompts)
            logits = forced_logits(source, self.prompts, forced)
            return logits, [*tape.activations(), *self._held_cache(source.source.cache)] if tape else []

    def trace_prompts(self) -> tuple[list[Activation], list[Activation]]:
        """The activations of both in float64 at every column of the prefill (B, M, ...), padding on the right included.

        Without ln_f and the head, which a prefill computes of each sequence's last token alone.
        """
        model, ids = self.models.torch("float64"), pad(self.prompts, max(map(len, self.prompts)))
        ids, found = ids.to(model.device), []
        for which in "ab":
            impl = self.name_a if which == "a" else self.name_b
            cached = impl not in ("naive", "numpy")
            own = model.with_impl(impl if cached else "naive")
            with self.inject(own) if self.inject and which == "a" else nullcontext(), capture(own) as tape:
                if cached:
                    self._source(own).prefill(self.prompts)
                else:
                    own.hidden(ids)
            found.append([x for x in tape.activations() if x.value.shape[1] == ids.shape[1] and x.operation != "ln_f"])
        return found[0], found[1]

    def _recomputed_cache(self, tape: Tape) -> list[Activation]:
        """What a cache should hold: keys and values of all tokens, as they were computed."""
        found = []
        for layer, calls in tape.kv.items():
            k, v = np.split(np.concatenate(calls, 1).swapaxes(1, 2), 2, axis=1)
            found.append(Activation(layer, "cache", live_slots(k, v, self.lengths)))
        return found

    def _held_cache(self, cache: Cache) -> list[Activation]:
        pairs = [cache.read(layer, max(cache.host_lengths)) for layer in range(self.config.n_layer)]
        both = [[x.double().cpu().numpy() for x in pair] for pair in pairs]
        return [Activation(layer, "cache", live_slots(k, v, self.lengths)) for layer, (k, v) in enumerate(both)]

    def _run_numpy(self, which: str, dtype: str, shift: float, traced: bool):
        """The oracle, sequence by sequence: with its cache as "a", without one as "b"."""
        params, config = self.models.numpy(dtype)
        params, n = shifted(params, shift), self.steps
        logits, rows = [], []
        for b, length in enumerate(self.lengths):
            ids = self.ids[b : b + 1, :length].cpu().numpy()
            with capture_numpy(config) if traced else nullcontext() as tape:
                if which == "b":
                    logits.append(reference.forward(ids, params, config)[:, -n:])
                else:
                    oracle = Oracle(params, config, 1, int(length))
                    logits.append(forced_logits(oracle, [self.prompts[b]], self.forced[b : b + 1]))
            if tape:
                rows.append(numpy_trace(tape, logits[-1], params, int(length)))
        return np.concatenate(logits).astype(np.float64), stack_rows(rows)


class Watched:
    """A cached source whose tape, if there is one, keeps of a prefill each sequence's last token."""

    def __init__(self, source: Any, tape: Tape | None, prompts: Sequence[Sequence[int]]):
        self.source, self.tape = source, tape
        self.last = torch.tensor([[len(prompt) - 1] for prompt in prompts])

    def prefill(self, prompts):
        logits = self.source.prefill(prompts)
        if self.tape:
            self.tape.keep_last(max(map(len, prompts)), self.last)
        return logits

    def step(self, ids):
        return self.source.step(ids)


@torch.no_grad()
def recompute(model: GPT2, ids: torch.Tensor, positions: np.ndarray, tape: Tape | None = None) -> np.ndarray:
    """Logits (B, n, V) float64 at positions (B, n) of whole sequences ids (B, T), all at once and without a cache."""
    where = torch.from_numpy(positions).to(ids.device)
    if tape:
        tape.positions, tape.keep_kv = where, True
    x = model.hidden(ids)  # (B, T, E)
    return model.logits(x[torch.arange(len(ids), device=ids.device)[:, None], where]).double().cpu().numpy()


@contextmanager
def scaled(weight: torch.Tensor, shift: float):
    """weight times 1 + shift while the context is open; then the very bits that were there."""
    if not shift:
        yield
        return
    with torch.no_grad():
        kept = weight.detach().clone()
        weight.mul_(1 + shift)
        try:
            yield
        finally:
            weight.copy_(kept)


@contextmanager
def scaled_table(model: GPT2, shift: float):
    """The model's table of tokens times 1 + shift while the context is open.

    An int8 table gives its place to its values: a shift is smaller than what its float32 scales can be changed by.
    """
    table = model.wte
    if not shift or not isinstance(table, Int8Table):
        with scaled(table.weight, shift):
            yield
        return
    model.wte = torch.nn.Embedding.from_pretrained(table.values(slice(None), model.dtype) * (1 + shift))
    try:
        yield
    finally:
        model.wte = table


def flat(params, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The arrays of nested params and lists of them, with their checkpoint's names."""
    for key, value in enumerate(params) if isinstance(params, list) else params.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, np.ndarray):
            yield name, torch.from_numpy(value)
        else:
            yield from flat(value, name)


def question_of(a: str, b: str) -> str:
    if "numpy" in (a, b):
        return "against the oracle"
    if "naive" in (a, b):
        return "cached against uncached"
    return "one cached impl against another"


def stack_rows(rows: Sequence[list[Activation]]) -> list[Activation]:
    """Traces of one sequence each as one, of the operations they all have; where slots are fewer, zeros follow."""
    found, both = [], {x[:2] for row in rows for x in row if all(x[:2] in {y[:2] for y in other} for other in rows)}
    for parts in zip(*([x for x in row if x[:2] in both] for row in rows), strict=True):
        width = max(part.value.shape[1] for part in parts)
        values = [
            np.pad(p.value, [(0, 0), (0, width - p.value.shape[1])] + [(0, 0)] * (p.value.ndim - 2)) for p in parts
        ]
        found.append(Activation(parts[0].layer, parts[0].operation, np.concatenate(values)))
    return found
