"""Decode with each impl: prove it equal to the oracle, then time it.

    python bench/decode.py --impl triton
    python bench/decode.py --impl all --batch 8 --prompt "ROMEO:"

Prints device, versions and commit; the parity line of every impl, before any timing, which a red one forbids;
the text; prefill, total and per-token times, tokens/s and the speedup over recomputing everything (naive).
Exit codes: 0 all green and timed, 1 parity is red, 2 the command or the machine does not allow it.
"""

import argparse
import json
import sys

import torch

from kvproof.bench.contest import IMPLS, Contest
from kvproof.bench.environment import environment
from kvproof.gpt2.weights import DTYPES, as_device
from kvproof.kernels.backend import use_interpreter

INTERPRETED = (
    "NO GPU: triton runs the real kernel under Triton's interpreter; its times are the interpreter's, not a GPU's"
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/decode.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--impl", choices=[*IMPLS, "all"], default="all", help="what to run (default %(default)s)")
    parser.add_argument(
        "--model", default="tiny", help='"tiny", "random:gpt2", a folder or a file (default %(default)s)'
    )
    parser.add_argument(
        "--prompt", action="append", help='repeatable; --batch rows take them in turn (default: "Once upon a time")'
    )
    parser.add_argument("--batch", type=int, help="sequences decoded together (default: one per prompt)")
    parser.add_argument("--max-tokens", type=int, default=24, help="new tokens per sequence (default %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of weights and cache (default %(default)s)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed runs, of which the median is shown (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON record instead of the report")
    args = parser.parse_args(argv)
    args.prompt = args.prompt or ["Once upon a time"]
    args.batch = len(args.prompt) if args.batch is None else args.batch
    for name in ("batch", "max_tokens", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be 1 or more")
    if args.max_tokens < 2:
        parser.error("--max-tokens is 1; a decode step needs 2")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark.  Returns the exit code."""
    args = parse(argv)
    say = (lambda *_: None) if args.json else (lambda *words: print(*words, flush=True))
    try:
        device = as_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        impls = choose(args.impl, device)
        contest = Contest(args.model, args.prompt, args.batch, args.max_tokens, args.dtype, device)
    except (ValueError, ImportError, OSError) as error:
        print(f"bench/decode.py: {error}", file=sys.stderr)
        return 2
    record = run(args, impls, contest, say)
    if args.json:
        print(json.dumps(record, indent=1))
    return 0 if record["green"] else 1


def choose(asked: str, device: torch.device) -> list[str]:
    """The impls to run, naive among them since every speedup is measured against it.

    Raises ImportError if triton was asked for and is absent; "all" then runs the others and says so.
    """
    impls = list(IMPLS) if asked == "all" else list(dict.fromkeys(["naive", asked]))
    if "triton" in impls:
        if device.type == "cpu":
            use_interpreter()
        try:
            import kvproof.kernels.decode_attention  # noqa: F401  (does it import here?)
        except ImportError as error:
            if asked != "all":
                raise
            print(f"triton is left out: {error}", file=sys.stderr)
            impls.remove("triton")
    return impls


def run(args: argparse.Namespace, impls: list[str], contest: Contest, say) -> dict:
    """Prove, then time, saying each part as it is known.  Returns everything as one record."""
    record: dict = {"environment": environment(contest.device), "arguments": vars(args), "parity": {}, "timing": {}}
    for key, value in record["environment"].items():
        say(f"{key:9} {value}")
    say(f"{'model':9} {args.model}, {args.dtype}, batch {args.batch}, {args.max_tokens} new tokens\n")
    interpreted = "triton" in impls and contest.device.type == "cpu"
    if interpreted:
        say(INTERPRETED + "\n")

    say("parity with the NumPy oracle, float64 and without a cache:")
    for impl in impls:
        verdict = contest.judge(impl)
        record["parity"][impl] = verdict.record()
        say(f"  {impl:7} {verdict}")
    record["green"] = all(entry["green"] for entry in record["parity"].values())
    if not record["green"]:
        say("\nParity is red, so nothing is timed: a wrong computation has no speed.")
        return record

    record["prompt_tokens"] = [len(prompt) for prompt in contest.prompts]
    # The interpreter takes minutes where others take milliseconds; one run of it says all there is to say.
    rounds = {impl: 1 if impl == "triton" and interpreted else args.repeats for impl in impls}
    timings = contest.time(rounds)
    texts = {impl: contest.text(timing.ids[0]) for impl, timing in timings.items()}
    for text in dict.fromkeys(texts.values()):  # they differ only where half precision flips a token
        writers = ", ".join(impl for impl in texts if texts[impl] == text)
        say(f"\n{writers} wrote:\n{args.prompt[0]}{text}")
    say()
    columns = ("prefill ms", "total ms", "mean ms/tok", "median", "tokens/s", "vs naive")
    say(f"{'impl':7}", *(f"{column:>12}" for column in columns))
    for impl, timing in timings.items():
        row = timing.record(args.batch, timings["naive"])
        slow = interpreted and impl == "triton"
        record["timing"][impl] = row | {"runs": rounds[impl], "interpreted": slow, "ids": timing.ids}
        mark = "  (interpreter)" if slow else ""
        say(
            f"{impl:7} {row['prefill_ms']:12.2f} {row['total_ms']:12.1f} {row['mean_ms']:12.3f} "
            f"{row['median_ms']:12.3f} {row['tokens_per_s']:12.1f} {row['speedup']:11.2f}x{mark}"
        )
    say(f"\nEach row is the median of {args.repeats} interleaved runs" + (", triton's of 1." if interpreted else "."))
    return record


if __name__ == "__main__":
    sys.exit(main())
