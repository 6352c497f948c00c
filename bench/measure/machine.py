"""What this machine takes: the constants of the cost model, measured in seconds before a run."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...gpt2 import GPT2, Config
from .costs import Constants, Work, cached_step, unpadded_pass
from .timing import median_call, time_calls

TOO_FAST = 1.1  # times the bandwidth that memory has: above it, something was not computed
SIZES = tuple(2**n for n in (20, 22, 24, 26, 28))
T = TypeVar("T")


@dataclass
class Probe:
    """A computation whose work is known: it gives one constant when the others are known."""

    work: Work
    call: Callable[[], object]


class Counting:
    """What CountLaunches does. Written there, torch would wrap it, and import torch._dynamo, which takes a second."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


class CountLaunches(Counting, TorchDispatchMode):
    """Counts the operations launched inside it; views launch nothing."""


def count_launches(call: Callable[[], object]) -> int:
    with CountLaunches() as counter:
        call()
    return counter.count


def reading(nbytes: int, device: torch.device) -> Probe:
    """Reading a buffer once, in whole float32: their sum, which runs at the speed of memory on every device."""
    buffer = torch.ones(max(nbytes // 4, 1), device=device)
    return Probe(Work(1, buffer.nbytes, 0), buffer.sum)


def multiplying(nbytes: int, device: torch.device, width: int = 1024) -> Probe:
    """Reading a matrix once, multiplied by a vector."""
    matrix = torch.ones(max(nbytes // 4 // width, 1), width, device=device)
    vector = matrix[0].clone()
    return Probe(Work(1, matrix.nbytes, 2.0 * matrix.numel()), lambda: matrix @ vector)


def timed_reads(nbytes: int, device: torch.device, timed: Callable[[Probe], T]) -> list[tuple[Work, T]]:
    """Two readers of a working set of so many bytes, each with what `timed` gives of it.

    A CPU's thread waits for memory while it sums, and less in a product, whose library asks ahead: with one thread an
    AMD EPYC read 8.2 and 10.3 GB/s. By the sum alone, a decode step that reads as well as a product would be refused.
    """
    found = []
    for make in (reading, multiplying):  # one buffer at a time: it may be as large as the model
        probe = make(nbytes, device)
        found.append((probe.work, timed(probe)))
        del probe
    return found


def read_bandwidth(nbytes: int, device: torch.device, samples: int = 15) -> list[float]:
    """GB/s (10^9) of reading a working set of so many bytes, sample by sample, by the quicker reader."""
    reads = timed_reads(nbytes, device, lambda probe: time_calls(probe.call, device, samples, flush=False))
    return max(([work.bytes / 1e9 / one for one in seconds] for work, seconds in reads), key=statistics.median)


@torch.no_grad()
def zeros(config: Config, dtype: torch.dtype, device: torch.device, impl: str, weights: str | None = None) -> GPT2:
    """A model of zeros, which takes as long as any other."""
    model = GPT2(config, impl, weights=weights).to(dtype=dtype, device=device).eval().requires_grad_(False)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.zero_()
    return model


def narrow_step(
    config: Config, dtype: torch.dtype, device: torch.device, impl: str = "sdpa", weights: str | None = None
) -> Probe:
    """A decode step of a model as deep as this one, of which launching is most: it is at most 128 wide.

    No narrower, since a launch also starts and joins the CPU's threads, which the narrowest products do without.
    numba's step is one launch, whatever the depth.
    """
    width = min(config.n_embd, 128)
    heads = max(1, width // 32)
    narrow = replace(
        config, n_vocab=min(config.n_vocab, 1024), n_ctx=16, n_embd=heads * 32, n_head=heads, n_inner=4 * heads * 32
    )
    model = zeros(narrow, dtype, device, impl, weights)
    cache = model.new_cache(1, 8)
    model.prefill([[1, 2, 3]], cache)
    ids = torch.zeros(1, dtype=torch.long, device=device)

    def step():
        cache.set_lengths([3])
        model.decode(ids, cache)

    launches = 1 if impl == "numba" else count_launches(step)
    return Probe(cached_step(narrow, [4], dtype.itemsize, launches, weights), step)


def product(config: Config, dtype: torch.dtype, device: torch.device, rows: int = 256) -> Probe:
    """A matrix product of the model's own width, with rows enough that arithmetic is most of it."""
    x = torch.ones(rows, config.n_embd, dtype=dtype, device=device)
    w = torch.ones(config.n_embd, config.n_inner, dtype=dtype, device=device)
    moved = x.nbytes + w.nbytes + rows * config.n_inner * dtype.itemsize
    return Probe(Work(1, moved, 2.0 * rows * config.n_embd * config.n_inner), lambda: x @ w)


def engine_layer(config: Config, dtype: torch.dtype, weights: str | None, rows: int = 64) -> Probe:
    """A prefill by the compiled engine of one layer of the model's own width: nearly all of it is products."""
    layer = replace(config, n_layer=1, n_ctx=rows, n_vocab=min(config.n_vocab, 1024))
    model = zeros(layer, dtype, torch.device("cpu"), "numba", weights)
    cache = model.new_cache(1)

    def call():
        cache.reset()
        model.prefill([[1] * rows], cache)

    return Probe(unpadded_pass(layer, [rows], dtype.itemsize, weights), call)


def measure(
    config: Config,
    dtype: torch.dtype,
    device: torch.device,
    largest: int,
    seconds_of: Callable[[Probe], float] | None = None,
) -> tuple[Constants, float]:
    """The constants of the cost model for a model of this config, and the seconds it took to find them.

    largest     bytes of the largest working set to come; bandwidth is measured at sizes up to it
    seconds_of  how a probe is timed; tests put a machine of known constants here
    """
    begun = time.perf_counter()
    seconds_of = seconds_of or partial(median_seconds, device=device)
    sizes = sorted({*(size for size in SIZES if size < largest), max(int(largest), SIZES[0])})
    reads = [max(timed_reads(size, device, seconds_of), key=lambda read: read[0].bytes / read[1]) for size in sizes]
    step, matmul = (probe(config, dtype, device) for probe in (narrow_step, product))
    return solve(reads, (step.work, seconds_of(step)), (matmul.work, seconds_of(matmul))), time.perf_counter() - begun


def median_seconds(probe: Probe, device: torch.device) -> float:
    return median_call(probe.call, device, repeats=25)


def measure_engine(
    config: Config,
    dtype: torch.dtype,
    weights: str | None,
    bandwidth: tuple[tuple[float, float], ...],
    seconds_of: Callable[[Probe], float] | None = None,
) -> tuple[Constants, float]:
    """The compiled engine's constants, as `measure` gives torch's; the bandwidth is the machine's, and known."""
    begun = time.perf_counter()
    seconds_of = seconds_of or partial(median_seconds, device=torch.device("cpu"))
    probes = narrow_step(config, dtype, torch.device("cpu"), "numba", weights), engine_layer(config, dtype, weights)
    step, layer = ((probe.work, seconds_of(probe)) for probe in probes)
    return solve((), step, layer, bandwidth), time.perf_counter() - begun


def solve(
    reads: Sequence[tuple[Work, float]],
    step: tuple[Work, float],
    matmul: tuple[Work, float],
    bandwidth: tuple[tuple[float, float], ...] = (),
) -> Constants:
    """The constants under which the probes take the seconds they took.

    bandwidth  where it is known and nothing was read

    Each probe is ruled by one constant, so a few rounds in which each yields to the others settle all of them.
    """
    constants = Constants(0.0, float("inf"), bandwidth or tuple((work.bytes, work.bytes / t) for work, t in reads))
    for _ in range(20):
        work, t = step
        rest = replace(constants, overhead=0.0).parts(work).total
        overhead = max(t - rest, 0.0) / work.launches
        found = tuple((w.bytes, w.bytes / max(s - w.launches * overhead, 0.1 * s)) for w, s in reads)
        work, t = matmul
        constants = Constants(overhead, float("inf"), found or bandwidth)
        rest = constants.parts(work).total
        constants = replace(constants, rate=work.flops / max(t - rest, 0.1 * t))
    return constants


def limit(samples: Sequence[float], datasheet: float | None) -> tuple[float, str]:
    """What no figure should exceed, in GB/s, and what it is: a GPU's datasheet peak, else the best sample."""
    return (datasheet, "datasheet") if datasheet else (max(samples), "best measured")
