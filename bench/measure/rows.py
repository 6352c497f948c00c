"""The figures of one cell's impls, from what they took and what the cost model says."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ...gpt2.weights import DTYPES
from . import machine, peers
from .costs import Constants, kv_elements, step_weight_bytes
from .environment import version
from .explain import Forecast, Route, crossing, median_cumulative, words
from .gate import Parity
from .interleaved import Comparison
from .plan import Cell
from .stats import summarize
from .timing import Run

TORCH_IMPLS = ("naive", "eager", "sdpa", "triton")  # whose operations torch launches, so that they can be counted
SUMMARIES = ("prefill_ms", "step_ms", "total_ms", "tokens_per_s", "speedup")


class Rows:
    """The figures of one cell's impls.

    datasheet  GB/s of a GPU's memory, where its data sheet is known
    """

    def __init__(self, cell: Cell, comparison: Comparison, constants: Constants, datasheet: float | None):
        self.cell, self.comparison, self.constants, self.datasheet = cell, comparison, constants, datasheet
        self.lengths = [len(prompt) for prompt in comparison.prompts]
        self.itemsize = DTYPES[cell.dtype].itemsize
        self.forecast = Forecast(comparison.config, self.lengths, self.itemsize, constants)
        self.routes: dict[str, Route] = {}

    @cached_property
    def bandwidth(self) -> dict:
        """Reading memory of this cell's working set, measured beside its runs."""
        cache = kv_elements(self.comparison.config) * self.comparison.capacity * self.cell.batch
        size = step_weight_bytes(self.comparison.config, self.itemsize, self.cell.weights) + cache * self.itemsize
        samples = machine.read_bandwidth(size, self.comparison.device)
        limit, limit_is = machine.limit(samples, self.datasheet)
        return {
            "working_set_bytes": size,
            "gb_per_s": float(np.median(samples)),
            "limit_gb_per_s": limit,
            "limit_is": limit_is,
        }

    def row(
        self, impl: str, before: Parity, after: Parity | None, everyone: dict[str, list[Run]], emulated: str | None
    ) -> dict:
        """The schema's entry for an impl; without runs its figures are null."""
        runs = everyone.get(impl, [])
        cached = impl != "naive" and impl not in peers.UNCACHED_PEERS
        dtype = self.comparison.dtype_of(impl)
        live = float(np.mean([sum(self.lengths) + i * self.cell.batch for i in range(1, self.cell.new_tokens)]))
        itemsize, config = DTYPES[dtype].itemsize, self.comparison.config
        moved = step_weight_bytes(config, itemsize, self.cell.weights)
        moved += kv_elements(config) * live * itemsize if cached else 0
        row = {
            "impl": impl,
            "cached": cached,
            "dtype": dtype,
            "version": version(computes(impl)),
            "note": self.comparison.note(impl),
            "emulated": emulated,
            "parity_before": before.record(),
            "parity_after": after and after.record(),
            "runs": [{"prefill_s": run.prefill, "steps_s": run.steps} for run in runs],
            "text": self.comparison.text(runs[0].ids[0]) if runs else None,
            **dict.fromkeys(SUMMARIES),
            "bytes_per_step": moved,
            **dict.fromkeys(("gb_per_s", "bandwidth_share", "refused", "launches", "predicted")),
        }
        if runs:
            row |= self.figures(runs, everyone.get("naive", [])) | self.traffic(row, runs)
            if after and not after.green and (before.green or after.wrong):
                row["refused"] = "parity was red after timing: " + "; ".join(after.faults)
        if runs and not row["emulated"] and impl in (*TORCH_IMPLS, *peers.HF):
            self.routes[impl] = Route(cached, *self.comparison.launches(impl))
            row["launches"] = self.routes[impl].step_launches
            if self.cell.weights is None:  # which it does not know how ours widens
                row["predicted"] = self.forecast.record(self.routes[impl], self.cell.new_tokens)
        return row

    def figures(self, runs: Sequence[Run], naive: Sequence[Run]) -> dict:
        """Summaries of the runs; the speedup, null without naive, pairs each with naive's run of the same round."""
        totals = [run.total for run in runs]
        tokens = self.cell.batch * self.cell.new_tokens
        return {
            "prefill_ms": summarize([[run.prefill * 1e3] for run in runs]),
            "step_ms": summarize([[step * 1e3 for step in run.steps] for run in runs]),
            "total_ms": summarize([[total * 1e3] for total in totals]),
            "tokens_per_s": summarize([[tokens / total] for total in totals]),
            "speedup": summarize([[a.total / b] for a, b in zip(naive, totals, strict=False)]) if naive else None,
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
        believed = [
            row for row in rows
            if row["runs"] and row["parity_before"]["green"] and not row["refused"] and not row["emulated"]
        ]  # fmt: skip
        cached = [row for row in believed if row["cached"]]
        cached = [row for row in cached if row["predicted"]] or cached  # there is more to say of these
        best = min(cached, key=lambda row: row["total_ms"]["median"], default=None)
        found = dict.fromkeys(("cached", "predicted_context", "predicted_new_tokens", "measured_new_tokens"))
        naive = next((row for row in believed if row["impl"] == "naive"), None)
        if best and naive:
            found["cached"] = best["impl"]
            found["measured_new_tokens"] = crossing(*(median_cumulative(row["runs"]) for row in (best, naive)))
        if best and naive and best["predicted"]:
            routes = self.routes[best["impl"]], self.routes["naive"]
            found["predicted_context"] = self.forecast.break_even_context(*routes)
            found["predicted_new_tokens"] = self.forecast.break_even_new_tokens(*routes)
        text = words(self.comparison.steps, max(self.lengths), believed, found, self.constants)
        return {"break_even": found, "explanation": text}


def computes(impl: str) -> str:
    if impl in peers.PACKAGES:
        return peers.PACKAGES[impl][0]
    return impl if impl in ("numpy", "triton") else "torch"
