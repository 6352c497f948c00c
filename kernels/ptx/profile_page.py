"""Which program reads which slots of an array, and when: a picture, and a page of pictures.

A picture has a band for each index before the slots' axis, and in the band a line for each program that reads there.
It is SVG: lengths across are shares of the width, letters keep their size, so that it fits a phone and a desk.
"""

import itertools
import math
import textwrap
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from .block import coordinates
from .execute import Report
from .profile import Touches

# Viridis between its ends, which would drown in a dark page or a bright one.
RAMP = ("#5346a0", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#8fd744", "#d2c21a", "#f0932b")
BANDS, LINES, COLUMNS, SPANS = 24, 192, 1024, 12_000  # what one picture may have, to be looked at and to weigh little
STYLE = """
:root{--ink:#1c2430;--soft:#5b6675;--page:#fff;--band:#e9edf2;--once:#8b97a6;--twice:#d1495b}
@media (prefers-color-scheme:dark){
:root{--ink:#e8ecf2;--soft:#9aa6b5;--page:#12161d;--band:#232b36;--once:#7d8a9a;--twice:#ff7b8a}}
text{font:12px system-ui,sans-serif;fill:var(--ink)}.t{font-weight:600;font-size:15px}
.s{fill:var(--soft);font-size:11px}
.l path{fill:none;stroke-width:.86}.b{fill:var(--band)}.g{stroke:var(--soft);opacity:.35}
"""
PAGE = """
body{margin:0 auto;max-width:1100px;padding:12px;background:var(--page);color:var(--ink);font:14px system-ui,sans-serif}
h1{font-size:20px;overflow-wrap:anywhere;margin:12px 2%}pre{overflow-x:auto;font-size:12px;margin:20px 2%}
section{margin-bottom:48px}
"""
NEVER = (
    '<pattern id="never" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" '
    'fill="var(--page)"/><path d="M0 6L6 0" stroke="var(--soft)" stroke-width=".7" opacity=".6"/></pattern>'
)
TIMES = ("never read", "read in part", "read once", "read more than once")
FILLS = ("url(#never)", "var(--band)", "var(--once)", "var(--twice)")


def spans(cells: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(row, column, length, value) of the runs of equal values >= 0 in (rows, columns)."""
    new = np.ones(cells.shape, bool)
    new[:, 1:] = cells[:, 1:] != cells[:, :-1]
    start = np.flatnonzero(new)
    length = np.diff(start, append=cells.size)
    rows, columns = np.divmod(start, cells.shape[1])
    kept = cells.ravel()[start] >= 0
    return list(zip(*(x[kept].tolist() for x in (rows, columns, length, cells.ravel()[start])), strict=True))


class NoPicture(ValueError):
    """What was asked for cannot be drawn; the message names what can."""


class Band(NamedTuple):
    """Neighbouring rows of slots that the same programs read alike."""

    first: int
    last: int
    programs: np.ndarray
    several: int  # programs that share a line
    shades: list[tuple[int, int, int, int]]  # spans of the lines
    times: list[tuple[int, int, int, int]]  # spans of the strip, values as in TIMES


class Picture:
    """One array's reads, laid out. A slot's colour is the number of the load, by its program, that read it first.

    axis  of the slots; None: the last of one or two, the last but one of more, which is T in (B, H, T, D)

    Raises NoPicture if the array has no such axis.
    """

    def __init__(self, report: Report, reads: Touches, axis: int | None = None):
        self.report, self.name, self.shape = report, reads.region.buffer.name, reads.region.buffer.array.shape or (1,)
        shape, axes = self.shape, len(self.shape)
        if axis is not None and not -axes <= axis < axes:
            raise NoPicture(f"--axis is {axis}; {self.name} has shape {shape}, so it can be 0 to {axes - 1}")
        self.axis = (axes - 1 if axes < 3 else axes - 2) if axis is None else axis % axes
        self.slots, inner = shape[self.axis], math.prod(shape[self.axis + 1 :])
        load, program, element = reads.each_element(report.num_warps)
        often = np.bincount(element, minlength=math.prod(shape)).reshape(-1, self.slots, inner)
        most, least = often.max(2), often.min(2)
        self.times = np.where(most > 1, 3, np.where(least == 1, 2, np.minimum(most, 1)))  # (rows, slots), as in TIMES
        top = int(load.max()) + 1
        loads, which = np.unique(program * top + load, return_inverse=True)
        value = (np.arange(len(loads)) - np.searchsorted(loads, loads // top * top))[which]
        self.values = int(value.max()) + 1
        self.shades = min(self.values, len(RAMP))
        row, slot = np.divmod(element // inner, self.slots)
        key = (row * (int(program.max()) + 1) + program) * self.slots + slot
        order = np.lexsort((value, key))
        first = order[np.diff(key[order], prepend=-1) != 0]  # of what a program reads of a slot
        columns = np.stack([row, program, slot, value])[:, first]
        self.rows = np.split(columns[1:], np.searchsorted(columns[0], np.arange(1, len(self.times))), axis=1)
        new = [n for n in range(1, len(self.rows)) if not self.alike(n - 1, n)]
        groups = list(zip([0, *new], [*(n - 1 for n in new), len(self.rows) - 1], strict=True))
        self.groups = len(groups)
        chosen = np.linspace(0, len(groups) - 1, min(len(groups), BANDS)).astype(int)
        self.drawn = [groups[n] for n in np.unique(chosen)]
        self.per = -(-self.slots // COLUMNS)  # slots that share a column
        while sum(len(b.shades) + len(b.times) for b in self.bands()) > SPANS and self.per < self.slots // 64:
            self.per *= 2

    def alike(self, m: int, n: int) -> bool:
        """Whether the same programs read the same slots of two rows, as often and by the same loads."""
        return np.array_equal(self.rows[m], self.rows[n]) and np.array_equal(self.times[m], self.times[n])

    def bands(self) -> list[Band]:
        """What is drawn, at this many slots a column."""
        made, columns, starts = [], -(-self.slots // self.per), np.arange(0, self.slots, self.per)
        for first, last in self.drawn:
            program, slot, value = self.rows[first]
            programs, line = np.unique(program, return_inverse=True)
            several = max(-(-len(programs) * len(self.drawn) // LINES), 1)
            cells = np.full((-(-len(programs) // several), columns), self.values)
            np.minimum.at(cells, (line // several, slot // self.per), value)
            shade = np.where(cells < self.values, cells * self.shades // self.values, -1)
            most, least = (f.reduceat(self.times[first], starts)[None] for f in (np.maximum, np.minimum))
            times = np.where((most == 2) & (least < 2), 1, most)
            made.append(Band(first, last, programs, several, spans(shade), spans(times)))
        return made

    def sentence(self, bands: list[Band]) -> str:
        """How to read the picture."""
        never, _, _, more = np.bincount(self.times.ravel(), minlength=4).tolist()
        size, several = self.times.size, max(band.several for band in bands)
        what = f"Left to right lie the {self.slots:,} slots of {self.name}, axis {self.axis} of {self.shape}. Each "
        what += "line is one program" if several == 1 else f"line is up to {several} neighbouring programs"
        what += ", coloured where it reads; the colour says when. "
        what += f"The strip above sums up: {size - never:,} of {size:,} slots are read"
        what += f", {more:,} of them more than once, by several loads or warps" * (more > 0)
        what += "; the hatched ones never." if never else "."
        what += f" {self.per:,} slots share a column." * (self.per > 1)
        dropped = f" Drawn are {len(bands)} of {self.groups:,} different rows, evenly spaced."
        return what + dropped * (len(bands) < self.groups)

    def svg(self) -> str:
        """The picture, whole in itself."""
        bands = self.bands()
        out, y = [f'<text class="t" y="18">{escape(self.report.name)} reads {escape(self.name)}</text>'], 20
        for line in textwrap.wrap(self.sentence(bands), 50):
            out.append(f'<text y="{(y := y + 17)}">{escape(line)}</text>')
        edges = [-(-n * self.values // self.shades) + 1 for n in range(self.shades + 1)]  # loads are counted from 1
        named = [f"{a}" if b == a + 1 else f"{a} to {b - 1}" for a, b in itertools.pairwise(edges)]
        heading = f"Lines: the n-th load of {self.name} by that program"
        y = self.legend(out, y + 22, heading, named, [self.paint(n) for n in range(self.shades)], 80)
        y = self.legend(out, y + 8, "Strip: how often a slot is read", TIMES, FILLS, 160)
        lines = sum(-(-len(band.programs) // band.several) for band in bands)
        y = self.ticks(out, y + 12)
        for band in bands:
            y = self.draw(out, y, band, min(max(480 // max(lines, 1), 3), 14))
        y = self.ticks(out, y + 2)
        out.append(f'<text class="s" x="50%" y="{y + 6}" text-anchor="middle">slot of {escape(self.name)}</text>')
        body = f'<svg x="2%" width="96%" height="{y + 18}" overflow="visible">{"".join(out)}</svg>'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="100%" height="{y + 18}" role="img"><style>{STYLE}</style>'
            f'<defs>{NEVER}</defs><rect width="100%" height="100%" fill="var(--page)"/>{body}</svg>'
        )

    def paint(self, shade: int) -> str:
        """The colour of a shade: however many there are, they span the ramp."""
        return RAMP[shade * (len(RAMP) - 1) // max(self.shades - 1, 1)]

    @staticmethod
    def legend(out: list, y: int, heading: str, names: Sequence[str], fills: Sequence[str], width: int) -> int:
        """Swatches with names in columns of `width` pixels, as many as a phone has room for."""
        columns = 320 // width
        out.append(f'<text class="s" y="{y}">{escape(heading)}</text>')
        for i, (name, fill) in enumerate(zip(names, fills, strict=True)):
            x, top = width * (i % columns), y + 7 + 18 * (i // columns)
            out.append(f'<rect x="{x}" y="{top}" width="14" height="12" fill="{fill}" stroke="var(--soft)"/>')
            out.append(f'<text x="{x + 20}" y="{top + 10}">{name}</text>')
        return y + 18 * -(-len(names) // columns) + 12

    def ticks(self, out: list, y: int) -> int:
        """The numbers of five slots, from the first to one behind the last."""
        for i, anchor in enumerate(("start", "middle", "middle", "middle", "end")):
            slot = round(self.slots * i / 4)
            place = f'x="{25 * i}%" y="{y + 10}" text-anchor="{anchor}"'
            if self.slots >= 4 or i in (0, 4):
                out.append(f'<text class="s" {place}>{slot:,}</text>')
        return y + 16

    def draw(self, out: list, y: int, band: Band, height: int) -> int:
        """A row of slots: its name and its programs, the strip, and lines of this height in pixels."""
        programs, several, columns = band.programs, band.several, -(-self.slots // self.per)
        ends = [np.unravel_index(n, self.shape[: self.axis]) for n in sorted({band.first, band.last}) if self.axis]
        label = " to ".join(f"{self.name}[{', '.join(map(str, index))}]" for index in ends) or self.name
        shown = dict.fromkeys([*programs[:1].tolist(), *programs[-1:].tolist()])
        whose = " to ".join(str(coordinates(p, self.report.grid)) for p in shown) or "none"
        out.append(f'<text class="s" y="{y + 14}">{escape(label)} · program{"s" * (len(programs) > 1)} {whose}</text>')
        y, lines = y + 19, -(-len(programs) // several)
        bottom = y + 8 + lines * height
        out.append(f'<rect class="b" y="{y}" width="100%" height="{bottom - y}"/>')
        for _, start, length, kind in band.times:
            place = f'x="{100 * start / columns:.4g}%" y="{y}" width="{100 * length / columns:.4g}%"'
            border = ' stroke="var(--twice)" stroke-width="2"' if kind == 3 else ""  # seen however narrow
            out.append(f'<rect {place} height="{6 if kind else bottom - y}" fill="{FILLS[kind]}"{border}/>')
        out += [f'<line class="g" x1="{x}%" x2="{x}%" y1="{y}" y2="{bottom}"/>' for x in (25, 50, 75)]
        if lines:
            view = f'viewBox="0 0 {columns} {lines}" preserveAspectRatio="none"'
            out.append(f'<svg class="l" y="{y + 8}" width="100%" height="{lines * height}" {view}>')
            for shade in range(self.shades):
                path = "".join(f"M{x} {line}.5h{length}" for line, x, length, value in band.shades if value == shade)
                out.append(f'<path stroke="{self.paint(shade)}" d="{path}"/>' if path else "")
            out.append("</svg>")
        return bottom + 4


def chosen(found: list[Touches], array: str | None = None) -> Touches | None:
    """The reads of an array, by default of the largest that is read; None if it is not read."""
    reads = [t for t in found if t.kind == "load" and array in (None, t.region.buffer.name)]
    return max(reads, key=lambda t: t.region.buffer.array.nbytes, default=None)


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """One HTML page of launches, each a picture's SVG (or "") and the text of its counters; nothing else is loaded."""
    body = "".join(f"<section>{svg}<pre>{escape(text)}</pre></section>" for svg, text in sections)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{STYLE}{PAGE}</style>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )
