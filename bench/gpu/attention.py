"""The decode attention of one layer, ours and its peers', over batch x context x heads: checked, timed, checked again.

    python -m kvproof.bench.gpu.attention RESULTS.jsonl [--rehearse]

A part of bench/gpu, in a process of its own, so that a peer that takes the GPU's context down takes nothing else.
Appends one JSON line per shape as soon as it is known and skips the shapes already there. Exit codes: 0 all green,
1 an attention is wrong, 2 the machine does not allow it, 3 the GPU is lost to this process: start it again.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from ...kernels.backend import without_gpu
from ...reference.judge.rounding import attention_error
from ..measure.environment import version
from ..measure.gate import to_numpy
from ..measure.machine import TOO_FAST, limit, reading
from ..measure.timing import time_calls
from ..program import parser_for
from .attention_peers import PEERS, Absent, Call, Peer, Problem, Shape, draw

ROUNDS, CALLS = 3, 20  # interleaved, so that a clock that drops hits all peers
CHECKED = 2**21  # elements of K that one check brings to the judge, in float64: about 0.1 s
LOST = 3  # exit code
BANDWIDTH_BYTES = 2**30  # a larger read is no faster
HEADS = ((12, 64), (32, 128), (25, 64))
FLEX_SHAPES = {(8, 1024), (8, 16384)}  # (B, T): it compiles anew for each, some 10 s


def shapes(device: torch.device, rehearse: bool) -> list[Shape]:
    """What to time, the most telling first; bfloat16 only where the GPU computes in it."""
    if rehearse:
        return [Shape(1, 16, 2, 16, "float16"), Shape(1, 144, 1, 16, "bfloat16")]
    bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
    return [
        Shape(B, T, H, D, dtype)
        for dtype in ("float16", "bfloat16")[: 1 + bf16]
        for H, D in HEADS
        for T in (1024, 4096, 128, 16384)
        for B in (8, 32, 1, 128)
    ]


def heads_to_check(B: int, H: int, T: int, D: int) -> list[tuple[int, int]]:
    """(b, h) pairs within the judge's budget: the first, the last, whose offsets are the largest, others at random."""
    count = min(B * H, max(2, CHECKED // (T * D)), 16)
    inner = np.random.default_rng(0).permutation(np.arange(1, B * H - 1))[: max(0, count - 2)]
    return [divmod(int(at), H) for at in sorted({0, B * H - 1, *inner})]


def error_of(o: torch.Tensor, problem: Problem, rounds_inside: bool) -> float:
    """The largest error of the heads checked, in multiples of what rounding explains.

    o  (B, H, D), held to the float64 formula; where the weights are rounded inside, as torch's are, to the wider gate.
       An o that is not finite, in any head, errs by infinity
    """
    if o.shape != problem.q.shape or not bool(o.isfinite().all()):
        return float("inf")
    B, H, T, D = problem.k.shape
    pairs = heads_to_check(B, H, T, D)
    rows, heads = (torch.tensor(at, device=o.device) for at in zip(*pairs, strict=True))
    got, q, k, v = (to_numpy(x[rows, heads][:, None]) for x in (o, problem.q, problem.k, problem.v))
    return attention_error(got, q, k, v, np.full(len(pairs), T), inner=q.dtype if rounds_inside else None)


class Deaths:
    """Which peers were at work when this process died, kept beside the results: twice, and a peer is left out.

    Once may be the end of the time or a user's kill; a peer that takes the GPU's context down does it again.
    """

    def __init__(self, results: Path):
        self.path = results.with_suffix(".deaths")
        self.at_work = self.path.read_text(encoding="utf-8").split() if self.path.exists() else []

    def of(self, name: str) -> int:
        return self.at_work.count(name)

    def begin(self, name: str) -> None:
        self.path.write_text("\n".join([*self.at_work, name]), encoding="utf-8")

    def survived(self) -> None:
        self.path.write_text("\n".join(self.at_work), encoding="utf-8")


def prepare(name: str, peer: Peer, shape: Shape, problem: Problem, deaths: int) -> tuple[dict, Call | None]:
    """One peer's row, with its error before timing, and its call; None instead where it is not to be timed."""
    row: dict = {"version": version(peer.package), "skipped": None, "refused": None, "wrong": False}
    if deaths > 1:
        row["skipped"] = f"the process died {deaths} times while it was at work"
        return row, None
    if name == "flex" and problem.q.is_cuda and (shape.B, shape.T) not in FLEX_SHAPES:
        row["skipped"] = "compiled anew for each shape, so timed at a few of them only"
        return row, None
    try:
        call = peer.prepare(problem)
        row["error_before"] = error_of(call(), problem, peer.rounds_inside)
    except Absent as absent:
        row["skipped"] = str(absent)
        return row, None
    except Exception as error:  # whatever a stranger's library raises is its row, not our end
        row["skipped"] = f"it failed: {type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:200]}"
        return row, None
    refuse_if_wrong(row, "before")
    return row, None if row["wrong"] else call


def refuse_if_wrong(row: dict, when: str) -> None:
    """Mark a row whose error, "before" or "after" timing, is more than rounding explains."""
    error = row[f"error_{when}"]
    if not error <= 1:
        row |= {"wrong": True, "refused": f"wrong {when} timing: {error:.3g} times what rounding explains"}
        row[f"error_{when}"] = error if math.isfinite(error) else None  # JSON knows no infinity


def figures(seconds: list[float], shape: Shape, bandwidth: dict) -> dict:
    """Microseconds and GB/s of one peer's calls, and their share of what the memory can do."""
    p20, median, p80 = (float(x) for x in np.percentile(np.array(seconds) * 1e6, (20, 50, 80)))
    rate = shape.bytes / median / 1e3
    row = {"calls": len(seconds), "median_us": median, "p20_us": p20, "p80_us": p80, "gb_per_s": rate}
    row["share_measured"] = rate / bandwidth["gb_per_s"]
    row["share_datasheet"] = rate / bandwidth["datasheet"] if bandwidth["datasheet"] else None
    if rate > TOO_FAST * bandwidth["limit"]:
        row["refused"] = f"{rate:.0f} GB/s is more than this memory can do ({bandwidth['limit']:.0f})"
    return row


def measure(shape: Shape, device: torch.device, bandwidth: dict, calls: int, deaths: Deaths) -> dict:
    """Every peer at one shape: all checked, then timed in rounds, then all checked again."""
    record = {"key": shape.key, "shape": vars(shape), "bytes": shape.bytes, "bandwidth": bandwidth, "peers": {}}
    problem = draw(shape, device)
    record["heads_checked"] = len(heads_to_check(*problem.k.shape))
    running: dict[str, Call] = {}
    for name, peer in PEERS.items():
        deaths.begin(name)
        record["peers"][name], call = prepare(name, peer, shape, problem, deaths.of(name))
        if call is not None:
            running[name] = call
    samples: dict[str, list[float]] = {name: [] for name in running}
    for n in range(1 + ROUNDS):  # the first warms up, and has the flush's buffer allocated, which may make GPUs wait
        for name, call in running.items():
            deaths.begin(name)
            run_ahead(device)
            seconds = time_calls(call, device, calls if n else 1, flush=True)
            samples[name] += seconds if n else []
    for name, call in running.items():
        row = record["peers"][name]
        row |= figures(samples[name], shape, bandwidth)
        row["error_after"] = error_of(call(), problem, PEERS[name].rounds_inside)
        refuse_if_wrong(row, "after")
    deaths.survived()
    return record


def run_ahead(device: torch.device) -> None:
    """Occupy the GPU for some 10 ms, in which the host enqueues what is timed next: its pace is not the kernel's."""
    if device.type == "cuda":
        torch.cuda._sleep(20_000_000)  # cycles


def no_room(shape: Shape, device: torch.device) -> str | None:
    """Why the shape does not fit this GPU: the cache, a copy for each peer of another layout, and some air."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    copies = sum(version(package) is not None for package in ("flash-attn", "flashinfer-python"))
    # Laying out the last copy needs K or V once more.
    free, need = torch.cuda.mem_get_info(device)[0], (1 + copies + copies / 2) * shape.cache_bytes + 2**30
    return f"needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free" if need > free else None


def records(
    todo: list[Shape], device: torch.device, calls: int, datasheet: float | None, deaths: Deaths
) -> Iterator[dict]:
    reads: dict[int, list[float]] = {}
    for shape in todo:
        reason = no_room(shape, device)
        if reason:
            yield {"key": shape.key, "shape": vars(shape), "skipped": reason, "peers": {}}
            continue
        size = min(1 << (shape.bytes - 1).bit_length(), BANDWIDTH_BYTES)
        if size not in reads:  # with the cache flushed, as the attentions are timed
            probe = reading(size, device)
            reads[size] = [probe.work.bytes / 1e9 / s for s in time_calls(probe.call, device, CALLS, flush=True)]
        ceiling, source = limit([rate for samples in reads.values() for rate in samples], datasheet)
        bandwidth = {"bytes": size, "gb_per_s": statistics.median(reads[size]), "datasheet": datasheet}
        yield measure(shape, device, bandwidth | {"limit": ceiling, "limit_is": source}, calls, deaths)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_for("python -m kvproof.bench.gpu.attention", __doc__)
    parser.add_argument("results", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU and the PTX machine")
    parser.add_argument("--datasheet", type=float, help="memory bandwidth in the GPU's datasheet, GB/s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if not args.rehearse and not torch.cuda.is_available():
        print("bench/gpu/attention.py: torch finds no CUDA GPU here; --rehearse needs none", file=sys.stderr)
        return 2
    with without_gpu() if args.rehearse else nullcontext():
        return run(args)


def run(args: argparse.Namespace) -> int:
    device, deaths = torch.device("cpu" if args.rehearse else "cuda"), Deaths(args.results)
    done = read(args.results)
    todo = [shape for shape in shapes(device, args.rehearse) if shape.key not in {record["key"] for record in done}]
    try:
        with args.results.open("a", encoding="utf-8") as file:
            for record in records(todo, device, 1 if args.rehearse else CALLS, args.datasheet, deaths):
                file.write(json.dumps(record, allow_nan=False) + "\n")
                file.flush()
                done.append(record)
                print(record["key"], record.get("skipped") or "", flush=True)
    except RuntimeError as error:  # after an illegal access, all that the process asks of the GPU fails
        print(f"bench/gpu/attention.py: the GPU is lost to this process: {error}", file=sys.stderr)
        return LOST
    wrong = [f"{name} at {r['key']}" for r in done for name, row in r["peers"].items() if row["wrong"]]
    print(f"{len(done)} shapes" + f", {len(wrong)} wrong: {'; '.join(wrong)}" * bool(wrong))
    return int(bool(wrong))


def read(path: Path) -> list[dict]:
    """The records of whole lines; a line that a kill cut short is cut off the file, and the next one starts clean."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


if __name__ == "__main__":
    sys.exit(main())
