"""Bytes of a KV cache: by model, length, batch, dtype and page size, and the contexts and batches that fit a GPU.

    python -m kvproof.bench.memory
    python -m kvproof.bench.memory --model gpt2-xl --batch 1,8 --page 16 --gpu 16,24,80
    python -m kvproof.bench.memory --model path/to/config.json --context 4096,131072 --plot cache.png
    python -m kvproof.bench.memory --measure --model random:gpt2 --batch 8

The figures are arithmetic and equal the nbytes of the real caches; --measure generates text and compares the peak with
their sum. MB and GB are 10^6 and 10^9 bytes, MiB and GiB 2^20 and 2^30.
Exit codes: 0 fine, 1 the measured peak is above the bar, 2 wrong usage, or this machine lacks something.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import argparse
import json
from itertools import product
from pathlib import Path

from kvproof.bench.memory.peak import BAR, FLOOR, measure
from kvproof.bench.memory.sizes import ITEMSIZE, Shape, read_shape
from kvproof.bench.memory.tables import MB, OVERVIEW, default_contexts, describe, overview, record
from kvproof.bench.program import ends, numbers, parser_for, refuses, write_figure


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_for("python -m kvproof.bench.memory", __doc__)
    add = parser.add_argument
    add("--model", help=f"{', '.join(OVERVIEW)}, tiny, a folder or a config.json; separated by commas")
    add("--context", type=numbers, help="tokens per sequence (default: powers of two)")
    add("--batch", type=numbers, help="sequences per batch (default 1; with --gpu 1,8,32,128)")
    dtypes = f"dtypes of the cache: {', '.join(ITEMSIZE)} (default float32,bfloat16,int8; with --measure float32)"
    add("--dtype", help=dtypes)
    add("--page", type=numbers, default=[16], help="slots per page (default 16)")
    add("--gpu", type=numbers, default=[], metavar="GB", help="GPUs of so many 10^9 bytes: what fits them")
    add("--parameters", type=float, help="parameters of a model whose config.json does not give them: 46.7e9")
    add("--json", action="store_true", help="records instead of tables")
    add("--plot", type=Path, metavar="FILE", help="picture of the sizes, a .png or .svg")
    add("--measure", action="store_true", help="measured peak of a generation beside the arithmetic")
    add("--new-tokens", type=int, default=64, help="new tokens of --measure (default %(default)s)")
    add("--device", default="cpu", help="device of --measure (default %(default)s)")
    args = parser.parse_args(argv)
    args.dtype = args.dtype or ("float32" if args.measure else "float32,bfloat16,int8")
    args.dtype = list(dict.fromkeys(args.dtype.split(",")))
    args.batch, args.gpu_batch = args.batch or [1], args.batch or [1, 8, 32, 128]
    for dtype in args.dtype:
        if dtype not in ITEMSIZE:
            parser.error(f"--dtype is {dtype}; choose of {', '.join(ITEMSIZE)}")
    if args.measure and "int8" in args.dtype:
        parser.error(
            "--measure generates with a cache of the weights' dtype, which is not int8; choose another --dtype"
        )
    if args.new_tokens < 1:
        parser.error(f"--new-tokens is {args.new_tokens}; it must be 1 or more")
    return args


@refuses("bench/memory")
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.measure:
        return compare(args)
    names = args.model.split(",") if args.model else ["gpt2", "gpt3"]
    shapes = [known(read_shape(name), args.parameters) for name in names]
    contexts = [args.context or default_contexts(shape) for shape in shapes]
    if args.plot:
        from kvproof.gpt2.cli.output_file import check_writable  # brings torch

        check_writable(args.plot)
    say(shapes, contexts, args)
    if args.plot:
        from kvproof.bench.memory.picture import draw

        write_figure(args.plot, draw(shapes, contexts, args.dtype, args.batch[0]))
    return 0


def say(shapes: list[Shape], contexts: list[list[int]], args: argparse.Namespace):
    if args.json:
        print(json.dumps([record(*pair, args) for pair in zip(shapes, contexts, strict=True)], indent=1))
        return
    for shape, lengths in zip(shapes, contexts, strict=True):
        print("\n".join(describe(shape, lengths, args)) + "\n")
    if not args.model:
        print("\n".join(overview()))


def known(shape: Shape, parameters: float | None) -> Shape:
    """The shape, with the number of parameters that --parameters gives where its config gives none."""
    if parameters is None or shape.parameters is not None:
        return shape
    return Shape(**(vars(shape) | {"parameters": int(parameters)}))


def compare(args: argparse.Namespace) -> int:
    models, prompts = (args.model or "tiny").split(","), args.context or [64]
    from kvproof.gpt2.cli.progress import Progress  # brings torch

    cells = list(product(models, args.batch, prompts, [args.new_tokens], args.dtype, [args.device]))
    with Progress("measuring in processes of their own", len(cells)) as line:
        results = [measure(*cell) for cell in line.each(cells)]
    if args.json:
        print(json.dumps(results, indent=1))
    for r in [] if args.json else results:
        larger = "prefill" if r["prefill"] >= r["decode"] else "decode step"
        held = "within" if r["alive"] <= r["bar"] else "ABOVE"
        print("{model}, {dtype}, {device}: batch {batch}, prompt {prompt}, {new} new tokens".format(**r))
        print(f"  weights                  {r['weights'] / MB:12.2f} MB")
        print(f"  cache                    {r['cache'] / MB:12.2f} MB")
        print(f"  activations              {r['activations'] / MB:12.2f} MB, {larger} (decode {r['decode'] / MB:.2f})")
        print(f"  sum                      {r['sum'] / MB:12.2f} MB")
        print(f"  measured peak, alive     {r['alive'] / MB:12.2f} MB, {r['ratio']:.4f} times the sum: {held} "
              f"{BAR} times and {FLOOR / MB:.0f} MB")  # fmt: skip
        print(
            f"  held with freed memory   {r['held'] / MB:12.2f} MB, {r['held'] / r['sum']:.4f} times: by the allocator"
        )
    return 0 if all(r["alive"] <= r["bar"] for r in results) else 1


if __name__ == "__main__":
    ends(main)
