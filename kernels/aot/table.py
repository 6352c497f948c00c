"""The table of what the compilers make of the shipped variants: targets.txt, a row for each variant and target."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).with_name("targets.txt")


class Row(NamedTuple):
    """One variant on one target. None: does not apply, or was not counted."""

    variant: str
    target: str
    registers: int  # per thread
    spills: int  # instructions that store to or load from local memory
    stack: int  # bytes per thread
    local: int  # bytes per thread
    shared: int  # bytes per program
    warps: int  # per program
    programs: int | None  # that an SM holds
    occupancy: int | None  # of its warps, in percent
    flight: int | None  # KiB of keys and values that an SM waits for at once, as the loop sends off its loads
    loop: int | None  # instructions of the main loop
    per_slot: float | None  # warp instructions per slot and program
    barriers: int | None  # in the main loop
    wide: int | None  # percent of the keys' and values' bytes that loads of 128 bits bring
    packed: int | None  # instructions of the main loop that compute with two halves at once
    atomics: int | None
    fences: int | None
    launches: int
    n128: float | None = None  # warp instructions executed per token and query head, of the whole launch
    n1024: float | None = None
    n8192: float | None = None
    read: float | None = None  # distinct bytes read at n = 1024, to what must be read


def table(rows: Iterable[Row]) -> str:
    """The text of the committed table, a line for each row."""
    cells = [[("-" if x is None else f"{x:.3f}" if isinstance(x, float) else str(x)) for x in row] for row in rows]
    cells = [list(Row._fields), *cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(Row._fields))]
    lines = (
        "  ".join(f"{x:<{w}}" if i < 2 else f"{x:>{w}}" for i, (x, w) in enumerate(zip(r, widths, strict=True)))
        for r in cells
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def read_table(text: str) -> list[Row]:
    """What `table` wrote. Raises ValueError for another table."""
    head, *lines = text.splitlines()
    if tuple(head.split()) != Row._fields:
        raise ValueError(f"the table has columns {head.split()}; write it anew: python -m kvproof.kernels.aot --write")

    def value(name: str, x: str) -> Any:
        number = float if name in ("per_slot", "n128", "n1024", "n8192", "read") else int
        return x if name in ("variant", "target") else None if x == "-" else number(x)

    return [Row(*map(value, Row._fields, line.split())) for line in lines]


def changes(rows: list[Row], committed: list[Row]) -> list[str]:
    """Where rows differ from the committed ones."""
    before = {(row.variant, row.target): row for row in committed}
    lines = []
    for row in rows:
        (new,) = read_table(table([row]))  # rounded alike
        old = before.get((row.variant, row.target))
        parts = [f"{k} {x} -> {y}" for k, x, y in zip(Row._fields, old, new, strict=True) if x != y] if old else ["new"]
        lines += [f"{row.variant} {row.target}: {', '.join(parts)}"] if parts else []
    return lines
