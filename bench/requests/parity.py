"""Parity before timing: does an arm give every request the tokens of its lone run?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...gpt2 import GPT2
from ...gpt2.generate import Cached, forced_logits
from ...reference.judge.parity import LOGIT_BARS
from .arms import Ask, Ids


@dataclass(frozen=True)
class Parting:
    """Where an arm leaves a request's lone run.

    token   the first new token that differs, counted from 0
    margin  how far the lone run's token is above the arm's, in units of max(1, largest |logit|); None where the arm has
            too few or too many tokens
    """

    request: int
    token: int
    margin: float | None


@dataclass(frozen=True)
class Parity:
    """An arm held to the lone runs.

    differ   requests with other tokens, of so many
    worst    of them, the one with the largest margin, which rounding explains least
    wrong    whether rounding cannot explain them, or the arm is ours, which has no rounding of its own
    refused  why a peer gave no tokens at all
    """

    differ: int
    of: int
    worst: Parting | None = None
    wrong: bool = False
    refused: str | None = None

    @property
    def green(self) -> bool:
        return not self.differ

    def record(self) -> dict:
        worst = self.worst and vars(self.worst)
        found = {"green": self.green, "differ": self.differ, "of": self.of, "wrong": self.wrong, "worst": worst}
        return found | {"refused": self.refused}

    def __str__(self) -> str:
        if self.refused:
            return f"RED it gave no tokens: {self.refused}"
        if not self.worst:
            return f"ok  {self.of} requests have the tokens of their lone runs"
        at, kind = self.worst, "WRONG" if self.wrong else "its rounding"
        why = "it has another number of tokens" if at.margin is None else f"margin {at.margin:.1e}"
        where = f"request {at.request} at new token {at.token}, {why}"
        return f"RED {self.differ} of {self.of} requests differ from their lone runs ({kind}): {where}"


def compare(found: Ids, truth: Ids, asks: Sequence[Ask], model: GPT2, dtype: str, peer: bool) -> Parity:
    """Hold an arm's tokens to those of the lone runs.

    model  computes the lone run's logits where a peer leaves it. A peer's logits may err by the dtype's bar, so both
           tokens are possible where one's logit is less than twice the bar above the other's. After that the texts
           differ, and say nothing. Ours must give the same tokens.
    """
    partings = [part(i, got, want) for i, (got, want) in enumerate(zip(found, truth, strict=True)) if got != want]
    if not partings:
        return Parity(0, len(truth))
    judged = [margin(p, found[p.request], truth[p.request], asks[p.request], model) for p in partings]
    reach = 2 * LOGIT_BARS[dtype]
    wrong = not peer or any(p.margin is None or not p.margin <= reach for p in judged)
    worst = max(judged, key=lambda p: float("inf") if p.margin is None else p.margin)
    return Parity(len(partings), len(truth), worst, wrong)


def part(request: int, got: Sequence[int], want: Sequence[int]) -> Parting:
    pairs = enumerate(zip(got, want, strict=False))
    return Parting(request, next((i for i, (a, b) in pairs if a != b), min(len(got), len(want))), None)


def margin(parting: Parting, got: Sequence[int], want: Sequence[int], ask: Ask, model: GPT2) -> Parting:
    """The parting with its margin, by the lone run's logits."""
    n = parting.token
    if len(got) != len(want):
        return parting
    cache = model.new_cache(1, len(ask.prompt) + n + 1)
    with torch.no_grad():
        logits = forced_logits(Cached(model, cache), [ask.prompt], torch.tensor([want[: n + 1]]))[0, n]
    above = (logits[want[n]] - logits[got[n]]).item()
    return Parting(parting.request, n, above / max(1.0, logits.abs().max().item()))
