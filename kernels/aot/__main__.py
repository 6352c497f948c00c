"""Compile the shipped kernels for named GPUs, read what the compiler made of them, and check their gates.

    python -m kvproof.kernels.aot            every variant for every target, beside the committed table
    python -m kvproof.kernels.aot --write    the same, into that table
    python -m kvproof.kernels.aot --variants simt-fp16 mma-fp16 --targets sm_90

Needs no GPU. The launches are those of `decode_attention`: the same arguments, tiles and warps, from `launches`.
Instructions that a launch executes are counted by the PTX machine, one sequence and one KV head, for sm_90.

Exit codes: 0 all gates hold and the table is as committed; 1 not so; 2 the command does not fit.
"""

import argparse
import sys

from ..ptx.compile import TARGETS
from .gates import GATES, MISSED, broken
from .readings import AMD, measure
from .table import TABLE, changes, read_table, table
from .variants import VARIANTS


def main(argv: list[str] | None = None) -> int:
    """Run the command.  Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kvproof.kernels.aot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    all_targets = [*(f"sm_{sm}" for sm in TARGETS), AMD]
    names, targets = ", ".join(VARIANTS), ", ".join(all_targets)
    add = parser.add_argument
    add("--variants", nargs="+", default=[*VARIANTS], choices=VARIANTS, metavar="NAME", help=f"of {names}")
    add("--targets", nargs="+", default=all_targets, choices=all_targets, metavar="GPU", help=f"of {targets}")
    add("--processes", type=int, default=2, help="that compile at a time; 1 compiles in this one")
    add("--write", action="store_true", help=f"write {TABLE.name}; needs every variant and target")
    args = parser.parse_args(argv)
    if args.write and (set(args.variants), set(args.targets)) != (set(VARIANTS), set(all_targets)):
        parser.error("--write replaces the whole table; leave --variants and --targets out")
    rows = measure(args.variants, args.targets, args.processes)
    print(table(rows))
    for gate in GATES:
        bound = f"{'>=' if gate.at_least else '<='} {gate.bound}"
        values = [gate.value(row) for row in rows if gate.applies(row) and gate.value(row) is not None]
        worst = (min if gate.at_least else max)(values, default="-")
        past = [row for row in rows if gate.applies(row) and not gate.holds(row)]
        known = sum((gate.name, row.variant, row.target) in MISSED for row in past)
        verdict = "BROKEN" if len(past) > known else "missed, as known" if past else "ok"
        print(f"{gate.name:<40} {bound:>8}  worst {worst!s:<8} of {len(values):<4} {verdict}")
    found = broken(rows)
    if args.write:
        TABLE.write_text(table(rows))
    else:
        found += changes(rows, read_table(TABLE.read_text()) if TABLE.exists() else [])
    print(*found, sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
