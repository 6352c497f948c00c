"""What this machine takes: the constants of the cost model, measured in seconds before a run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...gpt2 import GPT2, Config
from .costs import Constants, Work, cached_step
from .timing import median_call, time_calls

TOO_FAST = 1.1  # times the bandwidth that memory has: above it, something was not computed
SIZES = tuple(2**n for n in (20, 22, 24, 26, 28))


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


def read_bandwidth(nbytes: int, device: torch.device, samples: int = 15) -> list[float]:
    """GB/s (10^9) of reading a working set of so many bytes, sample by sample."""
    probe = reading(nbytes, device)
    return [probe.work.bytes / 1e9 / seconds for seconds in time_calls(probe.call, device, samples, flush=False)]


@torch.no_grad()
def narrow_step(config: Config, dtype: torch.dtype, device: torch.device) -> Probe:
    """A decode step of a model as deep as this one, of which launching is most: it is at most 128 wide.

    No narrower, since a launch also starts and joins the CPU's threads, which the narrowest products do without.
    """
    width = min(config.n_embd, 128)
    heads = max(1, width // 32)
    narrow = replace(
        config, n_vocab=min(config.n_vocab, 1024), n_ctx=16, n_embd=heads * 32, n_head=heads, n_inner=4 * heads * 32
    )
    model = GPT2(narrow).to(dtype=dtype, device=device).eval()
    for weight in model.parameters():
        weight.zero_()
    cache = model.new_cache(1, 8)
    model.prefill([[1, 2, 3]], cache)
    ids = torch.zeros(1, dtype=torch.long, device=device)

    def step():
        cache.set_lengths([3])
        model.decode(ids, cache)

    return Probe(cached_step(narrow, [4], dtype.itemsize, count_launches(step)), step)


def product(config: Config, dtype: torch.dtype, device: torch.device, rows: int = 256) -> Probe:
    """A matrix product of the model's own width, with rows enough that arithmetic is most of it."""
    x = torch.ones(rows, config.n_embd, dtype=dtype, device=device)
    w = torch.ones(config.n_embd, config.n_inner, dtype=dtype, device=device)
    moved = x.nbytes + w.nbytes + rows * config.n_inner * dtype.itemsize
    return Probe(Work(1, moved, 2.0 * rows * config.n_embd * config.n_inner), lambda: x @ w)


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
    seconds_of = seconds_of or (lambda probe: median_call(probe.call, device, repeats=25))
    sizes = sorted({*(size for size in SIZES if size < largest), max(int(largest), SIZES[0])})
    # One buffer at a time: the largest may be as large as the model.
    reads = []
    for size in sizes:
        probe = reading(size, device)
        reads.append((probe.work, seconds_of(probe)))
    step, matmul = (probe(config, dtype, device) for probe in (narrow_step, product))
    return solve(reads, (step.work, seconds_of(step)), (matmul.work, seconds_of(matmul))), time.perf_counter() - begun


def solve(reads: Sequence[tuple[Work, float]], step: tuple[Work, float], matmul: tuple[Work, float]) -> Constants:
    """The constants under which the probes take the seconds they took.

    Each probe is ruled by one constant, so a few rounds in which each yields to the others settle all of them.
    """
    constants = Constants(0.0, float("inf"), tuple((work.bytes, work.bytes / t) for work, t in reads))
    for _ in range(20):
        work, t = step
        rest = replace(constants, overhead=0.0).parts(work).total
        overhead = max(t - rest, 0.0) / work.launches
        bandwidth = tuple((w.bytes, w.bytes / max(s - w.launches * overhead, 0.1 * s)) for w, s in reads)
        work, t = matmul
        constants = Constants(overhead, float("inf"), bandwidth)
        rest = constants.parts(work).total
        constants = replace(constants, rate=work.flops / max(t - rest, 0.1 * t))
    return constants


def limit(samples: Sequence[float], datasheet: float | None) -> tuple[float, str]:
    """What no figure should exceed, in GB/s, and what it is: a GPU's datasheet peak, else the best sample."""
    return (datasheet, "datasheet") if datasheet else (max(samples), "best measured")
