"""What the machine allows, and what the cost model predicts, against what was measured."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ...reference.config import Config
from ..measure.costs import step_weights
from .canvas import INK, Picture, finish, log_ticks, marks, panels
from .cells import CannotDraw, drawn, impls, setting, title

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


TIMES = {"step_ms": "one decode step", "total_ms": "prefill and decode"}
COUNTED = "Counted per step: weights, and K and V of live slots; 2 flop per weight and row, and attention."


def by_setting(records: Sequence[dict], empty: str) -> list[list[dict]]:
    """The records that may share a panel, together.  Raises CannotDraw, saying `empty`, where there are none."""
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        groups.setdefault(setting(record), []).append(record)
    if not groups:
        raise CannotDraw(empty)
    return list(groups.values())


def place(record: dict) -> str:
    """The cell in words, for a mark that shares its panel with other cells."""
    cell = record["cell"]
    return f"batch {cell['batch']}, {cell['context']:,} in the prompt, {cell['new_tokens']:,} new"


def flops(cell: dict, cached: bool) -> float:
    """Floating-point operations of the mean decode step: 2 per weight and row, 4*E per layer, row and visible slot.

    Without a cache every position is a row; the head is applied to the last one alone.
    """
    config, live = cell["config"], cell["context"] + cell["new_tokens"] / 2
    rows, slots = (1, live) if cached else (live, (live + 1) / 2)
    head = config["n_vocab"] * config["n_embd"]
    quantised = cell.get("weights") is not None  # then a byte is no element
    body = (step_weights(Config(**config)) if quantised else cell["weight_bytes"] / ITEMSIZE[cell["dtype"]]) - head
    attention = 4 * config["n_embd"] * config["n_layer"] * slots
    return cell["batch"] * (rows * (2 * body + attention) + 2 * head)


def roofline(records: Sequence[dict]) -> Picture:
    """Achieved bandwidth against arithmetic intensity, under what reading memory and multiplying allow here.

    The roof is the measured read bandwidth up to the intensity where the measured rate of products takes over
    (Williams, Waterman & Patterson 2009), in bytes because a decode step moves bytes.
    """
    usable = [record for record in records if any(row["gb_per_s"] for row in drawn(record).values())]
    groups = by_setting(usable, "no row has an achieved bandwidth that is believed")
    picture, grid = panels("Achieved bandwidth under the roofline of this machine", len(groups))
    for axes, group in zip(grid, groups, strict=True):
        x_all, y_all = [], []
        for impl in impls(group):
            points = []
            for record in group:
                row = drawn(record).get(impl)
                if row and row["gb_per_s"]:
                    x = flops(record["cell"], row["cached"]) / row["bytes_per_step"]
                    share = f", {row['bandwidth_share']:.0%} of reading" if row["bandwidth_share"] else ""
                    text = f"{impl}, {place(record)}: {row['gb_per_s']:.4g} GB/s{share}, {x:.3g} flop/byte"
                    points.append((x, row["gb_per_s"], text))
            if points:
                intensities, speeds, texts = zip(*points, strict=True)
                marks(picture, axes, impl, intensities, speeds, texts)
                x_all += [point[0] for point in points]
                y_all += [point[1] for point in points]
        text, heights = roofs(picture, axes, group, min(x_all) / 2, max(x_all) * 1.5)
        y_all += heights
        axes.set(xscale="log", yscale="log", ylim=(min(y_all) / 1.5, max(y_all) * 1.6))
        log_ticks(axes.xaxis, x_all)
        log_ticks(axes.yaxis, y_all)
        axes.set_xlabel("arithmetic intensity, flop/byte (log)")
        axes.set_ylabel("achieved bandwidth, GB/s (log)")
        axes.set_title(f"{title(group[0], usable, 'all')}\n{text}", fontsize=9)
    note = "The roof: bandwidth of reading the working set, and the rate of matrix products, both measured."
    return finish(picture, [record for group in groups for record in group], records, f"{note} {COUNTED}")


def roofs(picture: Picture, axes: Axes, group: Sequence[dict], low: float, high: float) -> tuple[str, list[float]]:
    """The roofs of the slowest and the fastest reading, the one of the engine's products, and the limit of belief; in
    words, and their heights.
    """
    rate = group[0]["constants"]["gflops"]
    sets = sorted((record["bandwidth"] for record in group), key=lambda bandwidth: bandwidth["gb_per_s"])
    ends = {f"{found['gb_per_s']:.3g}": found for found in (sets[0], sets[-1])}
    x = np.geomspace(low, high, 200)
    for found in ends.values():
        (line,) = axes.plot(x, np.minimum(found["gb_per_s"], rate / x), color="k", linewidth=1.2, zorder=1)
        picture.keys.setdefault("roof", line)
    engine = next((own["gflops"] for record in group if (own := record["constants"].get("engine"))), None)
    if engine:
        top = max(found["gb_per_s"] for found in ends.values())
        (line,) = axes.plot(x, np.minimum(top, engine / x), color="k", linestyle=":", linewidth=1.2, zorder=1)
        picture.keys.setdefault("roof of numba", line)
    limit = max(sets, key=lambda bandwidth: bandwidth["limit_gb_per_s"])
    height = 1.1 * limit["limit_gb_per_s"]
    belief = axes.axhline(height, color=INK, linestyle="--", linewidth=1, zorder=1)
    picture.keys.setdefault("refused above", belief)
    products = f"{rate:,.0f} Gflop/s" + (f",\nof numba {engine:,.0f}" if engine else "")
    text = f"roof: reading {' to '.join(ends)} GB/s, products {products}\n"
    text += f"refused above {height:.3g} GB/s: 1.1 x {limit['limit_is']}"
    return text, [*(found["gb_per_s"] for found in ends.values()), height]


def predictions(records: Sequence[dict]) -> Picture:
    """Predicted against measured time, of the mean step and of the whole generation; on the diagonal they agree."""
    usable = [record for record in records if any(row["predicted"] for row in drawn(record).values())]
    groups = by_setting(usable, "no believed row has a prediction of the cost model")
    picture = Picture(len(groups), 2, "Predicted against measured time")
    for pair, group in zip(picture.grid, groups, strict=True):
        for axes, figure, what in zip(pair, TIMES, TIMES.values(), strict=True):
            right, count = compare(picture, axes, group, figure)
            head = title(group[0], usable, "all")
            axes.set_title(f"{what}: {right} of {count} cells within ±30 %\n{head}", fontsize=9)
            axes.set_xlabel("measured median, ms (log)")
            axes.set_ylabel("predicted, ms (log)")
    note = "Diagonal: the cost model is right; grey band: within ±30 %. Impls that it does not know are not here."
    return finish(picture, usable, records, note)


def compare(picture: Picture, axes: Axes, group: Sequence[dict], figure: str) -> tuple[int, int]:
    """Points (measured, predicted) of every impl and cell; how many lie within 30 %, of how many."""
    measured, predicted = [], []
    for impl in impls(group):
        rows = [(record, drawn(record)[impl]) for record in group if impl in drawn(record)]
        rows = [(record, row) for record, row in rows if row["predicted"]]
        if rows:
            x = [row[figure]["median"] for _, row in rows]
            y = [row["predicted"][figure] for _, row in rows]
            texts = [
                f"{impl}, {place(r)}: {a:.4g} ms, predicted {b:.4g} ({b / a - 1:+.0%})"
                for (r, _), a, b in zip(rows, x, y, strict=True)
            ]
            marks(picture, axes, impl, x, y, texts)
            measured += x
            predicted += y
    ends = np.array([min(measured + predicted) / 1.6, max(measured + predicted) * 1.6])
    axes.fill_between(ends, 0.7 * ends, 1.3 * ends, color=INK, alpha=0.15, linewidth=0)
    axes.plot(ends, ends, color=INK, linewidth=1, zorder=1)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    log_ticks(axes.xaxis, ends)
    log_ticks(axes.yaxis, ends)
    right = sum(0.7 <= b / a <= 1.3 for a, b in zip(measured, predicted, strict=True))
    return right, len(measured)
