"""What many short requests leave behind: resident memory, blocks of the pool, answers."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...gpt2 import GPT2
from ..memory.peak import status, trim
from .arms import Ask, lone, request

PROMPT, NEW = (1, 24), (1, 8)  # least and most tokens
SAMPLES = 20  # of resident memory, after the warm-up
CHECKED = 100  # requests that are held to their lone runs


def short(count: int, n_vocab: int, seed: int) -> Iterator[Ask]:
    """Short requests, one by one: their list alone would be seen in the process's memory."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        length, new = int(rng.integers(*PROMPT, endpoint=True)), int(rng.integers(*NEW, endpoint=True))
        yield Ask(tuple(rng.integers(n_vocab, size=length).tolist()), new)


class Life:
    """One engine that answers request after request, and what is seen of it meanwhile.

    Resident memory is Linux's VmRSS: with what the allocator keeps, after it has been told to return what it can.
    """

    def __init__(self, model: GPT2, engine: Any, running: int):
        self.model, self.engine, self.running = model, engine, running
        self.open: dict[int, Ask] = {}
        self.done = self.tokens = self.most = self.checked = self.differ = 0
        self.resident: list[list[int]] = []
        self.usual, engine.runner.forward = engine.runner.forward, self.forward

    @property
    def blocks(self) -> Any:
        return self.engine.blocks

    def forward(self, spans: Any) -> Any:
        """The engine's pass, in whose midst most blocks have an owner; after it, ended requests own none."""
        self.most = max(self.most, self.blocks.used)
        return self.usual(spans)

    def sample(self):
        trim()
        self.resident.append([self.done, status()["VmRSS"]])

    def run(self, asks: Iterator[Ask], every: int, check: int):
        """Answer all requests, twice `running` of them open at once.

        every  requests between two samples
        check  of every so many requests one is held to its lone run
        """
        due = self.done + every
        more = True
        while more or self.open:
            while more and len(self.open) < 2 * self.running:
                ask = next(asks, None)
                if more := ask is not None:
                    self.open[self.engine.add(request(ask))] = ask
            for event in self.engine.step():
                if event.result is not None:
                    self.take(self.open.pop(event.request), event.result, check)
            if self.done >= due:
                self.sample()
                due += every

    def take(self, ask: Ask, result: Any, check: int):
        self.done += 1
        self.tokens += len(result.ids)
        whole = result.finish_reason == "length" and len(result.ids) == ask.new_tokens
        if not whole or self.done % check == 0:
            self.checked += 1
            self.differ += not whole or result.ids != lone(self.model, ask)


def live(model: GPT2, count: int, warm_up: int, blocks: int, running: int, seed: int = 0) -> dict[str, Any]:
    """ "memory" of a record: `warm_up` requests, then `count` more, through one engine of so many blocks."""
    from ...gpt2.engine import Engine

    engine = Engine(model, running=running, blocks=blocks)
    life = Life(model, engine, running)
    life.sample()
    begun = time.perf_counter()
    check = max(1, count // CHECKED)
    life.run(short(warm_up, model.config.n_vocab, seed), warm_up + 1, check)
    life.sample()
    life.run(short(count, model.config.n_vocab, seed + 1), max(1, count // SAMPLES), check)
    life.sample()
    after, end = life.resident[1][1], life.resident[-1][1]
    return {
        "requests": count,
        "warm_up": warm_up,
        "tokens": life.tokens,
        "seconds": time.perf_counter() - begun,
        "blocks": blocks,
        "page": life.blocks.page,
        "running": running,
        "most_blocks": life.most,
        "leaked": life.blocks.used,
        "preemptions": getattr(engine.scheduler, "preemptions", None),
        "resident": life.resident,
        "growth": end / after - 1,
        "checked": life.checked,
        "differ": life.differ,
    }
