"""The bounds that rows of the table must keep, and how what a GPU loaded compares with the table.

A gate bounds one number in the rows that it applies to; MISSED lists the rows that break one. Everything else in
targets.txt is held to what is committed, by `changes` in table.py.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..attention.launch import Launch
from .table import TABLE, Row, read_table
from .variants import VARIANTS, kind, launches_of


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
    Gate("barriers in the loop, simt", engine("simt"), lambda r: r.barriers, 0),
    Gate("barriers in the loop, mma", named("mma-fp16 mma-fp16-d128"), lambda r: r.barriers, 2),
    Gate("wi/slot, simt-fp16", named("simt-fp16", "sm_90"), lambda r: r.per_slot, 16.0),
    Gate("wi/slot, simt-bf16", named("simt-bf16", "sm_90"), lambda r: r.per_slot, 18.0),
    Gate("wi/slot, mma-fp16", named("mma-fp16", "sm_90"), lambda r: r.per_slot, 9.5),
    Gate("wi/slot, mma-fp16-d128", named("mma-fp16-d128", "sm_90"), lambda r: r.per_slot, 17.0),
    Gate("registers, simt on sm_90", named("simt-fp16 simt-bf16", "sm_90"), lambda r: r.registers, 64),
    Gate("registers, simt on sm_80", named("simt-fp16 simt-bf16", "sm_80"), lambda r: r.registers, 72),
    Gate("registers, mma-fp16 on sm_90", named("mma-fp16", "sm_90"), lambda r: r.registers, 136),
    Gate("occupancy, simt on sm_90", named("simt-fp16 simt-bf16", "sm_90"), lambda r: r.occupancy, 50, True),
    Gate("occupancy, mma-fp16 on sm_90", named("mma-fp16", "sm_90"), lambda r: r.occupancy, 18, True),
    Gate("bytes in flight (KiB), simt", named("simt-fp16", "sm_90"), lambda r: r.flight, 96, True),
    Gate("bytes in flight (KiB), mma", named("mma-fp16 mma-fp16-d128", "sm_90"), lambda r: r.flight, 96, True),
    Gate("bytes in flight (KiB), sm_89, sm_120", named("simt-fp16", BLACKWELL_AND_ADA), lambda r: r.flight, 48, True),
    Gate("percent of 128-bit loads", lambda r: "int8" not in r.variant, lambda r: r.wide, 100, True),
    Gate("packed half arithmetic, simt", engine("simt"), lambda r: r.packed, 0),
    Gate("atomics", lambda r: True, lambda r: r.atomics, 1),
    Gate("fences", lambda r: True, lambda r: r.fences, 1),
    Gate("launches", lambda r: r.target.startswith("sm_"), lambda r: r.launches, 1),
    Gate("distinct bytes read", lambda r: True, lambda r: r.read, 1.02),
]


# Gates that are not kept, and where. ptxas waits for the first keys before it asks for the last values, when 64
# registers are all it has; at head_dim 128 the tiles leave room for ten programs of 8 KiB.
MISSED = {
    ("bytes in flight (KiB), simt", "simt-fp16", "sm_90"),
    ("bytes in flight (KiB), mma", "mma-fp16-d128", "sm_90"),
}


def broken(rows: Iterable[Row]) -> list[str]:
    """Each gate that a row breaks, in words, but for those of MISSED."""
    return [
        f"{gate.name}: {row.variant} on {row.target} has {gate.value(row)}, the bound is {gate.bound}"
        for row in rows
        for gate in GATES
        if gate.applies(row) and not gate.holds(row) and (gate.name, row.variant, row.target) not in MISSED
    ]


GRANULE = 8  # registers of a thread are given out by so many


def beyond_the_table(compiled: Any, launch: Launch, sm: int) -> str | None:
    """What a GPU loaded, in words, if it takes more registers or spills more than the table has for its like.

    compiled  what `kernel[grid](...)` returned: Triton's CompiledKernel, with n_regs and n_spills from the driver
    sm        compute capability times 10
    returns   None if it does not; also for a launch that does not attend or whose like is not among VARIANTS, and for
              a GPU that is not in the table. Other counts of heads may take a register or two more: less than GRANULE
              does not count.
    """
    if not launch.kernel.__name__.startswith("attend"):
        return None
    rows = {row.variant: row for row in read_table(TABLE.read_text()) if row.target == f"sm_{sm}"}
    for name, variant in VARIANTS.items():
        if name in rows and kind(launches_of(variant, sm)[0]) == kind(launch):
            row = rows[name]
            if compiled.n_regs >= row.registers + GRANULE or compiled.n_spills > row.spills:
                return (
                    f"{name} on sm_{sm} has {compiled.n_regs} registers and {compiled.n_spills} spills here; compiled "
                    f"ahead of time it has {row.registers} and {row.spills}"
                )
            return None
    return None
