"""One model, one set of prompts, every impl: each is held to the same truth, then their timed runs are interleaved."""

import random
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from math import isfinite

import numpy as np
import torch

from ... import reference
from ...gpt2 import GPT2, Config, load
from ...gpt2.generate import check_fit
from ...gpt2.int8_weights import dequantised
from ...gpt2.weights import checkpoint
from ...reference.judge.parity import LOGIT_BARS
from . import peers
from .gate import HALF_SLACK, Parity, Truth, ask_oracle, attention_faults, compare_logits, quantisation
from .impls import Oracle, Source, forced_logits, torch_source
from .machine import count_launches
from .timing import OwnLoop, Run, timed_greedy

IMPLS = ("numpy", "naive", "eager", "sdpa", "triton", "numba")
PAUSE = 0.05  # seconds; NumPy's and torch's threads wait by spinning for up to a thirtieth of a second
PATIENCE = 30.0  # seconds of timed runs after which an impl is not repeated, if it ran twice
CHECKED = 16  # tokens of each sequence that parity looks at; the oracle's float64 is slow


class Models:
    """One checkpoint in every dtype and framework that asks for it, each loaded once.

    weights  as `load` takes it; of quantised ones NumPy gets the values
    """

    def __init__(self, name: str, device: torch.device, weights: str | None = None):
        self.name, self.device, self.weights = name, device, weights
        self._torch: dict[str, GPT2] = {}
        self._numpy: dict[str, tuple[dict, Config]] = {}

    def torch(self, dtype: str) -> GPT2:
        if dtype not in self._torch:
            self._torch[dtype] = load(self.name, dtype=dtype, device=self.device, weights=self.weights)
        return self._torch[dtype]

    def numpy(self, dtype: str) -> tuple[dict, Config]:
        if dtype not in self._numpy:
            if self.weights:
                model = self.torch(dtype)
                self._numpy[dtype] = dequantised(model, dtype), model.config
            else:
                self._numpy[dtype] = reference.load(checkpoint(self.name), dtype)
        return self._numpy[dtype]

    def unquantised(self) -> tuple[dict, Config]:
        """The oracle's parameters in float64 as the checkpoint has them."""
        if "unquantised" not in self._numpy:
            self._numpy["unquantised"] = reference.load(checkpoint(self.name), "float64")
        return self._numpy["unquantised"]


class Comparison:
    """What all impls share: the prompts, the oracle's answer, the dtype and the device.

    prompts  ids of each sequence
    steps    new tokens per sequence, at least 2
    graph    triton's steps are replays of a CUDA graph

    Raises ValueError, before anything is computed, if prompts and steps do not fit the model.
    """

    def __init__(self, models: Models, prompts: Sequence[Sequence[int]], steps: int, dtype: str, graph: bool = False):
        self.models, self.prompts, self.steps, self.dtype, self.graph = models, prompts, steps, dtype, graph
        self.device, self.config = models.device, models.torch(dtype).config
        models.torch(dtype).check_prompts(prompts)
        check_fit(prompts, steps, self.config.n_ctx, "n_ctx")
        self.sources: dict[str, Source | OwnLoop] = {}

    @property
    def capacity(self) -> int:
        """Slots that the longest sequence needs; the last new token needs none."""
        return max(map(len, self.prompts)) + self.steps - 1

    @cached_property
    def truth(self) -> Truth:
        """The oracle's answer, in float64, for the first CHECKED tokens."""
        return ask_oracle(self.prompts, *self.models.numpy("float64"), min(self.steps, CHECKED))

    @cached_property
    def unquantised(self) -> Truth:
        """The same of the model without quantised weights."""
        return ask_oracle(self.prompts, *self.models.unquantised(), min(self.steps, CHECKED))

    def dtype_of(self, impl: str) -> str:
        """The dtype an impl runs in: where it has no arithmetic in half precision it takes float32."""
        if impl == "numpy":
            return self.dtype if self.dtype in LOGIT_BARS else "float32"
        return peers.peer_dtype(impl, self.dtype) if impl in peers.PEERS else self.dtype

    def new_source(self, impl: str, dtype: str) -> Source | OwnLoop:
        batch = len(self.prompts)
        if impl == "numpy":
            return Oracle(*self.models.numpy(dtype), batch, self.capacity)
        if impl in peers.PEERS:
            weights = self.models.weights
            return peers.peer_source(impl, self.models.name, dtype, self.device, batch, self.capacity, weights)
        model = self.models.torch(dtype).with_impl(impl)
        return torch_source(model, batch, self.capacity, graph=self.graph and impl == "triton")

    def source(self, impl: str) -> Source | OwnLoop:
        """The one source of this impl that is judged, timed, and judged again."""
        if impl not in self.sources:
            self.sources[impl] = self.new_source(impl, self.dtype_of(impl))
        return self.sources[impl]

    def note(self, impl: str) -> str | None:
        """What must be known of an impl beside its figures: another dtype than asked for, a way round a fault."""
        dtype = self.dtype_of(impl)
        instead = None if dtype == self.dtype else f"computes in {dtype}, since it has no {self.dtype} here"
        return "; ".join(filter(None, (instead, getattr(self.source(impl), "note", None)))) or None

    def logits(self, source: Source | OwnLoop):
        return forced_logits(source, self.prompts, self.truth.ids)

    @cached_property
    def half_bar(self) -> float:
        """What logits may err by in half precision, measured: a multiple of what recomputing everything errs by."""
        return HALF_SLACK * compare_logits(self.recomputed(), self.truth, float("inf"), half=True).error

    def recomputed(self):
        """The logits of the oracle's tokens by torch without a cache, each sequence whole -> (B, n, V) float64."""
        model, found = self.models.torch(self.dtype), {}
        for prompt, ids in zip(map(tuple, self.prompts), self.truth.ids.tolist(), strict=True):
            if prompt not in found:
                whole = torch.tensor([[*prompt, *ids[:-1]]], device=self.device)
                with torch.no_grad():
                    logits = model.logits(model.hidden(whole)[0, len(prompt) - 1 :])
                found[prompt] = logits.double().cpu().numpy()
        return np.stack([found[tuple(prompt)] for prompt in self.prompts])

    def quantisation(self, impl: str) -> Parity:
        """How far an impl with quantised weights is from the oracle without."""
        return quantisation(forced_logits(self.source(impl), self.prompts, self.unquantised.ids), self.unquantised)

    def shown(self, impl: str) -> bool:
        """Whether an impl's error is shown, not judged: a peer quantises in its own way, and no oracle has that."""
        return self.models.weights is not None and impl in peers.PEERS

    def timeable(self, impl: str, found: Parity) -> bool:
        """Whether an impl may be timed: a peer also where its rounding is red, so long as it computes the same."""
        return found.green or (impl in peers.PEERS and not found.wrong)

    def parity(self, impl: str) -> Parity:
        """Hold an impl to the truth. In half precision it must pass in float32 too, and its attention by itself."""
        if self.shown(impl):
            return self.quantisation(impl)
        dtype = self.dtype_of(impl)
        if dtype in LOGIT_BARS:
            return compare_logits(self.logits(self.source(impl)), self.truth, LOGIT_BARS[dtype], half=False)
        parity = compare_logits(self.logits(self.source(impl)), self.truth, self.half_bar, half=True)
        source = self.new_source(impl, "float32")
        exact = compare_logits(self.logits(source), self.truth, LOGIT_BARS["float32"], half=False)
        parity.faults += [f"in float32: {fault}" for fault in exact.faults]
        parity.wrong = exact.wrong or not isfinite(parity.error)
        if impl in IMPLS and impl != "naive":
            model = self.models.torch(dtype).with_impl(impl)
            parity.faults += attention_faults(model, len(self.prompts), self.capacity)
        return parity

    def parity_after(self, impl: str, runs: Sequence[Run]) -> Parity:
        """Hold the source that was timed to the truth once more, and what it wrote while it was timed."""
        dtype, shown = self.dtype_of(impl), self.shown(impl)
        if shown:
            parity = self.quantisation(impl)
        else:
            bar = LOGIT_BARS.get(dtype) or self.half_bar
            parity = compare_logits(self.logits(self.source(impl)), self.truth, bar, half=dtype not in LOGIT_BARS)
        faults = []
        if any(run.ids != runs[0].ids for run in runs):
            faults.append("its timed runs did not all write the same tokens")
        written = [row[: self.truth.ids.shape[1]] for row in runs[0].ids]
        if dtype in LOGIT_BARS and not shown and written != self.truth.ids.tolist():
            faults.append("its timed runs did not write the oracle's tokens")
        parity.faults += faults
        parity.wrong |= bool(faults)
        return parity

    def launches(self, impl: str) -> tuple[int, int]:
        """Operations that a torch impl launches in a prefill and in a decode step."""
        source = self.source(impl)
        assert not isinstance(source, OwnLoop)
        prefill = count_launches(lambda: source.prefill(self.prompts))
        ids = torch.zeros(len(self.prompts), dtype=torch.long, device=self.device)
        return prefill, count_launches(lambda: source.step(ids))

    def time_interleaved(
        self, repeats: dict[str, int], between: Callable[[], object] = lambda: None
    ) -> dict[str, list[Run]]:
        """Time each impl so many times, in rounds, so that drift hits all alike; each impl's runs in their order.

        between  called before each pause, when nothing is timed

        Each round has an order of its own, so that none always runs after the same neighbour, and a pause before each
        run, until the threads of the last one's libraries have stopped spinning. An impl that has spent PATIENCE
        seconds, as recomputing everything soon has, leaves the later rounds to the others.
        """
        flush = self.device.type == "cuda"
        runs: dict[str, list[Run]] = {impl: [] for impl in repeats}
        impls = list(repeats)
        for impl in impls:
            if repeats[impl] > 1:  # a single run has no time to lose on warming up
                timed_greedy(self.source(impl), self.prompts, min(self.steps, 4), self.device)
        shuffled = random.Random(0)
        for n in range(max(repeats.values())):
            shuffled.shuffle(impls)
            for impl in impls:
                if n < repeats[impl] and (n < 2 or sum(run.total for run in runs[impl]) < PATIENCE):
                    between()
                    time.sleep(PAUSE)
                    runs[impl].append(timed_greedy(self.source(impl), self.prompts, self.steps, self.device, flush))
        return runs

    def text(self, ids: Sequence[int]) -> str:
        tokenizer = self.models.torch(self.dtype).tokenizer
        return tokenizer.decode(ids) if tokenizer else f" {list(ids)}"
