"""Speed of the two emulators of a GPU, the PTX machine and Triton's interpreter, on the same decode attention.

    python bench/emulators.py
    python bench/emulators.py --repeats 9 --results emulators.json

Claim: with every check on, the machine takes less than a quarter of the interpreter's time. Each emulator has its own
process, since Triton decides on import whether it interprets. Both are warmed up and checked against the float64
formula; then their timed calls on the same inputs are interleaved.

Exit codes: 0 the claim holds; 1 it fails, or parity is red and nothing is timed; 2 wrong usage, or this machine lacks
something.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kvproof.bench.measure.stats import summarize
from kvproof.bench.program import ends, parser_for, refuses, words
from kvproof.gpt2.cli import output_file
from kvproof.gpt2.cli.progress import Progress
from kvproof.kernels.backend import BACKENDS, interpreting, use_interpreter
from kvproof.reference.judge.rounding import attention, attention_error

SHAPE = 2, 12, 1024, 64  # B, H, T, D; every slot is filled
DTYPES = ("float32", "float16")
TARGET, BAR = "sm_90", 0.25


class Timed(NamedTuple):
    """One call of decode attention.

    ms     milliseconds
    gates  the largest error against the float64 formula, in multiples of what rounding explains: right up to 1
    error  the largest difference from it
    """

    ms: float
    gates: float
    error: float


def call(backend: str, dtype: str, shape: tuple[int, int, int, int]) -> Timed:
    """Call decode attention once where this process runs kernels; in a worker of `workers`, that is `backend`."""
    from kvproof.kernels.attention import decode_attention
    from kvproof.kernels.ptx import route

    assert interpreting() == (backend == "interpret")
    B, H, T, D = shape
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(size).astype(dtype) for size in ((B, H, D), (B, H, T, D), (B, H, T, D)))
    lengths = np.full(B, T, np.int32)
    inputs = [torch.from_numpy(x) for x in (q, k, v, lengths)]
    start = time.perf_counter()
    if backend == "interpret":
        o = decode_attention(*inputs).numpy()
    else:
        with route(TARGET) as reports:
            o = decode_attention(*inputs).numpy()
        assert reports, "the launch went past the machine"
    ms = 1e3 * (time.perf_counter() - start)
    error = float(np.abs(o.astype(np.float64) - attention(q, k, v, lengths)).max())
    return Timed(ms, attention_error(o, q, k, v, lengths), error)


def prepare(backend: str) -> None:
    """Decide, before anything imports Triton, how this process runs kernels; Ctrl-C ends it without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.pop("TRITON_INTERPRET", None)
    if backend == "interpret":
        use_interpreter()


@contextmanager
def workers(shape: tuple[int, int, int, int] = SHAPE):
    """A process for each backend; yields ask(backend, dtype) -> Timed, for which the others wait."""
    spawn, pools = get_context("spawn"), {}
    ctrl_c = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a worker starts so, and shows no traceback of its imports
    try:
        for backend in BACKENDS:
            pools[backend] = ProcessPoolExecutor(1, spawn, prepare, (backend,))
            pools[backend].submit(interpreting)  # starts the process, beside the other's start
        signal.signal(signal.SIGINT, ctrl_c)
        yield lambda backend, dtype: pools[backend].submit(call, backend, dtype, shape).result()
    except BaseException:
        for child in active_children():  # a call takes seconds, a start too
            child.terminate()
        raise
    finally:
        signal.signal(signal.SIGINT, ctrl_c)
        for pool in pools.values():
            pool.shutdown()


def compare(
    ask: Callable[[str, str], Timed], dtype: str, repeats: int, after: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Both backends, their calls interleaved: the record of one dtype, without times where parity is red.

    after  called after each round

    first is the milliseconds of the call that warms up, which compiles; ms and ratio (machine / interpreter, of
    neighbouring calls) are summaries as bench/measure/stats.py makes them; parity is the worst of all calls.
    """
    calls = {backend: [ask(backend, dtype)] for backend in BACKENDS}
    record: dict[str, Any] = {"dtype": dtype, "first": {backend: of[0].ms for backend, of in calls.items()}}
    record |= {"ms": None, "ratio": None}
    if all(of[0].gates <= 1 for of in calls.values()):
        after()
        for _ in range(repeats):
            for backend, of in calls.items():
                of.append(ask(backend, dtype))
            after()
        ms = {backend: np.array([[one.ms] for one in of[1:]]) for backend, of in calls.items()}
        record["ms"] = {backend: summarize(runs) for backend, runs in ms.items()}
        record["ratio"] = summarize(ms["ptx"] / ms["interpret"])
    worst = {backend: Timed(*map(max, zip(*of, strict=True))) for backend, of in calls.items()}
    record["parity"] = {backend: {"gates": one.gates, "error": one.error} for backend, one in worst.items()}
    record["green"] = all(one.gates <= 1 for one in worst.values())
    return record


def holds(record: dict[str, Any]) -> bool:
    """Whether parity was green, before and while timing, and the machine is as fast as claimed."""
    return record["green"] and record["ratio"]["median"] <= BAR


def texts(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['dtype']}: error against the float64 formula, in multiples of what rounding explains"]
    for backend, parity in record["parity"].items():
        word = "ok " if parity["gates"] <= 1 else "RED"
        lines.append(
            f"  {BACKENDS[backend]:<12} {word} {parity['gates']:.2g} (largest difference {parity['error']:.2g})"
        )
    if not record["green"]:
        return [*lines, "  Parity is red, so there are no times: a wrong computation has no speed."]
    lines.append(f"  {'ms':<12} {'median':>8}     p20 - p80            first call")
    for backend, ms in record["ms"].items():
        spread = f"{ms['p20']:6.0f} - {ms['p80']:.0f}"
        lines.append(f"  {BACKENDS[backend]:<12} {ms['median']:8.0f}  {spread:<22} {record['first'][backend]:.0f}")
    ratio, word = record["ratio"], "holds" if holds(record) else "FAILS"
    spread = f"{ratio['p20']:6.3f} - {ratio['p80']:.3f}"
    return [*lines, f"  {'ratio':<12} {ratio['median']:8.3f}  {spread:<22} {word}: at most {BAR}"]


@refuses("bench/emulators.py")
def main(argv: list[str] | None = None) -> int:
    from kvproof.bench.measure.environment import environment, heading

    parser = parser_for("bench/emulators.py", __doc__)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls per emulator (default %(default)s)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON file for the figures")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; it must be 1 or more")
    try:
        if args.results:
            output_file.check_writable(args.results)
    except OSError as error:
        parser.error(f"--results {words(error)}")
    about, B_H_T_D = environment(torch.device("cpu"), bool(args.results)), "B={}, H={}, T={}, D={}".format(*SHAPE)
    print("\n".join(heading(about)))
    print(f"\ndecode attention, {B_H_T_D}; the machine as {TARGET}, every check on; {args.repeats} calls each\n")
    found = []
    with Progress("calls of both", len(DTYPES) * (1 + args.repeats)) as line, workers() as ask:
        for dtype in DTYPES:
            found.append(compare(ask, dtype, args.repeats, line.update))
            line.print("\n".join(texts(found[-1])))
    if args.results:
        facts = {"bench": "emulators", "shape": SHAPE, "target": TARGET, "repeats": args.repeats, "bar": BAR}
        output_file.write(args.results, json.dumps({**facts, "found": found, "environment": about}, indent=1) + "\n")
    return 0 if all(map(holds, found)) else 1


if __name__ == "__main__":
    ends(main)
