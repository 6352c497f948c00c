"""A Hugging Face causal LM as a subject (see ../subjects/__init__.py): its cached forward against its uncached one."""

from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....gpt2.weights import as_device
from ..contract.positions import same
from ..contract.user_errors import UserCodeError
from ..subjects.ours import TorchSubject, scaled
from ..tracing.tape import Activation, TracingError, is_known
from .caches import AUTO, KEPT_BY_US, KINDS, OWN, PAGED, DoesNotApply
from .checkpoint import attending, attention_named
from .choices import check_names, check_silent
from .lm import CausalLM, embedding
from .paged import paged_logits
from .play import Play
from .recording import joined, live_slots_of, taped
from .scenarios import PADDED, PLAIN, SCENARIOS
from .ties import TiesToTheFirst
from .wide import float64_throughout


class HuggingFaceSubject(TorchSubject):
    """Prefill and decode steps of a padded batch, against each sequence by itself, whole, unpadded and without a cache.

    Both are fed the same tokens, the uncached path's greedy ones in the widest dtype it runs in. A model that takes no
    padding (see ../contract/positions.py) decodes its sequences one at a time, unpadded.

    model                a local folder, or a causal LM in memory, copied for each dtype and left as it is
    prompts              ids of each sequence; shorter ones are padded on the left, with an attention mask. A number
                         draws two, of so many and half as many ids, always the same
    steps                logits per sequence that are compared, at least 1
    cache                a name of caches.py; "auto" is "dynamic", or "own" for a model that takes no such cache
    scenario             a name of scenarios.py
    left_padded          columns of padding beyond what the prompts' lengths and the scenario ask for
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
        cache: str = AUTO,
        scenario: str = PLAIN,
        left_padded: int = 0,
        position_ids: bool = True,
        attn_implementation: str | None = None,
        device: str | torch.device = "cpu",
    ):
        if steps < 1:
            raise ValueError(f"steps is {steps}; at least 1 position is compared")
        if left_padded < 0:
            raise ValueError(f"left_padded is {left_padded}; it is a number of columns, 0 or more")
        check_names(cache, scenario)
        self.lm = CausalLM(model, as_device(device))
        prompts = self.lm.drawn(prompts) if isinstance(prompts, int) else prompts
        if not len(prompts) or not all(map(len, prompts)):
            raise ValueError("prompts must be one or more sequences of at least one token id")
        self.prompts, self.steps, self.attn_implementation = prompts, steps, attention_named(attn_implementation)
        self.lengths = np.array([len(prompt) for prompt in prompts]) + steps - 1
        self.positions = self.lengths[:, None] - steps + np.arange(steps)
        self.family = is_known(self.lm.model("float32"))  # by its modules' names
        self._whole_logits: dict[tuple[str, float, bool], np.ndarray] = {}
        self.ties: TiesToTheFirst | None = None
        self._bears: dict[int, bool] = {}
        how = SCENARIOS[scenario]
        self._check_prompts(max(map(len, prompts)) + left_padded + how.padding, how.drafts)
        self.lm.check_causal()
        self.forced  # noqa: B018  before anything is shifted or widened
        self._play(cache, scenario, left_padded, position_ids)

    def playing(self, cache: str, scenario: str) -> "HuggingFaceSubject":
        """The same model and prompts over another cache and in another scenario; what has been computed is shared."""
        check_names(cache, scenario)
        other = copy(self)
        how = SCENARIOS[scenario]
        other._check_prompts(max(map(len, self.prompts)) + how.padding, how.drafts)
        other._play(cache, scenario, 0, True)
        return other

    def with_ties_to_the_first(self) -> "HuggingFaceSubject":
        """The same, where torch.topk takes the earliest of equal scores in both paths; `ties` counts them."""
        other = copy(self)
        other.ties = TiesToTheFirst()
        return other

    def _play(self, cache: str, scenario: str, left_padded: int, position_ids: bool):
        """Set what the cached path does, having found whether its rows go together."""
        self.cache = self.lm.default_cache if cache == AUTO else cache
        self.scenario, self.how = scenario, SCENARIOS[scenario]
        self.left_padded, self.position_ids = left_padded + self.how.padding, position_ids
        check_silent(
            self.cache, scenario, attention=self.attn_implementation, padded=bool(left_padded) or not position_ids
        )
        self.lossy = self.cache in KINDS and KINDS[self.cache].lossy
        if self.lossy:
            self.question = "a quantised cache against one of ours that rounds alike"
            self.name_b = "its numbers, kept by us"
        width = max(map(len, self.prompts)) + self.left_padded
        self.padding = width - self.lengths + self.steps - 1
        # Without position_ids padding itself is in question, whether or not the model takes it.
        self.together = not (self.how.alone or self.lossy) and (
            self.cache == PAGED or not self.padding.any() or not position_ids or self._bears_padding()
        )
        # A model that takes positions and a mask claims to take padding: where it does not, that is what is judged.
        claims = self.lm.counting.start is not None and "attention_mask" in self.lm.wants
        if self.left_padded and not (self.together or self.how.alone or self.lossy):
            if not claims:
                raise DoesNotApply(
                    f"padding on the left moves {self._reason()}; so it cannot be asked of a cache: leave "
                    f"{'the scenario ' + PADDED if scenario == PADDED else '--left-padded'} out"
                )
            self.together = True
        self.wide = self.lm.widens
        if self.padding.any() and self.cache != PAGED:
            self.lm.masks_steps(self.cache)  # found in float32, before anything is widened
        self.notes = self._windows_not_reached()
        self.padded = self.together and self.cache != PAGED and bool(self.padding.any())
        self.stepwise = scenario in (PLAIN, PADDED) and self.cache != PAGED
        self.name_a = ", ".join(self._words())

    def _windows_not_reached(self) -> list[str]:
        """A note where no sequence is longer than a window.  Raises DoesNotApply where windows were asked for."""
        windows = [] if self.cache == OWN else self.lm.windows
        if not windows or max(self.lengths) > min(windows):
            return []
        note = f"no sequence is longer than its windows of {min(windows)} tokens; give --context {min(windows)}"
        if self.cache == "sliding":
            raise DoesNotApply(note)
        return [note]

    def _check_prompts(self, width: int, drafts: int):
        lm, ids = self.lm, [i for prompt in self.prompts for i in prompt]
        wrong = next((i for i in ids if not 0 <= i < lm.n_vocab), None)
        if wrong is not None:
            raise ValueError(f"token id {wrong} came; {lm.name} has ids 0 to {lm.n_vocab - 1}")
        limit = getattr(lm.text, "max_position_embeddings", None)
        if not isinstance(limit, int) or limit < 0:  # XLNet says -1
            return
        room = limit - (lm.counting.start or 0)
        if width + self.steps - 1 + drafts > room:
            more = f" and {drafts} drafts" if drafts else ""
            raise DoesNotApply(
                f"{width} prompt columns and {self.steps} steps{more} do not fit the model's {room} positions; give a "
                "shorter prompt or fewer steps"
            )

    def _words(self) -> list[str]:
        words = [f"{self.cache} cache", *(["left-padded"] if self.padded else [])]
        words += [self.scenario] if self.scenario not in (PLAIN, PADDED) else []
        words += [] if self.position_ids or not self.padded else ["no position_ids"]
        alone = not (self.together or self.how.alone or self.lossy)
        words += [f"one sequence at a time: padding moves {self._reason()}"] if alone else []
        return [*words, *([self.attn_implementation] if self.attn_implementation else [])]

    def _reason(self) -> str:
        why = f": it {self.lm.counting.why}" if self.lm.counting.start is None else ""
        return f"the uncached logits of {self.lm.name}{why}"

    def _bears_padding(self) -> bool:
        """Whether the padded batch gives each sequence's own logits, both without a cache, in float32."""
        if self.left_padded not in self._bears:
            self._bears[self.left_padded] = self._padded_agrees()
        return self._bears[self.left_padded]

    def _padded_agrees(self) -> bool:
        model = self.lm.model("float32")
        columns = Play(self.lm, model, "", self.prompts, self.forced, extra=self.left_padded).columns
        fed = torch.cat([columns, torch.from_numpy(self.forced[:, :-1])], 1)
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

    @cached_property
    def forced(self) -> np.ndarray:
        """The tokens that both are fed, (B, n) ids; the last of them is fed to neither."""
        model, rows = self.lm.model(self.lm.widest), []
        for prompt in self.prompts:
            ids = list(prompt)
            for _ in range(self.steps):
                logits = self.lm.forward(model, torch.tensor([ids]))[0, -1].clone()
                if self.lm.derives:  # it would count the padding's id as padding
                    logits[self.lm.pad] = -torch.inf
                ids.append(int(logits.argmax()))
            rows.append(ids[-self.steps :])
        return np.array(rows)

    def paths(self, dtype: str, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Logits (B, n, V) float64 of both at `positions`, each run in `dtype`."""
        with self.ties or nullcontext():
            wide = self.wide
            a, b = self._run("a", dtype, shift)[0], self._trusted(dtype, shift)
            if self.wide != wide:  # one of them runs in float64 as it takes it, and so the other must
                a, b = self._run("a", dtype, shift)[0], self._trusted(dtype, shift)
        return a, b

    def _trusted(self, dtype: str, shift: float) -> np.ndarray:
        """Path B's logits, computed once for every cache and scenario."""
        if self.lossy or self.ties is not None:
            return self._run("b", dtype, shift)[0]
        if (dtype, shift, self.wide) not in self._whole_logits:
            found = self._run("b", dtype, shift)[0]
            self._whole_logits[dtype, shift, self.wide] = found  # as it was run
            return found
        return self._whole_logits[dtype, shift, self.wide]

    def _run(self, which: str, dtype: str, shift: float, traced=False) -> tuple[np.ndarray, list[Activation]]:
        """The logits of path "a" or "b" and, if `traced`, its activations; in float64 throughout where that can be."""
        if dtype == "float64" and self.wide:
            try:
                with float64_throughout():
                    return self._run_as_it_is(which, dtype, shift, traced)
            except (UserCodeError, NotImplementedError):  # what the model raises without is what counts
                self.wide = False
        return self._run_as_it_is(which, dtype, shift, traced)

    def _run_as_it_is(self, which: str, dtype: str, shift: float, traced: bool) -> tuple[np.ndarray, list[Activation]]:
        own, model = self.attn_implementation, self.lm.model(dtype)
        trusted = own and ("sdpa" if getattr(model, "_supports_sdpa", True) else "eager")
        with scaled(embedding(model).weight, shift), attending(model, own if which == "a" else trusted):
            if which == "a" or self.lossy:
                return self._run_cached(model, self.cache if which == "a" else f"{KEPT_BY_US}{self.cache}", traced)
            runs = [self._whole(model, b, traced) for b in range(len(self.prompts))]
            return joined(runs)

    def _run_cached(self, model: Any, kind: str, traced: bool) -> tuple[np.ndarray, list[Activation]]:
        rows = range(len(self.prompts))
        return joined(
            [self._cached(model, kind, part, traced) for part in ([rows] if self.together else [[b] for b in rows])]
        )

    def trace_one(self, which: str, dtype: str = "float64", shift: float = 0.0) -> list[Activation]:
        try:
            return super().trace_one(which, dtype, shift)
        except TracingError:
            self.family = False  # from now on its modules are traced
            return super().trace_one(which, dtype, shift)

    def _cached(self, model: Any, kind: str, rows: Sequence[int], traced: bool) -> tuple[np.ndarray, list[Activation]]:
        """The scenario's calls for these rows."""
        prompts, forced = [self.prompts[b] for b in rows], self.forced[list(rows)]
        if kind == PAGED:
            if traced:
                raise TracingError("over the paged cache tokens of all rows are packed, and no operation is compared")
            return paged_logits(self.lm, model, prompts, forced).double().cpu().numpy(), []
        with taped(model, self.family) if traced else nullcontext() as tape:
            how = {"extra": self.left_padded, "positions": self.position_ids, **self.how.how}
            play = Play(self.lm, model, kind, prompts, forced, tape=tape, **how)
            found = self.how.run(play).double().cpu().numpy()
        if tape is None:
            return found, []
        slots = live_slots_of(play.cache, self.lengths[list(rows)], play.padding) if self.stepwise else []
        return found, [*tape.activations(), *slots]

    def _whole(self, model: Any, b: int, traced: bool) -> tuple[np.ndarray, list[Activation]]:
        """One sequence, all its tokens at once; a trace also fills a cache, only to see what it should hold."""
        cache = self.lm.new_cache("dynamic", self.lengths[b]) if traced and self.cache != OWN else None
        with taped(model, self.family) if traced else nullcontext() as tape:
            if tape is not None:
                tape.at(np.zeros(1, np.int64), torch.from_numpy(self.positions[b : b + 1]))
            logits = self._alone(model, b, cache)
        found = logits.double().cpu().numpy()
        return found, [*tape.activations(), *live_slots_of(cache, self.lengths[b : b + 1])] if tape else []
