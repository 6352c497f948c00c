"""One cell after another: a model, dtype, batch, context and number of new tokens, measured into one record each."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cached_property

import numpy as np
import torch

from ...gpt2.cli.progress import Progress
from ...gpt2.generate import to_ids
from ...gpt2.weights import DTYPES
from ...kernels.backend import BACKENDS
from . import machine, peers
from .costs import Constants, kv_elements, parameters, step_weights
from .environment import environment, version
from .explain import Forecast, Route, crossing, median_cumulative, words
from .interleaved import Comparison, Models
from .stats import summarize
from .timing import Run

DISTINCT = 4  # prompts drawn for a context; further sequences repeat them in order, as those of --prompt
TORCH_IMPLS = ("naive", "eager", "sdpa", "triton")  # whose operations torch launches, so that they can be counted
SUMMARIES = ("prefill_ms", "step_ms", "total_ms", "tokens_per_s", "speedup")


@dataclass(frozen=True)
class Cell:
    """What is measured: context None takes the prompts as they are."""

    model: str
    dtype: str
    batch: int
    context: int | None
    new_tokens: int

    def __str__(self) -> str:
        context = "" if self.context is None else f", context {self.context}"
        return f"{self.model}, {self.dtype}, batch {self.batch}{context}, {self.new_tokens} new tokens"


@dataclass(frozen=True)
class Plan:
    """How every cell of a run is measured.

    impls    naive among them, which every speedup is measured against
    prompts  texts for the cells without a context
    graph    triton's steps are replays of a CUDA graph
    command  repeats the run
    backend  what runs triton's kernel without a GPU, of BACKENDS
    """

    impls: tuple[str, ...]
    device: torch.device
    repeats: int
    prompts: tuple[str, ...]
    graph: bool
    command: str
    backend: str = "ptx"

    def key(self, cell: Cell) -> str:
        """What a resumed run knows a finished cell by: all that its figures depend on but the machine and the code."""
        settings = {"impls": self.impls, "repeats": self.repeats, "graph": self.graph, "device": str(self.device)}
        if "triton" in self.impls and self.device.type == "cpu":
            settings["backend"] = self.backend
        if cell.context is None:
            settings["prompts"] = self.prompts
        return f"{cell}; " + "; ".join(f"{name} {value}" for name, value in settings.items())


def prompts_for(cell: Cell, plan: Plan, models: Models) -> list[list[int]]:
    """The ids of each sequence's prompt. Raises ValueError where they do not fit the batch."""
    model = models.torch(cell.dtype)
    if cell.context is None:
        ids = to_ids(model, plan.prompts)
    else:
        known = model.tokenizer.n_vocab if model.tokenizer else model.config.n_vocab
        ids = np.random.default_rng(0).integers(known, size=(min(cell.batch, DISTINCT), cell.context)).tolist()
    if cell.batch < len(ids):
        raise ValueError(f"{len(ids)} prompts came for a batch of {cell.batch}; each needs a row")
    return [ids[row % len(ids)] for row in range(cell.batch)]


class Bench:
    """Measures cells on one device, one model in memory at a time.

    say   called with each line as it becomes known
    line  says on a terminal what is at work; it is still while something is timed
    kept  whether its records are kept, see `environment`
    """

    def __init__(self, plan: Plan, say: Callable[[str], None], line: Progress, kept: bool = True):
        self.plan, self.say, self.line, self.kept, self.device = plan, say, line, kept, plan.device
        self.models: Models | None = None
        self.known: dict[tuple[str, str], tuple[Constants, float]] = {}

    @cached_property
    def environment(self) -> dict:
        return environment(self.device, self.kept)

    def comparison(self, cell: Cell) -> Comparison:
        """What the cell's impls share.  Raises what `load` raises, and ValueError for a cell that does not fit."""
        if self.models is None or self.models.name != cell.model:
            self.models = Models(cell.model, self.device)
        prompts = prompts_for(cell, self.plan, self.models)
        return Comparison(self.models, prompts, cell.new_tokens, cell.dtype, self.plan.graph)

    def constants(self, cell: Cell, comparison: Comparison) -> tuple[Constants, float]:
        """The cost model's constants for a model and dtype, measured before its first cell is."""
        key = cell.model, cell.dtype
        if key not in self.known:
            dtype, config = DTYPES[cell.dtype], comparison.config
            weights = step_weights(config) * dtype.itemsize
            self.line.what = f"{cell}: the machine's constants"
            with self.line.still():
                self.known[key] = machine.measure(config, dtype, self.device, weights)
        return self.known[key]

    def measure(self, cell: Cell) -> dict:
        """Prove, time, prove again, explain.  Returns the record, which fits the schema."""
        comparison = self.comparison(cell)
        constants, took = self.constants(cell, comparison)
        before = self.prove(cell, comparison)
        runs: dict[str, list[Run]] = {}
        if all(verdict.green for verdict in before.values()):
            self.line.what = f"{cell}: timing {', '.join(self.plan.impls)}"
            with self.line.still():
                repeats = {impl: self.repeats(impl) for impl in self.plan.impls}
                runs = comparison.time_interleaved(repeats, self.line.draw)
        self.line.what = f"{cell}: parity after timing"
        after = {impl: comparison.parity_after(impl, done) for impl, done in runs.items()}
        for impl, verdict in after.items():
            if not verdict.green:
                self.say(f"  {impl:11} after timing: {verdict}")
        rows = Rows(self, cell, comparison, constants)
        impls = [rows.row(impl, before[impl], after.get(impl), runs.get(impl, []), runs) for impl in self.plan.impls]
        return {
            "schema": "kvproof/decode/1",
            "key": self.plan.key(cell),
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": self.plan.command,
            "environment": self.environment,
            "constants": constants_record(constants, took),
            "cell": self.cell_record(cell, comparison),
            "bandwidth": rows.bandwidth,
            "impls": impls,
            **rows.break_even(impls),
        }

    def prove(self, cell: Cell, comparison: Comparison) -> dict:
        self.say("parity with the NumPy oracle, float64 and without a cache:")
        verdicts = {}
        for impl in self.plan.impls:
            self.line.what = f"{cell}: parity of {impl}"
            verdicts[impl] = comparison.parity(impl)
            self.say(f"  {impl:11} {verdicts[impl]}")
        return verdicts

    def emulated(self, impl: str) -> str | None:
        """What runs an impl's kernel where there is no GPU for it."""
        return BACKENDS[self.plan.backend] if impl == "triton" and self.device.type == "cpu" else None

    def repeats(self, impl: str) -> int:
        """An emulated kernel's times mean nothing; one run of it says all there is to say."""
        return 1 if self.emulated(impl) else self.plan.repeats

    def cell_record(self, cell: Cell, comparison: Comparison) -> dict:
        config, itemsize = comparison.config, DTYPES[cell.dtype].itemsize
        lengths = [len(prompt) for prompt in comparison.prompts]
        cuda = self.device.type == "cuda"
        return {
            **asdict(cell),
            "context": max(lengths),
            "device": self.device.type,
            "prompt_tokens": lengths,
            "repeats": self.plan.repeats,
            "clock": "CUDA events" if cuda else "host clock",
            "flushed": cuda,
            "graph": self.plan.graph,
            "config": asdict(config),
            "parameters": parameters(config),
            "weight_bytes": step_weights(config) * itemsize,
            "kv_bytes_per_token": kv_elements(config) * itemsize,
        }


def constants_record(constants: Constants, took: float) -> dict:
    return {
        "overhead_us": constants.overhead * 1e6,
        "gflops": constants.rate / 1e9,
        "bandwidth": [{"bytes": int(size), "gb_per_s": speed / 1e9} for size, speed in constants.bandwidth],
        "measured_in_s": took,
    }


class Rows:
    """The figures of one cell's impls."""

    def __init__(self, bench: Bench, cell: Cell, comparison: Comparison, constants: Constants):
        self.bench, self.cell, self.comparison, self.constants = bench, cell, comparison, constants
        self.lengths = [len(prompt) for prompt in comparison.prompts]
        self.itemsize = DTYPES[cell.dtype].itemsize
        self.forecast = Forecast(comparison.config, self.lengths, self.itemsize, constants)
        self.routes: dict[str, Route] = {}

    @cached_property
    def bandwidth(self) -> dict:
        """Reading memory of this cell's working set, measured beside its runs."""
        cache = kv_elements(self.comparison.config) * self.comparison.capacity * self.cell.batch
        size = (step_weights(self.comparison.config) + cache) * self.itemsize
        samples = machine.read_bandwidth(size, self.bench.device)
        gpu = self.bench.environment["gpu"]
        limit, limit_is = machine.limit(samples, gpu and gpu["datasheet_gb_per_s"])
        return {
            "working_set_bytes": size,
            "gb_per_s": float(np.median(samples)),
            "limit_gb_per_s": limit,
            "limit_is": limit_is,
        }

    def row(self, impl: str, before, after, runs: Sequence[Run], everyone: dict[str, list[Run]]) -> dict:
        """The schema's entry for an impl; without runs its figures are null."""
        cached = impl != "naive" and impl not in peers.UNCACHED_PEERS
        dtype = self.comparison.dtype_of(impl)
        live = float(np.mean([sum(self.lengths) + i * self.cell.batch for i in range(1, self.cell.new_tokens)]))
        elements = step_weights(self.comparison.config) + (kv_elements(self.comparison.config) * live if cached else 0)
        row = {
            "impl": impl,
            "cached": cached,
            "dtype": dtype,
            "version": version(computes(impl)),
            "emulated": self.bench.emulated(impl),
            "parity_before": before.record(),
            "parity_after": after and after.record(),
            "runs": [{"prefill_s": run.prefill, "steps_s": run.steps} for run in runs],
            "text": self.comparison.text(runs[0].ids[0]) if runs else None,
            **dict.fromkeys(SUMMARIES),
            "bytes_per_step": elements * DTYPES[dtype].itemsize,
            **dict.fromkeys(("gb_per_s", "bandwidth_share", "refused", "launches", "predicted")),
        }
        if runs:
            row |= self.figures(runs, everyone["naive"]) | self.traffic(row, runs)
            if after and not after.green:
                row["refused"] = "parity was red after timing: " + "; ".join(after.faults)
        if runs and not row["emulated"] and impl in (*TORCH_IMPLS, *peers.HF):
            self.routes[impl] = Route(cached, *self.comparison.launches(impl))
            row["launches"] = self.routes[impl].step_launches
            row["predicted"] = self.forecast.record(self.routes[impl], self.cell.new_tokens)
        return row

    def figures(self, runs: Sequence[Run], naive: Sequence[Run]) -> dict:
        """Summaries of the runs; the speedup pairs each with naive's run of the same round."""
        totals = [run.total for run in runs]
        tokens = self.cell.batch * self.cell.new_tokens
        return {
            "prefill_ms": summarize([[run.prefill * 1e3] for run in runs]),
            "step_ms": summarize([[step * 1e3 for step in run.steps] for run in runs]),
            "total_ms": summarize([[total * 1e3] for total in totals]),
            "tokens_per_s": summarize([[tokens / total] for total in totals]),
            "speedup": summarize([[other.total / total] for other, total in zip(naive, totals, strict=False)]),
        }

    def traffic(self, row: dict, runs: Sequence[Run]) -> dict:
        speed = row["bytes_per_step"] / float(np.median([run.steps for run in runs])) / 1e9
        limit = self.bandwidth["limit_gb_per_s"]
        refused = None
        if speed > machine.TOO_FAST * limit:
            refused = f"{speed:.1f} GB/s is above {machine.TOO_FAST} x {limit:.1f} GB/s ({self.bandwidth['limit_is']})"
        return {"gb_per_s": speed, "bandwidth_share": speed / self.bandwidth["gb_per_s"], "refused": refused}

    def break_even(self, rows: Sequence[dict]) -> dict:
        """Where the best cached impl begins to pay, and the paragraph about it."""
        believed = [row for row in rows if row["runs"] and not row["refused"] and not row["emulated"]]
        cached = [row for row in believed if row["cached"]]
        cached = [row for row in cached if row["predicted"]] or cached  # there is more to say of these
        best = min(cached, key=lambda row: row["total_ms"]["median"], default=None)
        found = dict.fromkeys(("cached", "predicted_context", "predicted_new_tokens", "measured_new_tokens"))
        naive = next((row for row in believed if row["impl"] == "naive"), None)
        if best and naive:
            found["cached"] = best["impl"]
            found["measured_new_tokens"] = crossing(*(median_cumulative(row["runs"]) for row in (best, naive)))
        if best and naive and best["impl"] in self.routes:
            routes = self.routes[best["impl"]], self.routes["naive"]
            found["predicted_context"] = self.forecast.break_even_context(*routes)
            found["predicted_new_tokens"] = self.forecast.break_even_new_tokens(*routes)
        text = words(self.comparison.steps, max(self.lengths), believed, found, self.constants)
        return {"break_even": found, "explanation": text}


def computes(impl: str) -> str:
    if impl in peers.PACKAGES:
        return peers.PACKAGES[impl][0]
    return impl if impl in ("numpy", "triton") else "torch"
