"""The judge over tiny models of every architecture: one process and one JSON line for each, in as many scenarios."""

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

from ..contract.user_errors import said, shown
from ..huggingface.subject import HuggingFaceSubject
from ..investigation import investigate
from .build import build, models

PROMPT, STEPS = 12, 6  # tokens of the longer prompt, past every window; decode steps compared
DTYPE = "float32"
# What the judge is asked: keywords of HuggingFaceSubject. The two prompts differ in length, so each batch is padded.
SCENARIOS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache": "static"},
    "left-padded": {"left_padded": 3},
    "no-position-ids": {"position_ids": False},
}
PRELOADED = [__name__, "transformers.modeling_utils", "transformers.models.auto.modeling_auto"]
RAISED, LATE, ENDED, NOT_BUILT = "raised", "timed out", "ended", "not built"
# Of a report: all but what grows with the model.
KEPT = ("a", "b", "verdict", "why", "rungs", "starts", "seen", "explained", "unknown")


def judged(model_type: str, scenario: str) -> dict[str, Any]:
    """The judge's report on one model, or what was raised instead, from where."""
    torch.set_num_threads(1)
    try:
        model = build(model_type)
        subject = HuggingFaceSubject(model, prompts=PROMPT, steps=STEPS, **SCENARIOS[scenario])
        report = investigate(subject, DTYPE).record()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        root = error.__cause__ or error
        return {
            "outcome": RAISED,
            "error": type(error).__name__,
            "cause": type(root).__name__,
            "message": said(error),
            "place": f"{shown(frame.filename)}:{frame.lineno}",
        }
    return {"outcome": report["verdict"], **{name: report[name] for name in KEPT if name in report}}


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


def done(path: Path, version: str) -> set[tuple[str, str]]:
    """(model_type, scenario) of the lines that a file holds; half a line at its end, of a killed run, is cut off.

    Raises ValueError where the lines are of another transformers.
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
    return {(line["model_type"], line["scenario"]) for line in lines}


def sweep(path: Path, only: Sequence[str], scenarios: Sequence[str], seconds: float) -> Iterator[dict[str, Any]]:
    """Judge what the file lacks, one line after the other, each written when it is found and then yielded.

    only     names of models(); empty: all of them
    seconds  that each may take

    Raises ValueError for names that are none, and for a file of another transformers.
    """
    import transformers

    known = models()
    for wrong, right in (({*only} - {*known}, known), ({*scenarios} - {*SCENARIOS}, SCENARIOS)):
        if wrong:
            near = [name for x in sorted(wrong) for name in difflib.get_close_matches(x, right)] or list(right)[:8]
            raise ValueError(f"{', '.join(sorted(wrong))} came, which is none of {', '.join(near)} and so on")
    transformers.logging.set_verbosity_error()
    made = done(path, transformers.__version__)
    for name in only or known:
        for scenario in scenarios:
            if (name, scenario) in made:
                continue
            why = known[name]
            found = {"outcome": NOT_BUILT, "message": why} if why else in_a_process(judged, (name, scenario), seconds)
            line = {"model_type": name, "scenario": scenario, "transformers": transformers.__version__, **found}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            yield line
