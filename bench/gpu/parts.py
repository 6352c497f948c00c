"""What bench/gpu runs: each part a command of its own, with a share of the time, that nothing else depends on."""

import contextlib
import ctypes
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from ..measure import records
from . import attention as gpu_attention

ROOT = Path(__file__).resolve().parents[2]
KERNEL_TESTS = ("test_op.py", "test_interface.py")
LEAST = 5.0  # seconds; with less left, no part starts
# A line of pytest -v, with workers and without.
TEST_END = re.compile(r"\[gw\d+\] \[ *\d+%\] ([A-Z]+) |tests/.*::.* ([A-Z]+)(?: \(.*\)?)? +\[ *\d+%\]$")


class Part(NamedTuple):
    """One subprocess.

    share    of the time left when the part starts, relative to the shares of the parts after it
    command  for this Python: "-m pytest …" or "bench/….py …", run where the repository's root is
    results  the JSONL it appends to, or none
    skip     why it is not run here, or none
    """

    name: str
    share: float
    command: list[str]
    results: str | None = None
    skip: str | None = None


def plan(out: Path, rehearse: bool, datasheet: float | None) -> list[Part]:
    """All parts, the most useful first.

    out        absolute folder of the results
    datasheet  GB/s that this GPU's datasheet promises, if known
    """
    attention = ["-m", "kvproof.bench.gpu.attention", str(out / "attention.jsonl")]
    attention += ["--rehearse"] * rehearse + (["--datasheet", str(datasheet)] if datasheet else [])
    parts = [*parity(rehearse), Part("attention kernels", 3, attention, "attention.jsonl")]
    return parts + [
        decode(out, rehearse, model, graph)
        for model in (("tiny",) if rehearse else ("random:gpt2", "random:gpt2-medium"))
        for graph in (False, True)
    ]


def parity(rehearse: bool) -> list[Part]:
    """The tests that only a GPU can run, then the kernel's own, which it compiles there."""
    kernel = [f"tests/kernels/attention/{name}" for name in KERNEL_TESTS]
    if rehearse:
        kernel = ["tests/kernels/attention/test_gpu.py", "-m", "not gpu", "-k", "replayed or company"]
    marked = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8"))
    pytest = ["-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "-n", "0" if rehearse else "2"]
    skip = None
    if not (ROOT / "tests").is_dir():
        skip = "the tests are not part of an installed package; run bench/gpu from a clone"
    elif missing := [name for name in ("pytest", "xdist") if importlib.util.find_spec(name) is None]:
        skip = f"{', '.join(missing)} not installed: python -m pip install -e '.[dev]'"
    only_gpu = [*pytest, "-m", "gpu", *(str(path.relative_to(ROOT)) for path in marked)]
    return [
        Part("tests that need a GPU", 1, only_gpu, skip=skip or ("there is no GPU" if rehearse else None)),
        Part("kernel tests", 3, pytest + kernel, skip=skip),
    ]


def decode(out: Path, rehearse: bool, model: str, graph: bool) -> Part:
    """A whole model's decode beside transformers', by bench/decode.py, its steps launched one by one or as a graph."""
    name = f"decode {model}" + " as a CUDA graph" * graph
    file = re.sub(r"\W+", "-", name) + ".jsonl"
    impls = "naive,sdpa" if rehearse else "naive,sdpa,triton,hf-dynamic,hf-static"
    size = {"--batch": "1", "--context": "4", "--new-tokens": "2", "--repeats": "2", "--device": "cpu"}
    if not rehearse:
        size = {"--batch": "1,8", "--context": "128", "--new-tokens": "32", "--repeats": "5", "--device": "cuda"}
        size["--dtype"] = "float16"
    words = ["bench/decode.py", "--model", model, "--impl", impls, *(w for pair in size.items() for w in pair)]
    words += ["--results", str(out / file)] + ["--graph"] * graph
    return Part(name, 1, words, file, "CUDA graphs need a GPU" if rehearse and graph else None)


def seconds_for(parts: list[Part], at: int, left: float) -> float:
    """The time of the part that starts: what is left, by shares; what others leave over passes on."""
    return left * parts[at].share / sum(part.share for part in parts[at:] if not part.skip or part is parts[at])


def run(part: Part, out: Path, seconds: float) -> dict:
    """Run one part within its time, its output kept in OUT/<name>.log.  Returns its entry in the report."""
    command = " ".join(["python", *part.command]).replace(f"{out}{os.sep}", "")
    entry = {"status": "skipped", "reason": part.skip, "command": command, "seconds": 0.0, "given_s": round(seconds, 1)}
    if part.skip:
        return entry
    if seconds < LEAST:
        return entry | {"reason": "no time was left"}
    log, begun = out / f"{re.sub(r'[^a-zA-Z0-9]+', '-', part.name)}.log", time.monotonic()
    # A user's TRITON_INTERPRET would have the GPU's kernels interpreted; what interprets says so itself.
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {"PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, *part.command], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=env,
            start_new_session=True, preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip
        try:
            code: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            stop(child)
    seconds_used = time.monotonic() - begun
    if code is None and part.results:  # the end of the time is no peer's fault
        gpu_attention.Deaths(out / part.results).path.unlink(missing_ok=True)
    if code == gpu_attention.LOST and seconds - seconds_used > LEAST:
        return run(part, out, seconds - seconds_used)
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    entry |= {"log": log.name, "seconds": round(seconds_used, 1), "exit_code": code}
    entry |= {"status": "done", "closing": lines[-1].strip("= ")[:200] if lines else ""}
    entry["left_out"] = [line for line in lines if " is left out: " in line]
    if code is None:
        entry |= {"status": "cut short", "reason": f"its {seconds:.0f} s were over; run again to go on"}
    elif code:
        entry |= {"status": "failed", "reason": f"exit code {code}: {entry['closing']}"}
    return entry | (pytest_counts(lines) if "pytest" in part.command else {})


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends: a killed run must not go on using the GPU."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def stop(child: subprocess.Popen) -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def pytest_counts(lines: list[str]) -> dict:
    """How many tests came to which end, read test by test so that a run cut short counts, and which ones failed."""
    ends = [match[1] or match[2] for match in map(TEST_END.match, lines) if match]
    counts = {end.lower(): ends.count(end) for end in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    return {"counts": counts, "failures": [line for line in lines if line.startswith(("FAILED ", "ERROR "))]}


def results(part: Part, out: Path) -> tuple[list[dict], str | None]:
    """The records of a part's JSONL, and what is wrong with them: they outlive the run and its exit code."""
    path = out / (part.results or "")
    if not part.results or not path.exists():
        return [], None
    if part.results == "attention.jsonl":
        return gpu_attention.read(path), None
    try:
        found = records.read(path)
    except (OSError, ValueError) as error:
        return [], str(error)
    red = [f"{row['impl']}, batch {record['cell']['batch']}: {row['refused'] or 'parity is red'}"
           for record in found for row in record["impls"] if row["refused"] or not row["runs"]]  # fmt: skip
    return found, "; ".join(red) or None
