"""The request engine: many requests through one model, each with the bytes that it has alone.

A step computes one token of some sequences, a chunk of the prompt of others, drafts of a third: rows of one pass. That
no row's bits depend on the others is the model's impl's promise; the engine adds which rows, and in whose blocks.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch

from .. import sampling
from ..arguments import function, refuse, whole
from ..generate import check_fit, check_model, to_ids
from ..model import GPT2
from ..stream import Listener, NotFinite
from .blocks import BlockManager
from .lookup import DRAFTS, Drafter
from .ongoing import Ongoing
from .request import Event, Request, Result
from .runner import RUNNERS, Runner
from .scheduler import Scheduler, Sequence, Span, State


class Engine:
    """Continuous batching over a paged cache: requests join and leave at every step.

    model        loaded with impl="numba", or with impl="triton" and invariant=True
    running      sequences that run at once; more wait
    blocks       blocks of the pool; None takes room for `running` full contexts, or for 1 GiB if that is less
    page         tokens per block
    step_tokens  tokens that a step computes at most; None takes 256, or `running` if that is more
    draft        tokens that prompt lookup drafts after a newest one: 0 for none, up to 16, as many as pay; or a Drafter
    draft_from   "request": it looks for what came after the same tokens earlier in the request; "all": also in those
                 that have ended
    kv_dtype     "int8" holds keys and values in 8 bits; None in the model's dtype

    Raises ValueError for other impls, and for settings that do not fit.
    """

    def __init__(
        self,
        model: GPT2,
        *,
        running: int = 32,
        blocks: int | None = None,
        page: int = 16,
        step_tokens: int | None = None,
        draft: int | Drafter = 0,
        draft_from: str = "request",
        kv_dtype: str | None = None,
    ):
        check_keeps_bits(model)
        running, page = (
            whole(name, n, "1 or more, a whole number", 1) for name, n in (("running", running), ("page", page))
        )
        least = f"running, {running}, or more, so that each sequence can have a token"
        step_tokens = max(256, running) if step_tokens is None else whole("step_tokens", step_tokens, least, running)
        blocks = None if blocks is None else whole("blocks", blocks, "1 or more, a whole number, or None", 1)
        self.model, self.drafter = model, as_drafter(draft, draft_from)
        self.runner: Runner = RUNNERS[model.impl](model, running, page, blocks, kv_dtype)
        self.blocks = BlockManager(self.runner.blocks, page, self.runner.copy)
        self.scheduler = Scheduler(self.blocks, running, step_tokens)
        self.ongoing: dict[int, Ongoing] = {}
        self.ended: list[Event] = []  # between two steps
        self.count = self.steps = 0
        self.known = model.tokenizer.n_vocab if model.tokenizer else model.config.n_vocab  # padding ids have no text

    @property
    def busy(self) -> bool:
        """Whether the next step has something to do or to say."""
        return bool(self.ongoing or self.ended)

    def add(self, request: Request, listener: Callable | None = None) -> int:
        """Let a request wait for its turn.  Returns its number, which its events carry.

        listener  called as listener(id, text) for each new token, and as listener(None, text) for held text at the end

        Raises ValueError for a wrong prompt or setting, ContextFull where prompt and new tokens exceed n_ctx; the
        engine goes on as it was.
        """
        ids, limit = self.check(request)
        sequence = Sequence(self.count, ids, limit)
        ongoing = Ongoing(self.model, request, sequence, listener)
        self.scheduler.add(sequence)
        self.ongoing[sequence.number] = ongoing
        self.count += 1
        return sequence.number

    def check(self, request: Request) -> tuple[list[int], int]:
        """The prompt's ids, and how many tokens the sequence may have.  Raises ValueError or ContextFull."""
        if not isinstance(request, Request):
            raise ValueError(f"a {type(request).__name__} came as a request; pass Request(prompt, ...)")
        new = whole("max_new_tokens", request.max_new_tokens, "1 or more, a whole number", 1)
        found = to_ids(self.model, request.prompt) or [[]]
        if len(found) != 1:
            raise ValueError(f"{len(found)} prompts came in one request; make a Request of each")
        self.model.check_prompts(found)
        check_fit(found, new, self.model.config.n_ctx, "n_ctx")
        return list(found[0]), len(found[0]) + new

    def abort(self, number: int) -> bool:
        """End a request with what it has so far; the next step gives its event. False if it is not there any more."""
        if number not in self.ongoing:
            return False
        self.end(self.ongoing[number], "abort")
        return True

    def step(self) -> list[Event]:
        """One pass of the model.  Returns what it brought, by request; [] if there was nothing to do.

        What an exception stops in the pass is computed again by the next step.
        """
        begun = time.perf_counter()
        if self.drafter:
            self.drafter.sequences = max(len(self.scheduler.running), 1)
        spans = self.scheduler.plan(self.drafter.propose if self.drafter else None)
        events: list[Event] = []
        if spans:
            logits = self.runner.forward(spans)
            self.steps += 1
            for span, rows, new in self.chosen(spans, logits):
                events += self.advance(span, rows, new)
            if self.drafter:
                self.drafter.time(spans, sum(len(event.ids) for event in events), time.perf_counter() - begun)
        ended, self.ended = self.ended, []
        return sorted(ended + events, key=lambda event: event.request)

    def chosen(self, spans: list[Span], logits: torch.Tensor) -> list[tuple[Span, torch.Tensor, list[int]]]:
        """Each span with the logits of its outputs and the tokens that follow; nothing is changed yet."""
        known = logits[:, : self.known]
        greedy = sampling.next_ids(known, None).tolist() if len(known) else []
        found, low = [], 0
        for span in spans:
            high, drafts = low + span.outputs, span.ids[len(span.ids) - span.drafts :]
            one = self.ongoing[span.sequence.number]
            new = one.choose(known[low:high], drafts, greedy[low:high]) if span.last else []
            found.append((span, logits[low:high], new))
            low = high
        return found

    def advance(self, span: Span, logits: torch.Tensor, new: list[int]) -> list[Event]:
        """Write a span's new tokens, up to the request's end.  Returns the request's event, if it goes on.

        A listener may abort any request, this one too.
        """
        one, taken, last = self.ongoing.get(span.sequence.number), 0, False
        if one is None:
            return []
        try:
            while taken < len(new) and not last:
                last = one.take(new[taken], logits[taken])
                taken += 1
                if one.sequence.state is State.ENDED:
                    return []
        except NotFinite as error:
            self.end(one, "error", str(NotFinite(0, error.after, f"request {span.sequence.number}")))
            return []
        if self.drafter and span.drafts:
            self.drafter.learn(span.sequence, span.drafts, len(new) - 1)
        self.scheduler.advance(span, new[:taken])
        if last:
            self.end(one)
            return []
        event, one.event = one.event, Event(span.sequence.number, [], "")
        return [event] if event.ids or event.text else []

    def end(self, one: Ongoing, reason: str = "", error: str | None = None):
        """A request has ended; its last event waits for the step to return."""
        one.event.result = one.result(reason, error)
        self.ended.append(one.event)
        self.scheduler.end(one.sequence)
        if self.drafter:
            self.drafter.end(one.sequence)
        del self.ongoing[one.sequence.number]

    def generate(self, requests: Iterable[Request], stream: Listener | None = None) -> list[Result]:
        """Continue all of these requests.  Returns their results in order.

        stream  called as stream(i, id, text) for each new token of request i, and as stream(i, None, text) for the rest

        Raises ValueError, before any work, for a wrong request, or while the engine is busy with others.
        """
        if self.busy:
            raise ValueError(f"generate came while {len(self.ongoing)} requests are under way; finish them by step()")
        numbers: dict[int, int] = {}
        results: list[Result | None] = []
        function("stream", stream)
        try:
            for i, request in enumerate(requests):
                numbers[self.add(request, partial(stream, i) if stream else None)] = i
                results.append(None)
            while self.busy:
                for event in self.step():
                    if event.result:
                        results[numbers[event.request]] = event.result
        except BaseException:
            for number in numbers:
                self.abort(number)
            self.ended.clear()
            raise
        return cast(list[Result], results)

    def reset(self):
        """Forget what ended requests have left in the pool, as after a change of weights.  ValueError while busy."""
        if self.busy:
            raise ValueError(f"reset came while {len(self.ongoing)} requests are under way; finish them by step()")
        self.blocks.reset()


def check_keeps_bits(model: GPT2):
    """Raises ValueError unless the model's impl gives a row of logits the same bits in any company."""
    check_model(model)
    if model.impl not in RUNNERS:
        raise ValueError(
            f"impl {model.impl!r} gives a sequence other bits in another batch, so no engine can promise each request "
            "the bytes of its lone run; load the model with impl='numba', or impl='triton' and invariant=True"
        )
    if model.impl == "triton" and not model.invariant_layers:
        raise ValueError(
            "impl 'triton' came without invariant=True; torch's own layers give a sequence other bits in another "
            "batch; load the model with impl='triton' and invariant=True"
        )


def as_drafter(draft: int | Drafter, source: str) -> Drafter | None:
    """What drafts, or None for 0.  Raises ValueError."""
    if source not in ("request", "all"):
        raise refuse("draft_from", source, "'request' or 'all'")
    if isinstance(draft, Drafter):
        return draft
    most = whole("draft", draft, f"0 ... {DRAFTS} tokens, or a Drafter", 0, DRAFTS)
    return Drafter(most, source == "all") if most else None
