"""The command line: `kvproof generate`, also `python -m kvproof.gpt2 generate`."""

import argparse
import os
import sys
import time

from . import load
from .attention import DECODE_STEP
from .generate import generate
from .weights import DTYPES


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="kvproof", description="GPT-2 with a KV cache that is proved and measured.")
    commands = top.add_subparsers(dest="command", required=True)
    gen = commands.add_parser(
        "generate",
        help="continue a prompt",
        description="Continue a prompt: the text on standard output as it is decoded, the times on standard error.",
    )
    gen.add_argument("--prompt", required=True, help="the text to continue")
    gen.add_argument("--model", default="tiny", help='"tiny", "random:gpt2", a folder or a file (default %(default)s)')
    gen.add_argument("--max-tokens", type=int, default=100, help="at most this many new tokens (default %(default)s)")
    gen.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default %(default)s)")
    gen.add_argument("--top-k", type=int, help="sample among the k likeliest tokens")
    gen.add_argument("--top-p", type=float, help="sample among the likeliest tokens that together have probability p")
    gen.add_argument("--seed", type=int, help="the same seed gives the same text")
    gen.add_argument("--stop", action="append", default=[], help="a string that ends the text; repeatable")
    gen.add_argument(
        "--kv-cache", action=argparse.BooleanOptionalAction, default=True, help="recompute everything without"
    )
    gen.add_argument(
        "--impl", choices=list(DECODE_STEP), default="sdpa", help="the decode step's attention (default %(default)s)"
    )
    gen.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    gen.add_argument(
        "--dtype", choices=list(DTYPES), default="float32", help="of weights and cache (default %(default)s)"
    )
    return top


def run_generate(args: argparse.Namespace):
    interpreted = args.impl == "triton" and args.device == "cpu"
    if interpreted:
        from ..kernels.backend import use_interpreter

        use_interpreter()
    model = load(args.model, dtype=args.dtype, device=args.device, impl=args.impl)
    marks, begun = [time.perf_counter()], False

    def show(row: int, token: int | None, text: str):
        nonlocal begun
        if token is not None:
            marks.append(time.perf_counter())
        print(text if begun else args.prompt + text, end="", flush=True)
        begun = True

    generate(
        model,
        args.prompt,
        max_new_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        stop=args.stop,
        stream=show,
        kv_cache=args.kv_cache,
    )
    print("" if begun else args.prompt)
    if len(marks) > 2:
        prefill, decode = marks[1] - marks[0], marks[-1] - marks[1]
        times = (
            f"prefill {prefill * 1e3:.1f} ms, decode {decode * 1e3:.1f} ms, {(len(marks) - 2) / decode:.1f} tokens/s"
        )
        print(times + " (Triton's interpreter, not a GPU)" * interpreted, file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run a command.  Returns 0, 2 after one line on standard error for a mistake of the caller's, 130 after Ctrl-C."""
    args = parser().parse_args(argv)
    try:
        run_generate(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us has enough; what Python still wants to flush at exit must have somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, FloatingPointError, ImportError, OSError) as error:
        print(f"kvproof: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
