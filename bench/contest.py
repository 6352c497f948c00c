"""One model, one set of prompts, every impl: each is held to the same truth, then they run by turns."""

from collections.abc import Sequence
from functools import cached_property

import torch

from .. import reference
from ..gpt2 import GPT2, load
from ..gpt2.generate import check_fit, to_ids
from ..gpt2.weights import checkpoint
from ..reference.parity import LOGIT_BARS
from .gate import HALF_SLACK, Truth, Verdict, ask_oracle, attention_faults, judge
from .impls import Oracle, Source, forced_logits, torch_source
from .timing import Timing, median_run, timed_greedy

IMPLS = ("numpy", "naive", "eager", "sdpa", "triton")


class Contest:
    """What all impls share: the prompts' ids, the oracle's answer, the dtype and the device.

    prompts  texts, taken in turn by the rows of the batch
    steps    new tokens per sequence, at least 2

    Raises what `load` and `generate` raise for their arguments, before anything is computed.
    """

    def __init__(self, name: str, prompts: Sequence[str], batch: int, steps: int, dtype: str, device: torch.device):
        self.name, self.steps, self.dtype, self.device = name, steps, dtype, device
        self.models: dict[str, GPT2] = {dtype: load(name, dtype=dtype, device=device)}
        ids = to_ids(self.models[dtype], prompts)
        if batch < len(ids):
            raise ValueError(f"{len(ids)} prompts came for a batch of {batch}; each needs a row")
        self.prompts = [ids[row % len(ids)] for row in range(batch)]
        self.models[dtype].check_prompts(self.prompts)
        check_fit(self.prompts, steps, self.models[dtype].config.n_ctx, "n_ctx")

    @property
    def capacity(self) -> int:
        """Slots that the longest sequence needs; the last new token needs none."""
        return max(map(len, self.prompts)) + self.steps - 1

    @cached_property
    def truth(self) -> Truth:
        """The oracle's answer, in float64."""
        return ask_oracle(self.prompts, *reference.load(checkpoint(self.name)), self.steps)

    def dtype_of(self, impl: str) -> str:
        """The dtype an impl runs in: NumPy has no arithmetic in half precision and takes float32 there."""
        return "float32" if impl == "numpy" and self.dtype not in LOGIT_BARS else self.dtype

    def model(self, impl: str, dtype: str) -> GPT2:
        """The model in this dtype with a decode step of this impl; weights are loaded once a dtype."""
        if dtype not in self.models:
            self.models[dtype] = load(self.name, dtype=dtype, device=self.device)
        return self.models[dtype].with_impl(impl)

    def source(self, impl: str, dtype: str) -> Source:
        """A fresh source of this impl's logits."""
        if impl == "numpy":
            return Oracle(*reference.load(checkpoint(self.name), dtype), len(self.prompts), self.capacity)
        return torch_source(self.model(impl, dtype), len(self.prompts), self.capacity)

    def logits(self, impl: str, dtype: str):
        return forced_logits(self.source(impl, dtype), self.prompts, self.truth.ids)

    @cached_property
    def half_bar(self) -> float:
        """What logits may err by in half precision, measured: a multiple of what recomputing everything errs by."""
        return HALF_SLACK * judge(self.logits("naive", self.dtype), self.truth, float("inf"), half=True).error

    def judge(self, impl: str) -> Verdict:
        """Hold an impl to the truth. In half precision it must pass in float32 too, and its attention by itself."""
        dtype = self.dtype_of(impl)
        if dtype in LOGIT_BARS:
            return judge(self.logits(impl, dtype), self.truth, LOGIT_BARS[dtype], half=False)
        verdict = judge(self.logits(impl, dtype), self.truth, self.half_bar, half=True)
        exact = judge(self.logits(impl, "float32"), self.truth, LOGIT_BARS["float32"], half=False)
        verdict.faults += [f"in float32: {fault}" for fault in exact.faults]
        if impl != "naive":
            verdict.faults += attention_faults(self.model(impl, dtype), len(self.prompts), self.capacity)
        return verdict

    def time(self, rounds: dict[str, int]) -> dict[str, Timing]:
        """Time each impl so many times, interleaved so that drift hits all alike; the median run of each."""
        sources = {impl: self.source(impl, self.dtype_of(impl)) for impl in rounds}
        runs: dict[str, list[Timing]] = {impl: [] for impl in rounds}
        for impl, source in sources.items():
            if rounds[impl] > 1:  # a single run has no time to lose on warming up
                timed_greedy(source, self.prompts, min(self.steps, 4), self.device)
        for turn in range(max(rounds.values())):
            for impl, source in sources.items():
                if turn < rounds[impl]:
                    runs[impl].append(timed_greedy(source, self.prompts, self.steps, self.device))
        return {impl: median_run(timings) for impl, timings in runs.items()}

    def text(self, ids: Sequence[int]) -> str:
        """What a row's ids say."""
        tokenizer = self.models[self.dtype].tokenizer
        return tokenizer.decode(ids) if tokenizer else f" {list(ids)}"
