"""The judge over a tiny random model of every causal LM of transformers, each in a process of its own.

    python -m kvproof.bench.judge.zoo FILE.jsonl                            all of them, a dynamic cache
    python -m kvproof.bench.judge.zoo FILE.jsonl --only llama gemma2 --scenarios dynamic static
    python -m kvproof.bench.judge.zoo --models                              what each is, a JSON line per model

FILE holds a line per model and scenario: the verdict and where the paths part, or what was raised and where. A run that
was killed goes on where it ended. Exit codes: 0 all were judged, 1 the judge called a BUG, 3 the command is wrong.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kvproof.bench.judge.zoo.build import build, models
from kvproof.bench.judge.zoo.record import record
from kvproof.bench.judge.zoo.sweep import SCENARIOS, sweep
from kvproof.bench.program import ends, parser_for
from kvproof.reference.judge.verdict import BUG

USAGE = 3


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_for("python -m kvproof.bench.judge.zoo", __doc__)
    parser.add_argument("file", nargs="?", type=Path, help="where the lines go, one JSON object each")
    parser.add_argument("--models", action="store_true", help="build the models, judge nothing")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="model types of transformers")
    parser.add_argument("--scenarios", nargs="+", default=["dynamic"], metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--seconds", type=float, default=60, help="that each may take (60)")
    args = parser.parse_args(argv)
    if (args.file is None) != args.models:
        raise ValueError("name a FILE for the lines, or ask for --models; one of the two")
    return args


def described(name: str, why: str | None) -> dict[str, Any]:
    """The record of one model; where it cannot be built, the reason."""
    start = time.perf_counter()
    if why:
        return {"model_type": name, "not_built": why}
    return record(name, build(name), time.perf_counter() - start)


def main(argv: list[str] | None = None) -> int:
    try:
        args = parse(argv)
        if args.models:
            for name, why in models().items():
                if not args.only or name in args.only:
                    print(json.dumps(described(name, why)), flush=True)
            return 0
        outcomes: Counter[str] = Counter()
        for line in sweep(args.file, args.only, args.scenarios, args.seconds):
            outcomes[line["outcome"]] += 1
            print(f"{line['model_type']:<26} {line['scenario']:<16} {line['outcome']:<13}", line.get("message", ""))
        print(", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common()) or "nothing was left to judge")
        return int(outcomes[BUG] > 0)
    except (ValueError, ImportError, OSError) as error:
        print(f"kvproof zoo: {error}", file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    ends(main, USAGE)
