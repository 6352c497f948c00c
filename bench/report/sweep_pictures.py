"""What changes with the context, the number of new tokens and the batch: one point per cell."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..measure.explain import CLOSE, close, off
from .canvas import INK, LOOKS, OTHER, Picture, finish, hover, interval, panels, sweep_axis, trace, value_axis, words
from .cells import NAMES, CannotDraw, drawn, impls, sweeps, title

Point = tuple[float, tuple[float, float]] | None  # a median and its (low, high); None where it was not measured
INTERVALS = "Medians; error bars: 95 % intervals."


def cells(many: Sequence[dict[int, dict]]) -> list[dict]:
    return [record for series in many for record in series.values()]


def first(series: dict[int, dict]) -> dict:
    return next(iter(series.values()))


def curves(picture: Picture, axes: Axes, series: dict[int, dict], over: str, unit: str,
           figure: Callable[[dict, dict], Point]) -> list[float]:  # fmt: skip
    """A line per impl through `figure(record, row)` -> (median, (low, high)), None where there is none; the values."""
    values = []
    for impl in impls(series.values()):
        found = {x: figure(record, drawn(record)[impl]) for x, record in series.items() if impl in drawn(record)}
        points = {x: point for x, point in found.items() if point is not None}
        if points:
            y, spans = [point[0] for point in points.values()], [point[1] for point in points.values()]
            texts = [f"{impl}, {x:,} {NAMES[over]}: {words(*point, unit)}" for x, point in points.items()]
            trace(picture, axes, impl, list(points), y, texts, tuple(zip(*spans, strict=True)))
            values += [v for v in (*y, *np.ravel(spans)) if np.isfinite(v)]
    sweep_axis(axes, NAMES[over], list(series))
    return values


def figure_of(name: str) -> Callable[[dict, dict], Point]:
    """The figure of that name in an impl's row."""
    return lambda _, row: (row[name]["median"], interval(row[name]))


step_time, total_time, total_rate = map(figure_of, ("step_ms", "total_ms", "tokens_per_s"))


def step_rate(record: dict, row: dict):
    """Tokens a second of all sequences while decoding."""
    rate = lambda ms: 1e3 * record["cell"]["batch"] / ms  # noqa: E731
    return rate(row["step_ms"]["median"]), interval(row["step_ms"], rate)


def speedup(record: dict, row: dict):
    """How many times faster than naive, where that was measured too."""
    return (row["speedup"]["median"], interval(row["speedup"])) if row["speedup"] and row["impl"] != "naive" else None


def throughput(records: Sequence[dict]) -> Picture:
    """Tokens a second while decoding, against the context, with and without a cache, per device."""
    many = sweeps(records, "context")
    picture, grid = panels("Throughput against sequence length, with and without a cache", len(many))
    values = []
    for axes, series in zip(grid, many, strict=True):
        values += curves(picture, axes, series, "context", " tokens/s", step_rate)
        axes.set_title(title(first(series), cells(many), "context"), fontsize=9)
    for axes in grid:
        value_axis(axes, "tokens/s while decoding", values)
    return finish(picture, cells(many), records, INTERVALS + " All panels share one scale." * (len(many) > 1))


def batches(records: Sequence[dict]) -> Picture:
    many = sweeps(records, "batch")
    picture = Picture(len(many), 2, "Latency and throughput against batch size")
    for (left, right), series in zip(picture.grid, many, strict=True):
        head = title(first(series), cells(many), "batch")
        value_axis(left, "time of a decode step, ms", curves(picture, left, series, "batch", " ms", step_time))
        rates = curves(picture, right, series, "batch", " tokens/s", total_rate)
        value_axis(right, "tokens/s, prefill included", rates)
        left.set_title(f"latency\n{head}", fontsize=9)
        right.set_title(f"throughput\n{head}", fontsize=9)
    return finish(picture, cells(many), records, INTERVALS)


def bars(picture: Picture, axes: Axes, series: dict[int, dict], unit: str, label: bool,
         figure: Callable[[dict, dict], Point]) -> None:  # fmt: skip
    """Bars from 0 with intervals: a group per number of new tokens, a bar per impl."""
    names = impls(series.values())
    width = 0.84 / len(names)
    label &= 220 / len(series) * width > 7  # points that a bar is wide, and that its figure is high
    for place, (tokens, record) in enumerate(series.items()):
        for i, impl in enumerate(names):
            row = drawn(record).get(impl)
            point = figure(record, row) if row else None
            if point is None:
                continue
            (value, (low, high)), look = point, LOOKS.get(impl, OTHER)
            x = place + (i - (len(names) - 1) / 2) * width
            paint = {"facecolor": look["color"], "hatch": look["hatch"], "edgecolor": "white", "linewidth": 0.5}
            (bar,) = axes.bar(x, value, width, **paint)
            picture.keys.setdefault(impl, Patch(**paint))
            hover(picture, bar, [f"{impl}, {tokens:,} new tokens: {words(*point, unit)}"])
            if np.isfinite(low):
                error = [[max(value - low, 0)], [max(high - value, 0)]]
                axes.errorbar(x, value, error, fmt="none", ecolor=INK, capsize=2, linewidth=1)
            if label:
                axes.annotate(f"{value:.3g}", (x, np.nanmax([value, high])), (0, 3), textcoords="offset points",
                              ha="center", va="bottom", rotation=90, fontsize=7)  # fmt: skip
    axes.set_xlim(min(-0.6, -1.2 / len(series)), len(series) - 1 + max(0.6, 1.2 / len(series)))
    axes.set_xticks(range(len(series)), [f"{tokens:,}" for tokens in series])
    axes.set_xlabel("new tokens")
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, axes.get_ylim()[1] * (1.12 if label else 1))


def generation_lengths(records: Sequence[dict]) -> Picture:
    """Bars of total time and of speedup over naive, per number of new tokens."""
    many = measured_against_naive(sweeps(records, "new_tokens", least=1), speedup)
    picture = Picture(len(many), 2, "Time and speedup per generation length")
    for (left, right), series in zip(picture.grid, many, strict=True):
        head = title(first(series), cells(many), "new_tokens")
        bars(picture, left, series, " ms", False, total_time)
        bars(picture, right, series, "x", True, speedup)
        left.set_ylabel("prefill and decode, ms")
        right.set_ylabel("speedup over naive")
        right.axhline(1, color=INK, linewidth=1)
        left.set_title(f"time\n{head}", fontsize=9)
        right.set_title(f"speedup (line: naive, 1x)\n{head}", fontsize=9)
    return finish(picture, cells(many), records, INTERVALS)


def break_even(records: Sequence[dict]) -> Picture:
    """Speedup of the cached impls over naive against the number of new tokens, and where the cache begins to pay."""
    cached = lambda record, row: speedup(record, row) if row["cached"] else None  # noqa: E731
    many = measured_against_naive(sweeps(records, "new_tokens"), cached)
    picture, grid = panels("Speedup of the cache against output length", len(many))
    for axes, series in zip(grid, many, strict=True):
        values = curves(picture, axes, series, "new_tokens", "x", cached)
        values += [1, *predicted_speedup(picture, axes, series)]
        value_axis(axes, "speedup over naive", values)
        axes.axhline(1, color=INK, linewidth=1)
        text = mark_break_even(picture, axes, list(series.values())[-1])
        axes.set_title(f"{title(first(series), cells(many), 'new_tokens')}\n{text}", fontsize=9)
    note = (
        f"{INTERVALS} Stars: from so many new tokens on the cache pays, at the most new tokens measured. No prediction "
        f"where the model is wrong by more than {CLOSE - 1:.0%} about either time."
    )
    return finish(picture, cells(many), records, note)


def measured_against_naive(many: list[dict[int, dict]], figure: Callable[[dict, dict], Point]) -> list[dict[int, dict]]:
    """The sweeps in which some impl's speedup is known.  Raises CannotDraw where none is left."""
    many = [series for series in many if any(figure(r, row) for r in series.values() for row in drawn(r).values())]
    if not many:
        raise CannotDraw("no impl with a cache was timed beside naive; name both with --impl")
    return many


def predicted_speedup(picture: Picture, axes: Axes, series: dict[int, dict]) -> list[float]:
    """The cost model's speedup of the impl whose break-even the longest cell holds; the values drawn."""
    points, impl = {}, list(series.values())[-1]["break_even"]["cached"]
    for tokens, record in series.items():
        rows = {row["impl"]: row["predicted"] for row in record["impls"]}
        naive, cached = rows.get("naive"), rows.get(impl)
        if naive and cached:
            points[tokens] = naive["total_ms"] / cached["total_ms"]
    if points:
        dots = {"color": "k", "linestyle": ":", "marker": "_", "linewidth": 1.6}
        (line,) = axes.plot(list(points), list(points.values()), zorder=4, **dots)
        picture.keys.setdefault(f"{impl}, predicted", Line2D([], [], **dots))
        hover(picture, line, [f"predicted, {n:,} new tokens: {y:.4g}x" for n, y in points.items()])
    return list(points.values())


def mark_break_even(picture: Picture, axes: Axes, record: dict) -> str:
    """Stars on the line of 1x: filled where the cache was measured to begin to pay, hollow where that is predicted.

    Both times enter where they cross, so a model that is wrong about either is off by far more there: it gets no star.
    Returns the same in words.
    """
    found, words = record["break_even"], []
    rows = [row for row in record["impls"] if row["impl"] in ("naive", found["cached"]) and row["predicted"]]
    trusted = all(close(off(row)) for row in rows)
    for kind, fill in (("measured", "full"), ("predicted", "none")):
        tokens = found[f"{kind}_new_tokens"]
        if kind == "predicted" and tokens is not None and not trusted:
            words.append("no prediction")
            continue
        words.append(f"{kind} {'none' if tokens is None else f'{tokens:,}'}")
        if tokens is not None:
            look = {"marker": "*", "linestyle": "none", "fillstyle": fill, "markersize": 13, "color": "k"}
            (star,) = axes.plot(tokens, 1, zorder=5, **look)
            picture.keys.setdefault(f"break-even, {kind}", star)
            hover(picture, star, [f"{found['cached']}, break-even {kind}: {tokens:,} new tokens"])
    return f"break-even of {found['cached']}: {', '.join(words)}"
