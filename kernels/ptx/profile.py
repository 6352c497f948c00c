"""The profile of a launch: its counters as data, and as tables.

Bytes are asked for by threads; moved in sectors of 32 bytes, once for each load of each warp; distinct at their first
access. The useful share is distinct / moved.
"""

import linecache
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .counters import SECTOR
from .execute import Line, Report
from .segments import Region

COLUMNS = ("instructions", "loaded", "moved", "stored", "wavefronts", "conflicts", "barriers", "atomics")
ARRAYS = ("kind", "asked", "moved", "distinct")


class Touches(NamedTuple):
    """The loads, or the stores or atomics, of one array in a launch.

    kind                    "load", "store" or "atomic"
    asked, moved, distinct  bytes
    parts                   per access: place in the log, bytes, and (N,) warps and (N,) addresses, each pair once
    """

    kind: str
    region: Region
    asked: int
    moved: int
    distinct: int
    parts: list[tuple[int, int, np.ndarray, np.ndarray]]

    def each_element(self, warps: int) -> list[np.ndarray]:
        """(N,) places in the log, programs of so many warps, and linear numbers of the elements, once for each warp."""
        columns = []
        for n, size, warp, at in self.parts:
            element = covered(self.region, at, size)
            warp = np.broadcast_to(warp[:, None], element.shape)[element >= 0]
            columns.append((np.full(len(warp), n), warp // warps, element[element >= 0]))
        return [np.concatenate(column) for column in zip(*columns, strict=True)]


def elements(region: Region, at: np.ndarray) -> np.ndarray:
    """The linear number of the element that each address lies in; -1: in none. An expanded axis counts as index 0."""
    array = region.buffer.array
    rest, inside, number = at - region.low, (at >= region.low) & (at < region.high), np.zeros_like(at)
    weights = [int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)]
    for i in sorted(range(array.ndim), key=lambda i: -abs(region.strides[i])):
        step, n = abs(region.strides[i]), array.shape[i]
        if step and n > 1:
            index = np.minimum(rest // step, n - 1)
            rest = rest - index * step
            number += (n - 1 - index if region.strides[i] < 0 else index) * weights[i]
    return np.where(inside & (rest < array.itemsize), number, -1)


def covered(region: Region, at: np.ndarray, size: int) -> np.ndarray:
    """The elements that accesses of `size` bytes cover, (N, one or more); -1: none."""
    return elements(region, at[:, None] + np.arange(0, size, region.buffer.array.itemsize))


def touches(report: Report) -> list[Touches]:
    """What each kind of access touched, for each array that it did.

    Memory that two arguments share counts as the first one's. Needs a report with trace=True, of a launch with checks.
    """
    found = []
    for kind in ("load", "store", "atomic"):
        left = []
        for n, access in enumerate(report.log):
            if access.kind == kind:
                flat, who = access.who()
                left.append((n, access.size, who // 32, access.of(access.address, flat)))
        for region in report.regions:
            parts, rest, asked, moved = [], [], 0, 0
            seen = np.zeros(region.buffer.array.size, bool)
            for n, size, warp, at in left:
                near = len(at) > 0 and at.min() < region.high and at.max() >= region.low
                held = elements(region, at) >= 0 if near else np.zeros(len(at), bool)
                rest.append((n, size, warp[~held], at[~held]) if held.any() else (n, size, warp, at))
                if held.any():
                    asked += int(np.count_nonzero(held)) * size
                    key = np.sort((warp[held] << 40) + at[held])  # an arena has fewer bytes than 2**40
                    key = key[np.diff(key, prepend=-1) != 0]
                    moved += int(np.count_nonzero(np.diff(key // SECTOR, prepend=-1))) * SECTOR
                    parts.append((n, size, key >> 40, key & ((1 << 40) - 1)))
                    element = covered(region, parts[-1][-1], size)
                    seen[element[element >= 0]] = True
            left = rest
            if parts:
                distinct = int(np.count_nonzero(seen)) * region.buffer.array.itemsize
                found.append(Touches(kind, region, asked, moved, distinct, parts))
    return found


def row(line: Line) -> dict[str, int]:
    """A line's counters, by the names of COLUMNS."""
    loaded, shared = line.loaded, line.shared
    memory = loaded.bytes, loaded.sectors * SECTOR, line.stored.bytes, shared.wavefronts, shared.conflicts
    return dict(zip(COLUMNS, (line.instructions, *memory, line.barriers, line.atomics), strict=True))


def source_text(kernel: str, file: str, line: int) -> str:
    """A line of an imported module of this file name, the one that holds the kernel if any does; "" if unclear."""
    paths = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    texts = {path: linecache.getlines(path) for path in paths if Path(path).name == file}
    for sign in (f"def {kernel}(", "jit", ""):
        fit = [lines for lines in texts.values() if any(sign in text for text in lines)]
        if fit:
            return fit[0][line - 1].strip() if len(fit) == 1 and line <= len(fit[0]) else ""
    return ""


def summary(report: Report, found: list[Touches]) -> dict[str, Any]:
    """A launch's counters as data that JSON takes; all sizes in bytes. `found` is what `touches` found."""
    arrays = [{"array": t.region.buffer.name, **{x: getattr(t, x) for x in ARRAYS}} for t in found]
    lines = [{"file": file, "line": n, **row(line), "text": source_text(report.name, file, n)}
             for (file, n), line in report.lines.items()]  # fmt: skip
    return {
        "kernel": report.name, "target": report.target, "grid": list(report.grid), "num_warps": report.num_warps,
        "total": row(report.total), "disagreeing": report.disagreeing, "classes": report.classes, "arrays": arrays,
        "lines": lines,
    }  # fmt: skip


def table(head: tuple[str, ...], rows: list[tuple], left: int = 1) -> list[str]:
    """Lines of a table; its first `left` columns are words, and so is a last one without a head."""
    cells = [head, *(list(map(cell, row)) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    words = [i < left or (i == len(head) - 1 and not head[i]) for i in range(len(head))]
    align = lambda x, width, word: x.ljust(width) if word else x.rjust(width)  # noqa: E731
    return ["  " + "  ".join(map(align, line, widths, words)).rstrip() for line in cells]


def text(facts: dict[str, Any], lines: bool = False) -> str:
    """A launch's counters as tables; with `lines`, what each Python line did, beside the line."""
    total, grid, issued = facts["total"], facts["grid"], facts["total"]["instructions"]
    share = lambda part, whole: f"{100 * part / whole:.1f} %"  # noqa: E731
    count = f"{grid[0] * grid[1] * grid[2]:,} programs of {facts['num_warps']} warps"
    out = [f"{facts['kernel']}: grid {tuple(grid)}, {count}, {facts['target']}", ""]
    classes = sorted(facts["classes"].items(), key=lambda item: -item[1])
    rows = [("all", issued, share(1, 1)), *((name, n, share(n, issued)) for name, n in classes)]
    out += table(("warp instructions", "count", "share"), rows)
    if facts["arrays"]:
        rows = [(a["array"], *(a[x] for x in ARRAYS), share(a["distinct"], a["moved"])) for a in facts["arrays"]]
        out += ["", *table(("global memory, bytes", "by", "asked for", "moved", "distinct", "useful"), rows, left=2)]
    waves = f"{total['wavefronts']:,} wavefronts, {total['conflicts']:,} of them by bank conflicts"
    out += ["", f"  shared memory: {waves}"]
    out += [f"  barriers: {total['barriers']:,}, by warps; atomics: {total['atomics']:,}, by threads"]
    out += [f"  copies of one value that disagree with the one stored: {facts['disagreeing']:,}"]
    if lines:
        rows = [(f"{x['file']}:{x['line']}", *(x[c] for c in COLUMNS), x["text"]) for x in facts["lines"]]
        out += ["", *table(("Python line", *COLUMNS, ""), rows)]
    return "\n".join(out) + "\n"


def cell(x: Any) -> str:
    """A word as it is, a number with commas, none as a dash."""
    return x if isinstance(x, str) else f"{x:,}" if x else "-"
