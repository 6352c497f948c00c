"""The window of requests: results in input order whatever ends first, nothing read far ahead, nothing left behind."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from kvproof.gpt2.engine import Event, Request, Result
from kvproof.gpt2.jobs import in_order as module
from kvproof.gpt2.jobs.in_order import REFUSED, in_order


def ended_with(request: Request, ids: list[int]) -> Result:
    return Result(cast(list[int], request.prompt), ids, "", "length")


class FakeEngine:
    """Ends requests in a random order; a prompt [0] is refused."""

    def __init__(self, seed: int = 0):
        self.rng, self.count, self.most, self.kept = random.Random(seed), 0, 0, 0
        self.live: dict[int, Request] = {}

    def add(self, request: Request) -> int:
        if list(request.prompt) == [0]:
            raise ValueError("no room")
        self.live[self.count] = request
        self.count += 1
        self.most = max(self.most, len(self.live))
        self.kept = max(self.kept, sum(one.max_new_tokens for one in self.live.values() if one.logits))
        return self.count - 1

    def step(self) -> list[Event]:
        ended = self.rng.sample(sorted(self.live), min(2, len(self.live)))
        return [Event(n, [7], "", ended_with(self.live.pop(n), [7])) for n in ended]

    def abort(self, number: int) -> bool:
        return self.live.pop(number, None) is not None

    @property
    def busy(self) -> bool:
        return bool(self.live)


@dataclass
class Task:
    requests: list[Request]
    seen: list[Result] = field(default_factory=list)

    def finish(self, results: list[Result]) -> str:
        self.seen = list(results)
        return " ".join(str(one.prompt_ids) if one.finish_reason != REFUSED else f"!{one.error}" for one in results)


def task(*numbers: int, **settings) -> Task:
    return Task([Request([n], **settings) for n in numbers])


def run(tasks: Any, window: int = 4, engine: Any = None, **options) -> list[str]:
    return [line for _, line in in_order(cast(Any, engine or FakeEngine()), tasks, window, **options)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("window", [1, 3, 100])
def test_lines_come_in_input_order_whatever_ends_first(seed, window):
    engine = FakeEngine(seed)
    sizes = [random.Random(seed).randrange(4) for _ in range(40)]
    tasks = [task(*range(10 * i + 1, 10 * i + 1 + n)) for i, n in enumerate(sizes)]
    want = [" ".join(f"[{request.prompt[0]}]" for request in one.requests) for one in tasks]
    assert run(tasks, window, engine) == want
    assert engine.most <= window
    assert engine.most == min(window, sum(sizes))
    assert not engine.busy


def test_the_input_is_read_as_there_is_room():
    read = []

    def tasks() -> Iterator[Task]:
        for i in range(1, 1000):
            read.append(i)
            yield task(i)

    for i, _ in enumerate(in_order(cast(Any, FakeEngine()), tasks(), 4), 1):
        assert len(read) <= i + 4 * module.AHEAD


def test_lines_without_work_are_given_at_once_and_not_gathered():
    read = []

    def tasks() -> Iterator[Task]:
        for i in range(10_000):
            read.append(i)
            yield task()

    for i, _ in enumerate(in_order(cast(Any, FakeEngine()), tasks(), 4), 1):
        assert len(read) == i


def test_lines_behind_one_that_does_not_end_are_bounded(monkeypatch):
    engine, read = FakeEngine(), []
    monkeypatch.setattr(module, "AHEAD", 3)
    step, steps = engine.step, []

    def stuck() -> list[Event]:
        steps.append(len(read))
        if len(steps) < 200:
            others = [n for n in engine.live if n]
            return [Event(n, [], "", ended_with(engine.live.pop(n), [])) for n in others]
        return step()

    def tasks() -> Iterator[Task]:
        for i in range(1, 100):
            read.append(i)
            yield task(i)

    engine.step = stuck
    assert run(tasks(), 4, engine) == [f"[{i}]" for i in range(1, 100)]
    assert max(steps[:200]) <= 3 * 4 + 1


def test_kept_logits_are_bounded_and_one_that_is_larger_still_runs(monkeypatch):
    monkeypatch.setattr(module, "LOGITS", 100)
    engine = FakeEngine()
    tasks = [task(i, logits=i % 2 == 0, max_new_tokens=4) for i in range(1, 41)]
    assert run(tasks, 20, engine, n_vocab=10) == [f"[{i}]" for i in range(1, 41)]
    assert engine.kept == 8
    assert run([task(1, logits=True, max_new_tokens=50)], n_vocab=10) == ["[1]"]


def test_a_request_that_the_engine_refuses_ends_its_line_alone():
    assert run([task(1), task(0, 2), task(0), task(3)], window=1) == ["[1]", "!no room [2]", "!no room", "[3]"]


def test_each_event_is_heard():
    heard = []
    run([task(1, 2), task(3)], heard=heard.append)
    assert sorted(event.request for event in heard) == [0, 1, 2]


def test_who_stops_asking_leaves_the_engine_empty():
    engine = FakeEngine()
    lines = in_order(cast(Any, engine), [task(i) for i in range(1, 30)], 8)
    next(lines)
    assert engine.busy
    cast(Any, lines).close()
    assert not engine.busy
