"""Keeps a window of requests in the engine, and gives what comes of them in input order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from ..engine import Engine, Event, Request, Result

LOGITS = 1 << 27  # numbers of kept logits that requests in the engine may come to: 512 MiB in float32
REFUSED = "refused"  # finish_reason of a request that the engine did not take; its error says why
AHEAD = 64  # windows of lines that may be read before the first of them is finished


class Task(Protocol):
    """One line of input: its requests, none for a line that needs no work, and the line of output they become."""

    requests: Sequence[Request]

    def finish(self, results: list[Result]) -> str:
        """The output line, from the results in the order of the requests."""
        ...


class Pending:
    """A task on its way: the results so far, and the output once all are there."""

    def __init__(self, task: Any):
        self.task, self.left = task, len(task.requests)
        self.results: list[Any] = [None] * self.left
        self.line = None if self.left else task.finish([])

    def take(self, place: int, result: Result):
        self.results[place], self.left = result, self.left - 1
        if not self.left:
            self.line = self.task.finish(self.results)
            self.results.clear()  # logits may be large


def in_order(
    engine: Engine,
    tasks: Iterable[Any],
    window: int,
    n_vocab: int = 0,
    heard: Callable[[Event], object] = lambda event: None,
) -> Iterator[tuple[Any, str]]:
    """Yield (task, output line) for each task, in order.

    tasks    each a Task; taken as the window has room, so that a long file is never held
    window   requests that wait or run at once
    n_vocab  of the model: the width of the logits that requests keep
    heard    called with each event of the engine

    A line that is finished waits for those before it as text, AHEAD * window lines at most.
    """
    flight = Flight(engine, tasks, window, n_vocab)
    try:
        while True:
            flight.fill()
            yield from flight.ready()
            if flight.running:
                flight.step(heard)
            elif flight.exhausted and not flight.queue:
                return
    except GeneratorExit:
        flight.abandon()
        raise


class Flight:
    """The tasks between the input and the output."""

    def __init__(self, engine: Engine, tasks: Iterable[Any], window: int, n_vocab: int):
        self.engine, self.window, self.n_vocab = engine, window, n_vocab
        self.tasks, self.exhausted = iter(tasks), False
        self.queue: deque[Pending] = deque()  # in input order
        self.todo: deque[tuple[Pending, int]] = deque()  # requests of the newest task that are not yet in the engine
        self.running: dict[int, tuple[Pending, int, int]] = {}  # of each request: its task, its place, its logits
        self.logits = 0  # numbers that all of them keep

    def fill(self):
        """Add requests while the window has room and nothing is ready."""
        while len(self.running) < self.window and (self.todo or self.next_task()):
            if not self.todo:
                continue  # a line that needs no work
            pending, place = self.todo[0]
            request = pending.task.requests[place]
            size = request.max_new_tokens * self.n_vocab if request.logits else 0
            if size and self.logits and self.logits + size > LOGITS:
                return
            self.todo.popleft()
            try:
                number = self.engine.add(request)
            except ValueError as error:  # one request's fault never ends the job
                pending.take(place, Result([], [], None, REFUSED, str(error)))
                continue
            self.running[number] = pending, place, size
            self.logits += size

    def next_task(self) -> bool:
        """Take the next task; False at their end, or if enough lines wait already."""
        if self.queue and (self.queue[0].line is not None or len(self.queue) >= AHEAD * self.window):
            return False
        for task in self.tasks:
            pending = Pending(task)
            self.queue.append(pending)
            self.todo.extend((pending, place) for place in range(pending.left))
            return True
        self.exhausted = True
        return False

    def ready(self) -> Iterator[tuple[Any, str]]:
        """The finished tasks that no unfinished one precedes."""
        while self.queue and self.queue[0].line is not None:
            pending = self.queue.popleft()
            yield pending.task, pending.line  # pyright: ignore[reportReturnType]

    def step(self, heard: Callable[[Event], object]):
        """One step of the engine."""
        for event in self.engine.step():
            heard(event)
            if event.result is not None:
                pending, place, size = self.running.pop(event.request)
                self.logits -= size
                pending.take(place, event.result)

    def abandon(self):
        """Nobody wants the rest: the engine is left empty."""
        for number in self.running:
            self.engine.abort(number)
        while self.engine.busy:
            self.engine.step()
