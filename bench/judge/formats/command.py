"""`kvproof verify --quantised MODULE:FUNCTION --format NAME`, and `--formats`."""

import argparse
import json
import sys
import textwrap
from contextlib import redirect_stdout

from ....gpt2.cli.progress import Progress
from ....reference.judge.formats.catalogue import named, table
from ....reference.judge.formats.verdict import BUG, FORMAT, INCONCLUSIVE, FormatVerdict
from ...program import abandon_output
from ..subjects.callables import find
from .quantisers import ARRAYS, SHAPES, check_format

CODES = {FORMAT: 0, BUG: 1, INCONCLUSIVE: 2}


def add_options(which, add) -> None:
    """The modes and options of formats, for __main__.py's parser."""
    which.add_argument("--quantised", metavar="MODULE:NAME", help=f"a quantiser: {SHAPES}")
    which.add_argument("--formats", action="store_true", help="list the formats of --quantised, with their rules")
    add("--format", metavar="NAME", help="for --quantised: of --formats, changed as in int8-row,scale_dtype=float16")
    add("--head-dim", type=int, metavar="D", help="for --quantised: numbers of a row (default 128)")
    add("--arrays", choices=ARRAYS, help="for --quantised: what it is given (default torch)")


def run(args: argparse.Namespace) -> int:
    """List the formats, or judge --quantised and print it.  Returns the exit code; raises ValueError, in one line."""
    if args.formats:
        return list_formats(args.json)
    sys.path.insert(0, "")  # the user's own modules, as `python -m` would find them
    f = named(args.format)
    with Progress("judging"), redirect_stdout(sys.stderr):
        how = {"arrays": args.arrays, "name": args.quantised, "D": args.head_dim}
        verdict = check_format(find(args.quantised), f, args.dtype, **how)
    return say(verdict, args.json)


def say(verdict: FormatVerdict, as_json: bool) -> int:
    """Print the verdict; returns its exit code, also where the reader takes no more."""
    if as_json:
        text = json.dumps(verdict.record())
    else:
        first, *rest = str(verdict).splitlines()
        text = "\n\n".join([first, *(textwrap.fill(line, 118) for line in (f"rule: {verdict.rule}", *rest))])
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader has seen enough; the verdict stands
        abandon_output()
    return CODES[verdict.verdict]


def list_formats(as_json: bool) -> int:
    """Print the table of formats."""
    rows = table()
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(textwrap.fill(row["rule"], 118, initial_indent=f"{row['name']:24}", subsequent_indent=" " * 24))
        print(
            f"\n{len(rows)} formats; a field that the rule reads may be changed: --format int8-row,scale_dtype=float16"
        )
    return 0
