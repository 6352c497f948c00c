"""A picture of the model: ideal and modelled time by the bytes of K and V, a panel per GPU."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from .gpus import GPU
from .model import NOT_RUN, SPREAD, Prediction

# Okabe and Ito's colours, which the colour-blind can distinguish; dashes and markers differ in grey.
LOOKS = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#000000", (0, (5, 1, 1, 1)), "v"),
)
NOTE = (
    f"Every time is modelled, {NOT_RUN} on a GPU; bands: {SPREAD}. Thin grey: K and V over the datasheet's "
    "bandwidth. Shaded: launch and trips\nto memory take longer than moving K and V, at the first context. One layer, "
    "batches as marked. MB = 10⁶ bytes."
)


def draw(by_gpu: Sequence[tuple[GPU, Sequence[Prediction]]]) -> Figure:
    """A panel per GPU, both axes logarithmic, a line per context, number of heads and KV heads over the batches."""
    columns = min(3, len(by_gpu))
    rows = -(-len(by_gpu) // columns)
    figure = Figure(figsize=(max(6.5, 4.2 * columns), 0.7 + 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(by_gpu) :]:
        axes.remove()
    for axes, (gpu, predictions) in zip(grid.flat, by_gpu, strict=False):
        panel(axes, gpu, predictions)
    for axes in grid[:, 0]:
        axes.set_ylabel("time of a call, µs (log)")
    grid[0, 0].legend(fontsize=7, title=NOT_RUN, title_fontsize=7, loc="upper left")
    shape = by_gpu[0][1][0].shape
    head = f"Decode attention of one layer, {shape.dtype}, head_dim {shape.head_dim}: modelled, {NOT_RUN}"
    figure.suptitle(head, fontsize=11)
    figure.supxlabel(NOTE, fontsize=7, color="0.3")
    return figure


def panel(axes, gpu: GPU, predictions: Sequence[Prediction]) -> None:
    lines: dict[str, list[Prediction]] = {}
    for p in predictions:
        kv = "" if p.shape.heads == p.shape.n_kv else f"/{p.shape.n_kv}"
        lines.setdefault(f"context {max(p.shape.lengths)}, {p.shape.heads}{kv} heads", []).append(p)
    for (label, points), (color, dashes, marker) in zip(lines.items(), LOOKS * len(lines), strict=False):
        x = [megabytes(p) for p in points]
        y = [[seconds * 1e6 for seconds in (p.low, p.seconds, p.high)] for p in points]
        low, middle, high = zip(*y, strict=True)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(x, middle, color=color, linestyle=dashes, marker=marker, markersize=4, label=label)
    span = [min(map(megabytes, predictions)), max(map(megabytes, predictions))]
    axes.plot(span, [mb / gpu.bandwidth * 1e3 for mb in span], color="0.5", linewidth=1)
    axes.axvspan(span[0] / 2, predictions[0].latency_until / 1e6, color="0.92", zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(span[0] / 1.5, span[1] * 1.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    axes.grid(alpha=0.3)
    axes.set_xlabel("K and V, MB (log)")
    axes.set_title(f"{gpu.name}: {gpu.bandwidth:,g} GB/s, {gpu.sms:g} SMs", fontsize=10)


def megabytes(p: Prediction) -> float:
    return (p.parts["kv"] + p.parts["scales"]) / 1e6
