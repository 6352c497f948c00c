"""Roofline of decode attention: the bytes one layer moves, and its time on a GPU by a model.

    python -m kvproof.bench.roofline                T4, A100, H100, H200, B200, RTX 4090; GPT-2's 12 heads
    python -m kvproof.bench.roofline --gpu H100 --batch 1,8,32 --context 4096,131072 --heads 32 --kv-heads 8
    python -m kvproof.bench.roofline --gpu-spec "name=My GPU,bandwidth=900,sms=80,clock=1530" --plot limit.png

No figure is measured: bytes and programs are counted, engine, registers and instructions are those of the compiled
kernel (kernels/aot/targets.txt), times are modelled from the constants of the last table and hold to ±30 % at best.
`python -m kvproof.bench.gpu` measures. Exit codes: 0 fine, 2 wrong usage.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NoReturn

from kvproof.bench.program import ends, numbers, refuses, write_figure
from kvproof.bench.roofline.gpus import GPU, GPUS, find, parse_spec
from kvproof.bench.roofline.model import Prediction, predict
from kvproof.bench.roofline.tables import LEGEND, constants, describe, record
from kvproof.bench.roofline.work import ITEMSIZE, Shape


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
    add("--gpu", nargs="+", default=[], metavar="NAME", help=f"GPUs of the table: {', '.join(GPUS)} (default: all)")
    add("--gpu-spec", action="append", default=[], metavar="SPEC", help='your GPU: "name=..,bandwidth=..,sms=..,'
        'clock=.." in GB/s and MHz; also l2 in MB, arch (86 for sm_86), share, launch and latency in µs')  # fmt: skip
    add("--batch", type=numbers, default=[1, 8, 64, 256], help="sequences per batch (default 1,8,64,256)")
    add("--context", type=numbers, default=[128, 512, 1024], help="tokens per sequence (default 128,512,1024)")
    add("--heads", type=numbers, default=[12], help="query heads (default 12)")
    add("--kv-heads", type=int, help="KV heads (default: as many as query heads)")
    add("--head-dim", type=int, default=64, help="numbers in a row of K (default %(default)s)")
    add("--dtype", default="float16", help=f"dtype of the cache: {', '.join(ITEMSIZE)} (default %(default)s)")
    add("--new-tokens", type=int, default=1, help="new tokens per sequence (default %(default)s)")
    add("--capacity", type=int, help="slots per sequence; splits past the context do nothing (default: the context)")
    add("--append", action="store_true", help="the launch also writes the new rows into the cache")
    add("--json", type=Path, metavar="FILE", help="JSON file for the predictions")
    add("--plot", type=Path, metavar="FILE", help="picture of the predictions, a .png or .svg; needs matplotlib")
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


def lines(by_gpu: Sequence[tuple[GPU, list[Prediction]]], words: Sequence[str]) -> Iterator[str]:
    command = shlex.join(["python", "-m", "kvproof.bench.roofline", *words])
    title = "# Decode attention of one layer: the limit, modelled, not run"
    yield from (title, "", f"By `{command}`.", "", LEGEND, "")
    for gpu, found in by_gpu:
        yield from describe(gpu, found)
        yield ""
    yield from constants([gpu for gpu, _ in by_gpu])


@refuses("bench/roofline")
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    by_gpu = list(predictions(args))
    from kvproof.gpt2.cli import output_file  # brings torch, for which --help does not wait

    for path in filter(None, (args.plot, args.json)):
        output_file.check_writable(path)
    print("\n".join(lines(by_gpu, sys.argv[1:] if argv is None else argv)))
    if args.plot:
        from kvproof.bench.roofline.picture import draw

        write_figure(args.plot, draw(by_gpu))
    if args.json:
        output_file.write(args.json, json.dumps([record(p) for _, found in by_gpu for p in found], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    ends(main)
