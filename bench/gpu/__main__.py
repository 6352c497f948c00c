"""Ten minutes on a GPU, unattended: the kernels' tests, decode attention beside its peers, whole models.

    python -m kvproof.bench.gpu                 results in ./gpu-results: gpu.json, gpu.html and a log of each part
    python -m kvproof.bench.gpu --rehearse      the same on the CPU with tiny sizes; its times mean nothing

The parts, in this order: the tests with the kernels compiled; decode attention timed beside its peers; whole models
decoded beside transformers, with and without CUDA graphs. Each part is a process with its share of the time. Results
are written after every part; the same command runs the parts that are not done.
Exit codes: 0 nothing is wrong, 1 a part failed, 2 wrong usage or no GPU.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import argparse
import datetime
import json
import sys
import time
from pathlib import Path

import torch

from kvproof.bench.gpu import page as gpu_page
from kvproof.bench.gpu import parts as gpu_parts
from kvproof.bench.measure.environment import environment
from kvproof.bench.program import INTERRUPTED, ends, parser_for, words
from kvproof.gpt2.cli import output_file
from kvproof.gpt2.cli.progress import Progress

KIND = "kvproof/gpu/1"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_for("python -m kvproof.bench.gpu", __doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-results"), help="folder of the results (default %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=10, help="time for all parts (default %(default)g)")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU and the PTX machine")
    args = parser.parse_args(argv)
    if not 0 < args.minutes < float("inf"):
        parser.error(f"--minutes is {args.minutes:g}; it must be more than 0")
    return args


def main(argv: list[str] | None = None) -> int:
    args, begun = parse(argv), time.monotonic()
    if not (args.rehearse or torch.cuda.is_available()):
        print("bench/gpu: torch finds no CUDA GPU here; --rehearse shows on the CPU what it does", file=sys.stderr)
        return 2
    out = args.out.resolve()
    try:
        output_file.check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        state = begin(out, args.rehearse)
    except (OSError, ValueError) as error:
        print(f"bench/gpu: {words(error)}", file=sys.stderr)
        return 2
    gpu = state["environment"].get("gpu") or {}
    parts = gpu_parts.plan(out, args.rehearse, gpu.get("datasheet_gb_per_s") if isinstance(gpu, dict) else None)
    print(f"{state['environment']['device']}, {args.minutes:g} minutes; results in {args.out}", flush=True)
    try:
        run_parts(parts, state, out, begun + 60 * args.minutes)
    except KeyboardInterrupt:
        print("bench/gpu: interrupted; what is done is kept, and the same command goes on from there",
              file=sys.stderr)  # fmt: skip
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"bench/gpu: {words(error)}; put it right, the same command goes on from there", file=sys.stderr)
        return 2
    print(f"report: {args.out / 'gpu.html'}; all of it: {args.out / 'gpu.json'}")
    return int(any(entry["status"] == "failed" for entry in state["parts"].values()))


def run_parts(parts: list[gpu_parts.Part], state: dict, out: Path, deadline: float) -> None:
    """Run what is not done yet, each part into its entry of the state, and write the state after each.

    deadline  on time.monotonic's clock
    """
    for at, part in enumerate(parts):
        if state["parts"].get(part.name, {}).get("status") == "done":
            print(f"{part.name}: done before", flush=True)
            continue
        seconds = gpu_parts.seconds_for(parts, at, max(0.0, deadline - time.monotonic()))
        print(f"{part.name}: " + ("skipped" if part.skip else f"up to {seconds:.0f} s"), flush=True)
        with Progress(part.name):
            entry = state["parts"][part.name] = gpu_parts.run(part, out, seconds)
        entry["records"], trouble = gpu_parts.results(part, out)
        if part.results and entry["status"] == "done":
            entry["closing"] = f"records: {len(entry['records'])}"
        if trouble:
            entry |= {"status": "failed", "reason": trouble}
        print(f"  {entry['status']}, {entry['seconds']:.0f} s: {entry['reason'] or entry['closing']}", flush=True)
        write(state, out)


def begin(out: Path, rehearse: bool) -> dict:
    """The state an earlier run left in the folder, or a fresh one.

    Raises ValueError if the folder holds results of another device, commit or kind: they would mix.
    """
    here = environment(torch.device("cpu" if rehearse else "cuda"))
    state = {
        "schema": KIND,
        "rehearsed": rehearse,
        "begun": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "environment": here,
        "parts": {},
    }
    path = out / "gpu.json"
    if not path.exists():
        if list(out.glob("*.jsonl")):
            raise ValueError(f"{out} holds JSONL of something else; name an empty folder with --out")
        write(state, out)
        return state
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        identity = [[s["schema"], s["rehearsed"], s["environment"]["device"], s["environment"]["commit"]]
                    for s in (old, state)]  # fmt: skip
    except (ValueError, LookupError, TypeError):
        raise ValueError(f"{path} is no state of bench/gpu; name another folder with --out") from None
    if identity[0] != identity[1]:
        raise ValueError(f"{path} holds {identity[0]}, this run is {identity[1]}; name another folder with --out")
    return old


def write(state: dict, out: Path) -> None:
    for name, text in (("gpu.json", json.dumps(state, indent=1)), ("gpu.html", gpu_page.render(state))):
        output_file.write(out / name, text + "\n")


if __name__ == "__main__":
    ends(main)
