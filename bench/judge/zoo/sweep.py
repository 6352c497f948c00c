"""The judge over tiny models of every architecture: a process and a JSON line for each, with a word for every cell."""

import difflib
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..contract.user_errors import HERE, UserCodeError, said, where
from ..huggingface.caches import AUTO, KINDS
from ..huggingface.scenarios import SCENARIOS
from ..huggingface.survey import ABSENT, Cell, judged_model, names
from .build import build, models

PROMPT, STEPS = 12, 6  # tokens of the longer prompt, past every window; decode steps compared
PRELOADED = [__name__, "transformers.modeling_utils", "transformers.models.auto.modeling_auto"]
RAISED, REFUSED, LATE, ENDED, NOT_BUILT = "raised", "refused", "timed out", "ended", "not built"


def judged(model_type: str, scenarios: Any, caches: Any) -> dict[str, Any]:
    """One word for a model and one per cell; or what it raised, from where; or why it is refused."""
    torch.set_num_threads(1)
    try:
        found = judged_model(build(model_type), scenarios=scenarios, caches=caches, prompts=PROMPT, steps=STEPS)
    except Exception as error:
        root, word = error.__cause__ or error, RAISED
        if isinstance(error, ValueError) and not isinstance(error, UserCodeError):
            word = REFUSED
        return {"outcome": word, "message": said(error), "place": where(root) or ours(root)}
    return {"outcome": found.word, "cells": {f"{cell.cache}/{cell.scenario}": told(cell) for cell in found.cells}}


def told(cell: Cell) -> str:
    """A cell in a line: its word, and its numbers, its place or what was raised."""
    return cell.word if cell.word == ABSENT else f"{cell.word}: {cell.line}"


def ours(error: BaseException) -> str:
    """file:line of kvproof's innermost frame: an error that no model's code raised."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next(frame for frame in reversed(frames) if Path(frame.filename).is_relative_to(HERE))
    return f"kvproof/{Path(frame.filename).relative_to(HERE)}:{frame.lineno}"


def in_a_process(function: Callable[..., Any], given: tuple, seconds: float) -> dict[str, Any]:
    """What the function returns, from a child process that is killed after so many seconds; a word on it otherwise."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # imported once, for all children
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=send, args=(theirs, function, given), daemon=True)
    start = time.perf_counter()
    child.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(seconds) else {"outcome": LATE, "message": f"no answer within {seconds:g} s"}
    except EOFError:
        child.join()
        found = {"outcome": ENDED, "message": f"the process ended with exit code {child.exitcode}"}
    if child.is_alive():
        child.kill()
    child.join()
    return {**found, "seconds": round(time.perf_counter() - start, 2)}


def send(pipe: Any, function: Callable[..., Any], given: tuple) -> None:
    """Send what the function returns; what the model prints and logs goes nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    pipe.send(function(*given))


def done(path: Path, version: str, asked: dict[str, Any]) -> set[str]:
    """The models that a file has lines of; half a line at its end, of a killed run, is cut off.

    Raises ValueError where the lines are of another transformers, or of other cells.
    """
    if not path.exists():
        return set()
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    lines = [json.loads(line) for line in whole.splitlines()]
    other = {line["transformers"] for line in lines} - {version}
    if other:
        raise ValueError(
            f"{path} holds lines of transformers {', '.join(sorted(other))}, here is {version}; name another file"
        )
    if other := [line["model_type"] for line in lines if any(line.get(name) != asked[name] for name in asked)]:
        raise ValueError(f"{path} holds other caches or scenarios of {', '.join(other[:3])}; name another file")
    return {line["model_type"] for line in lines if line["outcome"] not in (LATE, ENDED)}


def sweep(
    path: Path, only: Sequence[str], scenarios: Sequence[str] | str, caches: Sequence[str] | str, seconds: float
) -> Iterator[dict[str, Any]]:
    """Judge the models that the file lacks, one line after the other, each written when it is found and then yielded.

    only               names of models(); empty: all of them
    scenarios, caches  as judged_model takes them
    seconds            that each model may take

    Raises ValueError for names that are none, and for a file of another transformers.
    """
    import transformers

    known = models()
    if wrong := sorted({*only} - {*known}):
        near = [name for x in wrong for name in difflib.get_close_matches(x, known)] or list(known)[:8]
        raise ValueError(f"{', '.join(wrong)} came, which is none of {', '.join(near)} and so on")
    names(scenarios, SCENARIOS, "scenario")
    names(caches, (AUTO, *KINDS), "cache")
    transformers.logging.set_verbosity_error()
    asked = {"scenarios": scenarios, "caches": caches}
    made = done(path, transformers.__version__, asked)
    for name in dict.fromkeys(only or known):
        if name in made:
            continue
        why, given = known[name], (name, scenarios, caches)
        found = {"outcome": NOT_BUILT, "message": why} if why else in_a_process(judged, given, seconds)
        line = {"model_type": name, "transformers": transformers.__version__, **asked, **found}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        yield line
