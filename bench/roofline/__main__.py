"""The limit: what decode attention of one layer must move, and how long a model says that takes on a GPU.

    python -m kvproof.bench.roofline                T4, A100, H100, H200, B200, RTX 4090; GPT-2's 12 heads
    python -m kvproof.bench.roofline --gpu H100 --batch 1,8,32 --context 4096,131072 --heads 32 --kv-heads 8
    python -m kvproof.bench.roofline --gpu-spec "name=My GPU,bandwidth=900,sms=80,clock=1530" --plot limit.png

No figure here was run: bytes and programs are counted, times are modelled from the constants that the last table
lists with their sources, and hold to ±30 % at best. `python -m kvproof.bench.gpu` measures.
Exit codes: 0 fine, 2 the command does not allow it.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NoReturn

from kvproof.bench.program import ends, numbers, words
from kvproof.bench.roofline.gpus import GPU, GPUS, find, parse_spec
from kvproof.bench.roofline.model import Prediction, predict
from kvproof.bench.roofline.tables import LEGEND, constants, describe, record
from kvproof.bench.roofline.work import ITEMSIZE, MOST_TOKENS, Shape


class Parser(argparse.ArgumentParser):
    """argparse, whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench/roofline: {message}\n")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m kvproof.bench.roofline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--gpu", nargs="+", default=[], metavar="NAME", help=f"of {', '.join(GPUS)} (default: all)")
    add("--gpu-spec", action="append", default=[], metavar="SPEC", help='your own: "name=..,bandwidth=..,sms=..,'
        'clock=.." in GB/s and MHz; also l2 in MB, warps, programs, share, launch and latency in µs')  # fmt: skip
    add("--batch", type=numbers, default=[1, 8, 64, 256], help="sequences (default 1,8,64,256)")
    add("--context", type=numbers, default=[128, 512, 1024], help="visible tokens (default 128,512,1024)")
    add("--heads", type=numbers, default=[12], help="query heads (default 12)")
    add("--kv-heads", type=int, help="KV heads that they share (default: one each)")
    add("--head-dim", type=int, default=64, help="default %(default)s")
    add("--dtype", default="float16", help=f"of the cache: {', '.join(ITEMSIZE)} (default %(default)s)")
    add("--new-tokens", type=int, default=1, help=f"per sequence, 1..{MOST_TOKENS} (default %(default)s)")
    add("--capacity", type=int, help="slots per sequence; splits beyond the context are dead (default: the context)")
    add("--append", action="store_true", help="count writing the new rows into the cache")
    add("--json", type=Path, metavar="FILE", help="also write the predictions as JSON")
    add("--plot", type=Path, metavar="FILE", help="also draw them into a .png or .svg; needs matplotlib")
    return parser.parse_args(argv)


def predictions(args: argparse.Namespace) -> Iterator[tuple[GPU, list[Prediction]]]:
    """Every shape on every GPU.  Raises ValueError for a GPU or a shape that is none."""
    given = [find(name) for name in args.gpu] + [parse_spec(text) for text in args.gpu_spec]
    shapes = [
        Shape((T,) * B, H, args.kv_heads, args.head_dim, args.dtype, args.new_tokens, args.capacity, args.append)
        for H, T, B in product(args.heads, args.context, args.batch)
    ]
    for gpu in given or GPUS.values():
        yield gpu, [predict(gpu, shape) for shape in shapes]


def lines(by_gpu: Sequence[tuple[GPU, list[Prediction]]]) -> Iterator[str]:
    """The tables, Markdown."""
    yield "# Decode attention of one layer: the limit, modelled, not run"
    yield ""
    yield LEGEND
    yield ""
    for gpu, found in by_gpu:
        yield from describe(gpu, found)
        yield ""
    yield from constants([gpu for gpu, _ in by_gpu])


def main(argv: list[str] | None = None) -> int:
    """Print the tables, then write what was asked for.  Returns the exit code."""
    args = parse(argv)
    try:
        by_gpu = list(predictions(args))
        for path in filter(None, (args.plot, args.json)):
            from kvproof.gpt2.cli.output_file import check_writable  # brings torch, which the tables do not need

            check_writable(path)
        print("\n".join(lines(by_gpu)))
        if args.plot:
            from kvproof.bench.roofline.picture import draw

            draw(args.plot, by_gpu)
        if args.json:
            from kvproof.gpt2.cli import output_file

            output_file.write(args.json, json.dumps([record(p) for _, found in by_gpu for p in found], indent=1) + "\n")
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        print(f"bench/roofline: {error.name} is not here; python -m pip install -e '.[plots]'", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"bench/roofline: {words(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    ends(main)
