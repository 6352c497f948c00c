"""One cell after another: a model, dtype, batch, context and number of new tokens, measured into one record each."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cached_property

import numpy as np

from ...gpt2.cli.progress import Progress
from ...gpt2.generate import to_ids
from ...gpt2.weights import DTYPES
from ...kernels.backend import BACKENDS
from . import machine, peers
from .costs import Constants, kv_elements, parameters, step_weight_bytes
from .environment import environment
from .interleaved import Comparison, Models
from .plan import Cell, Plan
from .rows import Rows
from .timing import Run

DISTINCT = 4  # prompts drawn for a context; further sequences repeat them in order, as those of --prompt


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
        self.known: dict[tuple, tuple[Constants, float]] = {}

    @cached_property
    def environment(self) -> dict:
        return environment(self.device, self.kept)

    def comparison(self, cell: Cell) -> Comparison:
        """What the cell's impls share.  Raises what `load` raises, and ValueError for a cell that does not fit."""
        if self.models is None or (self.models.name, self.models.weights) != (cell.model, cell.weights):
            self.models = Models(cell.model, self.device, cell.weights)
        prompts = prompts_for(cell, self.plan, self.models)
        return Comparison(self.models, prompts, cell.new_tokens, cell.dtype, self.plan.graph)

    def constants(self, cell: Cell, comparison: Comparison) -> tuple[Constants, float]:
        """The cost model's constants for a model and dtype, measured before its first cell is."""
        key = cell.model, cell.dtype, cell.weights
        if key not in self.known:
            dtype, config = DTYPES[cell.dtype], comparison.config
            weights = step_weight_bytes(config, dtype.itemsize, cell.weights)
            self.line.what = f"{cell}: the machine's constants"
            with self.line.still():
                self.known[key] = machine.measure(config, dtype, self.device, weights)
        return self.known[key]

    def measure(self, cell: Cell) -> dict:
        """Prove, time, prove again, explain.  Returns the record, which fits the schema."""
        comparison = self.comparison(cell)
        constants, took = self.constants(cell, comparison)
        before = self.prove(cell, comparison)
        quantised = self.show_quantisation(comparison) if cell.weights else {}
        runs: dict[str, list[Run]] = {}
        if all(verdict.green for impl, verdict in before.items() if impl not in peers.PEERS):
            timed = [impl for impl, verdict in before.items() if comparison.timeable(impl, verdict)]
            self.line.what = f"{cell}: timing {', '.join(timed)}"
            with self.line.still():
                runs = comparison.time_interleaved({impl: self.repeats(impl) for impl in timed}, self.line.draw)
        self.line.what = f"{cell}: parity after timing"
        after = {impl: comparison.parity_after(impl, done) for impl, done in runs.items()}
        for impl, verdict in after.items():
            if not verdict.green and (before[impl].green or verdict.wrong):
                self.say(f"  {impl:11} after timing: {verdict}")
        gpu = self.environment["gpu"]
        rows = Rows(cell, comparison, constants, gpu and gpu["datasheet_gb_per_s"])
        impls = [rows.row(impl, before[impl], after.get(impl), runs, self.emulated(impl)) for impl in before]
        return {
            "schema": "kvproof/decode/1",
            "key": self.plan.key(cell),
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": self.plan.command,
            "environment": self.environment,
            "constants": constants_record(constants, took),
            "cell": self.cell_record(cell, comparison) | quantised,
            "bandwidth": rows.bandwidth,
            "impls": impls,
            **rows.break_even(impls),
        }

    def prove(self, cell: Cell, comparison: Comparison) -> dict:
        self.say("parity with the NumPy oracle, float64 and without a cache:")
        if cell.weights:
            self.say(
                "  it has the numbers that our weights stand for; the peers', which round otherwise, are shown beside"
            )
            self.say("  the unquantised model's")
        verdicts = {}
        for impl in self.plan.impls:
            if cell.weights and not takes_int8(impl):
                self.say(f"  {impl:11} is left out: it has no {cell.weights} weights")
                continue
            self.line.what = f"{cell}: parity of {impl}"
            verdicts[impl] = comparison.parity(impl)
            self.say(f"  {impl:11} {verdicts[impl]}")
            if note := comparison.note(impl):
                self.say(f"{'':14}{note}")
        return verdicts

    def show_quantisation(self, comparison: Comparison) -> dict:
        """Say how far our quantised weights are from the model as it was; returns it for the cell's record."""
        found = comparison.quantisation("naive")
        self.say(f"our weights against the unquantised model:\n  {'naive':11} {found}")
        return {"quantisation": found.record()}

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
            "weight_bytes": step_weight_bytes(config, itemsize, cell.weights),
            "kv_bytes_per_token": kv_elements(config) * itemsize,
        }


def constants_record(constants: Constants, took: float) -> dict:
    return {
        "overhead_us": constants.overhead * 1e6,
        "gflops": constants.rate / 1e9,
        "bandwidth": [{"bytes": int(size), "gb_per_s": speed / 1e9} for size, speed in constants.bandwidth],
        "measured_in_s": took,
    }


def takes_int8(impl: str) -> bool:
    """Whether an impl decodes with int8 weights: our torch ones do, and the peers that have them."""
    return peers.takes_int8(impl) if impl in peers.PEERS else impl != "numpy"
