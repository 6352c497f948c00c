"""A causal LM over every cache and in every scenario, in one table."""

import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ....reference.judge.difference import finite
from ....reference.judge.verdict import BUG, INCONCLUSIVE, ROUNDING
from ..contract.user_errors import UserCodeError, said, shown
from ..investigation import Investigation, investigate
from .caches import AUTO, HIDDEN, KINDS, DoesNotApply
from .scenarios import PLAIN, SCENARIOS
from .subject import HuggingFaceSubject

RAISES, ABSENT, OURS = "raises", "does not apply", "error of ours"


@dataclass(frozen=True)
class Cell:
    """One cache in one scenario.

    word   ROUNDING, BUG, INCONCLUSIVE, "raises" with the model's own exception, "does not apply" with the reason, or
           "error of ours"
    found  the investigation, where there is a verdict
    """

    cache: str
    scenario: str
    word: str
    reason: str
    found: Investigation | None = None

    def record(self) -> dict[str, Any]:
        found = self.found and self.found.record()
        return finite({"cache": self.cache, "scenario": self.scenario, "word": self.word, "reason": self.reason,
            "found": found})  # fmt: skip

    @property
    def line(self) -> str:
        """What a row says beside the word: the widest rung's numbers, and where a bug starts."""
        if self.found is None:
            return self.reason
        rungs = [rung for rung in self.found.verdict.rungs if not rung.excluded]
        rung = next((rung for rung in rungs if not rung.green), rungs[0] if rungs else None)
        numbers = f"{rung.error:.1e} of {rung.gate:.1e} in {rung.dtype}" if rung else "no rung"
        starts = f"; starts at {self.found.start}" if self.found.start else ""
        return "; ".join([numbers + starts, *self.found.notes])


def cells(default: str, caches: Sequence[str] | None, scenarios: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """The caches and scenarios that are named, each with each.

    Without caches: every one in the plain scenario, then the model's usual cache and the static one in the others.
    """
    if caches is not None:
        yield from ((cache, scenario) for cache in caches for scenario in scenarios or SCENARIOS)
        return
    wanted = SCENARIOS if scenarios is None else scenarios
    if PLAIN in wanted:
        yield from ((cache, PLAIN) for cache in (default, *(x for x in KINDS if x not in (default, *HIDDEN))))
    for scenario in wanted:
        if scenario != PLAIN:
            yield from ((cache, scenario) for cache in dict.fromkeys((default, "static")))


def survey(
    model: Any, *, prompts: Sequence[Sequence[int]] | int, steps: int = 8, dtype: str = "float32",
    scenarios: Sequence[str] | None = None, caches: Sequence[str] | None = None,
    attn_implementation: str | None = None, device: Any = "cpu",
) -> Iterator[Cell]:  # fmt: skip
    """Judge a model, as HuggingFaceSubject takes it, cell by cell.

    scenarios, caches  the names to take; all by default

    Raises what HuggingFaceSubject raises before there is a first cell.
    """
    how = {"attn_implementation": attn_implementation, "device": device}
    subject = HuggingFaceSubject(model, prompts=prompts, steps=steps, cache=AUTO, **how)
    caches = caches and [subject.cache if name == AUTO else name for name in caches]
    for cache, scenario in cells(subject.cache, caches, scenarios):
        yield cell(subject, cache, scenario, dtype)


def cell(subject: HuggingFaceSubject, cache: str, scenario: str, dtype: str) -> Cell:
    """The verdict on one cell, or why there is none."""
    try:
        found = investigate(subject.playing(cache, scenario), dtype, pictures=False)
    except UserCodeError as error:
        return Cell(cache, scenario, RAISES, said(error))
    except (DoesNotApply, ImportError) as error:
        return Cell(cache, scenario, ABSENT, said(error))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{shown(last.filename)}:{last.lineno}"
        return Cell(cache, scenario, OURS, f"{type(error).__name__}: {said(error)} (at {place})")
    return Cell(cache, scenario, found.verdict.verdict, found.verdict.reason, found)


@dataclass(frozen=True)
class Survey:
    """The cells of one model, and one word for them.

    BUG if any is one; an error of ours if there was one; ROUNDING if some are and none is in doubt. Where cells were
    `chosen` by name, one that raises leaves it in doubt; among all, models need not run over every cache.
    """

    cells: Sequence[Cell]
    chosen: bool = False

    @property
    def word(self) -> str:
        words = {cell.word for cell in self.cells}
        for word in (BUG, OURS):
            if word in words:
                return word
        doubt = INCONCLUSIVE in words or (self.chosen and RAISES in words)
        return ROUNDING if ROUNDING in words and not doubt else INCONCLUSIVE

    def record(self) -> dict[str, Any]:
        return {"word": self.word, "cells": [cell.record() for cell in self.cells]}

    def table(self) -> list[str]:
        """A line per cell, and a line of sums."""
        lines = [f"{'cache':17} {'scenario':12} {'verdict':14}  difference of its gate"]
        lines += [f"{c.cache:17} {c.scenario:12} {c.word:14}  {c.line}" for c in self.cells]
        words = [c.word for c in self.cells]
        sums = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
        return [*lines, f"{len(self.cells)} cells: {sums}"]


def judged_model(
    model: Any, dtype: str = "float32", *, scenarios: str | Sequence[str] = PLAIN,
    caches: str | Sequence[str] | None = None, prompts: Sequence[Sequence[int]] | int = 12, **how: Any,
) -> Survey:  # fmt: skip
    """The cells of a model that these words ask for.

    scenarios  "all", one name or several
    caches     "all", one name or several; by default every one with "all" scenarios, else the model's usual one
    how        as `survey` takes it: steps, attn_implementation, device

    Raises ValueError for names that are none, and what HuggingFaceSubject raises.
    """
    everything = scenarios == "all"
    caches = ("all" if everything else AUTO) if caches is None else caches
    wanted = {"scenarios": names(scenarios, SCENARIOS, "scenario"), "caches": names(caches, (AUTO, *KINDS), "cache")}
    chosen = wanted["scenarios"] is not None or wanted["caches"] is not None
    return Survey(list(survey(model, prompts=prompts, dtype=dtype, **wanted, **how)), chosen)


def names(given: str | Sequence[str], known: Iterable[str], what: str) -> Sequence[str] | None:
    """The names given, None for "all".  Raises ValueError for one that is not known."""
    if given == "all":
        return None
    given = [given] if isinstance(given, str) else list(given)
    if wrong := [name for name in given if name not in known]:
        raise ValueError(f"{what} {wrong[0]!r} is not known; choose all or some of {', '.join(known)}")
    return given
