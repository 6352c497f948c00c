"""What a results file says, in sentences: does the cache pay, who is faster, can it be believed."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from ..measure.explain import CLOSE, close
from .cells import left_out, numbers

TIMES, NONE = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
OURS = ("numpy", "eager", "sdpa", "triton")  # of interleaved.IMPLS those with a cache
BUSY = 0.25  # load for each core before the run, above which others disturb the times


def number(value: float | None) -> str:
    """Three significant digits, without an exponent where people write none: 0.0123, 1.20, 45.6, 12,345."""
    if value is None:
        return NONE
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.2e}"
    digits = max(0, 2 - int(f"{value:.2e}".split("e")[1]))
    return f"{value:,.{digits}f}"


def interval(summary: dict) -> str:
    """The 95 % confidence interval, as `2.90 … 3.30`; says so where a single run has none."""
    if summary["low"] is None:
        return "one run, no interval"
    return f"{number(summary['low'])} … {number(summary['high'])}"


def cell_name(record: dict, new: bool = True) -> str:
    """The name of a cell; without its number of new tokens, of its sweep."""
    cell = record["cell"]
    words = [cell["model"], numbers(cell), f"batch {cell['batch']}", f"{cell['context']} prompt tokens"]
    return ", ".join(words + [f"{cell['new_tokens']} new"] * new + ["CUDA graph"] * cell["graph"])


def believed(impl: dict) -> bool:
    """Whether an impl's times are of the device and of the right computation."""
    return impl["total_ms"] is not None and left_out(impl) is None


def faults(impl: dict) -> list[str]:
    found = []
    for when in ("before", "after"):
        parity = impl[f"parity_{when}"]
        if parity and not parity["green"]:
            found.append(f"{when} timing: {'; '.join(parity['faults']) or 'the logits differ'}")
    return found


def red_but_timed(impl: dict) -> bool:
    """Whether a peer's figures are shown although its rounding exceeds the bar."""
    return impl["tokens_per_s"] is not None and not impl["refused"] and not impl["parity_before"]["green"]


def quickest(impls: Iterable[dict]) -> dict | None:
    """The one that takes least time for all its tokens, None of none."""
    return min((impl for impl in impls if believed(impl)), key=lambda impl: impl["total_ms"]["median"], default=None)


def cached_impl(record: dict) -> dict | None:
    """The impl that stands for the cache: the one whose break-even was sought, else the quickest of ours."""
    named = [impl for impl in record["impls"] if impl["impl"] == record["break_even"]["cached"] and believed(impl)]
    return named[0] if named else quickest(impl for impl in record["impls"] if impl["impl"] in OURS)


def compare(one: dict, other: dict) -> int:
    """1 if one is faster, -1 if slower, 0 if their intervals of tokens/s overlap; medians where a run stands alone."""
    low, high = (one["tokens_per_s"][end] or one["tokens_per_s"]["median"] for end in ("low", "high"))
    theirs = other["tokens_per_s"]
    return (low > (theirs["high"] or theirs["median"])) - (high < (theirs["low"] or theirs["median"]))


def headlines(records: Sequence[dict]) -> list[tuple[str, str]]:
    """(where, what) for each model, dtype and device: what the cache brings, by its fullest sweep of lengths."""

    def family(record: dict) -> tuple:
        return record["cell"]["model"], numbers(record["cell"]), record["environment"]["device"]

    def sweep(record: dict) -> tuple:
        return record["cell"]["batch"], record["cell"]["context"], record["cell"]["graph"]

    said = []
    for key in dict.fromkeys(map(family, records)):
        members = sorted((record for record in records if family(record) == key), key=sweep)
        runs = [list(cells) for _, cells in groupby(members, sweep)]
        cells = sorted(max(runs, key=len), key=lambda record: record["cell"]["new_tokens"])
        where = cell_name(cells[-1], new=False)
        said.append((f"{where}:", f"{speed(cells[-1])} {break_even(cells)}".strip()))
    return said


def speed(record: dict) -> str:
    impl, new = cached_impl(record), record["cell"]["new_tokens"]
    if impl is None or impl["speedup"] is None:
        return "No impl with a cache has a time that can be believed beside naive's, so there is no speed-up."
    ratio = impl["speedup"]
    times = f"{number(ratio['median'])}{TIMES} ({'95 % ' * (ratio['low'] is not None)}{interval(ratio)})"
    low, high = (ratio[end] or ratio["median"] for end in ("low", "high"))
    if low > 1:
        return f"With the cache, {impl['impl']} decodes {new} tokens {times} as fast as recomputing everything."
    if high < 1:
        return f"The cache does not pay: {impl['impl']} decodes {new} tokens {times} as fast as recomputing."
    return f"With the cache, {impl['impl']} decodes {new} tokens {times} as fast: no difference from recomputing."


def break_even(cells: Sequence[dict]) -> str:
    """From how many new tokens on the cache pays in a sweep of lengths: measured, or else predicted."""
    found = [record["break_even"] for record in cells]
    measured = [entry["measured_new_tokens"] for entry in found if entry["measured_new_tokens"]]
    predicted = [entry["predicted_new_tokens"] for entry in found if entry["predicted_new_tokens"]]
    model = f" (the cost model said {predicted[-1]})" if predicted else ""
    if measured and measured[-1] <= 2:
        return f"It pays from the second token on{model}."
    if measured:
        return f"Below {measured[-1]} new tokens the cache does not pay here{model}."
    return f"Where it begins to pay was not measured{model}." if predicted else ""


def losses(records: Sequence[dict]) -> list[str]:
    """Where the cache loses against recomputing, and where we lose against other libraries."""
    said, rivals, worse = [], [0, 0, 0], []
    for record in records:
        best = quickest(impl for impl in record["impls"] if impl["impl"] in OURS)
        peer = quickest(impl for impl in record["impls"] if impl["impl"] not in (*OURS, "naive"))
        cached = cached_impl(record)
        if cached and cached["speedup"] and (cached["speedup"]["high"] or cached["speedup"]["median"]) < 1:
            times = f"{number(cached['speedup']['median'])}{TIMES}"
            said.append(f"The cache does not pay in {cell_name(record)}: {cached['impl']} is {times} as fast as naive.")
        if best and peer:
            outcome = compare(best, peer)
            rivals[1 - outcome] += 1
            if outcome < 0:
                rates = [number(impl["tokens_per_s"]["median"]) for impl in (best, peer)]
                slower = f"{best['impl']} {rates[0]} tokens/s, {peer['impl']} {rates[1]}"
                worse.append(f"Slower than another library in {cell_name(record)}: {slower}.")
    if sum(rivals):
        ahead, even, behind = rivals
        total = f"{sum(rivals)} {'cell' if sum(rivals) == 1 else 'cells'} with another library"
        said.insert(0, f"Of {total}, our quickest is faster in {ahead}, as fast in {even}, slower in {behind}.")
    return said + worse


def parity(records: Sequence[dict]) -> list[str]:
    pairs = [(record, impl) for record in records for impl in record["impls"]]
    red = [f"PARITY RED: {impl['impl']} in {cell_name(r)}: {why}." for r, impl in pairs for why in faults(impl)]
    judged = [impl for _, impl in pairs if impl["parity_before"] and impl["parity_after"] and not faults(impl)]
    unjudged = [f"{i['impl']} in {cell_name(r)}" for r, i in pairs if not faults(i) and not any(i is j for j in judged)]
    whole = "All" if len(judged) == len(pairs) else f"{len(judged)} of"
    said = [f"{whole} {len(pairs)} timings computed what the NumPy oracle computes, before and after timing."]
    if unjudged:
        said.append(f"Not judged both before and after: {'; '.join(unjudged)}.")
    return red + said


def caveats(records: Sequence[dict]) -> list[str]:
    places = [record["environment"] for record in records]
    said = []
    if all(place["device_type"] == "cpu" for place in places):
        said.append("No GPU: every time here is a CPU's.")
    by = {impl["emulated"] for record in records for impl in record["impls"]} - {None}
    if by:
        said.append(f"triton ran on the {' and the '.join(sorted(by))}: those times are no GPU's.")
    loads = [
        place["cpu"]["load"] / (place["cpu"]["cores"] or 1) for place in places if place["cpu"]["load"] is not None
    ]
    if loads and max(loads) > BUSY:
        said.append(f"The machine was busy: a load of up to {number(max(loads))} for each core before a run.")
    if any(place["dirty"] for place in places):
        said.append("Files differed from the commit: the run cannot be repeated exactly.")
    if any(place["commit"] is None for place in places):
        said.append("The commit is unknown.")
    for what, found in (("commits", {p["commit"] for p in places}), ("devices", {p["device"] for p in places})):
        if len(found) > 1:
            said.append(f"The cells come from {len(found)} {what}: {', '.join(sorted(map(str, found)))}.")
    refused = [impl["impl"] for record in records for impl in record["impls"] if impl["refused"]]
    if refused:
        names = ", ".join(dict.fromkeys(refused))
        said.append(f"Refused as too fast to be true: {len(refused)} timings, of {names}; the table says why.")
    return said


def predictions(record: dict) -> list[tuple[dict, dict[str, float]]]:
    """(impl, predicted over measured for prefill, step and total) of every impl of a cell that has both."""
    return [
        (impl, {k: impl["predicted"][f"{k}_ms"] / impl[f"{k}_ms"]["median"] for k in ("prefill", "step", "total")})
        for impl in record["impls"]
        if impl["predicted"] and believed(impl)
    ]


def misses(records: Sequence[dict], most: int = 12) -> list[str]:
    """How often the cost model predicted a whole decode, and where it was wrong, the worst first."""
    found = [(record, impl, ratios) for record in records for impl, ratios in predictions(record)]
    wrong = [entry for entry in found if not close(entry[2]["total"])]
    wrong.sort(key=lambda entry: -max(entry[2]["total"], 1 / entry[2]["total"]))
    if not found:
        return ["The cost model predicted nothing here."]
    within = f"Within a factor of {CLOSE} of the measured total: {len(found) - len(wrong)} of {len(found)} predictions."
    said = [within]
    for record, impl, ratios in wrong[:most]:
        total, factor = impl["total_ms"]["median"], ratios["total"]
        side = f"{number(1 / factor)}{TIMES} too fast" if factor < 1 else f"{number(factor)}{TIMES} too slow"
        parts = " and ".join(
            f"the {part} ({number(ratios[part])}{TIMES})" for part in ("prefill", "step") if not close(ratios[part])
        )
        said.append(
            f"{impl['impl']} in {cell_name(record)}: predicted {number(impl['predicted']['total_ms'])} ms, measured "
            f"{number(total)} ms, {side}" + (f"; off in {parts}." if parts else ".")
        )
    return said + ([f"And {len(wrong) - most} more: see the table."] if len(wrong) > most else [])
