"""Many requests on a CPU: tokens per second by arm, what speculation brings, what 100,000 requests leave in memory.

    python -m kvproof.bench.requests throughput --model random:gpt2 --results run.jsonl
    python -m kvproof.bench.requests speculation --model tiny,random:gpt2 --results run.jsonl
    python -m kvproof.bench.requests memory

throughput   requests of mixed lengths, drawn once from a seed: the engine, static batches of `generate` in the order of
             the requests and sorted by length, transformers' continuous batching and its static `generate`
speculation  the engine with drafts against itself without, on five kinds of text, one request at a time and eight
memory       short requests without end through one engine: resident memory, blocks in use, blocks leaked

Every arm is held to the lone runs of its requests first, and after each time: of ours none with another token is timed;
a peer that rounds otherwise is RED in its row. Then each round times every arm once. No token ends a request, so all
arms do the same work. --results appends each round to a file of JSON lines; the same command after a kill measures what
is missing. bench/plots.py draws that file. Where others use the machine, nothing is measured.

Exit codes: 0 measured, whether bars are met or missed; 1 an arm of ours gives other tokens, or memory grows or leaks; 2
wrong usage, or this machine lacks something; 130 Ctrl-C.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import argparse
import shlex
import sys
from pathlib import Path

from kvproof.bench.measure import records
from kvproof.bench.measure.environment import heading
from kvproof.bench.program import ends, numbers, parser_for, refuses
from kvproof.bench.requests import quiet
from kvproof.bench.requests.jobs import ARMS, BATCHES, CELLS, PEERS, Sweep
from kvproof.bench.requests.table import fine, table
from kvproof.gpt2.cli.output_file import check_writable, is_plain
from kvproof.gpt2.cli.progress import Progress
from kvproof.reference.judge.parity import LOGIT_BARS

PROG = "python -m kvproof.bench.requests"


def arms(text: str) -> list[str]:
    """ "engine-32,peers" -> the arms' names; for argparse."""
    found = [arm for word in text.split(",") for arm in (PEERS if word == "peers" else [word])]
    for arm in found:
        kind, _, number = arm.rpartition("-")
        if kind not in {known.rpartition("-")[0] for known in ARMS} or not number.isdigit() or int(number) < 1:
            raise argparse.ArgumentTypeError(f"{arm!r} is not known; choose of {', '.join(ARMS)}, or other numbers")
    return list(dict.fromkeys(found))


def span(text: str) -> tuple[int, int]:
    """ "8,256" -> least and most; for argparse."""
    low, *rest = numbers(text)
    return low, rest[-1] if rest else low


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_for(PROG, __doc__)
    add = parser.add_argument
    add("job", choices=[*CELLS, "memory"])
    add("--model", help="models, separated by commas: tiny, random:gpt2, a folder (default random:gpt2; memory: tiny)")
    add("--dtype", choices=list(LOGIT_BARS), default="float32", help="of weights and cache (default %(default)s)")
    add("--requests", type=int, help="how many (default 64; memory: 100000)")
    add("--seed", type=int, default=0, help="of the draw and of sampling (default %(default)s)")
    add("--repeats", type=int, default=5, help="rounds (default %(default)s)")
    add("--arms", type=arms, default=",".join(ARMS), help="of throughput (default %(default)s)")
    add("--prompt-tokens", type=span, default="8,256", metavar="LEAST,MOST", help="of throughput (default %(default)s)")
    add("--new-tokens", type=span, default="8,192", metavar="LEAST,MOST", help="of throughput (default %(default)s)")
    add("--tokens", type=int, default=128, help="new tokens of speculation's requests (default %(default)s)")
    add("--batch", type=numbers, default=list(BATCHES), help="requests at once in speculation (default 1,8)")
    add("--draft", type=numbers, default=[4, 16], help="tokens drafted by speculation's arms (default 4,16)")
    add("--blocks", type=int, default=24, help="blocks of memory's pool, scarce by default (default %(default)s)")
    add("--running", type=int, default=32, help="sequences at once in memory's engine (default %(default)s)")
    add("--warm-up", type=int, default=2000, help="requests of memory that warm up (default %(default)s)")
    add("--loaded", action="store_true", help="measure although others use the machine; the record says so")
    add("--results", type=Path, metavar="FILE", help="file of JSON lines, one per round; rounds in it are skipped")
    args = parser.parse_args(argv)
    for name in ("requests", "repeats", "tokens", "blocks", "running", "warm_up"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}; it must be 1 or more")
    live = args.job == "memory"
    args.requests = args.requests or (100_000 if live else 64)
    args.model = (args.model or ("tiny" if live else "random:gpt2")).split(",")
    words = sys.argv[1:] if argv is None else argv
    hidden = [
        Path(word).name if before == "--results" else word for before, word in zip(["", *words], words, strict=False)
    ]
    args.command = f"{PROG} {shlex.join(hidden)}"
    return args


def held(path: Path | None) -> dict[str, dict]:
    """What a results file holds, by key.  Raises BadRecord for a file that is none, OSError if it cannot be written."""
    if not path:
        return {}
    check_writable(path)
    found = records.read(path, records.REQUESTS) if is_plain(path) and path.exists() else []
    return {record["key"]: record for record in found}


@refuses(PROG)
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    found = held(args.results)
    if not args.loaded and args.job != "memory":
        quiet.require()
    bad = False
    with Progress(args.job) as line, records.sink(args.results, records.REQUESTS) as keep:
        sweep = Sweep(args, found, keep, line)
        for text in heading(sweep.environment):
            line.print(text)
        for name in args.model:
            if args.job == "memory":
                sweep.live(name)
                bad |= show(sweep, line)
                continue
            for cell in CELLS[args.job](args, name):
                sweep.measure(cell)
                show(sweep, line)
    return int(bad or sweep.red)


def show(sweep: Sweep, line: Progress) -> bool:
    """Print the table of the latest run.  Returns whether it is one of memory that found what must not be."""
    rounds = sorted((r for r in sweep.found.values() if r["run"] == sweep.runs[-1]), key=lambda r: r["round"])
    for text in ["", *table(rounds)] if rounds else []:
        line.print(text)
    return any(r["memory"] and not fine(r["memory"]) for r in rounds)


if __name__ == "__main__":
    ends(main)
