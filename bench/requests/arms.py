"""The arms of a comparison that are ours: the engine, and static batches of `generate`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ...gpt2 import GPT2, generate, load

Ids = list[list[int]]  # the new tokens of each request, in the order of the requests


@dataclass(frozen=True)
class Ask:
    """What one request asks for.

    prompt       token ids
    new_tokens   how many follow; nothing ends it sooner
    temperature  0 is greedy; else it draws from the stream (seed, row)
    """

    prompt: tuple[int, ...]
    new_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    row: int = 0


class Arm(Protocol):
    """One way to answer the requests.

    name      in tables and records
    peer      whether it is other people's software
    settings  all that its speed depends on beside the requests
    drafts    of the latest run, drafts that were tried and those that were right; None where nothing drafts
    """

    peer: bool
    drafts: tuple[int, int] | None

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def ready(self, asks: Sequence[Ask]) -> AbstractContextManager[Callable[[], Ids]]:
        """Everything that is made once and lasts, and a call that answers all requests, which alone is timed."""
        ...


def load_endless(name: str, dtype: str) -> GPT2:
    """A model on the compiled engine that no token ends, so that every arm computes as many tokens."""
    model = load(name, dtype=dtype, impl="numba")
    model.tokenizer, model.config = None, replace(model.config, eos_token_id=None)
    return model


def lone(model: GPT2, ask: Ask) -> list[int]:
    """The new tokens of a request that runs alone: what every arm must give."""
    settings = {"max_new_tokens": ask.new_tokens, "temperature": ask.temperature}
    return generate(model, [ask.prompt], **settings, seed=ask.seed, first_row=ask.row)[0].ids


@dataclass
class EngineArm:
    """gpt2.engine: requests join and leave at every step. Each run has an engine of its own, which knows no prefix.

    running  sequences at once
    draft    tokens drafted per step by prompt lookup; 0 for none
    """

    model: GPT2
    running: int
    draft: int = 0
    peer: bool = False
    drafts: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return f"engine-{self.running}" + (f"-draft-{self.draft}" if self.draft else "")

    @property
    def settings(self) -> dict[str, Any]:
        return {"running": self.running, "draft": self.draft}

    @contextmanager
    def ready(self, asks: Sequence[Ask]) -> Iterator[Callable[[], Ids]]:
        from ...gpt2.engine import Engine

        engine = Engine(self.model, running=self.running, draft=self.draft)
        requests = [request(ask) for ask in asks]
        yield lambda: [result.ids for result in engine.generate(requests)]
        self.drafts = (engine.drafter.drafted, engine.drafter.right) if engine.drafter else None

    def tokens_per_step(self, asks: Sequence[Ask]) -> float:
        """New tokens that a step brings to a request where every draft is tried: 1 without any, at most 1 + draft.

        It says how much the texts repeat themselves. The arm itself tries the drafts that pay, by the clock.
        """
        from ...gpt2.engine import Drafter, Engine

        drafter = Drafter(self.draft, always=True) if self.draft else 0
        engine, steps, tokens = Engine(self.model, running=self.running, draft=drafter), 0, 0
        for ask in asks:
            engine.add(request(ask))
        while engine.busy:
            brought = [len(event.ids) for event in engine.step() if event.ids]
            steps, tokens = steps + len(brought), tokens + sum(brought)
        return tokens / steps


def request(ask: Ask) -> Any:
    from ...gpt2.engine import Request

    return Request(ask.prompt, max_new_tokens=ask.new_tokens, temperature=ask.temperature, seed=ask.seed, row=ask.row)


@dataclass
class StaticArm:
    """Batches of `generate`, as `kvproof generate --prompt-file` makes them: each runs until its longest is done.

    batch      sequences in a batch
    by_length  whether requests of alike many new tokens share a batch; else they come in their order
    """

    model: GPT2
    batch: int
    by_length: bool = False
    peer: bool = False
    drafts: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return f"generate-{'sorted-' * self.by_length}{self.batch}"

    @property
    def settings(self) -> dict[str, Any]:
        return {"batch": self.batch, "sorted": self.by_length}

    @contextmanager
    def ready(self, asks: Sequence[Ask]) -> Iterator[Callable[[], Ids]]:
        def answer(part: Sequence[Ask]) -> Ids:
            longest = max(ask.new_tokens for ask in part)
            done = generate(self.model, [ask.prompt for ask in part], max_new_tokens=longest)
            return [one.ids for one in done]

        yield lambda: in_batches(asks, self.batch, self.by_length, answer)


def in_batches(asks: Sequence[Ask], batch: int, by_length: bool, answer: Callable[[Sequence[Ask]], Ids]) -> Ids:
    """The new tokens of each request, answered batch by batch; tokens past a request's own number are cut off."""
    order = list(range(len(asks)))
    if by_length:
        order.sort(key=lambda i: (asks[i].new_tokens, len(asks[i].prompt)))
    found: Ids = [[] for _ in asks]
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        for i, ids in zip(part, answer([asks[i] for i in part]), strict=True):
            found[i] = ids[: asks[i].new_tokens]
    return found
