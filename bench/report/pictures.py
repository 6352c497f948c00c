"""The pictures of bench/decode.py's records: a table of them, and the three that show every decode step.

Each function takes records and returns a figure; where they hold nothing to show it raises CannotDraw, which says why.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from .canvas import LOOKS, OTHER, Picture, finish, marks, panels, trace, value_axis
from .cells import CannotDraw, drawn, representatives, title
from .model_pictures import predictions, roofline
from .sweep_pictures import batches, break_even, generation_lengths, throughput

CHOICE = "Of each model, dtype and device the cell with most new tokens."


def steps_ms(row: dict) -> np.ndarray:
    """(runs, steps) milliseconds of every decode step."""
    least = min(len(run["steps_s"]) for run in row["runs"])
    return 1e3 * np.array([run["steps_s"][:least] for run in row["runs"]])


def time_per_token(records: Sequence[dict]) -> Picture:
    """Milliseconds of every decode step: the median of the runs, and p20 to p80."""
    cells = representatives(records)
    picture, grid = panels("Time per token, with and without a cache", len(cells))
    cut = False
    for axes, record in zip(grid, cells, strict=True):
        first = record["cell"]["context"] + 1
        values, top = [], 0.0
        for impl, row in drawn(record).items():
            y, low, high = (np.percentile(steps_ms(row), q, axis=0) for q in (50, 20, 80))
            texts = [
                f"{impl}, {first + i} tokens: {y[i]:.4g} ms (p20 … p80: {low[i]:.4g} … {high[i]:.4g})"
                for i in range(len(y))
            ]
            trace(picture, axes, impl, range(first, first + len(y)), y, texts, (low, high), band=True)
            values += [*y, *low]
            top = max(top, min(high.max(), 1.5 * y.max()))  # one late step must not flatten all the others
            cut |= bool(high.max() > 1.5 * y.max())
        value_axis(axes, "time of the decode step, ms", [*values, top])
        axes.set_xlabel("tokens in the context")
        axes.set_title(title(record, cells), fontsize=9)
    note = f"{CHOICE} Lines: medians of the runs; bands: p20 to p80."
    return finish(picture, cells, records, note + " The picture of outliers shows whole what leaves the axes." * cut)


def cumulative_time(records: Sequence[dict]) -> Picture:
    cells = representatives(records)
    picture, grid = panels("Cumulative time, with and without a cache", len(cells))
    for axes, record in zip(grid, cells, strict=True):
        values = []
        for impl, row in drawn(record).items():
            prefill = 1e3 * np.array([[run["prefill_s"]] for run in row["runs"]])
            total = np.cumsum(np.hstack([prefill, steps_ms(row)]), axis=1)
            y, low, high = (np.percentile(total, q, axis=0) for q in (50, 20, 80))
            texts = [
                f"{impl}, {i + 1} new tokens after {y[i]:.4g} ms (p20 … p80: {low[i]:.4g} … {high[i]:.4g})"
                for i in range(len(y))
            ]
            trace(picture, axes, impl, range(1, len(y) + 1), y, texts, (low, high), band=True)
            values.append(high.max())
        axes.set_ylim(0, max(values) * 1.05)
        axes.set_ylabel("time since the start, ms")
        axes.set_xlabel("new tokens")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set_title(title(record, cells), fontsize=9)
    note = f"{CHOICE} Medians of the runs from the first new token (prefill) on; bands: p20 to p80."
    return finish(picture, cells, records, note)


def outliers(records: Sequence[dict]) -> Picture:
    """Every step of every run twice: whole, and with the outliers cut."""
    cells = representatives(records)
    picture = Picture(len(cells), 2, "Every step of every run: whole, and with the outliers cut")
    for (whole, cut), record in zip(picture.grid, cells, strict=True):
        first = record["cell"]["context"] + 1
        rows = {impl: steps_ms(row) for impl, row in drawn(record).items()}
        limit = max(fence(y) for y in rows.values())
        for impl, y in rows.items():
            look = LOOKS.get(impl, OTHER)
            x = np.tile([*range(first, first + y.shape[1]), np.nan], len(y))
            joined = np.pad(y, ((0, 0), (0, 1)), constant_values=np.nan).ravel()
            for axes in (whole, cut):
                axes.plot(x, joined, color=look["color"], linewidth=0.7, alpha=0.6)
            far = np.argwhere(y > limit)
            texts = [f"{impl}, run {r + 1}, {first + i} tokens: {y[r, i]:.4g} ms" for r, i in far]
            if len(far):
                marks(picture, whole, impl, [first + i for _, i in far], y[tuple(far.T)], texts)
            middle = np.median(y, axis=0)
            texts = [f"{impl}, {first + i} tokens: median {m:.4g} ms" for i, m in enumerate(middle)]
            trace(picture, cut, impl, range(first, first + len(middle)), middle, texts)
        every = np.concatenate([y.ravel() for y in rows.values()])
        whole.set_ylim(0, every.max() * 1.05)
        cut.set_ylim(0, limit * 1.02)
        whole.set_title(f"{title(record, cells)}\nwhole", fontsize=9)
        cut.set_title(f"cut at {limit:.3g} ms: {(every > limit).sum()} of {every.size} points lie outside", fontsize=9)
        for axes in (whole, cut):
            axes.set_xlabel("tokens in the context")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            axes.set_ylabel("time of the decode step, ms")
    note = f"{CHOICE} Cut above the slowest impl's upper fence (Tukey 1977, 3 x IQR); markers, left: what is cut."
    return finish(picture, cells, records, note)


def fence(y: np.ndarray) -> float:
    """Above this a step is far out (Tukey 1977): third quartile plus three interquartile ranges, at most the max."""
    low, high = np.percentile(y, (25, 75))
    return float(min(high + 3 * (high - low), y.max()))


PICTURES: dict[str, Callable[[Sequence[dict]], Picture]] = {
    "time-per-token": time_per_token,
    "cumulative-time": cumulative_time,
    "outliers": outliers,
    "throughput-context": throughput,
    "generation-lengths": generation_lengths,
    "break-even": break_even,
    "batches": batches,
    "roofline": roofline,
    "predictions": predictions,
}


def pictures(records: Sequence[dict]) -> Iterator[tuple[str, Picture | str]]:
    """(name, figure) of every picture that the records fill, (name, reason) of every other, in PICTURES' order."""
    for name, draw in PICTURES.items():
        try:
            yield name, draw(records)
        except CannotDraw as reason:
            yield name, str(reason)
