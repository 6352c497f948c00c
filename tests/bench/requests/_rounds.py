"""Made-up, valid rounds of bench/requests."""

from collections.abc import Mapping, Sequence
from typing import Any

from kvproof.bench.measure.records import REQUESTS, check

from .._records import ENVIRONMENT

GREEN = {"green": True, "differ": 0, "of": 4, "wrong": False, "worst": None, "refused": None}
WORST = {"request": 2, "token": 5, "margin": 3e-5}
RED = GREEN | {"green": False, "differ": 1, "worst": WORST}
WRONG = RED | {"wrong": True}
ASKED = {"seed": 0, "prompt_tokens": [4, 9, 4, 7], "new_tokens": [3, 8, 2, 7]}


def arm(name: str, rate: float | None, parity: dict = GREEN, per_step: float | None = None) -> dict:
    seconds = 20 / rate if rate else None
    return {
        "arm": name, "peer": name.startswith(("generate_batch", "hf")), "settings": {}, "parity": parity,
        "seconds": seconds, "tokens_per_s": rate, "tokens_per_step": per_step, "drafts": [8, 6], "others": 0.03,
    }  # fmt: skip


def rounds(
    job: str,
    rates: Mapping[str, Sequence[float | None]],
    text: str | None = None,
    per_step: float | None = None,
    parity: Mapping[str, dict] | None = None,
    model: str = "tiny",
) -> list[dict]:
    """One record per round, its arms in the order of that round."""
    cell: dict[str, Any] = {
        "job": job, "model": model, "dtype": "float32", "threads": 2, "text": text, "temperature": 0.0,
        "requests": ASKED, "loaded": False,
    }  # fmt: skip
    names, found = list(rates), []
    for number in range(len(rates[names[0]])):
        start = number % len(names)
        order = [*names[start:], *names[:start]]
        rows = [arm(name, rates[name][number], (parity or {}).get(name, GREEN), per_step) for name in order]
        found.append(record(cell, f"{cell} {names}", number, rows, None))
    return found


def record(cell: dict, run: str, number: int, arms: list[dict], memory: dict | None) -> dict:
    made = {
        "schema": REQUESTS, "key": f"{run}; round {number}", "run": run, "round": number, "written": "2026-11-29",
        "command": "python -m kvproof.bench.requests", "environment": ENVIRONMENT, "cell": cell, "arms": arms,
        "memory": memory,
    }  # fmt: skip
    check(made, "the record", REQUESTS)
    return made


def lived(**changed) -> dict:
    """A record of the job memory."""
    memory: dict[str, Any] = {
        "requests": 1000, "warm_up": 100, "tokens": 4400, "seconds": 1.5, "blocks": 48, "page": 16, "running": 8,
        "most_blocks": 21, "leaked": 0, "preemptions": 0, "resident": [[0, 800_000_000], [100, 900_000_000],
        [600, 905_000_000], [1100, 909_000_000]], "growth": 0.01, "checked": 11, "differ": 0,
    }  # fmt: skip
    cell: dict[str, Any] = {
        "job": "memory", "model": "tiny", "dtype": "float32", "threads": 2, "text": None, "temperature": 0.0,
        "requests": {"seed": 0, "prompt_tokens": [], "new_tokens": []}, "loaded": False,
    }  # fmt: skip
    return record(cell, "memory", 0, [], memory | changed)
