"""The simple job: many prompts, one setting for all, and a line {index, prompt, settings, text, ids, ...} for each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine import Engine, Event, Request, Result
from ..generate import Completion
from ..stream import NotFinite
from .in_order import REFUSED, in_order
from .journal import Fields, setting_difference, to_line

Complete = Callable[[int, Sequence[str]], Sequence[Completion]]


class PromptForm:
    """The lines of `kvproof generate --prompt-file`, for the journal."""

    required, another, unit = "finish_reason", "name another --output", "prompts"

    def difference(self, found: Fields, asked: Fields) -> str | None:
        if said := setting_difference(found.get("settings"), asked["settings"], "weights", self.another):
            return said
        for name in ("index", "prompt"):
            if found.get(name) != asked[name]:
                return (
                    f"answers {name} {str(found.get(name))[:40]!r}, this run has {str(asked[name])[:40]!r} there; "
                    f"give the same prompts or {self.another}"
                )
        return None


def question(index: int, prompt: str, settings: dict[str, Any]) -> Fields:
    """What a line begins with, known before the work."""
    return {"index": index, "prompt": prompt, "settings": settings}


def record(index: int, prompt: str, settings: dict[str, Any], done: Completion | Result) -> Fields:
    """A result, its question first."""
    answer = {"text": done.text, "ids": done.ids, "prompt_tokens": len(done.prompt_ids)}
    return question(index, prompt, settings) | answer | {"finish_reason": done.finish_reason}


def in_batches(
    prompts: Sequence[str], settings: dict[str, Any], batch: int, complete: Complete, done: int = 0
) -> Iterator[str]:
    """Yield the result lines of each batch, without the first `done` lines, which are written already.

    complete  called as complete(start, prompts) for the batch that begins at prompt `start`

    Batches begin at multiples of `batch` wherever a run was killed, since the last bits of a sum depend on its batch:
    a half-written batch is computed again in full, and its missing lines are yielded.
    """
    for start in range(done - done % batch, len(prompts), batch):
        part = prompts[start : start + batch]
        lines = [
            to_line(record(start + i, prompt, settings, result))
            for i, (prompt, result) in enumerate(zip(part, complete(start, part), strict=True))
        ]
        yield "".join(lines[max(done - start, 0) :])


@dataclass
class PromptTask:
    """A prompt on its way through the engine; `who` names it in messages."""

    index: int
    prompt: str
    settings: dict[str, Any]
    who: str
    requests: list[Request]
    failed: ValueError | NotFinite | None = None

    def finish(self, results: list[Result]) -> str:
        """Its line; "" if it failed, which ends the run once the prompts before it are written."""
        (done,) = results
        if done.finish_reason == "error":
            self.failed = NotFinite(self.index, len(done.ids), self.who)
        elif done.finish_reason == REFUSED:
            self.failed = ValueError(f"{self.who}: {done.error}")
        return "" if self.failed else to_line(record(self.index, self.prompt, self.settings, done))


def in_engine(
    engine: Engine, tasks: Iterable[PromptTask], running: int, heard: Callable[[Event], object] = lambda event: None
) -> Iterator[str]:
    """Yield the result line of each prompt, in order.

    running  requests at once, as the engine has it
    heard    called with each event of the engine

    Raises NotFinite for logits that hold NaN or inf, after the lines of the prompts before it.
    """
    for task, line in in_order(engine, tasks, 2 * running, heard=heard):
        if task.failed:
            raise task.failed
        yield line
