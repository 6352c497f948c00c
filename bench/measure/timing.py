"""Time laps of a device's work, without disturbing what runs in them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from ...gpt2.generate import Source, decode_loop
from ...gpt2.sampling import greedy


class Stopwatch:
    """`with watch:` times a lap; the seconds of all laps are read when the work is done.

    On CUDA a lap lies between two events in the stream, so that the host never waits; elsewhere it is the host's clock.
    flush  empty the L2 cache of a CUDA device before every lap: in a real decode the weights have pushed K and V out
    """

    def __init__(self, device: torch.device, flush: bool = False):
        self.device, self.cuda = device, device.type == "cuda"
        self.laps = []
        self.trash = None
        if flush and self.cuda:
            size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
            self.trash = torch.empty(size, dtype=torch.uint8, device=device)

    def __enter__(self):
        if self.trash is not None:
            self.trash.zero_()
        self.laps.append([self._now()])
        return self

    def __exit__(self, *_):
        self.laps[-1].append(self._now())

    def _now(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self) -> list[float]:
        if self.cuda:
            torch.cuda.synchronize(self.device)
            return [start.elapsed_time(stop) / 1e3 for start, stop in self.laps]
        return [stop - start for start, stop in self.laps]


@dataclass
class Run:
    """One decode, timed: seconds to the first new token, then of every further one; the tokens (B, n)."""

    prefill: float
    steps: list[float]
    ids: list[list[int]]

    @property
    def total(self) -> float:
        return self.prefill + sum(self.steps)


@runtime_checkable
class OwnLoop(Protocol):
    """A library that decodes greedily in a loop of its own, its cache inside, and lends no single step."""

    def forced_logits(self, prompts: Sequence[Sequence[int]], ids: torch.Tensor) -> torch.Tensor:
        """The logits of each of the new tokens ids (B, n), after the prompts and the ids before it -> (B, n, V)"""
        ...

    def timed_greedy(self, prompts: Sequence[Sequence[int]], steps: int) -> Run: ...


def timed_greedy(
    source: Source | OwnLoop, prompts: Sequence[Sequence[int]], steps: int, device: torch.device, flush: bool = False
) -> Run:
    """Decode `steps` tokens per sequence greedily and time each; tokens stay on the device until the end."""
    if isinstance(source, OwnLoop):
        return source.timed_greedy(prompts, steps)
    watch, tokens = Stopwatch(device, flush), []
    loop = decode_loop(source, prompts, steps, lambda _, logits: greedy(logits))
    for _ in range(steps):
        with watch:
            tokens.append(next(loop)[0])
    prefill, *rest = watch.seconds()
    return Run(prefill, rest, torch.stack(tokens, 1).tolist())


def time_calls(call: Callable[[], object], device: torch.device, repeats: int, flush: bool = True) -> list[float]:
    """Seconds of each of `repeats` calls, after one that warms up."""
    call()
    watch = Stopwatch(device, flush)
    for _ in range(repeats):
        with watch:
            call()
    return watch.seconds()


def median_call(call: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    return statistics.median(time_calls(call, device, repeats, flush=False))
