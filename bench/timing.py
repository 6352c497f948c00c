"""Time between marks, without disturbing what runs between them."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .impls import Source


class Stopwatch:
    """Marks moments of a device's work; the times between them are read when the work is done.

    On CUDA a mark is an event in the stream, so that the host never waits; elsewhere it is the host's clock.
    """

    def __init__(self, device: torch.device):
        self.device, self.cuda = device, device.type == "cuda"
        self.marks = []

    def mark(self):
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Seconds from each mark to the next."""
        if self.cuda:
            torch.cuda.synchronize(self.device)
            return [a.elapsed_time(b) / 1000 for a, b in zip(self.marks, self.marks[1:], strict=False)]
        return [b - a for a, b in zip(self.marks, self.marks[1:], strict=False)]


@dataclass
class Timing:
    """One decode, timed: the prefill up to the first token, then every further token, in seconds; the tokens (B, n)."""

    prefill: float
    steps: list[float]
    ids: list[list[int]]

    @property
    def total(self) -> float:
        return self.prefill + sum(self.steps)

    @property
    def mean_step(self) -> float:
        return statistics.fmean(self.steps)

    @property
    def median_step(self) -> float:
        return statistics.median(self.steps)

    def record(self, batch: int, naive: "Timing") -> dict[str, Any]:
        """The figures of a table's row; tokens_per_s counts all sequences' tokens over prefill and steps together."""
        return {
            "prefill_ms": self.prefill * 1e3,
            "total_ms": self.total * 1e3,
            "mean_ms": self.mean_step * 1e3,
            "median_ms": self.median_step * 1e3,
            "tokens_per_s": batch * (len(self.steps) + 1) / self.total,
            "speedup": naive.total / self.total,
            "steps_ms": [step * 1e3 for step in self.steps],
        }


def median_run(runs: list[Timing]) -> Timing:
    """The run whose total is the median one, whole, so that its parts belong together."""
    return sorted(runs, key=lambda run: run.total)[len(runs) // 2]


def timed_greedy(source: Source, prompts: Sequence[Sequence[int]], steps: int, device: torch.device) -> Timing:
    """Decode `steps` tokens per sequence greedily and time each; tokens stay on the device until the end."""
    watch, tokens = Stopwatch(device), []
    watch.mark()
    tokens.append(source.prefill(prompts).argmax(-1))
    watch.mark()
    for _ in range(steps - 1):
        tokens.append(source.step(tokens[-1]).argmax(-1))
        watch.mark()
    prefill, *rest = watch.seconds()
    return Timing(prefill, rest, torch.stack(tokens, 1).tolist())
