"""The program of one process of a build: a request per line of JSON on standard input, an answer per line back.

It imports of the build only what builds since 364e8ed share, so that one file runs in each of them. Inputs come from
a seed; the outputs go back, for the asking process judges them.
"""

import base64
import json
import os
import sys
import time
import traceback
from contextlib import nullcontext
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

TARGET = "sm_90"
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(name: str) -> float | None:
    """Resident memory in MB: VmRSS now, VmHWM the most since `forget_peak`; None where the system does not show it."""
    try:
        found = [line.split() for line in STATUS.read_text().splitlines() if line.startswith(name)]
    except OSError:
        return None
    return int(found[0][1]) / 1e3 if found else None


def forget_peak() -> bool:
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


@lru_cache(maxsize=1)
def inputs(shape: tuple[int, int, int, int], dtype: str) -> list[Any]:
    """q (B, H, D), k and v (B, H, T, D), lengths (B,), as NumPy arrays; every slot is filled."""
    import numpy as np

    B, H, T, D = shape
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(size).astype(dtype) for size in ((B, H, D), (B, H, T, D), (B, H, T, D)))
    return [q, k, v, np.full(B, T, np.int32)]


def attention() -> Any:
    try:
        return import_module("kvproof.kernels.attention").decode_attention
    except ImportError:  # before it moved
        return import_module("kvproof.kernels.decode_attention").decode_attention


def decode(shape: list[int], dtype: str, shadow: bool = False) -> dict[str, Any]:
    """One call of decode attention: milliseconds, growth of resident memory in MB, which engines, the output's bytes.

    shadow  whether every register carries its value in float64: builds before that have no such thing
    """
    import torch

    from kvproof.kernels.backend import interpreting
    from kvproof.kernels.ptx import route

    decode_attention = attention()
    tensors = [torch.from_numpy(x) for x in inputs((shape[0], shape[1], shape[2], shape[3]), dtype)]
    engines: set[str] = set()
    settings: dict[str, Any] = {"shadow": "float64"} if shadow else {}
    before = resident("VmRSS") if forget_peak() else None
    start = time.perf_counter()
    with nullcontext() if interpreting() else route(TARGET, each=lambda r: engines.add(engine(r)), **settings):
        o = decode_attention(*tensors)
    ms = 1e3 * (time.perf_counter() - start)
    peak = resident("VmHWM")
    grown = None if before is None or peak is None else peak - before
    assert engines or interpreting(), "the launch went past the machine"
    out = base64.b64encode(o.numpy().tobytes()).decode()
    return {"ms": ms, "mb": grown, "engines": sorted(engines) or ["interpreter"], "out": out}


def engine(report: Any) -> str:
    """What ran a launch, and why if that was not machine code; older builds have the NumPy form alone."""
    name, why = (getattr(report, x, given) for x, given in (("engine", "numpy"), ("engine_reason", "")))
    return f"{name} ({why})" if why else name


@lru_cache(maxsize=1)
def tiny():
    from kvproof.gpt2 import load

    return load("tiny", impl="triton")


def tokens(prompt: list[int], new: int) -> dict[str, Any]:
    """Greedy tokens of `tiny` by the kernels on the machine: milliseconds per token after the first, and the ids."""
    from kvproof.gpt2 import generate
    from kvproof.kernels.ptx import route

    at, ids, engines = [], [], set()

    def stream(row: int, token: int | None, text: str) -> None:
        if token is not None:
            at.append(time.perf_counter())
            ids.append(token)

    with route(TARGET, keep=1, each=lambda report: engines.add(engine(report))):
        generate(tiny(), [prompt], max_new_tokens=new, stream=stream)
    ms = 1e3 * (at[-1] - at[0]) / (len(at) - 1)
    return {"ms": ms, "engines": sorted(engines), "out": json.dumps(ids)}


def ready() -> dict[str, Any]:
    """Import what a launch needs, as a program has before its first."""
    attention()
    import_module("kvproof.kernels.ptx")
    return {}


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else prints must not come between
    asked = {"decode": decode, "tokens": tokens, "ready": ready}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = asked[name](**arguments)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
