"""What the compiled kernels must keep to, the committed table of what they are, and a look at what a GPU loaded.

Numbers of Limits bind the named variants; every other number of the table is held to what is committed.
"""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..attention.launch import Launch
from ..requires_triton import triton
from .variants import VARIANTS, kind, launches_of

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


class Gate(NamedTuple):
    """A bound on the rows that it applies to; those without the number are passed over."""

    name: str
    applies: Callable[[Row], bool]
    value: Callable[[Row], Any]
    bound: float
    at_least: bool = False

    def holds(self, row: Row) -> bool:
        value = self.value(row)
        return value is None or (value >= self.bound if self.at_least else value <= self.bound)


def named(variants: str, targets: str = "") -> Callable[[Row], bool]:
    return lambda row: row.variant in variants.split() and (not targets or row.target in targets.split())


def engine(name: str) -> Callable[[Row], bool]:
    return lambda row: row.variant.startswith(name)


BLACKWELL_AND_ADA = "sm_89 sm_120"
GATES = [
    Gate("spills, stack and local memory", lambda r: True, lambda r: r.spills + r.stack + r.local, 0),
    Gate("barriers in the loop, vector", engine("vector"), lambda r: r.barriers, 0),
    Gate("barriers in the loop, tensor", named("tensor-fp16 tensor-fp16-d128"), lambda r: r.barriers, 2),
    Gate("wi/slot, vector-fp16", named("vector-fp16", "sm_90"), lambda r: r.per_slot, 16.0),
    Gate("wi/slot, vector-bf16", named("vector-bf16", "sm_90"), lambda r: r.per_slot, 18.0),
    Gate("wi/slot, tensor-fp16", named("tensor-fp16", "sm_90"), lambda r: r.per_slot, 9.5),
    Gate("wi/slot, tensor-fp16-d128", named("tensor-fp16-d128", "sm_90"), lambda r: r.per_slot, 17.0),
    Gate("registers, vector on sm_90", named("vector-fp16 vector-bf16", "sm_90"), lambda r: r.registers, 64),
    Gate("registers, vector on sm_80", named("vector-fp16 vector-bf16", "sm_80"), lambda r: r.registers, 72),
    Gate("registers, tensor-fp16 on sm_90", named("tensor-fp16", "sm_90"), lambda r: r.registers, 136),
    Gate("occupancy, vector on sm_90", named("vector-fp16 vector-bf16", "sm_90"), lambda r: r.occupancy, 50, True),
    Gate("occupancy, tensor-fp16 on sm_90", named("tensor-fp16", "sm_90"), lambda r: r.occupancy, 18, True),
    Gate("bytes in flight (KiB), vector", named("vector-fp16", "sm_90"), lambda r: r.flight, 96, True),
    Gate("bytes in flight (KiB), tensor", named("tensor-fp16 tensor-fp16-d128", "sm_90"), lambda r: r.flight, 96, True),
    Gate("bytes in flight (KiB), sm_89, sm_120", named("vector-fp16", BLACKWELL_AND_ADA), lambda r: r.flight, 48, True),
    Gate("percent of 128-bit loads", lambda r: "int8" not in r.variant, lambda r: r.wide, 100, True),
    Gate("packed half arithmetic, vector", engine("vector"), lambda r: r.packed, 0),
    Gate("atomics", lambda r: True, lambda r: r.atomics, 1),
    Gate("fences", lambda r: True, lambda r: r.fences, 1),
    Gate("launches", lambda r: r.target.startswith("sm_"), lambda r: r.launches, 1),
    Gate("distinct bytes read", lambda r: True, lambda r: r.read, 1.02),
]


# Gates that are not kept, and where. ptxas waits for the first keys before it asks for the last values, when 64
# registers are all it has; at head_dim 128 the tiles leave room for ten programs of 8 KiB.
MISSED = {
    ("bytes in flight (KiB), vector", "vector-fp16", "sm_90"),
    ("bytes in flight (KiB), tensor", "tensor-fp16-d128", "sm_90"),
}


def broken(rows: Iterable[Row]) -> list[str]:
    """Each gate that a row breaks, in words, but for those of MISSED."""
    return [
        f"{gate.name}: {row.variant} on {row.target} has {gate.value(row)}, the bound is {gate.bound}"
        for row in rows
        for gate in GATES
        if gate.applies(row) and not gate.holds(row) and (gate.name, row.variant, row.target) not in MISSED
    ]


GRANULE = 8  # registers of a thread
_checked: set[tuple[str, int]] = set()


def check_compiled(compiled: Any, launch: Launch, sm: int) -> None:
    """Warn, once, if what a GPU loaded takes more registers, or spills more, than the table says of its like.

    compiled  what `kernel[grid](...)` returned: Triton's CompiledKernel, whose n_regs and n_spills the driver told
    sm        compute capability times 10

    A launch whose like is not among VARIANTS, or whose GPU is not in the table, is passed over: nothing is known of it.
    So is a register or two, which other counts of heads may take: they are given out by GRANULE.
    """
    key = (str(getattr(compiled, "hash", id(compiled))), sm)
    if key in _checked or not launch.kernel.__name__.startswith("attend"):
        return
    _checked.add(key)
    rows = {row.variant: row for row in read_table(TABLE.read_text()) if row.target == f"sm_{sm}"}
    for name, variant in VARIANTS.items():
        if name in rows and kind(launches_of(variant, sm)[0]) == kind(launch):
            row = rows[name]
            if compiled.n_regs >= row.registers + GRANULE or compiled.n_spills > row.spills:
                warnings.warn(
                    f"{name} on sm_{sm} has {compiled.n_regs} registers and {compiled.n_spills} spills here; compiled "
                    f"ahead of time it has {row.registers} and {row.spills}. Results are the same, times may not be: "
                    f"this is Triton {triton.__version__}, which brings its own compiler",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return
