"""Instructions that our decode kernel and other projects' execute for the same call, counted by the PTX machine.

    python -m kvproof.bench.peers                                             our kernel alone
    python -m kvproof.bench.peers --sources FOLDER --results bench/results/peer-kernels.json
    python -m kvproof.bench.peers --keep bench/results/peer-kernels.json --results bench/results/peer-kernels.json

The last command counts our kernel again and keeps the peers' rows.

Each peer's own launcher runs on CPU tensors, routed to the machine, so its grid, tile, warps and splits are its own
choice for an H100; where the choice is its caller's or an autotuner's, `configuration` says what was chosen, and
`default` is false where the peer takes it only when asked. fp16, head_dim 64, one query head per KV head, B = 1, H = 4,
every launch of the call counted, epilogue and combine included. `gates` is the error against the float64 formula in
multiples of what rounding explains: peers that multiply in fp16 lie above 1, and above WRONG none counts.

`load` is what a split heuristic sees: "alone", the four heads that run, or "full", 32 sequences of 12 heads, at which
a heuristic that looks at the batch splits less. "any" stands where the batch changes nothing.

FOLDER holds packages, of which only FILES (bench/peers/stubs.py) are read; the rest is stubbed:

    fla       fla-org/flash-linear-attention bc3b101dcb71     sglang  PyPI sglang 0.5.23
    lightllm  ModelTC/lightllm fc72ffab9a34                   vllm    PyPI vllm 0.33.0
    mslk      meta-pytorch/MSLK 2a3c89786adf, where xformers' split-K kernels live now
    aiter     ROCm/aiter e4048607a535, written for AMD's GPUs

Not measured: FlexDecode, which torch's inductor writes for a GPU that is there.
Counted are PTX instructions, which ptxas merges and adds to for everybody alike. Nothing here is a time.

Exit codes: 0 counted; 1 our kernel is wrong; 2 wrong usage.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kvproof.bench.measure.environment import environment
from kvproof.bench.peers.launches import PEERS, Call, Inputs
from kvproof.bench.peers.stubs import FILES, file_of, sources
from kvproof.bench.program import ends, parser_for, words
from kvproof.gpt2.cli import output_file
from kvproof.gpt2.cli.progress import Progress
from kvproof.reference.judge.rounding import attention, attention_error

OURS = {"kvproof": "simt", "kvproof tensor": "mma"}  # by the engine that is asked for
LENGTHS, TARGETS, HEADS, HEAD_DIM = (128, 1024, 8192), ("sm_90", "sm_80"), 4, 64
WRONG = 64  # multiples of the gate: a peer that multiplies or rounds in fp16 lies between 1 and it
SOURCES = {
    "sglang": "PyPI sglang 0.5.23",
    "vllm": "PyPI vllm 0.33.0",
    "mslk": "github.com/meta-pytorch/MSLK 2a3c89786adf55359cfcc5d5cb9f4c41875eaac6",
    "fla": "github.com/fla-org/flash-linear-attention bc3b101dcb713ddc5bd8924b66754eb68b5ccf89",
    "lightllm": "github.com/ModelTC/lightllm fc72ffab9a3455cfb571f22d45ab777cc29de0de",
    "aiter": "github.com/ROCm/aiter e4048607a535ace3a2b51ded31b1c8c2d45c0879",
}


def draw(n: int) -> Inputs:
    rng = np.random.default_rng(0)
    shapes = ((1, HEADS, HEAD_DIM), (1, HEADS, n, HEAD_DIM), (1, HEADS, n, HEAD_DIM))
    q, k, v = (rng.standard_normal(shape).astype("float16") for shape in shapes)
    return Inputs(*map(torch.from_numpy, (q, k, v, np.full(1, n, np.int32))))


def ours(engine: str, x: Inputs, load: str) -> Call:
    """decode_attention as a caller has it, capacity n; for one query per KV head it chooses the simt engine."""
    from kvproof.kernels.attention import decode_attention

    splits = 1 if x.sizes[1] <= 128 else min(64, x.sizes[1] // 128)
    if engine == "simt":
        return Call(lambda: decode_attention(*x), splits, "decode_attention's defaults")
    return Call(lambda: decode_attention(*x, engine=engine), splits, f'engine="{engine}"', default=False)


@contextmanager
def compiled() -> Iterator[list]:
    """The kernels that the machine compiles inside, one for each launch."""
    launch: Any = importlib.import_module("kvproof.kernels.ptx.launch")
    kernels: list = []
    usual = launch.compile

    def remember(*args: Any) -> Any:
        kernels.append(usual(*args))
        return kernels[-1]

    launch.compile = remember
    try:
        yield kernels
    finally:
        launch.compile = usual


def measure(attend: Callable[[], torch.Tensor], x: Inputs, target: str) -> dict[str, Any]:
    """Run one call on the machine, hold it to the float64 formula and count what its launches did.

    bytes_moved counts sectors of 32 bytes, read or written, once for each warp that touches one; bytes_distinct the
    bytes that each launch read; classes counts instructions by kind. Raises what the machine raises.
    """
    from kvproof.kernels import ptx
    from kvproof.kernels.ptx.compiled import usage
    from kvproof.kernels.ptx.counters import CLASSES

    with ptx.route(target, keep=None) as reports, compiled() as kernels:
        o = attend().reshape(x.q.shape).numpy()
    arrays = [t.numpy() for t in x]
    gates = attention_error(o, *arrays)
    totals, token_heads = [report.total for report in reports], x.sizes[0] * x.sizes[1]
    instructions = sum(t.instructions for t in totals)
    uses = [usage(kernel.asm["cubin"]) for kernel in kernels]
    return {
        "wrong": not gates <= WRONG,
        "gates": round(min(gates, 1e9), 3),
        "error": float(np.abs(o.astype(np.float64) - attention(*arrays)).max()),
        "instructions": instructions,
        "per_token_head": round(instructions / token_heads, 4),
        "classes": {name: n for name in CLASSES if (n := sum(report.classes.get(name, 0) for report in reports))},
        "barriers_per_token_head": round(sum(t.barriers for t in totals) / token_heads, 5),
        "shuffles_per_token_head": round(sum(r.classes.get("shuffle, vote", 0) for r in reports) / token_heads, 5),
        "bytes_moved": 32 * sum(t.loaded.sectors + t.stored.sectors for t in totals),
        "bytes_distinct": int(sum(sum(r.unique.values()) for r in reports)),
        "launches": [
            {"kernel": r.name, "grid": list(r.grid), "num_warps": r.num_warps, "instructions": t.instructions}
            | {"registers": used.registers, "stack_and_local": used.stack + used.local}
            for r, t, used in zip(reports, totals, uses, strict=True)
        ],
    }


def row(name: str, prepare: Callable[[Inputs, str], Call], load: str, target: str, n: int) -> dict[str, Any]:
    """The record of one subject, of what refused it where there is no figure."""
    found: dict[str, Any] = {"peer": name, "load": load, "target": target, "n": n}
    x = draw(n)
    try:
        attend, *chosen = prepare(x, load)
        return found | dict(zip(Call._fields[1:], chosen, strict=True)) | measure(attend, x, target)
    except Exception as error:  # whatever foreign code fails with is its record
        if name in OURS:
            raise
        return found | {"refused": f"{type(error).__name__}: {error}"[:300]}


COLUMNS = ("peer", "load", "target", "n", "splits", "wi/token-head", "barriers", "shuffles")
HEADER = "{:<15}{:<7}{:<7}{:>5}{:>7}{:>15}{:>10}{:>10}".format(*COLUMNS)


def text(row: dict[str, Any]) -> str:
    start = f"{row['peer']:<15}{row['load']:<7}{row['target']:<7}{row['n']:>5}"
    if "refused" in row:
        return f"{start}  refused: {row['refused'][:160]}"
    figures = f"{row['per_token_head']:>15.2f}{row['barriers_per_token_head']:>10.3f}"
    warps = ", ".join(f"{x['registers']} regs w{x['num_warps']}" for x in row["launches"])
    wrong = f"  WRONG: {row['gates']:.3g} gates" * row["wrong"]
    return f"{start}{row['splits']:>7}{figures}{row['shuffles_per_token_head']:>10.3f}  {warps}{wrong}"


def about(folder: Path | None, kept: dict[str, Any] | None) -> dict[str, Any]:
    """The record with the rows that are kept. Where the peers were measured may be another commit: `peers` says so."""
    here = environment(torch.device("cpu"))
    versions = {name: here["versions"][name] for name in ("kvproof", "torch", "triton", "numpy")}
    at = {"commit": here["commit"], "dirty": here["dirty"], "versions": versions}
    read = {f: hashlib.sha256(file_of(folder, f).read_bytes()).hexdigest() for f in FILES} if folder else {}
    return {
        "bench": "peer_kernels",
        "command": "python -m kvproof.bench.peers --sources FOLDER --results bench/results/peer-kernels.json",
        "shape": {"B": 1, "H": HEADS, "H_kv": HEADS, "D": HEAD_DIM, "dtype": "float16"},
        "unit": "PTX warp instructions of all launches of one call / (B * H * n)",
        **at,
        "peers": kept["peers"] if kept else at | {"sources": SOURCES if folder else {}, "sha256": read},
        "rows": [row for row in kept["rows"] if row["peer"] not in OURS] if kept else [],
    }


def main(argv: list[str] | None = None) -> int:
    parser = parser_for("python -m kvproof.bench.peers", __doc__)
    add = parser.add_argument
    add("--sources", type=Path, metavar="FOLDER", help="folder of the peers' packages; without it, our kernel alone")
    add("--keep", type=Path, metavar="FILE", help="record whose peers' rows are kept; needs no FOLDER")
    add("--results", type=Path, metavar="FILE", help="JSON file for the figures")
    add("--n", type=int, nargs="+", default=LENGTHS, help="context lengths, multiples of 16")
    add("--peers", nargs="+", default=list(PEERS), choices=PEERS, help="peers to count (default: all)")
    args = parser.parse_args(argv)
    lengths: list[int] = args.n
    if args.sources and (missing := [f for f in FILES if not file_of(args.sources, f).exists()]):
        parser.error(f"{args.sources} has no {', '.join(missing)}; --help says which projects it holds")
    if args.sources and args.keep:
        parser.error("--sources measures the peers and --keep keeps their rows; give one of them")
    try:
        if args.results:
            output_file.check_writable(args.results)
        kept = json.loads(args.keep.read_text()) if args.keep else None
    except (OSError, ValueError) as error:
        parser.error(words(error) if isinstance(error, OSError) else f"{args.keep} is no JSON: {error}")
    record = about(args.sources, kept)
    subjects = {name: (partial(ours, engine), ("any",)) for name, engine in OURS.items()}
    if record["peers"]["versions"]["triton"] != record["versions"]["triton"]:
        parser.error(f"{args.keep} is of another Triton, which compiles otherwise; measure the peers with --sources")
    subjects |= {name: PEERS[name] for name in args.peers} if args.sources else {}
    print(f"commit {record['commit']}, versions {record['versions']}\n{HEADER}")
    with Progress("compiling and counting") as line, sources(args.sources) if args.sources else nullcontext():
        for name, (prepare, loads) in subjects.items():
            for load, target, n in product(loads, TARGETS, lengths):
                record["rows"].append(row(name, prepare, load, target, n))
                line.print(text(record["rows"][-1]))
    record["rows"].sort(key=lambda found: [*OURS, *PEERS].index(found["peer"]))
    if args.results:
        output_file.write(args.results, json.dumps(record, indent=1) + "\n")
    return int(any(found["wrong"] for found in record["rows"] if found["peer"] in OURS))


if __name__ == "__main__":
    ends(main)
