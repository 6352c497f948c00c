"""Ragged requests, and what each gives alone."""

import random
from collections.abc import Sequence

import numpy as np
import torch

from kvproof.gpt2 import GPT2, generate
from kvproof.gpt2.engine import Drafter, Engine, Request, Result
from kvproof.gpt2.engine.lookup import SHORTEST
from kvproof.gpt2.generate import Cached, decode_loop


def ragged(
    rng: random.Random, count: int, n_vocab: int, n_ctx: int, longest_new: int, logits: float = 0.0
) -> list[Request]:
    """Prompts of 1 token to nearly n_ctx, half of which begin as another does; greedy or drawn, some with stops.

    logits  the chance that a request keeps its logits

    Lengths are spread evenly over their logarithms. Prompts come from few ids, so that n-grams repeat.
    """
    trunk = [rng.randrange(n_vocab) for _ in range(n_ctx)]
    found = []
    for _ in range(count):
        new = rng.randint(1, longest_new)
        n = int(np.exp(rng.uniform(0, np.log(n_ctx - new))))
        alike = rng.randint(1, n) if rng.random() < 0.5 else 0
        prompt = trunk[:alike] + [rng.randrange(n_vocab) for _ in range(n - alike)]
        found.append(
            Request(
                prompt,
                new,
                temperature=rng.choice((0.0, 0.0, 0.7)),
                top_k=rng.choice((None, 20)),
                top_p=rng.choice((None, 0.9)),
                seed=rng.randrange(2**64),
                row=rng.randrange(4),
                stop=rng.choice(((), ("the",), ("e", "\n\n"))),
                logits=rng.random() < logits,
            )
        )
    return found


def alone(model: GPT2, request: Request) -> Result:
    """What `generate` gives for a request that has a batch and a cache of its own."""
    done = generate(
        model,
        [request.prompt],
        max_new_tokens=request.max_new_tokens,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        seed=request.seed,
        first_row=request.row,
        stop=request.stop,
    )
    return Result(done[0].prompt_ids, done[0].ids, done[0].text, done[0].finish_reason)


def logits_alone(model: GPT2, result: Result) -> np.ndarray:
    """(n, V): the logits of a result's tokens, and of one after them, from a decode loop of that sequence alone."""
    ids = [*result.ids, 0]
    source = Cached(model, model.new_cache(1, len(result.prompt_ids) + len(result.ids)))
    steps = decode_loop(source, [result.prompt_ids], len(ids), lambda step, _: torch.tensor([ids[step]]))
    return np.stack([logits[0].numpy() for _, logits in steps])


def same(found: Result, expected: Result) -> bool:
    """Whether two results have the same bytes, but for their logits."""
    names = ("prompt_ids", "ids", "text", "finish_reason", "error")
    return all(getattr(found, name) == getattr(expected, name) for name in names)


def run_with_arrivals(
    engine: Engine, requests: Sequence[Request], rng: random.Random, aborts: float = 0.0, preempts: float = 0.0
) -> tuple[list[Result], list[int], int]:
    """Requests that come a few at a time.

    aborts    the chance, before each step, that one of those under way is aborted
    preempts  and that the youngest that runs is preempted, beside those for which blocks run out

    returns  the results in order; the numbers of those that were aborted; the most blocks that had an owner
    """
    results: list[Result | None] = [None] * len(requests)
    numbers: dict[int, int] = {}
    todo, aborted, most = list(range(len(requests)))[::-1], [], 0
    while todo or engine.busy:
        for _ in range(min(rng.randrange(4), len(todo))):
            i = todo.pop()
            numbers[engine.add(requests[i])] = i
        if numbers and rng.random() < aborts:
            number = rng.choice([*numbers])
            if engine.abort(number):
                aborted.append(numbers[number])
        if engine.scheduler.running and rng.random() < preempts:
            engine.scheduler.preempt(engine.scheduler.running[-1])
        for event in engine.step():
            if event.result:
                results[numbers.pop(event.request)] = event.result
        most = max(most, engine.blocks.used)
    assert all(results)
    return [result for result in results if result], aborted, most


class Told(Drafter):
    """Drafts that are right up to a random place: it is told how requests go on.

    answers  (prompt, new tokens) of each
    """

    def __init__(self, most: int, answers: Sequence[tuple[Sequence[int], Sequence[int]]], rng: random.Random):
        super().__init__(most, always=True)
        self.whole, self.rng = [[*prompt, *ids] for prompt, ids in answers], rng

    def propose(self, sequence, most: int) -> list[int]:
        n = len(sequence.tokens)
        drafts = next((one[n : n + min(self.most, most)] for one in self.whole if one[:n] == sequence.tokens), [])
        if drafts:
            wrong = self.rng.randrange(len(drafts) + 1)
            drafts = [*drafts[:wrong], *(draft ^ 1 for draft in drafts[wrong:])]
            self.tried[sequence] = SHORTEST
        return drafts


def assert_nothing_left(engine: Engine):
    """No block has an owner and none is lost."""
    blocks = engine.blocks
    assert blocks.owners == [0] * blocks.blocks
    assert sorted([*blocks.unused, *blocks.idle]) == list(range(blocks.blocks))
