"""Compile what ships ahead of time for named GPUs, read what the compiler made of it, and hold it to its gates.

    python -m kvproof.kernels.aot            every variant for every target, beside the committed table
    python -m kvproof.kernels.aot --write    the same, into that table
    python -m kvproof.kernels.aot --variants vector-fp16 tensor-fp16 --targets sm_90

Needs no GPU. What is compiled is what `decode_attention` launches: the same arguments, tiles and warps, from
`launches`. Instructions that a launch executes are counted by the PTX machine, one sequence and one KV head, for sm_90.

Exit codes: 0 all gates hold and the table is as committed; 1 not so; 2 the command does not fit.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import torch

from ..ptx.compile import TARGETS
from .gates import GATES, MISSED, TABLE, Row, broken, read_table, table
from .machine_code import TOOLS
from .readings import AMD, LENGTHS, compile_launch, count_executed, example_launches, read_amd, read_cuda
from .variants import VARIANTS

__all__ = ["TOOLS", "VARIANTS", "compile_launch", "example_launches", "main", "measure"]


def task(work: tuple[str, str]) -> tuple[str, str, Any]:
    """A row of the table, or figures for one: what a process of its own does. "n=128" stands for a target."""
    name, target = work
    torch.set_num_threads(1)
    if target.startswith("n="):
        return name, target, count_executed(name, int(target[2:]))
    return name, target, read_amd(name) if target == AMD else read_cuda(name, int(target[3:]))


def measure(variants: list[str], targets: list[str], processes: int = 2) -> list[Row]:
    """The rows of these variants on these targets, in their order."""
    executed = [f"n={n}" for n in reversed(LENGTHS)] if "sm_90" in targets else []
    work = [(name, target) for target, name in product([*executed, *targets], variants)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        told = {(name, target): x for name, target, x in counted(pool.map(task, work), len(work))}
    rows = [told[name, target] for name in variants for target in targets]
    return [
        row._replace(**{k: x for n in executed for k, x in told[row.variant, n].items()})
        if row.target == "sm_90"
        else row
        for row in rows
    ]


def counted(items: Iterable, total: int) -> Iterator:
    """The items; after five seconds a terminal is told how many there have been, on standard error."""
    start = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if sys.stderr.isatty() and time.monotonic() - start > 5:
            print(f"\r{done} of {total} compiled", end="\n" if done == total else "", file=sys.stderr, flush=True)


def changes(rows: list[Row], committed: list[Row]) -> list[str]:
    """Where rows differ from the committed ones."""
    before = {(row.variant, row.target): row for row in committed}
    lines = []
    for row in rows:
        (new,) = read_table(table([row]))  # rounded alike
        old = before.get((row.variant, row.target))
        told = [f"{k} {x} -> {y}" for k, x, y in zip(Row._fields, old, new, strict=True) if x != y] if old else ["new"]
        lines += [f"{row.variant} {row.target}: {', '.join(told)}"] if told else []
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run the command.  Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kvproof.kernels.aot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    all_targets = [*(f"sm_{sm}" for sm in TARGETS), AMD]
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--targets", nargs="+", default=all_targets, choices=all_targets)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}; needs every variant and target")
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
        said = "BROKEN" if len(past) > known else "missed, as known" if past else "ok"
        print(f"{gate.name:<40} {bound:>8}  worst {worst!s:<8} of {len(values):<4} {said}")
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
