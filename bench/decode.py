"""Speed of decoding with and without a KV cache: each impl is checked against the NumPy oracle, timed, checked again.

    python bench/decode.py --impl triton
    python bench/decode.py --impl all --new-tokens 10,20,50,100 --results run.jsonl
    python bench/decode.py --impl sdpa,hf --model random:gpt2 --batch 1,8,32 --dtype float32,bfloat16
    python bench/decode.py --impl onnx,openvino,ctranslate2,llamacpp --weights none,int8

A LIST is separated by commas. Every combination of the lists is a cell; the timed runs of its impls are interleaved.
--results appends each finished cell to a file of JSON lines; the same command after a kill measures what is missing.
With int8 weights our impls are held to an oracle that has the numbers they stand for; a peer quantises in its own way,
and its distance from the unquantised model is shown. A peer that decodes the oracle's tokens while its logits err by
more than the bar is red and timed all the same, RED in its row; one that decodes others is not timed. Of ours none is.
bench/plots.py draws that file, bench/report makes a page of it.

Exit codes: 0 every cell is green and timed, now or in --results; 1 parity is red, before or after timing, or a figure
is impossible; 2 wrong usage, or this machine lacks something; 130 Ctrl-C.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import argparse
import difflib
import json
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import torch

from kvproof.bench.measure import peers, records
from kvproof.bench.measure.environment import heading
from kvproof.bench.measure.interleaved import IMPLS
from kvproof.bench.measure.plan import Cell, Plan
from kvproof.bench.measure.sweep import Bench
from kvproof.bench.program import INTERRUPTED, abandon_output, ends, parser_for, words
from kvproof.bench.report.table import table, texts
from kvproof.gpt2.arguments import WEIGHTS
from kvproof.gpt2.cli.output_file import check_writable, is_plain
from kvproof.gpt2.cli.progress import Progress
from kvproof.gpt2.impls import resolve_impl
from kvproof.gpt2.weights import DTYPES, as_device
from kvproof.kernels.backend import BACKENDS, without_gpu
from kvproof.kernels.cpu import CompilerFailed

NO_GPU = {
    "PTX machine": "NO GPU: triton's kernel is compiled for sm_90, and the PTX machine runs and checks it on the CPU;\n"
    "        its results count, its times are not a GPU's",
    "interpreter": "NO GPU: triton runs the kernel's source under Triton's interpreter; its times are not a GPU's",
}
BASELINES = ("naive", "sdpa")  # in every run but --no-naive: what the cache is measured against, and torch's own way
GROUPS = {"all": IMPLS, "hf": tuple(name for name in peers.PEERS if name.startswith("hf-")), "peers": peers.PEERS}


def listed(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def counts(text: str) -> list[int]:
    numbers = [int(word) for word in listed(text)]
    if not numbers or min(numbers) < 1:
        raise ValueError
    return numbers


counts.__name__ = "list of numbers from 1 up, such as 1,8,32"  # argparse puts it after "invalid"


def known_impls(text: str) -> list[str]:
    names = [impl for word in listed(text) for impl in GROUPS.get(word, [word])]
    known = [*IMPLS, *peers.PEERS]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *GROUPS], 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise argparse.ArgumentTypeError(f"{name!r} is not known; {hint}choose of {', '.join([*known, *GROUPS])}")
    return list(dict.fromkeys(names))


def known_dtypes(text: str) -> list[str]:
    for name in listed(text):
        if name not in DTYPES:
            raise argparse.ArgumentTypeError(f"{name!r} is not known; choose of {', '.join(DTYPES)}")
    return listed(text)


def known_weights(text: str) -> list[str | None]:
    for name in listed(text):
        if name not in ("none", *WEIGHTS):
            raise argparse.ArgumentTypeError(f"{name!r} is not known; choose of none, {', '.join(WEIGHTS)}")
    return [None if name == "none" else name for name in listed(text)]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_for("bench/decode.py", __doc__)
    add = parser.add_argument
    add("--impl", type=known_impls, default="all", metavar="LIST", help="impls beside naive and sdpa: "
        f"{' '.join(IMPLS)}, peers {' '.join(peers.PEERS)}, or all, hf, peers (default %(default)s)")  # fmt: skip
    add("--model", type=listed, default="tiny", metavar="LIST", help="models, named as for kvproof generate: "
        "tiny, random:gpt2, a folder (default %(default)s)")  # fmt: skip
    add("--dtype", type=known_dtypes, default="float32", metavar="LIST", help="dtypes of weights and cache: "
        f"{' '.join(DTYPES)} (default %(default)s)")  # fmt: skip
    add("--weights", type=known_weights, default="none", metavar="LIST", help="none: weights in the dtype; int8: "
        "quantised, by each impl in its own way (default %(default)s)")  # fmt: skip
    add("--batch", type=counts, metavar="LIST", help="sequences per batch (default: one per prompt)")
    add("--context", type=counts, metavar="LIST", help="tokens per prompt, drawn at random (default: --prompt)")
    add("--new-tokens", type=counts, default="24", metavar="LIST", help="new tokens per sequence (default %(default)s)")
    add("--prompt", action="append", help='prompt, may be repeated; a batch cycles (default: "Once upon a time")')
    add("--repeats", type=int, default=7, help="timed runs per impl (default %(default)s)")
    add("--device", help="cpu or cuda (default: cuda where there is one)")
    add("--backend", choices=BACKENDS, default="ptx", help="emulator of triton's kernel without a GPU: the PTX "
        "machine runs the compiled code, the interpreter the source (default %(default)s)")  # fmt: skip
    add("--no-naive", action="store_true", help="leave out naive, which recomputes the whole batch at every step: "
        "for long contexts, where that takes hours; no speed-up is said then")  # fmt: skip
    add("--graph", action="store_true", help="CUDA graph: triton's steps are its replays")
    add("--results", type=Path, metavar="FILE", help="file of JSON lines, one per cell; cells in it are skipped")
    add("--json", action="store_true", help="records on standard output instead of the report")
    args = parser.parse_args(argv)
    if args.context and args.prompt:
        parser.error("--context and --prompt came; prompts have the length they have, so leave one out")
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; it must be 1 or more")
    if min(args.new_tokens) < 2:
        parser.error("--new-tokens is 1; a decode step needs 2")
    args.prompt = args.prompt or ["Once upon a time"]
    args.batch = args.batch or [len(args.prompt) if not args.context else 1]
    args.command = shlex.join(["python", "bench/decode.py", *portable(sys.argv[1:] if argv is None else argv)])
    return args


def portable(argv: list[str]) -> list[str]:
    """The words of a command without the user's folders: of a results file its name alone."""
    return [Path(word).name if before == "--results" else word for before, word in zip(["", *argv], argv, strict=False)]


def cells(args: argparse.Namespace) -> list[Cell]:
    """Every combination, the model's changing least often since it must be loaded."""
    swept = product(args.model, args.weights, args.dtype, args.context or [None], args.batch, args.new_tokens)
    return [Cell(model, dtype, batch, context, new, how) for model, how, dtype, context, batch, new in swept]


def make_plan(args: argparse.Namespace) -> Plan:
    """Raises ValueError or ImportError for a device or an impl that cannot be had here."""
    device = device_of(args)
    if args.graph and (device.type != "cuda" or "triton" not in args.impl):
        raise ValueError("--graph came, but it replays triton's step on CUDA; add --impl triton on a CUDA device")
    impls = tuple(
        name
        for name in dict.fromkeys([*BASELINES, *args.impl])
        if wanted(name, args) and can_run(name, device, args.impl)
    )
    return Plan(impls, device, args.repeats, tuple(args.prompt), args.graph, args.command, args.backend)


def wanted(impl: str, args: argparse.Namespace) -> bool:
    """Whether an impl belongs to this run: all but naive, which can be left out."""
    return not (impl == "naive" and args.no_naive)


def device_of(args: argparse.Namespace) -> torch.device:
    return as_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def emulation(args: argparse.Namespace) -> AbstractContextManager:
    """Where triton's kernel runs if there is no GPU for it; where there is no Triton, the impl is missed later."""
    needed = "triton" in args.impl and device_of(args).type == "cpu" and find_spec("triton")
    return without_gpu(args.backend) if needed else nullcontext()


def can_run(impl: str, device: torch.device, asked: list[str]) -> bool:
    """Whether an impl can run here: its packages, its device. A group runs without those that cannot, and says so.

    Raises ImportError or ValueError where the impl alone was asked for.
    """
    try:
        if impl == "triton":
            import kvproof.kernels.attention.op  # noqa: F401  (does it import here?)
        elif impl == "numba":
            resolve_impl(impl, device, torch.float32)
        elif impl in peers.PEERS:
            peers.require(impl)
    except (ImportError, ValueError) as error:
        if len(asked) == 1:
            raise
        print(f"{impl} is left out: {error}", file=sys.stderr)
        return False
    return True


class Report:
    """The report, line by line, on standard output; nothing with --json, or once standard output is closed.

    kept  whether records are kept in a file, so that measuring goes on without a reader
    """

    def __init__(self, args: argparse.Namespace, line: Progress):
        self.silent, self.kept, self.line = args.json, bool(args.results), line

    def __call__(self, text: str):
        if self.silent:
            return
        try:
            self.line.print(text)
        except BrokenPipeError:
            if not self.kept:
                raise
            abandon_output()

    def heading(self, bench: Bench):
        for text in heading(bench.environment):
            self(text)
        for emulator in filter(None, map(bench.emulated, bench.plan.impls)):
            self(f"\n{NO_GPU[emulator]}")

    def cell(self, record: dict):
        if any(row["runs"] for row in record["impls"]):
            for text in ("", *texts(record), *table(record)):
                self(text)
        else:
            self("\nParity is red, so nothing is timed: a wrong computation has no speed.")


def run(plan: Plan, found: dict[str, dict], args: argparse.Namespace):
    """Measure the cells that are not found yet, print each part as it is known, keep each record before the next.

    found  records by key, to which those measured are added
    Raises ValueError where a record cannot be kept, which is printed then.
    """
    todo = [cell for cell in cells(args) if plan.key(cell) not in found]
    with Progress("measuring", len(todo)) as line, records.sink(args.results if todo else None) as keep:
        say = Report(args, line)
        bench = Bench(plan, say, line, kept=bool(args.results or args.json))
        if todo:
            say.heading(bench)
        for cell in line.each(todo):
            say(f"\nmodel     {cell}\n")
            line.what = str(cell)
            record = found[plan.key(cell)] = bench.measure(cell)
            try:
                keep(record)
            except OSError as error:
                rescue(record, say, args)
                raise ValueError(f"{words(error)}; the last record is on standard output instead") from None
            say.cell(record)


def rescue(record: dict, say: Report, args: argparse.Namespace):
    """Print what was measured and could not be kept: for the reader, and as the line that the file lacks."""
    say.cell(record)
    if not args.json:  # which prints every record at the end
        say("\n" + records.to_line(record).rstrip())


def held(path: Path | None) -> dict[str, dict]:
    """What a results file holds, by key.  Raises BadRecord for a file that is none, OSError if it cannot be written."""
    if not path:
        return {}
    check_writable(path)
    return {record["key"]: record for record in records.read(path)} if is_plain(path) and path.exists() else {}


def fine(record: dict) -> bool:
    """Whether parity was green, before and after, and every figure can be true."""
    return all(row["runs"] and row["parity_before"]["green"] and not row["refused"] for row in record["impls"])


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark.  Returns the exit code; raises BrokenPipeError if nobody reads the report any more."""
    args, found, keys, code = parse(argv), {}, [], None
    try:
        found |= held(args.results)
        with emulation(args):
            plan = make_plan(args)
            keys += map(plan.key, cells(args))
            if before := sum(key in found for key in keys):
                print(f"{args.results} holds {before} of {len(keys)} cells", file=sys.stderr)
            run(plan, found, args)
    except BrokenPipeError:
        raise
    except (ValueError, ImportError, OSError, CompilerFailed) as error:
        print(f"bench/decode.py: {words(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("bench/decode.py: interrupted; finished cells are in --results, if one was given", file=sys.stderr)
        code = INTERRUPTED
    measured = [found[key] for key in keys if key in found]
    if args.json:
        for record in measured:
            print(json.dumps(record))
    return int(not all(map(fine, measured))) if code is None else code


if __name__ == "__main__":
    ends(main)
