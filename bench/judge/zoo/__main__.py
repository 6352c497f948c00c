"""The judge over a tiny random model of every causal LM of transformers, each in a process of its own.

    python -m kvproof.bench.judge.zoo FILE.jsonl                 all of them, over every cache, in every scenario
    python -m kvproof.bench.judge.zoo FILE.jsonl --only llama gemma2 --scenarios steps crop --caches dynamic
    python -m kvproof.bench.judge.zoo --models                   what each is, a JSON line per model

FILE holds a line per model: its word, and every cell's with its numbers and where the paths part; or what was raised
and where. A run that was killed goes on where it ended. Exit codes, by all lines of FILE: 1 the judge called a BUG,
2 a model took too long or ended its process, 0 neither; 3 the command is wrong.
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

from kvproof.bench.judge.huggingface.caches import AUTO, CACHES
from kvproof.bench.judge.huggingface.scenarios import SCENARIOS
from kvproof.bench.judge.zoo.build import build, models
from kvproof.bench.judge.zoo.record import record
from kvproof.bench.judge.zoo.sweep import ENDED, LATE, sweep
from kvproof.bench.program import ends, parser_for
from kvproof.reference.judge.verdict import BUG

USAGE = 3


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_for("python -m kvproof.bench.judge.zoo", __doc__)
    parser.add_argument("file", nargs="?", type=Path, help="where the lines go, one JSON object each")
    parser.add_argument("--models", action="store_true", help="build the models, judge nothing")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="model types of transformers")
    parser.add_argument("--scenarios", nargs="+", default=["all"], metavar="NAME",
        help=f"all (the default), or some of {', '.join(SCENARIOS)}")  # fmt: skip
    parser.add_argument("--caches", nargs="+", default=["all"], metavar="NAME",
        help=f"all (the default), or some of {', '.join((AUTO, *CACHES))}")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=300, help="that each model may take (300)")
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


def counted(line: dict[str, Any]) -> str:
    """How many cells of a model have which word; of bugs, which cells."""
    words = {cell: told.partition(":")[0] for cell, told in line.get("cells", {}).items()}
    bugs = [cell for cell, word in words.items() if word == BUG]
    sums = ", ".join(f"{n} {word}" for word, n in Counter(words.values()).most_common())
    return sums + (f": {', '.join(bugs)}" if bugs else "")


def main(argv: list[str] | None = None) -> int:
    try:
        args = parse(argv)
        if args.models:
            for name, why in models().items():
                if not args.only or name in args.only:
                    print(json.dumps(described(name, why)), flush=True)
            return 0
        outcomes: Counter[str] = Counter()
        scenarios, caches = ("all" if "all" in names else names for names in (args.scenarios, args.caches))
        for line in sweep(args.file, args.only, scenarios, caches, args.seconds):
            outcomes[line["outcome"]] += 1
            print(f"{line['model_type']:<26} {line['outcome']:<13}", line.get("message") or counted(line), flush=True)
        print(", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common()) or "nothing was left to judge")
        words = {json.loads(line)["outcome"] for line in args.file.read_text(encoding="utf-8").splitlines()}
        return 1 if BUG in words else 2 if {LATE, ENDED} & words else 0
    except (ValueError, ImportError, OSError) as error:
        print(f"kvproof zoo: {error}", file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    ends(main, USAGE)
