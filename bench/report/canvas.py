"""What every picture shares: looks, panels, axes, captions, and the exact values behind each mark."""

import textwrap
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from .cells import absences, impls

Values = Sequence[float] | np.ndarray

# Okabe and Ito's colours, which the colour-blind can distinguish; markers, dashes and hatches differ in grey. Impls
# outnumber the colours, so those that rarely meet share one, and no two share a marker.
LOOKS = {
    "numpy": {"color": "#999999", "linestyle": ":", "marker": "p", "hatch": "...."},
    "naive": {"color": "#D55E00", "linestyle": "--", "marker": "x", "hatch": "xxxx"},
    "eager": {"color": "#E69F00", "linestyle": "-.", "marker": "s", "hatch": ""},
    "sdpa": {"color": "#0072B2", "linestyle": "-", "marker": "o", "hatch": ""},
    "numba": {"color": "#000000", "linestyle": "-", "marker": "d", "hatch": "xx"},
    "triton": {"color": "#009E73", "linestyle": "-", "marker": "^", "hatch": "----"},
    "hf-uncached": {"color": "#D55E00", "linestyle": (0, (6, 2)), "marker": "+", "hatch": "++++"},
    "hf-dynamic": {"color": "#CC79A7", "linestyle": (0, (4, 1, 1, 1, 1, 1)), "marker": "D", "hatch": "////"},
    "hf-static": {"color": "#56B4E9", "linestyle": (0, (3, 1)), "marker": "v", "hatch": "\\\\\\\\"},
    "ct2": {"color": "#E69F00", "linestyle": (0, (1, 1)), "marker": "P", "hatch": "oo"},
    "onnx": {"color": "#009E73", "linestyle": (0, (8, 2, 2, 2)), "marker": "X", "hatch": "OO"},
    "openvino": {"color": "#CC79A7", "linestyle": (0, (2, 1)), "marker": "H", "hatch": "o."},
    "ctranslate2": {"color": "#E69F00", "linestyle": (0, (1, 2)), "marker": "8", "hatch": "x."},
    "llamacpp": {"color": "#56B4E9", "linestyle": (0, (6, 1, 1, 1)), "marker": "1", "hatch": "-."},
    "flex": {"color": "#56B4E9", "linestyle": (0, (2, 2)), "marker": "<", "hatch": "||||"},
    "flash-attn": {"color": "#CC79A7", "linestyle": (0, (5, 1)), "marker": ">", "hatch": "**"},
    "flashinfer": {"color": "#E69F00", "linestyle": (0, (3, 3)), "marker": "*", "hatch": "//"},
}
OTHER = {"color": "#666666", "linestyle": (0, (1, 3)), "marker": "h", "hatch": "\\\\"}
INK = "0.4"
POINTS = 20  # of a long line, that carry a marker and their values in words: a page with all of them is too heavy


class Picture(Figure):
    """A figure that knows the exact values behind its marks: `hovers[gid]` has one text per marker, or per bar.

    `keys` maps what the legend says to an artist that shows it.
    """

    def __init__(self, rows: int, columns: int, title: str):
        super().__init__(figsize=(8.2 if columns == 1 else 9.6, 0.9 + 3.3 * rows), layout="constrained")
        self.hovers: dict[str, list[str]] = {}
        self.keys: dict[str, Artist] = {}
        self.suptitle(title, fontsize=12, x=0.01, ha="left")  # the legend stands at the right
        self.grid: np.ndarray = self.subplots(rows, columns, squeeze=False)
        for axes in self.grid.flat:
            axes.grid(alpha=0.3)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)


def hover(picture: Picture, artist: Artist, texts: Sequence[str]) -> None:
    """Keep the exact values of an artist in words: one text per marker of a Line2D, one for a Rectangle."""
    gid = f"mark-{len(picture.hovers)}"
    artist.set_gid(gid)
    picture.hovers[gid] = list(texts)


def panels(title: str, count: int) -> tuple[Picture, list[Axes]]:
    columns = min(count, 2)
    picture = Picture(-(-count // columns), columns, title)
    for axes in picture.grid.flat[count:]:
        axes.remove()
    return picture, list(picture.grid.flat[:count])


def trace(picture: Picture, axes: Axes, impl: str, x: Sequence[float], y: Values,
          texts: Sequence[str], span: Sequence[Values] | None = None, band: bool = False) -> None:  # fmt: skip
    """An impl's line through (x, y), a band or error bars over `span` (low, high), markers with values in words."""
    look = LOOKS.get(impl, OTHER)
    key = Line2D([], [], color=look["color"], linestyle=look["linestyle"], marker=look["marker"], markersize=5.5)
    picture.keys[impl] = key  # also where markers alone came first
    (line,) = axes.plot(x, y, color=look["color"], linestyle=look["linestyle"], label=impl, linewidth=1.4)
    if span is not None and band:
        axes.fill_between(x, span[0], span[1], color=look["color"], alpha=0.18, linewidth=0)
    elif span is not None:
        below, above = np.subtract(y, span[0]), np.subtract(span[1], y)
        axes.errorbar(x, y, np.maximum([below, above], 0), fmt="none", ecolor=look["color"], capsize=3, linewidth=1)
    at = np.unique(np.linspace(0, len(x) - 1, POINTS).round().astype(int)) if len(x) > POINTS else range(len(x))
    marks(picture, axes, impl, [x[i] for i in at], [y[i] for i in at], [texts[i] for i in at], line.get_zorder() + 1)


def marks(picture: Picture, axes: Axes, impl: str, x: Sequence[float], y: Values, texts: Sequence[str],
          zorder: float = 3) -> None:  # fmt: skip
    """An impl's markers at (x, y), each with its values in words."""
    look = LOOKS.get(impl, OTHER)
    (points,) = axes.plot(
        x, y, color=look["color"], linestyle="none", marker=look["marker"], markersize=5.5, zorder=zorder
    )
    picture.keys.setdefault(impl, points)
    hover(picture, points, texts)


def interval(summary: dict, scale: Callable[[float], float] = float) -> tuple[float, float]:
    """(low, high) of a summary's 95 % interval; both NaN where a single run has none."""
    if summary["low"] is None or summary["high"] is None:
        return np.nan, np.nan
    low, high = sorted((scale(summary["low"]), scale(summary["high"])))
    return low, high


def words(value: float, span: tuple[float, float], unit: str) -> str:
    """`2.31x (95 % 2.2 … 2.4)`."""
    return f"{value:.4g}{unit}" + ("" if np.isnan(span[0]) else f" (95 % {span[0]:.4g} … {span[1]:.4g})")


def value_axis(axes: Axes, label: str, values: Iterable[float]) -> None:
    """The vertical axis: from 0, or logarithmic and saying so where the values span more than a factor of 20."""
    values = np.asarray([v for v in values if np.isfinite(v) and v > 0])
    if values.max() / values.min() > 20:
        axes.set_yscale("log")
        axes.set_ylim(values.min() / 1.4, values.max() * 1.4)
        log_ticks(axes.yaxis, values)
        label += " (log)"
    else:
        axes.set_ylim(0, values.max() * 1.12)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    axes.set_ylabel(label)


def log_ticks(axis: Axis, values: Iterable[float]) -> None:
    """Plain numbers at 1, 2 and 5 of each decade, or at powers of ten where there are many decades."""
    values = np.asarray(list(values))
    many = values.max() / values.min() > (100 if isinstance(axis, XAxis) else 10**3.5)
    axis.set_major_locator(LogLocator(10, (1,) if many else (1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))


def sweep_axis(axes: Axes, label: str, values: Sequence[int]) -> None:
    """The horizontal axis of a sweep: logarithmic, with ticks at what was measured."""
    axes.set_xscale("log")
    shown = [values[0]]
    for value in values[1:]:
        if np.log(value / shown[-1]) > np.log(values[-1] / values[0]) / 16:
            shown.append(value)
    axes.set_xticks(shown, [f"{value:,}" for value in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"{label} (log)")


def finish(picture: Picture, records: Sequence[dict], all_records: Sequence[dict], note: str = "") -> Picture:
    """Legend, and a caption: device, versions, commit, what was left out and why, cells that stand elsewhere."""
    ranks = {impl: place for place, impl in enumerate(dict.fromkeys([*LOOKS, *impls(records)]))}
    names = sorted(picture.keys, key=lambda name: ranks.get(name, len(ranks)))
    artists = [picture.keys[name] for name in names]
    picture.legend(artists, names, loc="outside right upper", frameon=False, handlelength=3.2, fontsize=9)
    places = {}
    for record in records:
        e = record["environment"]
        dirty = " with changes" if e["dirty"] else ""
        places[f"{e['device']}; torch {e['versions'].get('torch')}; commit {e['commit'] or 'unknown'}{dirty}"] = None
    others = len({record["key"] for record in all_records} - {record["key"] for record in records})
    rest = f"{others} more measured {'cell is' if others == 1 else 'cells are'} not in this picture." if others else ""
    parts = [" · ".join(places) + ".", note, absences(records), rest]
    text = " ".join(part for part in parts if part)
    wrapped = textwrap.fill(text, int(picture.get_figwidth() * 17), break_long_words=True)
    picture.supxlabel(wrapped, x=0.01, ha="left", fontsize=7, color=INK)
    return picture
