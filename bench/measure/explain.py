"""Why a cell's figures are what they are: the cost model's prediction beside the measurement, explained in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ...reference.config import Config
from .costs import Constants, Parts, Work, cached_step, first_below, unpadded_pass, whole_pass

CLOSE = 1.3  # a prediction within this factor of the measurement is called right


@dataclass(frozen=True)
class Route:
    """How an impl decodes: over a cache or not, and the operations it launches in a prefill and in a step.

    engine  what the compiled engine takes of this machine; None for what torch computes, in operations of its own
    """

    cached: bool
    prefill_launches: int
    step_launches: int
    engine: Constants | None = None


class Forecast:
    """The cost model of one cell: what each step should take on a machine with these constants.

    prompts    tokens of each sequence's prompt
    constants  of torch's operations
    weights    as `load` takes it
    """

    def __init__(
        self,
        config: Config,
        prompts: Sequence[int],
        itemsize: int,
        constants: Constants,
        weights: str | None = None,
    ):
        self.config, self.prompts, self.itemsize, self.weights = config, list(prompts), itemsize, weights
        self.constants = constants

    def work(self, route: Route, step: int) -> Work:
        """Step 0 is the prefill; step i computes with i new tokens in every sequence."""
        lengths = [n + step for n in self.prompts]
        if route.cached and step:
            return cached_step(self.config, lengths, self.itemsize, route.step_launches, self.weights)
        if route.engine:
            return unpadded_pass(self.config, lengths, self.itemsize, self.weights)
        launches = route.step_launches if step else route.prefill_launches
        return whole_pass(self.config, lengths, self.itemsize, launches, self.weights)

    def parts(self, route: Route, step: int) -> Parts:
        return (route.engine or self.constants).parts(self.work(route, step))

    def seconds(self, route: Route, step: int) -> float:
        return self.parts(route, step).total

    def record(self, route: Route, new_tokens: int) -> dict[str, float]:
        """A schema's "predicted": milliseconds of prefill, mean step and all of it, and the mean step's parts."""
        prefill = self.seconds(route, 0)
        steps = [self.parts(route, step) for step in range(1, new_tokens)]
        mean = Parts(*(float(np.mean([getattr(s, part) for s in steps])) for part in ("overhead", "bytes", "flops")))
        return {
            "prefill_ms": prefill * 1e3,
            "step_ms": mean.total * 1e3,
            "total_ms": (prefill + sum(s.total for s in steps)) * 1e3,
            "overhead_ms": mean.overhead * 1e3,
            "bytes_ms": mean.bytes * 1e3,
            "flops_ms": mean.flops * 1e3,
        }

    def break_even_context(self, cached: Route, naive: Route) -> int | None:
        """Tokens in the context from which a cached step is the faster one, within n_ctx."""
        alike = Forecast(self.config, [0] * len(self.prompts), self.itemsize, self.constants, self.weights)
        return first_below(lambda n: alike.seconds(cached, n), lambda n: alike.seconds(naive, n), 1, self.config.n_ctx)

    def break_even_new_tokens(self, cached: Route, naive: Route) -> int | None:
        """New tokens from which decoding with the cache is faster, prefill included, within n_ctx."""
        most = self.config.n_ctx - max(self.prompts) + 1
        seconds = ([self.seconds(route, step) for step in range(most)] for route in (cached, naive))
        return crossing(*(list(accumulate(each)) for each in seconds))


def crossing(cached: Sequence[float], naive: Sequence[float]) -> int | None:
    """The number of tokens, 2 or more, from which cached[n - 1] < naive[n - 1], seconds up to the n-th token."""
    return first_below(lambda n: cached[n - 1], lambda n: naive[n - 1], 2, len(cached))


def median_cumulative(runs: Sequence[dict]) -> list[float]:
    """Seconds up to each new token, from the median over the runs of prefill and of every step."""
    return list(accumulate(np.median([[run["prefill_s"], *run["steps_s"]] for run in runs], axis=0)))


def words(new_tokens: int, context: int, rows: Sequence[dict], break_even: dict) -> str:
    """The paragraph under a cell's table; rows are the schema's "impls" whose figures are believed."""
    by_name = {row["impl"]: row for row in rows}
    naive, cached = by_name.get("naive"), by_name.get(break_even["cached"] or "")
    if naive is None or cached is None:
        return "There is nothing to explain: no cached impl was timed beside naive."
    after = f"At {new_tokens} new tokens after a context of {context}"
    gain = cached["speedup"]["median"]
    if gain > 1:
        text = [f"{after} the cache pays: {cached['impl']} is {gain:.2f} times as fast as recomputing everything."]
    else:
        text = [f"{after} the cache cannot pay here: {cached['impl']} takes {1 / gain:.2f} times as long as naive."]
    text += [causes(row) for row in (cached, naive) if row["predicted"]]
    text.append(thresholds(break_even))
    wrong = [miss(row) for row in rows if row["predicted"] and not close(off(row))]
    text.append(f"The model is wrong by more than {CLOSE - 1:.0%} here: {', '.join(wrong)}." if wrong else "")
    return " ".join(filter(None, text))


def causes(row: dict) -> str:
    p = row["predicted"]
    whole, each = p["step_ms"], p["overhead_ms"] * 1e3 / row["launches"]
    what = "one call" if row["launches"] == 1 else f"{row['launches']} operations"
    return (
        f"A step of {row['impl']} should take {whole:.2f} ms: {p['overhead_ms'] / whole:.0%} launching "
        f"{what} at {each:.1f} us, {p['bytes_ms'] / whole:.0%} moving "
        f"{row['bytes_per_step'] / 1e6:.1f} MB, {p['flops_ms'] / whole:.0%} arithmetic."
    )


def thresholds(break_even: dict) -> str:
    context, predicted, measured = (
        break_even[key] for key in ("predicted_context", "predicted_new_tokens", "measured_new_tokens")
    )
    if context is None and predicted is None:
        text = "There is no prediction for it"
    elif predicted is None or context is None:
        text = "By the model the cache never pays on this machine within n_ctx"
    else:
        text = f"By the model a cached step is faster from a context of {context} tokens, and the cache has paid"
        text += f" from {predicted} new tokens on" if predicted > 2 else " from the first step on"
    seen = "it had not within this run" if measured is None else f"from {measured} new tokens on"
    return f"{text}; measured: {seen}."


def close(ratio: float) -> bool:
    """Whether a prediction, so many times the measurement or the other way round, is called right."""
    return 1 / CLOSE <= ratio <= CLOSE


def off(row: dict) -> float:
    return row["step_ms"]["median"] / row["predicted"]["step_ms"]


def miss(row: dict) -> str:
    ratio = off(row)
    how = f"{ratio:.1f} times slower" if ratio > 1 else f"{1 / ratio:.1f} times faster"
    return f"{row['impl']} is {how} than predicted"
